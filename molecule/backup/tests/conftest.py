"""What the tests of the backups share: the host, SQL on it, its units, playbooks, and a backup taken under load."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.host_shell import HostShell
from scripts.playbooks import PlaybookRun, ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))
# Writes a row fifty times a second, until it is killed.
WRITER = """echo "INSERT INTO deploy.deployments (service, commit_sha, triggered_by, trigger_type)
VALUES ('s', md5(random()::text), 'load', 'manual') \\watch 0.02" | sudo -u postgres psql -q swarm"""
# Starts a unit, waits for its end, prints what it said, and ends as it did.
_START = """
cursor=$(journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p')
systemctl start {unit}.service
code=$?
journalctl --sync
journalctl -u {unit} -o cat --no-pager --after-cursor "$cursor"
systemctl reset-failed {unit}.service
exit $code
"""


@dataclass(frozen=True)
class Backups:
    """The backups of the test host.

    :param user: who takes them.
    :param port: of the server.
    :param restic_password: of each repository of restic.
    """

    host: HostShell
    directory: str = "/var/backups/sqlite-to-postgresql"
    user: str = "postgres"
    port: int = 5432
    restic_password: str = "not-to-be-seen-anywhere"
    restic_password_file: str = "/etc/sqlite-to-postgresql-backup/restic_password"

    def shell(self, command: str) -> str:
        """Run a command that succeeds and return its output."""
        result = self.host.run(f"cd / && {command}")
        assert result.status == 0, f"{command}: {result.stdout}{result.stderr}{self.journal()}"
        return result.stdout.strip()

    def psql(self, statement: str, database: str = "swarm") -> str:
        """Run a statement as the superuser and return its output."""
        program = f"sudo -u postgres psql -h /var/run/postgresql -p {self.port} -qtAX -v ON_ERROR_STOP=1"
        return self.shell(f"{program} {database} -c {shlex.quote(statement)}")

    def program(self, *arguments: str) -> tuple[int, str]:
        """Run the backup program as its user; return exit code and output."""
        program = "python3 -I /usr/local/lib/sqlite-to-postgresql.pyz backup.cli"
        result = self.host.run(f"runuser -u {self.user} -- {program} {shlex.join(arguments)}")
        return result.status, result.stdout + result.stderr

    def journal(self) -> str:
        """Return the last messages of the backups."""
        return self.host.run("journalctl -u 'postgres-backup*' --no-pager -n 30").stdout

    def start(self, unit: str, succeeds: bool = True) -> str:
        """Start one of the timers' services, wait for its end, and return what it said."""
        result = self.host.run(_START.format(unit=unit))
        said = result.stdout.strip()
        assert (result.status == 0) is succeeds, f"{said}{result.stderr}"
        return said

    def play(self, name: str, *arguments: str) -> PlaybookRun:
        """Run a playbook on the test host."""
        return HOST.play(f"playbooks/{name}", *arguments)

    def playbook(self, name: str, *arguments: str) -> tuple[int, int, str]:
        """Run a playbook on the test host; return exit code, number of changes, and output."""
        run = self.play(name, *arguments)
        return run.status, run.changed, run.output

    def copy_again(self) -> list[str]:
        """Copy what is missing at the target; return the names."""
        status, output = self.program("copy", "--json")
        assert status == 0, output
        result = json.loads(output)
        assert result["changed"] is bool(result["copied"])
        names: list[str] = result["copied"]
        return names

    def restic(self, repository: str, *arguments: str) -> str:
        """Run restic by hand, as the user of the backups."""
        command = f"restic -q -r {repository} --password-file {self.restic_password_file} --no-cache"
        return self.shell(f"runuser -u {self.user} -- {command} {' '.join(arguments)}")

    def restic_arguments(self, directory: Path, repository: str) -> tuple[str, str]:
        """Return what gives a playbook the password as Ansible Vault would, not on its command line."""
        path = directory / "secret.yml"
        path.touch(mode=0o600)
        path.write_text(
            f"postgres_backup_copy_method: restic\npostgres_backup_copy_target: {repository}\n"
            f"postgres_backup_copy_restic_password: {self.restic_password}\n"
        )
        return "-e", f"@{path}"

    def names(self) -> list[str]:
        """Return the names of the complete backups, the oldest first."""
        return self.shell(f"ls {self.directory}").split()


@pytest.fixture(scope="session")
def backups() -> Iterator[Backups]:
    """The backups of the test host."""
    with HOST.of_scenario("backup"):
        shell = HostShell(HOST.container)
        yield Backups(shell)
        shell.close()


@pytest.fixture(scope="session")
def loaded_backup(backups: Backups) -> Iterator[str]:
    """A backup that the playbook took and proved while rows were written all the time; its name."""
    backups.host.run(f"setsid sh -c {shlex.quote(WRITER)} >/dev/null 2>&1 & echo $! >/run/writer.pid")
    try:
        status, changed, output = backups.playbook("backup.yml")
        assert (status, changed) == (0, 1), output
        line = re.search(
            r"(swarm-\S+): [\d,]+ bytes, \d+ tables, [\d,]+ rows, taken in \S+ s, verified by a restore", output
        )
        assert line is not None, output
        for unit in ("postgres-backup", "postgres-backup-drill", "postgres-backup-check"):
            backups.start(unit)
    finally:
        backups.host.run("kill -- -$(cat /run/writer.pid)")
    yield line[1]
