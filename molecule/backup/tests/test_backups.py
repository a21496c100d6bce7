"""The services of the timers on a real host: under load, off the host, restored by the playbook, and broken."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]
PREFIX = os.environ.get("TEST_HOST_PREFIX", "molecule-")
DIRECTORY = "/var/backups/sqlite-to-postgresql"
UNITS = ("postgres-backup", "postgres-backup-drill", "postgres-backup-check")
WRITER = (
    'while :; do echo "INSERT INTO deploy.deployments (service, commit_sha, triggered_by, trigger_type) '
    "VALUES ('s', md5(random()::text), 'load', 'manual');\"; sleep 0.02; done | sudo -u postgres psql -q swarm"
)


@pytest.fixture(scope="module")
def host() -> Host:
    """Return the test host."""
    return testinfra.get_host(f"docker://{PREFIX}swarm-dev")


def shell(host: Host, command: str) -> str:
    """Run a command that succeeds and return its output."""
    result = host.run(f"cd / && {command}")
    assert result.rc == 0, f"{command}: {result.stdout}{result.stderr}{journal(host)}"
    return str(result.stdout).strip()


def psql(host: Host, statement: str, database: str = "swarm") -> str:
    """Run a statement as the superuser and return its output."""
    return shell(host, f"sudo -u postgres psql -qtAX -v ON_ERROR_STOP=1 {database} -c {shlex.quote(statement)}")


def journal(host: Host) -> str:
    """Return the last messages of the backups."""
    return str(host.run("journalctl -u 'postgres-backup*' --no-pager -n 30").stdout)


def start(host: Host, unit: str, succeeds: bool = True) -> None:
    """Start one of the timers' services and wait for its end."""
    result = host.run(f"systemctl start {unit}.service")
    assert (result.rc == 0) is succeeds, journal(host)
    host.run(f"systemctl reset-failed {unit}.service")


