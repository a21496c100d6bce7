"""What is confirmed and what is unfinished: locks, ids, and the driver that goes with the last file."""

from __future__ import annotations

import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import run as cleanup_estate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import soak_check
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import steps as cleanup_steps
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import move_out
from tests.validation.support import Estate

from .support import Cleaned, make_ready, release
from .test_crash import carry_out, killed_at
from .test_driver_package import make_package, needs_npm


@pytest.mark.parametrize("name", ["cleanup", "group zoo"])
def test_a_cleanup_waits_for_what_else_is_at_work(
    estate: Estate, login: Login, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ready = make_ready(estate)
    plan_id = ready.explain()["plan_id"]
    monkeypatch.setattr(cleanup_estate, "_LOCK_SECONDS", 0.2)
    with closing(connect(login)) as other, ledger.locked(other, name), pytest.raises(MigrationError):
        ready.confirm(plan_id)
    assert (ready.state(), ready.steps()) == ("live", {})
    ready.confirm(plan_id)
    assert ready.state() == "archived"


def test_what_was_interrupted_is_finished_first(estate: Estate, login: Login, tmp_path: Path) -> None:
    ready = make_ready(estate)
    plan_id = ready.explain()["plan_id"]
    assert killed_at(ready, login, plan_id, 1, carry_out, "require_moved")
    (tmp_path / "old.db").write_bytes(b"")
    more = replace(ready, legacy=(str(tmp_path / "old.db"),))
    plan = more.explain()
    assert plan["plan_id"] == plan_id
    assert plan["entries"][1]["unmet"] == [f"plan {plan_id} has to be finished first"]
    assert any(f"-l dev -e sqlite_cleanup_confirm={plan_id}" in line for line in plan["lines"])
    with pytest.raises(MigrationError, match=f"plan {plan_id} was confirmed before, and has to be finished first"):
        more.confirm("0123456789ab")
    assert more.confirm(plan_id, check_mode=True)["changed"] is True
    assert more.steps() == {str(estate.source): "confirmed"}
    more.confirm(plan_id)
    assert more.steps() == {str(estate.source): "quarantined"}
    assert (tmp_path / "old.db").is_file()


def test_the_daily_check_looks_at_legacy_files_in_quarantine(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    (tmp_path / "old.db").write_bytes(b"")
    ready = make_ready(estate, [tmp_path / "old.db"])
    ready.confirm()
    assert soak_check.run(estate.connection, [ready.group]) == []
    hidden = ready.quarantine_of(tmp_path / "old.db") / "database"
    release(hidden.parent)
    hidden.write_bytes(b"written to")
    (failure,) = soak_check.run(estate.connection, [ready.group])
    assert "no longer what was moved there" in failure


def test_a_symlink_that_was_made_anew_is_another_one(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = tmp_path / "alias.db"
    alias.symlink_to(estate.source)
    ready = make_ready(estate, aliases=[alias])
    go_on = cleanup_steps.go_on

    def made_anew(subject: Any, record: Any) -> None:
        (tmp_path / "new.db").symlink_to(estate.source)
        os.rename(tmp_path / "new.db", alias)
        go_on(subject, record)

    monkeypatch.setattr(cleanup_steps, "go_on", made_anew)
    with pytest.raises(MigrationError, match="it is another symlink"):
        ready.confirm()
    assert os.readlink(alias) == str(estate.source)
    assert (ready.state(), ready.steps()) == ("live", {})


# ---------------------------------------------------------------- the driver


def with_package(estate: Estate, directory: Path) -> Cleaned:
    """Return an estate in quarantine whose service has a package with the driver, and whose second period is over."""
    make_package(directory)
    ready = make_ready(estate)
    service = replace(ready.group.services[0], directory=str(directory), user="root")
    ready = replace(ready, group=replace(ready.group, services=(service,)))
    plan = ready.explain()
    assert "waits until the files of zoo are deleted" in plan["packages"][0]["note"]
    assert plan["packages"][0]["ready"] is False
    ready.confirm(plan["plan_id"])
    assert "better-sqlite3" in (directory / "package.json").read_text()
    ready.wait_in_quarantine()
    return ready


@pytest.mark.promise("driver-removed-last")
@needs_npm
@pytest.mark.skipif(os.geteuid() != 0, reason="the service's user is root here")
def test_the_driver_goes_with_the_last_file(estate: Estate, tmp_path: Path) -> None:
    ready = with_package(estate, tmp_path / "service")
    plan = ready.explain()
    assert "  would: be removed by npm" in plan["lines"]
    ready.confirm(plan["plan_id"])
    assert ready.state() == "removed"
    assert "better-sqlite3" not in (tmp_path / "service" / "package.json").read_text()
    assert not (tmp_path / "service" / "node_modules" / "better-sqlite3").exists()
    assert ready.confirm(plan["plan_id"])["changed"] is False


@pytest.mark.skipif(os.geteuid() != 0, reason="the service's user is root here")
def test_the_driver_stays_if_the_deletion_fails(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = with_package(estate, tmp_path / "service")

    def refuse(*_: object) -> None:
        raise MigrationError("not today")

    monkeypatch.setattr(move_out, "delete", refuse)
    with pytest.raises(MigrationError, match="not today"):
        ready.confirm()
    assert ready.state() == "archived"
    assert json.loads((tmp_path / "service" / "package.json").read_text())["dependencies"]["better-sqlite3"]
    assert (tmp_path / "service" / "node_modules" / "better-sqlite3").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="the service's user is root here")
def test_a_driver_to_be_removed_by_hand_stops_no_cleanup(estate: Estate, tmp_path: Path) -> None:
    ready = with_package(estate, tmp_path / "service")
    (tmp_path / "service" / "pnpm-lock.yaml").write_text("lockfileVersion: '9.0'\n")
    plan = ready.explain()
    assert any("by hand: pnpm keeps it" in line for line in plan["lines"])
    ready.confirm(plan["plan_id"])
    assert ready.state() == "removed"
    assert "better-sqlite3" in (tmp_path / "service" / "package.json").read_text()
    again = ready.explain()
    assert (again["packages"][0]["ready"], again["changed"]) == (False, False)
