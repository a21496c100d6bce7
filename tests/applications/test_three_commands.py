"""An estate of somebody else's goes from `hosts.yml` alone to PostgreSQL by the three commands of the README.

On one bare host stand three applications from the package registries, which run under pm2, under systemd and in a
container of docker compose, and are used through their pages, and three databases that packages hold. What is edited by
hand is in EDITS; docs/own_estate.md gives the number of edits of each database, and of its tables and rows.

It runs in `make test-all` alone: the host installs the applications from PyPI, npm and Debian's archive.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.playbooks import ThrowawayHost
from tests import compose_programs
from tests.conftest import PROJECT
from tests.examples.test_worked_examples import fetch

HERE = Path(__file__).resolve().parent / "three_commands"
HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}outside-")
# Each database: its cutover group → its file on the host.
FILES = {
    "accounts": "/srv/accounts/accounts.db",
    "budget": "/srv/budget/budget.sqlite",
    "forum": "/srv/forum/data/forum.db",
    "book_schtx": "/srv/books/book_schtx.gnucash",
    "nodes": "/srv/books/nodes.db",
    "proj": "/srv/books/proj.db",
}
# Those of them that packages hold.
EXAMPLES = {
    group: next(entry for entry in fetch.EXAMPLES if FILES[group].endswith(f"/{entry.file_name}"))
    for group in ("book_schtx", "nodes", "proj")
}
INSTALL = ("install_accounts.sh", "install_budget.sh", "install_forum.sh")
# What a person edits in the draft of each database before it is adopted: nothing.
EDITS: dict[str, list[tuple[str, str]]] = {group: [] for group in FILES}
MOVED = "discover_move=/srv/books/*"
REPORTS = PROJECT / "reports" / f"{HOST.prefix}dev"
PAGE = PROJECT / "docs" / "own_estate.md"


def run(*arguments: str) -> str:
    """Run a playbook as the README says, and return what it prints."""
    done = subprocess.run(
        ["ansible-playbook", *arguments],
        cwd=PROJECT,
        env={**os.environ, **HOST.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def host() -> Iterator[None]:
    """A bare host with the applications and the databases, as a stranger has them."""
    # Docker makes networks on it.
    HOST.begin("bare", capabilities=["NET_ADMIN"])
    try:
        HOST.run(["install", "-d", "/srv/accounts", "/srv/budget", "/srv/forum", "/srv/books"])
        copied = {
            **{f"/srv/accounts/{name}": HERE / name for name in ("package.json", "package-lock.json", "server.mjs")},
            "/srv/budget/requirements.txt": HERE.parent / "ihatemoney" / "requirements.txt",
            "/srv/forum/requirements.txt": HERE / "forum_requirements.txt",
            "/root/docker-compose": compose_programs.fetched_plugin(),
            **{f"/root/{name}": HERE / name for name in (*INSTALL, "use.py")},
            **{FILES[group]: fetch.fetch(entry) for group, entry in EXAMPLES.items()},
        }
        for place, file in copied.items():
            subprocess.run(["docker", "cp", str(file), f"{HOST.container}:{place}"], check=True, capture_output=True)
        for script in INSTALL:
            HOST.run(["sh", "-e", f"/root/{script}"])
        HOST.run(["python3", "/root/use.py", "0", "20"])
        yield
    finally:
        HOST.remove()
        shutil.rmtree(REPORTS, ignore_errors=True)


def rows_of_page() -> dict[str, tuple[int, int, int]]:
    """Return tables, rows and hand edits of each database, as the page gives them."""
    found = re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| ([\d,]+) \| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    return {
        group: tuple(int(number.replace(",", "")) for number in numbers)  # type: ignore[misc]  # three, as the pattern says
        for group, *numbers in found
    }


@pytest.mark.long_search
def test_three_commands_move_an_estate_that_is_not_ours(host: None, tmp_path: Path) -> None:
    inventory = tmp_path / "inventories" / "swarm-dev"
    drafted = (
        *("-i", "inventory", "-i", "molecule/inventory", "-l", "dev", "playbooks/discover.yml", "-e", MOVED),
        *("-e", f"discovery_draft_directory={tmp_path}/drafts/swarm-dev"),
    )
    run(*drafted)
    estate = tmp_path / "drafts" / "swarm-dev" / "inventory" / "group_vars" / "all" / "estate.yml"
    for old, new in (edit for edits in EDITS.values() for edit in edits):
        text = estate.read_text()
        assert text.count(old) == 1, old
        estate.write_text(text.replace(old, new))
    run(*drafted, "-e", "discover_adopt=true", "-e", f"discovery_inventory_directory={inventory}")
    groups = yaml.safe_load((inventory / "group_vars" / "all" / "estate.yml").read_text())["estate_cutover_groups"]
    assert {group["name"]: group["source"]["path"] for group in groups} == FILES

    # Node takes its time to start on a busy machine.
    patience = ("-e", "service_env_health_timeout=300")
    site = ("-i", str(inventory), "-i", "molecule/inventory", "site.yml", "-l", "dev", *patience)
    run(*site, "--check", "--diff")
    run(*site)
    moved = report_of(groups)
    assert {group: (*found, len(EDITS[group])) for group, found in moved.items()} == rows_of_page()
    assert "changed=0" in run(*site)
    # The applications go on where they were, on PostgreSQL: nothing else could answer.
    HOST.run(["python3", "/root/use.py", "20", "24"])
    database = yaml.safe_load((inventory / "group_vars" / "all" / "postgres.yml").read_text())["postgres_database"]
    tables = ('accounts."user"', "budget.bill", "forum.spirit_topic_topic")
    counted = f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in tables)}"
    assert HOST.run(["psql", "-XAtd", database, "-c", counted], user="postgres").strip() == "24|4|6"


def report_of(groups: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return tables and rows of each group, all of them proven and on PostgreSQL, as the report says."""
    report = json.loads((REPORTS / "latest" / "report.json").read_text())
    assert report["headline"] == "Every value arrived"
    assert {group["group"] for group in report["groups"]} == {group["name"] for group in groups}
    assert {group["state"] for group in report["groups"]} == {"live"}
    assert all(table["equal"] for group in report["groups"] for table in group["tables"])
    return {
        group["group"]: (len(group["tables"]), sum(table["source_rows"] for table in group["tables"]))
        for group in report["groups"]
    }