def playbook(name: str, *arguments: str) -> tuple[int, int, str]:
    """Run a playbook on the test host; return exit code, number of changes, and output."""
    result = subprocess.run(
        [
            "ansible-playbook",
            "-i",
            "inventory",
            "-i",
            "molecule/inventory",
            f"playbooks/{name}",
            "-l",
            "dev",
            *arguments,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "TEST_HOST_PREFIX": PREFIX,
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    changed = sum(map(int, re.findall(r" changed=(\d+) ", result.stdout)))
    return result.returncode, changed, result.stdout


def names(host: Host) -> list[str]:
    """Return the names of the complete backups, the oldest first."""
    return shell(host, f"ls {DIRECTORY}").split()


@pytest.fixture(scope="module")
def loaded_backup(host: Host) -> Iterator[str]:
    """A backup that the playbook took and proved while rows were written all the time; its name."""
    host.run(f"setsid sh -c {shlex.quote(WRITER)} >/dev/null 2>&1 & echo $! >/run/writer.pid")
    try:
        status, changed, output = playbook("backup.yml")
        assert (status, changed) == (0, 1), output
        line = re.search(
            r"(swarm-\S+): [\d,]+ bytes, \d+ tables, [\d,]+ rows, taken in \S+ s, verified by a restore", output
        )
        assert line is not None, output
        for unit in UNITS:
            start(host, unit)
    finally:
        host.run("kill -- -$(cat /run/writer.pid)")
    yield line[1]


def test_the_timers_wait_for_their_time(host: Host) -> None:
    for unit in UNITS:
        timer = host.service(f"{unit}.timer")
        assert timer.is_running
        assert timer.is_enabled
        properties = shell(host, f"systemctl show {unit}.service -p User,Nice,ProtectSystem")
        assert properties.split() == ["Nice=10", "User=postgres", "ProtectSystem=strict"] or set(
            properties.split()
        ) == {
            "Nice=10",
            "User=postgres",
            "ProtectSystem=strict",
        }


def test_without_a_proven_backup_the_check_fails(host: Host) -> None:
    """Before the first backup: this test runs first of those that take one."""
    if not names(host):
        start(host, "postgres-backup-check", succeeds=False)
        assert "no backup was ever proven to restore" in journal(host)


def test_backups_under_load_are_proven(host: Host, loaded_backup: str) -> None:
    rows = psql(
        host, "SELECT name, verified_at > taken_at, taken_at < now() FROM migration.backup ORDER BY taken_at"
    ).split()
    assert rows[0] == f"{loaded_backup}|t|t"
    assert len(rows) == 2
    assert all(row.endswith("|t|t") for row in rows)
    assert int(psql(host, "SELECT count(*) FROM deploy.deployments WHERE triggered_by = 'load'")) > 50
    modes = shell(host, f"stat -c '%U %a' {DIRECTORY} {DIRECTORY}/* {DIRECTORY}/*/*").splitlines()
    assert set(modes) == {"postgres 700", "postgres 600"}


def test_a_named_backup_is_restored_after_it_was_confirmed(host: Host, loaded_backup: str) -> None:
    before = psql(host, "SELECT count(*) FROM deploy.deployments")
    name = f"postgres_backup_restore_name={loaded_backup}"
    status, changed, output = playbook("restore.yml")
    assert status != 0
    assert loaded_backup in output
    status, changed, output = playbook("restore.yml", "-e", name)
    assert (status, changed) == (0, 0), output
    assert "deploy.deployments" in output
    assert psql(host, "SELECT count(*) FROM deploy.deployments") == before
    confirm = f"postgres_backup_restore_confirm={loaded_backup}"
    status, changed, output = playbook("restore.yml", "-e", name, "-e", confirm)
    assert (status, changed) == (0, 1), output
    assert psql(host, "SELECT count(*) FROM deploy.deployments") != before
    old = psql(host, "SELECT datname FROM pg_database WHERE datname LIKE 'swarm_before_restore%'")
    assert psql(host, "SELECT count(*) FROM deploy.deployments", old) == before
    psql(host, f"DROP DATABASE {old}", "postgres")
    status, changed, output = playbook("restore.yml", "-e", name, "-e", confirm)
    assert (status, changed) == (0, 0), output
    # The restored database is one that phase 1 finds nothing to change in.
    status, changed, output = playbook("1_infrastructure.yml")
    assert (status, changed) == (0, 0), output


def test_a_full_disk_and_a_stopped_server_are_loud_and_do_no_harm(host: Host, loaded_backup: str) -> None:
    shell(host, f"mount -t tmpfs -o size=64k,uid=postgres,mode=700 tmpfs {DIRECTORY}")
    try:
        start(host, "postgres-backup", succeeds=False)
        assert shell(host, f"ls {DIRECTORY}") == ""
    finally:
        shell(host, f"umount {DIRECTORY}")
    assert "No space left on device" in journal(host)
    shell(host, "systemctl stop postgresql@16-main")
    try:
        start(host, "postgres-backup", succeeds=False)
        assert "Cannot connect to PostgreSQL" in journal(host)
        start(host, "postgres-backup-check")
    finally:
        shell(host, "systemctl start postgresql@16-main")
    start(host, "postgres-backup-drill")
    assert loaded_backup in names(host)


def test_a_killed_drill_leaves_nothing_after_the_next(host: Host, loaded_backup: str) -> None:
    for delay in ("0.3", "0.5", "0.8"):
        shell(host, "systemctl start --no-block postgres-backup-drill.service")
        host.run(f"sleep {delay}; systemctl kill --signal=KILL postgres-backup-drill.service")
        host.run("systemctl reset-failed postgres-backup-drill.service")
    start(host, "postgres-backup-drill")
    assert psql(host, "SELECT count(*) FROM pg_database WHERE datname LIKE 'swarm_restore%'") == "0"


def test_copies_over_ssh_are_read_back_and_their_failure_raises_the_alarm(host: Host, loaded_backup: str) -> None:
    """A second account of the host, reached by SSH, stands in for the other host."""
    shell(host, "apt-get -q update")
    shell(host, "DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends openssh-server")
    shell(host, "useradd --create-home copies && systemctl start ssh")
    shell(host, "sudo -u postgres ssh-keygen -q -t ed25519 -N '' -f /var/lib/postgresql/.ssh/id_ed25519")
    shell(host, "ssh-keyscan -t ed25519 127.0.0.1 | sudo -u postgres tee /var/lib/postgresql/.ssh/known_hosts")
    shell(host, "install -d -o copies -m 700 ~copies/.ssh ~copies/kept")
    shell(host, "install -o copies -m 600 /var/lib/postgresql/.ssh/id_ed25519.pub ~copies/.ssh/authorized_keys")
    arguments = ["--tags", "postgres_backup", "-e", "postgres_backup_copy_method=rsync"]
    arguments += ["-e", "postgres_backup_copy_target=copies@127.0.0.1:/home/copies/kept"]
    arguments += ["-e", "{postgres_backup_alarm_command: /usr/bin/touch /var/lib/postgresql/alarm}"]
    status, changed, output = playbook("1_infrastructure.yml", *arguments)
    assert status == 0, output
    assert changed > 0
    status, changed, output = playbook("1_infrastructure.yml", *arguments)
    assert (status, changed) == (0, 0), output

    start(host, "postgres-backup")
    start(host, "postgres-backup-drill")
    start(host, "postgres-backup-check")
    shell(host, f"diff -r {DIRECTORY}/{loaded_backup} ~copies/kept/{loaded_backup}")
    shell(host, f"diff -r {DIRECTORY}/{names(host)[-1]} ~copies/kept/{names(host)[-1]}")

    assert not host.file("/var/lib/postgresql/alarm").exists
    shell(host, "systemctl stop ssh")
    count = len(names(host))
    start(host, "postgres-backup", succeeds=False)
    assert "its copy off this host is not" in journal(host)
    shell(host, "for n in 1 2 3 4 5 6 7 8 9; do test -e /var/lib/postgresql/alarm && exit 0; sleep 0.5; done; exit 1")
    assert len(names(host)) == count + 1
    shell(host, "systemctl start ssh")
    start(host, "postgres-backup")
    shell(host, f"diff -r {DIRECTORY} ~copies/kept --exclude '.*'")
