"""The services of the timers on a real host: under load, restored by the playbook, and broken."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
import yaml

from scripts.playbooks import ROOT

if TYPE_CHECKING:
    from molecule.backup.tests.conftest import Backups

UNITS = ("postgres-backup", "postgres-backup-drill", "postgres-backup-check")


@pytest.mark.promise("backup-timers-run")
def test_the_timers_wait_for_their_time(backups: Backups) -> None:
    timers, services = (" ".join(f"{unit}.{kind}" for unit in UNITS) for kind in ("timer", "service"))
    assert backups.shell(f"systemctl is-active {timers}").split() == ["active"] * 3
    assert backups.shell(f"systemctl is-enabled {timers}").split() == ["enabled"] * 3
    properties = backups.shell(f"systemctl show {services} -p User,Nice,ProtectSystem").split()
    assert sorted(properties) == sorted(["Nice=10", "User=postgres", "ProtectSystem=strict"] * 3)


@pytest.mark.promise("backup-timers-run")
@pytest.mark.parametrize("role", ["postgres_backup", "sqlite_cleanup"])
def test_systemd_knows_the_times_of_a_real_host(backups: Backups, role: str) -> None:
    """The timers of the test hosts never fire: molecule/inventory/group_vars/test_hosts.yml."""
    defaults = yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text(encoding="utf-8"))
    times = [value for name, value in defaults.items() if name.endswith(("_schedule", "_check_time"))]
    assert len(times) == {"postgres_backup": 3, "sqlite_cleanup": 1}[role]
    assert backups.shell(f"systemd-analyze calendar {shlex.join(times)}").count("Next elapse: ") == len(times)


def test_without_a_proven_backup_the_check_fails(backups: Backups) -> None:
    """Before the first backup: this test runs first of those that take one."""
    if not backups.names():
        assert "no backup was ever proven to restore" in backups.start("postgres-backup-check", succeeds=False)


@pytest.mark.promise("backup-proven-by-restore-test")
def test_backups_under_load_are_proven(backups: Backups, loaded_backup: str) -> None:
    rows = backups.psql(
        "SELECT name, verified_at > taken_at, taken_at < now() FROM migration.backup ORDER BY taken_at"
    ).split()
    assert rows[0] == f"{loaded_backup}|t|t"
    assert len(rows) == 2
    assert all(row.endswith("|t|t") for row in rows)
    assert int(backups.psql("SELECT count(*) FROM deploy.deployments WHERE triggered_by = 'load'")) > 50
    directory = backups.directory
    modes = backups.shell(f"stat -c '%U %a' {directory} {directory}/* {directory}/*/*").splitlines()
    assert set(modes) == {"postgres 700", "postgres 600"}


@pytest.mark.promise("restore-swaps-whole-databases")
def test_a_named_backup_is_restored_after_it_was_confirmed(backups: Backups, loaded_backup: str) -> None:
    """What becomes of one that was not is in tests/backup/test_role.py."""
    before = backups.psql("SELECT count(*) FROM deploy.deployments")
    name = f"postgres_backup_restore_name={loaded_backup}"
    confirm = f"postgres_backup_restore_confirm={loaded_backup}"
    status, changed, output = backups.playbook("restore.yml", "-e", name, "-e", confirm)
    assert (status, changed) == (0, 1), output
    assert backups.psql("SELECT count(*) FROM deploy.deployments") != before
    old = backups.psql("SELECT datname FROM pg_database WHERE datname LIKE 'swarm_before_restore%'")
    assert backups.psql("SELECT count(*) FROM deploy.deployments", old) == before
    backups.psql(f"DROP DATABASE {old}", "postgres")


def test_a_full_disk_and_a_stopped_server_are_loud_and_do_no_harm(backups: Backups, loaded_backup: str) -> None:
    settings = "/etc/sqlite-to-postgresql-backup/settings.json"
    backups.shell(f"cp -a {settings} /run/settings.json")
    backups.shell(f"mount -t tmpfs -o size=64k,uid=postgres,mode=700 tmpfs {backups.directory}")
    try:
        # Without a reserve the disk really fills.
        backups.shell(f'sed -i \'s/"reserve_bytes": [0-9]*/"reserve_bytes": 0/\' {settings}')
        assert "No space left on device" in backups.start("postgres-backup", succeeds=False)
        assert backups.shell(f"ls {backups.directory}") == ""
    finally:
        backups.shell(f"umount {backups.directory}; cp -a /run/settings.json {settings}")
    backups.shell("systemctl stop postgresql@16-main")
    try:
        assert "Cannot connect to PostgreSQL" in backups.start("postgres-backup", succeeds=False)
        backups.start("postgres-backup-check")
    finally:
        backups.shell("systemctl start postgresql@16-main")
    assert loaded_backup in backups.names()


# tests/backup/test_faults.py kills a run at any moment, without a host.
@pytest.mark.long_search
def test_a_killed_drill_leaves_nothing_after_the_next(backups: Backups, loaded_backup: str) -> None:
    for delay in ("0.3", "0.5", "0.8"):
        backups.shell("systemctl start --no-block postgres-backup-drill.service")
        backups.host.run(f"sleep {delay}; systemctl kill --signal=KILL postgres-backup-drill.service")
        backups.host.run("systemctl reset-failed postgres-backup-drill.service")
    backups.start("postgres-backup-drill")
    assert backups.psql("SELECT count(*) FROM pg_database WHERE datname LIKE 'swarm_restore%'") == "0"
