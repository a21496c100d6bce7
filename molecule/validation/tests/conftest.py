"""What the tests of the validation share: the host, SQL on it, runs of the playbooks, and what nobody may write to."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from scripts.playbooks import ROOT, ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))

# Every row, object, right and setting in the databases; the two lines that pg_dump makes anew each time aside.
_DATABASES = "cd / && (sudo -u postgres pg_dump swarm; sudo -u postgres pg_dumpall --globals-only) | grep -v restrict"
# The server reads its settings a moment after it was told to, and what autovacuum has begun goes on.
_NO_AUTOVACUUM = """
DO $$ BEGIN
  FOR n IN 1..1200 LOOP
    PERFORM pg_stat_clear_snapshot();
    IF NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%') THEN RETURN; END IF;
    PERFORM pg_sleep(0.1);
  END LOOP;
  RAISE EXCEPTION 'autovacuum does not end';
END $$
"""
# Every file that a playbook could change. What pm2 logs and what any reader of SQLite touches is left out, and when a
# directory last held another file: a private snapshot comes and goes.
_FILES = (
    r"find /etc /home /opt /root /srv /usr/local /var/backups /var/lib/sqlite-migration "
    r"\( -name node_modules -o -path '*/.ansible' -o -path '*/.pm2/*' -o -name '*.db-shm' \) -prune "
    r"-o -type d -printf '%p %u:%g %m\n' -o -printf '%p %u:%g %m %y %s %T@ %l\n' -type f -exec sha256sum {} + | sort"
)
_SEND = """
import json, sys, urllib.request
method, url, body = sys.argv[1:]
request = urllib.request.Request(url, method=method, headers={"Content-Type": "application/json"})
with urllib.request.urlopen(request, data=body.encode() if body else None, timeout=10) as response:
    print(response.read().decode())
"""


@dataclass(frozen=True)
class Run:
    """The outcome of one run of a playbook.

    :param report: the report that holds now.
    """

    status: int
    output: str
    changed: int
    report: dict[str, Any]

    @property
    def findings(self) -> dict[str, str]:
        """Return what is wrong, by its place."""
        found: dict[str, str] = {}
        for finding in self.report["findings"]:
            found[finding["where"]] = f"{found.get(finding['where'], '')} {finding['what']}".strip()
        return found

    def group(self, name: str) -> dict[str, Any]:
        """Return what the report says of one cutover group."""
        found: dict[str, Any] = next(group for group in self.report["groups"] if group["group"] == name)
        return found


@dataclass(frozen=True)
class Estate:
    """The estate on the test host."""

    host: Host

    def play(self, playbook: str, *options: str) -> Run:
        """Run a playbook, which may neither warn nor show a traceback."""
        found = HOST.play(f"playbooks/{playbook}.yml", *options)
        assert not found.warnings and "Traceback" not in found.output, found.output
        latest = ROOT / "reports" / f"{HOST.prefix}dev" / "latest" / "report.json"
        report = json.loads(latest.read_text(encoding="utf-8")) if latest.exists() else {}
        return Run(found.status, found.output, found.changed, report)

    def validate(self, *options: str) -> Run:
        """Run phase 5."""
        return self.play("5_validation", *options)

    def shell(self, command: str) -> str:
        """Run a command as root that must succeed, and return what it prints."""
        result = self.host.run(command)
        assert result.rc == 0, f"{command}: {result.stderr}\n{result.stdout}"
        return str(result.stdout).strip()

    def sql(self, *statements: str) -> str:
        """Run statements as the superuser, each by itself, and return what they print."""
        commands = " ".join(f"--command {shlex.quote(statement)}" for statement in statements)
        program = "psql --no-psqlrc --tuples-only --no-align --quiet --set ON_ERROR_STOP=1 --dbname swarm"
        return self.shell(f"cd / && sudo -u postgres {program} {commands}")

    def send(self, method: str, url: str, body: Any = None) -> Any:
        """Send a request to a service, from its own host, and return the answer."""
        text = "" if body is None else json.dumps(body)
        return json.loads(self.shell(shlex.join(["python3", "-c", _SEND, method, url, text])))

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Fail if anybody writes to the host or the databases meanwhile.

        Whoever writes anything to PostgreSQL takes the next transaction id. The server's own housekeeping would too.
        """
        self.sql("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()", _NO_AUTOVACUUM)
        before = self._everything()
        try:
            yield
            after = self._everything()
            assert before["transactions"] == after["transactions"]
            assert before["databases"] == after["databases"]
            assert set(before["files"]) == set(after["files"])
            assert len(before["files"]) > 100
        finally:
            self.sql("ALTER SYSTEM RESET autovacuum", "SELECT pg_reload_conf()")

    def _everything(self) -> dict[str, Any]:
        """Return what tells whether anything was written."""
        return {
            "databases": self.shell(_DATABASES).splitlines(),
            "files": self.shell(_FILES).splitlines(),
            "transactions": self.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())"),
        }


@pytest.fixture(scope="session")
def estate() -> Estate:
    """Return the estate. No timer of its backups writes while somebody looks."""
    found = Estate(testinfra.get_host(f"docker://{HOST.container}"))
    found.shell("systemctl stop 'postgres-backup*.timer'")
    return found
