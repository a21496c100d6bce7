"""What the tests of a cleaned up host share: the host, SQL on it, and runs of the cleanup."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from scripts.playbooks import PlaybookRun, ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))


class Run(PlaybookRun):
    """The outcome of one run of a playbook."""

    @property
    def plan_id(self) -> str:
        """Return the id of the plan that it has printed."""
        found = re.search(r"Cleanup plan ([0-9a-f]{12})", self.output)
        assert found, self.output
        return found[1]


@dataclass(frozen=True)
class Cleaned:
    """The host under cleanup."""

    host: Host

    def play(self, *playbooks: str, options: tuple[str, ...] = ()) -> Run:
        """Run playbooks on it."""
        run = HOST.play(*(f"playbooks/{name}.yml" for name in playbooks), *options)
        return Run(run.status, run.output, run.changed_tasks)

    def clean_up(self, confirm: str = "", restore: str = "", check: bool = False) -> Run:
        """Run the cleanup."""
        options: tuple[str, ...] = ("--check",) if check else ()
        if confirm:
            options += ("-e", f"sqlite_cleanup_confirm={confirm}")
        if restore:
            options += ("-e", f"sqlite_cleanup_restore_groups={restore}")
        return self.play("6_cleanup", options=options)

    def describe(self) -> list[str]:
        """Return every file that a playbook could change, with the time of its last change, which nobody can set.

        Left out is what changes by itself. A private copy that comes and goes leaves a time on its directory alone.
        """
        lines = self.shell(_DESCRIBE).splitlines()
        assert len(lines) > 1000
        return sorted(lines)

    def sql(self, statement: str) -> str:
        """Run SQL as the superuser and return what it prints."""
        result = self.host.run(
            "cd / && sudo -u postgres psql --no-psqlrc --tuples-only --no-align --set ON_ERROR_STOP=1 "
            f"--dbname swarm --command {shlex.quote(statement)}"
        )
        assert result.rc == 0, result.stderr
        return str(result.stdout).strip()

    def shell(self, command: str) -> str:
        """Run a command as root that must succeed, and return what it prints."""
        result = self.host.run(command)
        assert result.rc == 0, f"{command}: {result.stderr}\n{result.stdout}"
        return str(result.stdout).strip()

    def states(self) -> dict[str, str]:
        """Return the state of each group."""
        found: dict[str, str] = json.loads(self.sql("SELECT json_object_agg(name, state) FROM migration.cutover_group"))
        return found

    def pass_days(self, days: int = 8) -> None:
        """Move time forward: insert the daily checks that the timer would have made, each after a boot of its own."""
        self.sql(
            f"""
            WITH period AS (
              SELECT name AS group_name, 'cutover ' || to_char(cutover_at AT TIME ZONE 'UTC',
                     'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
                     || coalesce(', restored ' || (detail ->> 'restored_at'), '') AS period
              FROM migration.cutover_group WHERE state = 'live'
              UNION
              SELECT group_name, 'quarantine ' || (facts ->> 'quarantined_by')
              FROM migration.cleanup_file WHERE step = 'quarantined'
            ), last AS (
              SELECT coalesce(max((findings ->> 'number')::bigint), 0) AS number FROM migration.soak_check
            ), day AS (
              SELECT n, extract(epoch FROM clock_timestamp())::float8 - ({days} - n) * 86400 AS at
              FROM generate_series(0, {days}) AS n
            )
            INSERT INTO migration.soak_check (group_name, checked_at, passed, findings)
            SELECT group_name, to_timestamp(at) + number * interval '1 ms' + row_number() OVER () * interval '1 us',
                   true, jsonb_build_object('number', number + n + 1, 'period', period, 'failures', '[]'::jsonb,
                   'clock', jsonb_build_object('host', at, 'server', at, 'boot', 'boot ' || n, 'uptime', 60))
            FROM period, last, day
            """
        )

    def rows(self) -> str:
        """Return number and hash of the rows of every table of the services."""
        return self.sql(
            "SELECT json_object_agg(table_schema || '.' || table_name, query_to_xml(format("
            "'SELECT count(*) AS n, md5(string_agg(md5(t::text), '''' ORDER BY t::text)) AS h FROM %I.%I AS t', "
            "table_schema, table_name), false, true, '')::text ORDER BY table_schema, table_name) "
            "FROM information_schema.tables WHERE table_schema IN ('auth', 'registry', 'deploy', 'verification')"
        )

    def stores(self) -> list[str]:
        """Return the store that each service says it uses."""
        return self.shell(f"python3 -c '{_ASK_SERVICES}'").split()

    def reboot(self) -> None:
        """Let the host lose its power, and start it again."""
        # What an image cannot hold is put back at the first start alone: the files of that list are gone by now.
        self.shell("rm -f /var/lib/test-host/immutable")
        subprocess.run(["docker", "restart", "--time", "0", HOST.container], check=True, capture_output=True)

    def wait_for_services(self) -> None:
        """Wait until every service answers after a boot."""
        deadline = time.monotonic() + 300
        while self.host.run(f"python3 -c '{_ASK_SERVICES}'").rc and time.monotonic() < deadline:
            time.sleep(1)

    def digest_of(self, program: str) -> str:
        """Return what a program on the host prints that compares rows; it finds the functions of :data:`_READER`."""
        return self.shell(f"python3 - <<'END'\n{_READER}\n{program}\nEND")

    def sources(self) -> str:
        """Return the hash of every row of the frozen files."""
        return self.digest_of(f"print(digest({{path: read(path) for path in {SOURCES!r}}}))")

    def archives(self) -> str:
        """Return the hash of every row of the sources' archives, and the number of rows in the legacy file's."""
        return self.digest_of(_READ_ARCHIVES)


SOURCES = (
    "/opt/swarm-registry/registry.db",
    "/opt/swarm-deploy/data/deployments.db",
    "/opt/swarm-platform/data/swarm.db",
)
_DESCRIBE = r"""
find /etc /home /opt /root /srv /usr/local /var/backups /var/lib /var/spool \( -name .ansible -o -name node_modules \
  -o -name '*.db-shm' -o -path '*/.pm2/logs' -o -path '*/.pm2/*.log' -o -path '*/.pm2/touch' \
  -o -path /var/lib/apt/lists -o -path /var/lib/postgresql -o -path /var/lib/systemd \) -prune \
  -o -type d -printf '%p %u:%g %m\n' -o -printf '%p %u:%g %m %s %C@ %l\n'
"""
OTHER_DISK = "/opt/swarm-mcp-factory.legacy"
_ASK_SERVICES = """
import json, urllib.request
for port in (4001, 4002, 4003, 4004):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as answer:
        print(json.load(answer)["store"])
"""
_READER = """
import glob, gzip, hashlib, json, os, sqlite3, tempfile

def read(path):
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    connection.text_factory = bytes
    tables = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    select = 'SELECT * FROM "{}"'
    return {table: sorted(repr(row) for row in connection.execute(select.format(table))) for table in sorted(tables)}

def digest(found):
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
"""
_READ_ARCHIVES = """
found, legacy = {}, 0
for name in glob.glob("/var/backups/sqlite-migration/*/manifest.json"):
    manifest = json.load(open(name))
    with tempfile.TemporaryDirectory() as directory:
        path = directory + "/copy.db"
        with open(path, "wb") as file:
            file.write(gzip.open(os.path.dirname(name) + "/" + manifest["archive"]).read())
        rows = read(path)
    if manifest["kind"] == "source":
        found[manifest["source"]] = rows
    else:
        legacy += sum(map(len, rows.values()))
print(digest(found), legacy)
"""


@pytest.fixture(scope="session")
def cleaned() -> Cleaned:
    """Return the host, with a legacy file on a disk of its own."""
    cleaned = Cleaned(testinfra.get_host(f"docker://{HOST.container}"))
    cleaned.shell(
        f"if ! mountpoint -q {OTHER_DISK}; then mkdir /run/kept && cp -a {OTHER_DISK}/* /run/kept "
        f"&& mount -t tmpfs -o mode=0755 tmpfs {OTHER_DISK} && cp -a /run/kept/* {OTHER_DISK} && rm -r /run/kept; fi"
    )
    return cleaned


@pytest.fixture(scope="session")
def remembered(cleaned: Cleaned) -> dict[str, Any]:
    """Return every row as it was before the cleanup: in PostgreSQL, and in the frozen files."""
    return {"rows": cleaned.rows(), "sources": cleaned.sources()}
