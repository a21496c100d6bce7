"""What the tests of the finished host share: the host, SQL on it, and further runs of the playbook."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

from scripts.playbooks import ROOT, PlaybookRun, ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))
SCENARIO = ROOT / "molecule/default"


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
def installed_host() -> Iterator[ThrowawayHost]:
    """Return a host on which there are the services, on SQLite, and nothing of ours: what site.yml began with."""
    installed = ThrowawayHost(f"{HOST.prefix}installed-")
    installed.begin("installed")
    yield installed
    installed.remove()


@pytest.fixture(scope="session")
def sources(installed_host: ThrowawayHost, estate: list[dict[str, Any]]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return all rows by the path of the file and the name of the table, as they were before the first run."""
    tables = {group["source"]["path"]: [table["source"] for table in group["tables"]] for group in estate}
    program = (SCENARIO / "read_sources.py").read_text(encoding="utf-8")
    rows: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(
        installed_host.run(["python3", "-", json.dumps(tables)], text=program)
    )
    return rows


@pytest.fixture(scope="session")
def services(estate: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the services of the estate in the order of the cutover."""
    return [service for group in estate for service in group["services"]]


# Ends what psql prints for a statement; no JSON does.
_END = "-- end of the rows\n"


@pytest.fixture(scope="module")
def query() -> Iterator[Callable[[str], list[Any]]]:
    """Return a function that runs a SELECT as the superuser and returns its rows as dictionaries.

    One psql answers all that a module asks: to start one takes longer than any of these answers.
    """
    options = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--dbname=swarm")
    with subprocess.Popen(
        ["docker", "exec", "--interactive", "--user=postgres", "--workdir=/", HOST.container, "psql", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as psql:
        assert psql.stdin and psql.stdout and psql.stderr
        questions, answers, errors = psql.stdin, psql.stdout, psql.stderr

        def run(select: str) -> list[Any]:
            questions.write(f"SELECT coalesce(json_agg(result), '[]') FROM ({select}) AS result;\n\\echo {_END}")
            questions.flush()
            lines: list[str] = []
            while not lines or lines[-1] != _END:
                lines.append(answers.readline())
                # It has ended, as it does after an error.
                assert lines[-1], errors.read()
            rows: list[Any] = json.loads("".join(lines[:-1]))
            return rows

        yield run
        questions.close()


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
