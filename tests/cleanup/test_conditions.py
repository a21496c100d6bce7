"""Each condition alone: an estate that may be cleaned up, and the one thing that keeps its file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import (
    conditions,
    soak,
    soak_check,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import plan as cleanup_plan
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import steps as cleanup_steps
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.clock import Clock, read_clock
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from tests.validation.support import Estate, make_estate

from .support import DAY, Cleaned, insert_checks, make_ready, release, settings_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@pytest.fixture
def ready(estate: Estate) -> Cleaned:
    """Return an estate that may be cleaned up."""
    return make_ready(estate)


def reasons(ready: Cleaned) -> list[str]:
    """Return why its source stays."""
    found: list[str] = ready.explain()["entries"][0]["unmet"]
    return found


def test_nothing_keeps_it_if_every_condition_is_met(ready: Cleaned) -> None:
    assert reasons(ready) == []


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_bytes_beside_the_frozen_file(ready: Cleaned, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    Path(f"{ready.estate.source}{suffix}").write_bytes(b"x" * 10)
    assert reasons(ready) == [f"its {suffix} holds 10 bytes written since the cutover"]
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    (failure,) = soak_check.run(ready.estate.connection, [ready.group])
    assert "holds bytes that were written since the cutover" in failure


@pytest.mark.promise("every-condition-needed")
def test_a_further_name_of_the_file(ready: Cleaned, tmp_path: Path) -> None:
    release(tmp_path)
    os.link(ready.estate.source, tmp_path / "further")
    assert reasons(ready) == ["it has further names (hard links), of which nobody knows who uses them"]


@pytest.mark.promise("every-condition-needed")
def test_a_content_that_is_not_the_frozen_one(ready: Cleaned) -> None:
    ready.estate.on_target("UPDATE migration.cutover_group SET frozen_sha256 = repeat('0', 64)")
    assert reasons(ready) == ["its content is no longer the one recorded at the cutover: somebody has written to it"]
    ready.estate.on_target("UPDATE migration.cutover_group SET frozen_sha256 = NULL")
    assert reasons(ready) == ["the ledger holds no hash of the frozen file"]


def test_a_frozen_hash_that_changes_after_the_confirmation(ready: Cleaned, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = cleanup_steps.go_on

    def after_another_cutover(estate: Any, record: Any) -> None:
        ready.estate.on_target("UPDATE migration.cutover_group SET frozen_sha256 = repeat('0', 64)")
        go_on(estate, record)

    monkeypatch.setattr(cleanup_steps, "go_on", after_another_cutover)
    with pytest.raises(MigrationError, match="not the file that was frozen at the cutover"):
        ready.confirm()
    assert ready.estate.source.is_file()


@pytest.mark.promise("legacy-file-counted")
def test_a_legacy_file_waits_for_every_group(connection: Connection, tmp_path: Path) -> None:
    estate = make_estate(connection, tmp_path)
    estate.rehearse()
    (tmp_path / "old.db").write_bytes(b"")
    plan = cleanup_plan.make_plan(connection, [estate.group], [str(tmp_path / "old.db")], settings_of(estate))
    assert "cutover group zoo does not live on PostgreSQL yet" in plan["entries"][1]["unmet"]


def test_a_cutover_without_a_time(ready: Cleaned) -> None:
    ready.estate.on_target("UPDATE migration.cutover_group SET cutover_at = NULL")
    assert "the ledger holds no time of its cutover" in reasons(ready)


@pytest.mark.promise("soak-not-shortened")
@pytest.mark.parametrize("failed", [1, 4, 7, 8])
def test_a_failed_check_lets_the_soak_begin_anew(estate: Estate, failed: int) -> None:
    cleaned = Cleaned(estate, estate.group)
    period = soak.cutover_period(*cleaned.record())
    passed = [number != failed for number in range(9)]
    insert_checks(estate.connection, "zoo", period, 8, passed)
    (soaked, *_) = reasons(cleaned)
    since = max(0, 7 - failed)
    assert f"for {since:.1f} of 7 days" in soaked or (since == 0 and "0.0 hours of 7 days" in soaked)


def jump(monkeypatch: pytest.MonkeyPatch, days: float, both: bool) -> None:
    """Let the host's clock, or both, go wrong by some days from now on."""
    read = read_clock

    def wrong(connection: Connection) -> Clock:
        clock = read(connection)
        server = clock.server + days * DAY if both else clock.server
        return replace(clock, host=clock.host + days * DAY, server=server)

    for module in (conditions, soak_check, cleanup_steps):
        monkeypatch.setattr(module, "read_clock", wrong)


