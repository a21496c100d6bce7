"""Copies off the host, by rsync over SSH and into repositories of restic: read back, watched, lost and found again.

A second account of the host, reached by SSH, stands in for the other host.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from molecule.backup.tests.conftest import Backups

ALARM = "/var/lib/postgresql/alarm"
PASSWORD = "not-to-be-seen-anywhere"
PASSWORD_FILE = "/etc/sqlite-to-postgresql-backup/restic_password"
KEPT = "/home/copies/kept"
OVER_SSH = "sftp:copies@127.0.0.1:/home/copies/repository"
ON_DISK = "/srv/repository"
# Writes down every command line that it sees, until it is killed.
WATCHER = "while :; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' >>/run/seen; sleep 0.1; done"


@pytest.fixture(scope="module")
def other_account(backups: Backups, loaded_backup: str) -> str:
    """The account, with a key for the user of the backups; return its address."""
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends openssh-server"
    # A server of packages fails now and then.
    backups.shell(f"for try in 1 2 3 4; do apt-get -q update && {install} && exit 0; sleep 15; done; exit 1")
    backups.shell("useradd --create-home copies && systemctl start ssh")
    backups.shell("sudo -u postgres ssh-keygen -q -t ed25519 -N '' -f /var/lib/postgresql/.ssh/id_ed25519")
    backups.shell("ssh-keyscan -t ed25519 127.0.0.1 | sudo -u postgres tee /var/lib/postgresql/.ssh/known_hosts")
    backups.shell(f"install -d -o copies -m 700 ~copies/.ssh {KEPT}")
    backups.shell("install -o copies -m 600 /var/lib/postgresql/.ssh/id_ed25519.pub ~copies/.ssh/authorized_keys")
    return "copies@127.0.0.1"


def configure(backups: Backups, *arguments: str, again: bool = True) -> str:
    """Let phase 1 set the copies up, and find nothing to change when it runs again; return what it said."""
    tags = ("--tags", "postgres_backup", "-e", f"{{postgres_backup_alarm_command: /usr/bin/touch {ALARM}}}")
    status, changed, first = backups.playbook("1_infrastructure.yml", *tags, *arguments, "--diff", "-vvv")
    assert status == 0, first
    assert changed > 0
    if not again:
        return first
    status, changed, second = backups.playbook("1_infrastructure.yml", *tags, *arguments)
    assert (status, changed) == (0, 0), second
    return first + second


def copy_again(backups: Backups) -> list[str]:
    """Copy what is missing at the target; return the names."""
    status, output = backups.program("copy", "--json")
    assert status == 0, output
    result = json.loads(output)
    assert result["changed"] is bool(result["copied"])
    names: list[str] = result["copied"]
    return names


def wait_for_alarm(backups: Backups) -> None:
    """Wait until the alarm was raised: by a unit of its own, which systemd starts after the one that failed."""
    backups.shell(f"for n in $(seq 240); do test -e {ALARM} && exit 0; sleep 0.5; done; exit 1")


@pytest.mark.promise("copy-off-the-host")
def test_copies_over_ssh_are_read_back_and_their_failure_raises_the_alarm(
    backups: Backups, loaded_backup: str, other_account: str
) -> None:
    target = f"postgres_backup_copy_target={other_account}:{KEPT}"
    configure(backups, "-e", "postgres_backup_copy_method=rsync", "-e", target, again=False)
    backups.start("postgres-backup")
    backups.start("postgres-backup-drill")
    backups.start("postgres-backup-check")
    for name in (loaded_backup, backups.names()[-1]):
        backups.shell(f"diff -r {backups.directory}/{name} {KEPT}/{name}")
    assert copy_again(backups) == []

    assert not backups.host.file(ALARM).exists
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
    assert copy_again(backups) == []
    backups.shell(f"rm -r {KEPT}/{newest}")
    assert set(copy_again(backups)) == set(backups.names())
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
    """Only the newest two, of which the last is proven: restic reads each back."""
    for name in backups.names()[:-2]:
        backups.shell(f"rm -r {backups.directory}/{name}")
    backups.start("postgres-backup-drill")


def restic(backups: Backups, repository: str, *arguments: str) -> str:
    """Run restic by hand, as the user of the backups."""
    command = f"runuser -u postgres -- restic -q -r {repository} --password-file {PASSWORD_FILE} --no-cache"
    return backups.shell(f"{command} {' '.join(arguments)}")


def secret_file(tmp_path: Path, target: str) -> str:
    """Return the argument that gives a playbook the password as Ansible Vault would, not on its command line."""
    path = tmp_path / "secret.yml"
    path.touch(mode=0o600)
    path.write_text(
        f"postgres_backup_copy_method: restic\npostgres_backup_copy_target: {target}\n"
        f"postgres_backup_copy_restic_password: {PASSWORD}\n"
    )
    return f"@{path}"


@pytest.mark.promise("copy-off-the-host")
def test_a_repository_over_ssh_holds_every_byte(backups: Backups, few_backups: None, tmp_path: Path) -> None:
    output = configure(backups, "-e", secret_file(tmp_path, OVER_SSH))
    assert PASSWORD not in output
    assert backups.shell(f"stat -c '%U %a' {PASSWORD_FILE} $(dirname {PASSWORD_FILE})").splitlines() == [
        "postgres 600",
        "postgres 700",
    ]
    # Nobody has made the repository yet.
    said = backups.start("postgres-backup", succeeds=False)
    assert "its copy off this host is not" in said
    assert OVER_SSH in said
    assert "no verified backup was ever copied there" in backups.start("postgres-backup-check", succeeds=False)

    restic(backups, OVER_SSH, "init")
    backups.host.run(f"setsid sh -c {shlex.quote(WATCHER)} >/dev/null 2>&1 & echo $! >/run/watcher.pid")
    try:
        backups.start("postgres-backup-drill")
    finally:
        backups.shell("kill -- -$(cat /run/watcher.pid)")
    backups.start("postgres-backup-check")
    restic(backups, OVER_SSH, "check", "--read-data")
    for name in backups.names():
        backups.shell("rm -rf /run/restored && install -d -o postgres /run/restored")
        restic(backups, OVER_SSH, "restore", "latest", "--tag", name, "--target", "/run/restored")
        backups.shell(f"diff -r {backups.directory}/{name} /run/restored{backups.directory}/{name}")

    snapshots = json.loads(restic(backups, OVER_SSH, "snapshots", "--json"))
    assert {tag for snapshot in snapshots for tag in snapshot["tags"]} == set(backups.names())
    assert copy_again(backups) == []
    assert json.loads(restic(backups, OVER_SSH, "snapshots", "--json")) == snapshots


def test_a_wrong_password_is_loud_and_the_right_one_heals_it(backups: Backups, few_backups: None) -> None:
    backups.shell(f"cp -a {PASSWORD_FILE} /run/password; echo another-one >{PASSWORD_FILE}; rm -f {ALARM}")
    count = len(backups.names())
    try:
        said = backups.start("postgres-backup", succeeds=False)
    finally:
        backups.shell(f"cp -a /run/password {PASSWORD_FILE}; rm /run/password")
    assert "wrong password" in said
    assert OVER_SSH in said
    assert "another-one" not in said
    assert len(backups.names()) == count + 1, "the backup itself is complete"
    wait_for_alarm(backups)
    assert copy_again(backups) == [backups.names()[-1]]


def test_a_repository_on_a_disk_that_is_gone_does_not_keep_the_backup_from_being_taken(
    backups: Backups, few_backups: None, tmp_path: Path
) -> None:
    backups.shell(f"install -d -o postgres -m 700 {ON_DISK}")
    output = configure(backups, "-e", secret_file(tmp_path, ON_DISK), again=False)
    assert PASSWORD not in output
    restic(backups, ON_DISK, "init")
    backups.start("postgres-backup-drill")
    backups.start("postgres-backup-check")
    backups.shell(f"mv {ON_DISK} {ON_DISK}.gone")
    count = len(backups.names())
    said = backups.start("postgres-backup", succeeds=False)
    assert re.search(rf"{ON_DISK}: restic: .*(repository|no such file)", said), said
    assert len(backups.names()) == count + 1
    # Another one is there now, with nothing in it: everything is saved again.
    backups.shell(f"install -d -o postgres -m 700 {ON_DISK}")
    restic(backups, ON_DISK, "init")
    assert set(copy_again(backups)) == set(backups.names())
    restic(backups, ON_DISK, "check", "--read-data")


def test_the_password_stands_in_its_file_alone(backups: Backups, few_backups: None) -> None:
    assert "restic" in backups.shell("grep -ao 'restic backup' /run/seen | head -1")
    backups.shell("journalctl --sync")
    assert backups.host.run(f"journalctl --no-pager | grep -F {PASSWORD}").rc == 1
    places = "/etc /home /opt /root /run /srv /tmp /var"
    found = backups.host.run(f"grep -rlsaF {PASSWORD} {places} --exclude-dir=journal").stdout.split()
    assert found == [PASSWORD_FILE]
