"""Copies off the host, by rsync and by restic over SSH: read back, watched, lost and found again.

A second account of the host, reached by SSH, stands in for the other host. A repository on a disk of this host is in
test_managed.py.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from molecule.backup.tests.conftest import Backups

ALARM = "/var/lib/postgresql/alarm"
KEPT = "/home/copies/kept"
OVER_SSH = "sftp:copies@127.0.0.1:/home/copies/repository"
# Writes down every command line that it sees, until it is killed.
WATCHER = "while :; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >>/run/seen; sleep 0.1; done"


@pytest.fixture(scope="module")
def other_account(backups: Backups, loaded_backup: str) -> str:
    """The account, with a key for the user of the backups; return its address."""
    backups.shell("useradd --create-home copies && systemctl start ssh")
    backups.shell("sudo -u postgres ssh-keygen -q -t ed25519 -N '' -f /var/lib/postgresql/.ssh/id_ed25519")
    backups.shell("ssh-keyscan -t ed25519 127.0.0.1 | sudo -u postgres tee /var/lib/postgresql/.ssh/known_hosts")
    backups.shell(f"install -d -o copies -m 700 ~copies/.ssh {KEPT}")
    backups.shell("install -o copies -m 600 /var/lib/postgresql/.ssh/id_ed25519.pub ~copies/.ssh/authorized_keys")
    return "copies@127.0.0.1"


def configure(backups: Backups, *arguments: str) -> str:
    """Let phase 1 set the copies up; return what it said."""
    alarm = f"{{postgres_backup_alarm_command: /usr/bin/touch {ALARM}}}"
    run = backups.play("1_infrastructure.yml", "--tags", "postgres_backup", "-e", alarm, *arguments)
    assert run.succeeded, run.output
    assert {task.partition(" : ")[0] for task in run.changed_tasks} == {"postgres_backup"}, run.changed_tasks
    return run.output


def wait_for_alarm(backups: Backups) -> None:
    """Wait until the alarm was raised: by a unit of its own, which systemd starts after the one that failed."""
    backups.shell(f"for n in $(seq 240); do test -e {ALARM} && exit 0; sleep 0.5; done; exit 1")


@pytest.mark.promise("copy-off-the-host")
def test_copies_over_ssh_are_read_back_and_their_failure_raises_the_alarm(
    backups: Backups, loaded_backup: str, other_account: str
) -> None:
    target = f"postgres_backup_copy_target={other_account}:{KEPT}"
    configure(backups, "-e", "postgres_backup_copy_method=rsync", "-e", target)
    backups.start("postgres-backup")
    backups.start("postgres-backup-drill")
    backups.start("postgres-backup-check")
    for name in (loaded_backup, backups.names()[-1]):
        backups.shell(f"diff -r {backups.directory}/{name} {KEPT}/{name}")
    assert backups.copy_again() == []

    assert backups.host.run(f"test -e {ALARM}").status == 1
    backups.shell("systemctl stop ssh")
    count = len(backups.names())
    said = backups.start("postgres-backup", succeeds=False)
    assert "its copy off this host is not" in said
    assert other_account in said
    wait_for_alarm(backups)
    assert len(backups.names()) == count + 1
    backups.shell("systemctl start ssh")
    backups.start("postgres-backup")
    backups.shell(f"diff -r {backups.directory} {KEPT} --exclude '.*'")


def test_what_the_target_has_lost_is_copied_again_and_what_it_removed_of_old_is_not(
    backups: Backups, other_account: str
) -> None:
    backups.start("postgres-backup-drill")
    newest, oldest = backups.names()[-1], backups.names()[0]
    backups.shell(f"rm -r {KEPT}/{oldest}")
    assert backups.copy_again() == []
    backups.shell(f"rm -r {KEPT}/{newest}")
    assert set(backups.copy_again()) == set(backups.names())
    backups.shell(f"diff -r {backups.directory} {KEPT} --exclude '.*'")


@pytest.mark.promise("copy-off-the-host")
def test_a_backup_that_was_damaged_here_does_not_replace_its_good_copy(backups: Backups, other_account: str) -> None:
    newest = backups.names()[-1]
    here, there = f"{backups.directory}/{newest}/database.dump", f"{KEPT}/{newest}/database.dump"
    backups.shell(f"cp -a {here} /run/good.dump; truncate -s -9 {here}")
    try:
        assert "is damaged" in backups.start("postgres-backup-drill", succeeds=False)
        status, output = backups.program("copy")
        assert status == 1
        assert f"{here}: " in output
        assert "so it was not copied" in output
        backups.shell(f"cmp /run/good.dump {there}")
    finally:
        # As an operator would: the copy is good.
        backups.shell(f"cp -a /run/good.dump {here}")
    backups.start("postgres-backup-drill")


@pytest.fixture(scope="module")
def few_backups(backups: Backups, other_account: str) -> None:
    """Only the newest, which is proven: each command of restic takes half a second of a processor, for the key."""
    backups.shell(f"cd {backups.directory} && rm -r {' '.join(backups.names()[:-1])}")


# test_managed.py has a repository on a disk.
@pytest.mark.long_search
@pytest.mark.promise("copy-off-the-host")
def test_a_repository_over_ssh_holds_every_byte(backups: Backups, few_backups: None, tmp_path: Path) -> None:
    output = configure(backups, *backups.restic_arguments(tmp_path, OVER_SSH), "--diff", "-vvv")
    assert backups.restic_password not in output
    file = backups.restic_password_file
    assert backups.shell(f"stat -c '%U %a' {file} $(dirname {file})").splitlines() == [
        "postgres 600",
        "postgres 700",
    ]
    # Nobody has made the repository yet.
    said = backups.start("postgres-backup", succeeds=False)
    assert "its copy off this host is not" in said
    assert OVER_SSH in said
    assert "no verified backup was ever copied there" in backups.start("postgres-backup-check", succeeds=False)

    backups.restic(OVER_SSH, "init")
    backups.host.run(f"setsid sh -c {shlex.quote(WATCHER)} >/dev/null 2>&1 & echo $! >/run/watcher.pid")
    try:
        backups.start("postgres-backup-drill")
    finally:
        backups.shell("kill -- -$(cat /run/watcher.pid)")
    backups.start("postgres-backup-check")
    backups.restic(OVER_SSH, "check", "--read-data")
    for name in backups.names():
        backups.shell("rm -rf /run/restored && install -d -o postgres /run/restored")
        backups.restic(OVER_SSH, "restore", "latest", "--tag", name, "--target", "/run/restored")
        backups.shell(f"diff -r {backups.directory}/{name} /run/restored{backups.directory}/{name}")

    snapshots = json.loads(backups.restic(OVER_SSH, "snapshots", "--json"))
    assert {tag for snapshot in snapshots for tag in snapshot["tags"]} == set(backups.names())
    assert backups.copy_again() == []
    assert json.loads(backups.restic(OVER_SSH, "snapshots", "--json")) == snapshots


@pytest.mark.long_search
def test_a_wrong_password_is_loud_and_the_right_one_heals_it(backups: Backups, few_backups: None) -> None:
    file = backups.restic_password_file
    backups.shell(f"cp -a {file} /run/password; echo another-one >{file}; rm -f {ALARM}")
    count = len(backups.names())
    try:
        said = backups.start("postgres-backup", succeeds=False)
    finally:
        backups.shell(f"cp -a /run/password {file}; rm /run/password")
    assert "wrong password" in said
    assert OVER_SSH in said
    assert "another-one" not in said
    assert len(backups.names()) == count + 1, "the backup itself is complete"
    wait_for_alarm(backups)
    assert backups.copy_again() == [backups.names()[-1]]


@pytest.mark.long_search
def test_the_password_stands_in_its_file_alone(backups: Backups, few_backups: None) -> None:
    assert "restic" in backups.shell("grep -ao 'restic backup' /run/seen | head -1")
    backups.shell("journalctl --sync")
    assert backups.host.run(f"journalctl --no-pager | grep -F {backups.restic_password}").status == 1
    places = "/etc /home /opt /root /run /srv /tmp /var"
    found = backups.host.run(f"grep -rlsaF {backups.restic_password} {places} --exclude-dir=journal").stdout.split()
    assert found == [backups.restic_password_file]
