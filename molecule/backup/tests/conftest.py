"""What the tests of the backups share: the host, SQL on it, its units, playbooks, and a backup taken under load."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import testinfra
from testinfra.host import Host

from scripts.playbooks import ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))
WRITER = (
    'while :; do echo "INSERT INTO deploy.deployments (service, commit_sha, triggered_by, trigger_type) '
    "VALUES ('s', md5(random()::text), 'load', 'manual');\"; sleep 0.02; done | sudo -u postgres psql -q swarm"
)


@dataclass(frozen=True)
class Backups:
    """The backups of the test host.

    :param user: who takes them.
    :param port: of the server.
    """

    host: Host
    directory: str = "/var/backups/sqlite-to-postgresql"
    user: str = "postgres"
    port: int = 5432

    def shell(self, command: str) -> str:
        """Run a command that succeeds and return its output."""
        result = self.host.run(f"cd / && {command}")
        assert result.rc == 0, f"{command}: {result.stdout}{result.stderr}{self.journal()}"
        return str(result.stdout).strip()

    def psql(self, statement: str, database: str = "swarm") -> str:
        """Run a statement as the superuser and return its output."""
        program = f"sudo -u postgres psql -h /var/run/postgresql -p {self.port} -qtAX -v ON_ERROR_STOP=1"
        return self.shell(f"{program} {database} -c {shlex.quote(statement)}")

    def program(self, *arguments: str) -> tuple[int, str]:
        """Run the backup program as its user; return exit code and output."""
        program = "python3 -I /usr/local/lib/sqlite-to-postgresql.pyz backup.cli"
        result = self.host.run(f"runuser -u {self.user} -- {program} {shlex.join(arguments)}")
        return result.rc, result.stdout + result.stderr

    def journal(self) -> str:
        """Return the last messages of the backups."""
        return str(self.host.run("journalctl -u 'postgres-backup*' --no-pager -n 30").stdout)

    def start(self, unit: str, succeeds: bool = True) -> str:
        """Start one of the timers' services, wait for its end, and return what it said."""
        cursor = self.shell("journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'")
        result = self.host.run(f"systemctl start {unit}.service")
        said = self.shell(f"journalctl --sync; journalctl -u {unit} -o cat --no-pager --after-cursor '{cursor}'")
        assert (result.rc == 0) is succeeds, said
        self.host.run(f"systemctl reset-failed {unit}.service")
        return said

    def playbook(self, name: str, *arguments: str) -> tuple[int, int, str]:
        """Run a playbook on the test host; return exit code, number of changes, and output."""
        run = HOST.play(f"playbooks/{name}", *arguments)
        return run.status, run.changed, run.output

    def names(self) -> list[str]:
        """Return the names of the complete backups, the oldest first."""
        return self.shell(f"ls {self.directory}").split()


@pytest.fixture(scope="session")
def backups() -> Backups:
    """The backups of the test host."""
    return Backups(testinfra.get_host(f"docker://{HOST.container}"))


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
