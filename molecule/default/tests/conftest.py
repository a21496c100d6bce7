"""What the tests of the finished host share: the host, SQL on it, and further runs of the playbook."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

from scripts.playbooks import ROOT, PlaybookRun, ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))


@pytest.fixture(scope="session")
def host() -> Host:
    """Return the test host."""
    return testinfra.get_host(f"docker://{HOST.container}")


@pytest.fixture(scope="session")
def estate() -> list[dict[str, Any]]:
    """Return the cutover groups of the inventory."""
    document = yaml.safe_load((ROOT / "inventory/group_vars/all/estate.yml").read_text(encoding="utf-8"))
    groups: list[dict[str, Any]] = document["estate_cutover_groups"]
    return groups


@pytest.fixture(scope="session")
def services(estate: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the services of the estate in the order of the cutover."""
    return [service for group in estate for service in group["services"]]


@pytest.fixture(scope="session")
def query(host: Host) -> Callable[[str], list[Any]]:
    """Return a function that runs a SELECT as the superuser and returns its rows as dictionaries."""

    def run(select: str) -> list[Any]:
        wrapped = f"SELECT coalesce(json_agg(result), '[]') FROM ({select}) AS result"
        result = host.run(
            "cd / && sudo -u postgres psql --no-psqlrc --tuples-only --no-align --set ON_ERROR_STOP=1 "
            f"--dbname swarm --command {shlex.quote(wrapped)}"
        )
        assert result.rc == 0, result.stderr
        rows: list[Any] = json.loads(result.stdout)
        return rows

    return run


@pytest.fixture(scope="session")
def run_site() -> Callable[..., PlaybookRun]:
    """Return a function that runs site.yml on the test host, with further arguments."""

    def run(*arguments: str, readable: bool = False) -> PlaybookRun:
        return HOST.play("site.yml", *arguments, readable=readable)

    return run


@pytest.fixture(scope="session")
def run_with_password() -> Callable[[str, str], str]:
    """Return a function that runs a Python program on the host, which finds a role's password as PASSWORD."""

    def run(role: str, program: str) -> str:
        secret = ROOT / ".cache" / "test_host" / "secrets" / f"{HOST.prefix}dev" / role
        return HOST.run(["python3", "-"], text=f"PASSWORD = {secret.read_text().strip()!r}\n{program}")

    return run
