"""What the tests of an estate's life share: the host, SQL on it, runs of playbooks, and what nobody may write to."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from scripts.host_shell import HostShell
from scripts.playbooks import ROOT, PlaybookRun, ThrowawayHost

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
    """The outcome of one run of playbooks.

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
    """The estate on the test host, as a validation looks at it."""

    host: HostShell

    def play(self, playbooks: str, *options: str) -> Run:
        """Run playbooks, their names between spaces, which may neither warn nor show a traceback."""
        found = HOST.play(*(f"playbooks/{name}.yml" for name in playbooks.split()), *options)
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
        assert result.status == 0, f"{command}: {result.stderr}\n{result.stdout}"
        return result.stdout.strip()

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


class CleanupRun(PlaybookRun):
    """The outcome of one run of the cleanup."""

    @property
    def plan_id(self) -> str:
        """Return the id of the plan that it has printed."""
        found = re.search(r"Cleanup plan ([0-9a-f]{12})", self.output)
        assert found, self.output
        return found[1]


@dataclass(frozen=True)
class Cleaned:
    """The host under cleanup."""

    estate: Estate

    @property
    def host(self) -> HostShell:
        """Return it."""
        return self.estate.host

    def play(self, *playbooks: str, options: tuple[str, ...] = ()) -> CleanupRun:
        """Run playbooks on it."""
        run = HOST.play(*(f"playbooks/{name}.yml" for name in playbooks), *options)
        return CleanupRun(run.status, run.output, run.changed_tasks)

    def clean_up(self, confirm: str = "", restore: str = "", check: bool = False) -> CleanupRun:
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

    def plan(self) -> dict[str, Any]:
        """Return the id of the present plan, how much of it is ready, and whether anything is due.

        The engine on the host itself makes it, as for the playbook.
        """
        return self._ask_engine()

    def carry_out(self) -> None:
        """Let the engine on the host carry out the present plan, as for the playbook."""
        assert self._ask_engine(carries_out=True)["changed"]

    def _ask_engine(self, carries_out: bool = False) -> dict[str, Any]:
        """Make a plan, carry it out if that is asked for, and return what became of it."""
        program = f"PGPASSFILE={_CHECK}.pgpass python3 -I -c {shlex.quote(_PLAN)} {_CHECK}.json {int(carries_out)}"
        found: dict[str, Any] = json.loads(self.shell(f"{program} {shlex.join(LEGACY)}"))
        return found

    def sql(self, statement: str) -> str:
        """Run SQL as the superuser and return what it prints."""
        return self.estate.sql(statement)

    def shell(self, command: str) -> str:
        """Run a command as root that must succeed, and return what it prints."""
        return self.estate.shell(command)

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
        self.host.close()
        subprocess.run(["docker", "restart", "--time", "0", HOST.container], check=True, capture_output=True)

    def wait_for_services(self) -> None:
        """Wait until every service answers after a boot."""
        deadline = time.monotonic() + 300
        while self.host.run(f"python3 -c '{_ASK_SERVICES}'").status and time.monotonic() < deadline:
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
# estate_legacy_files of the inventory.
LEGACY = (
    "/opt/swarm-platform/data/platform.db",
    "/opt/swarm-platform/data/swarm-platform.db",
    "/opt/swarm-platform/swarm.db",
    "/opt/swarm-app/apps/platform/data/swarm.db",
    "/opt/swarm-mcp-factory.legacy/registry.db",
)
# The settings of the daily check, without their endings: the groups and the login are those of the cleanup.
_CHECK = "/etc/sqlite-migration/soak_check"
_PLAN = """
import json, sys
sys.path.insert(0, "/usr/local/lib/sqlite-to-postgresql.pyz")
from migration.cleanup import cleanup, conditions, run
from migration.core.connection import Login, connected
from migration.core.estate import parse_group
from migration.core.files import WORK_DIRECTORY
settings = json.load(open(sys.argv[1]))
groups = [parse_group(entry) for entry in settings["groups"]]
with connected(Login.from_arguments({"login_password": None, **settings["login"]})) as connection:
    estate = run.Estate(connection, groups, sys.argv[3:], conditions.Settings(work_directory=WORK_DIRECTORY))
    plan = estate.plan()
    ready = sum(item["ready"] for item in (*plan["entries"], *plan["packages"]))
    found = {"id": plan["plan_id"], "ready": ready, "is_due": bool(ready or plan["unfinished"])}
    if sys.argv[2] == "1":
        found["changed"] = cleanup.carry_out(estate, plan["plan_id"], False)["changed"]
print(json.dumps(found))
"""
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
def estate() -> Iterator[Estate]:
    """The estate on the test host."""
    with HOST.of_scenario("cleanup"):
        shell = HostShell(HOST.container)
        yield Estate(shell)
        shell.close()


@pytest.fixture(scope="session")
def cleaned(estate: Estate) -> Cleaned:
    """Return the host, with a legacy file on a disk of its own."""
    cleaned = Cleaned(estate)
    cleaned.shell(
        f"if ! mountpoint -q {OTHER_DISK}; then mkdir /run/kept && cp -a {OTHER_DISK}/* /run/kept "
        f"&& mount -t tmpfs -o mode=0755 tmpfs {OTHER_DISK} && cp -a /run/kept/* {OTHER_DISK} && rm -r /run/kept; fi"
    )
    return cleaned


@pytest.fixture(scope="session")
def remembered(cleaned: Cleaned) -> dict[str, Any]:
    """Return every row as it was before the cleanup: in PostgreSQL, and in the frozen files."""
    return {"rows": cleaned.rows(), "sources": cleaned.sources()}
