"""A host with the distribution's own PostgreSQL, on another port than the usual one, goes through all phases."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import yaml

from scripts.playbooks import ThrowawayHost
from tests.conftest import PROJECT

HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}distribution-")
PHASES = [
    f"playbooks/{name}.yml"
    for name in (
        "1_infrastructure",
        "2_shared_library",
        "3_data_migration",
        "4_service_cutover",
        "5_validation",
    )
]
OPTIONS = ("-e", "postgres_version=15", "-e", "postgres_install_source=distribution", "-e", "postgres_port=5433")
ASK = "import sys, urllib.request as r; [print(r.urlopen(url, timeout=9).read().decode()) for url in sys.argv[1:]]"

pytestmark = pytest.mark.long_search


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    """Make a Debian 12 with the sample estate on SQLite, and no server."""
    HOST.begin("installed")
    yield
    HOST.remove()


def test_debian_s_own_server_on_another_port_goes_through_all_phases() -> None:
    done = HOST.play(*PHASES, *OPTIONS)
    assert done.succeeded, done.output
    query = "SELECT current_setting('server_version_num')::int / 10000, current_setting('port')"
    asked = ["psql", "-XAt", "-p", "5433", "-d", "swarm", "-c", query]
    assert HOST.run(asked, user="postgres").strip() == "15|5433"
    groups = yaml.safe_load((PROJECT / "inventory/group_vars/all/estate.yml").read_text(encoding="utf-8"))
    urls = [service["health_url"] for group in groups["estate_cutover_groups"] for service in group["services"]]
    answers = HOST.run(["python3", "-c", ASK, *urls]).splitlines()
    assert [json.loads(answer)["store"] for answer in answers] == ["postgresql"] * len(urls)
    # Nothing came from another repository, and no second cluster was made.
    assert HOST.run(["pg_lsclusters", "--no-header"]).split()[:3] == ["15", "main", "5433"]
    assert HOST.run(["sh", "-c", "grep -rl pgdg /etc/apt/sources.list.d || true"]) == ""