@pytest.mark.promise("soak-not-shortened")
@pytest.mark.parametrize("both", [False, True])
def test_a_clock_that_is_put_forward_ends_no_soak(estate: Estate, monkeypatch: pytest.MonkeyPatch, both: bool) -> None:
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    (cleaned, connection) = (make_ready_without_soak(estate), estate.connection)
    assert soak_check.run(connection, [cleaned.group]) == []
    for days in (30, 60):
        with pytest.MonkeyPatch.context() as patch:
            jump(patch, days, both)
            assert soak_check.run(connection, [cleaned.group]) == []
            assert any("0.0 hours of 7 days" in reason for reason in reasons(cleaned))
    # Put right again: what was noted in the future counts for nothing.
    assert soak_check.run(connection, [cleaned.group]) == []
    assert any("0.0 hours of 7 days" in reason for reason in reasons(cleaned))


@pytest.mark.parametrize("both", [False, True])
def test_a_clock_that_is_put_back_ends_no_soak_either(
    ready: Cleaned, monkeypatch: pytest.MonkeyPatch, both: bool
) -> None:
    jump(monkeypatch, -30, both)
    assert any("of 7 days" in reason for reason in reasons(ready))


def make_ready_without_soak(estate: Estate) -> Cleaned:
    """Return an estate write-protected that has just been cut over."""
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection

    write_protection.protect(estate.source)
    return Cleaned(estate, estate.group)


# ---------------------------------------------------------------- the deletion


@pytest.fixture
def waiting(ready: Cleaned) -> Cleaned:
    """Return an estate in quarantine whose second period is over."""
    ready.confirm()
    ready.wait_in_quarantine()
    return ready


def test_nothing_keeps_it_from_its_deletion(waiting: Cleaned) -> None:
    assert reasons(waiting) == []


def test_the_deletion_needs_services_that_are_well(waiting: Cleaned) -> None:
    settings = replace(settings_of(waiting.estate), check_services=lambda _connection, group: [f"{group.name} is ill"])
    plan = cleanup_plan.make_plan(waiting.estate.connection, [waiting.group], [], settings)
    assert plan["entries"][0]["unmet"] == ["zoo is ill"]


def test_the_deletion_needs_a_backup_that_is_proven_still(waiting: Cleaned) -> None:
    waiting.estate.on_target("UPDATE migration.backup SET verified_at = NULL")
    assert reasons(waiting) == ["there is no verified backup of PostgreSQL that is newer than the cutover"]


def test_the_deletion_needs_a_group_that_is_archived(waiting: Cleaned) -> None:
    ledger.take_step(waiting.estate.connection, "zoo", "restore", str(waiting.estate.source))
    waiting.estate.connection.commit()
    assert reasons(waiting) == ["cutover group zoo is 'live', not 'archived'"]


def test_the_deletion_needs_its_tombstones(waiting: Cleaned) -> None:
    release(waiting.estate.source)
    (waiting.estate.source / "README").unlink()
    waiting.estate.source.rmdir()
    assert reasons(waiting) == [f"the tombstone at {waiting.estate.source} is gone"]
    # Neither an empty directory nor somebody's database is one.
    waiting.estate.source.mkdir()
    assert reasons(waiting) == [f"the tombstone at {waiting.estate.source} is gone"]


def test_the_deletion_needs_its_archive(waiting: Cleaned, tmp_path: Path) -> None:
    (snapshot,) = tmp_path.glob("archives/*/snapshot.db.gz")
    snapshot.unlink()
    (reason,) = reasons(waiting)
    assert "its archive cannot be relied on" in reason


def test_a_failed_check_in_quarantine_lets_the_second_period_begin_anew(
    ready: Cleaned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: [])
    ready.confirm()
    ready.wait_in_quarantine()
    assert soak_check.run(ready.estate.connection, [ready.group]) == []
    assert reasons(ready) == []
    monkeypatch.setattr(soak_check, "services_failures", lambda *_: ["it is ill"])
    assert soak_check.run(ready.estate.connection, [ready.group]) == ["zoo: it is ill"]
    (reason,) = reasons(ready)
    assert "it has been in quarantine for 0.0 hours of 7 days" in reason


def test_the_plan_without_a_ledger_keeps_a_legacy_file(estate: Estate, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"")
    plan = cleanup_plan.make_plan(
        None, [estate.group], [str(tmp_path / "old.db")], settings_of(estate), unreachable="there is no server yet"
    )
    assert "the ledger cannot be read: there is no server yet" in plan["entries"][1]["unmet"]
    assert not plan["entries"][1]["ready"]
