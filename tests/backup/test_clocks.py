"""Clocks that jump: neither the order of the backups, nor retention, nor the proof of a cutover hangs on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import check as backup_check
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.backup import store as backup_store
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from tests.backup.conftest import Program

Age = Callable[[str, float], None]
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def manifest(name: str, taken_at: datetime) -> backup_store.Manifest:
    return {"name": name, "taken_at": taken_at.isoformat()}


@pytest.mark.promise("newest-proven-backup-kept")
@pytest.mark.parametrize("jump", [timedelta(days=-20000), timedelta(0), timedelta(days=3650), timedelta(days=300000)])
def test_whatever_the_clock_says_the_last_proven_backups_stay(jump: timedelta) -> None:
    """Of four backups, each proven or not, none or all of them at the time of the jump."""
    taken = [NOW - timedelta(days=100), NOW - timedelta(days=50), NOW + timedelta(days=4000), NOW - timedelta(days=1)]
    manifests = [manifest(str(number), time) for number, time in enumerate(taken)]
    for flags, count in itertools.product(itertools.product([True, False], repeat=4), (1, 2, 9)):
        proven = [entry["name"] for entry, flag in zip(manifests, flags, strict=True) if flag]
        gone = {entry["name"] for entry in backup_store.to_prune(manifests, proven, NOW + jump, 30, count)}
        assert not gone & set(proven[-count:])
        assert "3" not in gone


def test_a_backup_of_the_future_does_not_stand_before_later_ones(program: Program, age: Age) -> None:
    """Taken while the server's clock was ten years ahead: it would be the newest for ten years."""
    first = program.run("run")["name"]
    age(first, -24 * 3650)
    assert "hours in the future" in program.fail("check")
    second = program.run("take")["name"]
    assert program.run("drill")["name"] == second
    assert program.run("check")["newest"] == second
    assert [backup["name"] for backup in program.run("list")["backups"]] == [second, first]


def test_a_backup_taken_by_a_slow_clock_is_no_young_one_and_later_ones_heal_it(program: Program, age: Age) -> None:
    program.run("run")
    age(program.run("run")["name"], 40)
    assert "40.0 hours old" in program.fail("check")
    program.run("run")
    program.run("check")


def test_the_check_fails_loudly_when_this_hosts_clock_jumps(program: Program) -> None:
    program.run("run")
    now = datetime.now(UTC)
    backup_check.check(program.settings, now)
    for jump, expected in (
        (timedelta(hours=40), "40.0 hours old, more than 36"),
        (timedelta(days=-400), "in the future"),
    ):
        with pytest.raises(MigrationError, match=expected):
            backup_check.check(program.settings, now + jump)


@pytest.mark.promise("backup-due-after-cutover")
def test_a_backup_from_before_a_cutover_is_known_by_its_content_not_by_its_time(program: Program, age: Age) -> None:
    """Taken while the clock was ahead, it seems to be from after the cutover, and holds nothing of it."""
    age(program.run("run")["name"], -24 * 3650)
    program.query("UPDATE migration.cutover_group SET cutover_at = clock_timestamp()")
    assert "is older than the last cutover" in program.run("run", "--if-needed", "--dry-run")["lines"][0]
    assert program.run("run", "--if-needed")["changed"]
    assert not program.run("run", "--if-needed")["changed"]
