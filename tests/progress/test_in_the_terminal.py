"""ansible-playbook shows how far a large load is, and is otherwise as if nobody watched."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.action import cutover_group, sqlite_migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    connect,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import progress_file
from tests.engine.support import execute, make_source, query

if TYPE_CHECKING:
    from tests.conftest import Server

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "Pw-that-is-nowhere-4711"
# All of them are this machine.
HOSTS = ("localhost", "second")
ROWS = 20_000
LINE = re.compile(rf"^  \[localhost\] app\.items: ([\d,]+) of {ROWS:,} rows, [\d,]+ rows/s, .+ left$")

# All rows take about twelve seconds.
SLOW = f"""
CREATE FUNCTION app.be_slow(bigint) RETURNS boolean LANGUAGE plpgsql AS
$$ BEGIN IF $1 % {ROWS // 300} = 0 THEN PERFORM pg_sleep(0.04); END IF; RETURN true; END $$;
ALTER TABLE app.items ADD CONSTRAINT be_slow CHECK (app.be_slow(id)) NOT VALID;
"""


@dataclass
class Play:
    """One run of the role on localhost.

    :param lines: each line of the output with the seconds from the start until it was read.
    """

    process: subprocess.Popen[str]
    lines: list[tuple[float, str]] = field(default_factory=list)

    @property
    def output(self) -> str:
        """Return all that was printed."""
        return "".join(line for _, line in self.lines)

    @property
    def progress(self) -> list[tuple[float, str]]:
        """Return the lines about the progress."""
        return [(seconds, line.rstrip("\n")) for seconds, line in self.lines if line.startswith("  [localhost] ")]

    def read(self) -> None:
        """Read until the run ends."""
        assert self.process.stdout is not None
        started = time.monotonic()
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - started, line))
        self.process.wait()


def _hear_interrupts() -> None:
    """Let a program be interrupted though these tests may have been started in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Workplace:
    """A source, its target, and a directory in which everything of a run is."""

    login: Login
    directory: Path

    def play_of(self, host: str = "localhost", check_mode: bool = False, **variables: Any) -> dict[str, Any]:
        """Return the play of the role on a host, which is this machine under a name; a dry run shows differences."""
        login = self.login
        values = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "sqlite_migrate_work_directory": str(self.directory / "work"),
            "sqlite_migrate_groups": [
                {
                    "name": "test",
                    "source": {"path": str(self.directory / "source.db")},
                    "tables": [{"source": "items", "target": "app.items"}],
                }
            ],
            "sqlite_migrate_login": {
                "login_host": login.host,
                "login_port": login.port,
                "login_db": login.database,
                "login_user": login.user,
                "session_role": login.session_role,
                "login_password": "{{ lookup('ansible.builtin.env', 'TEST_PASSWORD') }}",
            },
        }
        kind = {"hosts": host, "gather_facts": False, "check_mode": check_mode, "diff": check_mode}
        return {**kind, "vars": values | variables, "roles": ["sqlite_migrate"]}

    def play(
        self,
        *arguments: str,
        plays: Sequence[dict[str, Any]] = (),
        collections: Path = ROOT / ".collections",
        callback: str = "default",
    ) -> Play:
        """Start plays, or the one of the role, with modules and plugins of a directory and with a stdout callback."""
        playbook = self.directory / "playbook.yml"
        playbook.write_text(json.dumps(plays or [self.play_of()]))
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_STDOUT_CALLBACK": callback,
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_REMOTE_TEMP": str(self.directory / "remote"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "local"),
            "ANSIBLE_ASYNC_DIR": str(self.directory / "async"),
            "TEST_PASSWORD": PASSWORD,
        }
        command = ["ansible-playbook", "-i", ",".join(HOSTS), *arguments, str(playbook)]
        return Play(
            subprocess.Popen(
                command,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                preexec_fn=_hear_interrupts,
            )
        )

    def played(self, *arguments: str, succeeds: bool = True, **options: Any) -> Play:
        """Run the role to its end."""
        play = self.play(*arguments, **options)
        play.read()
        assert (play.process.returncode == 0) is succeeds, play.output
        assert "Traceback" not in play.output
        return play

    def execute(self, statement: str) -> None:
        """Execute a statement as the owner of the target."""
        with connected(self.login) as connection:
            execute(connection, statement)


@pytest.fixture
def small_estate(server: Server, login: Login, tmp_path: Path) -> Iterator[Workplace]:
    """A source of three rows and its empty target."""
    server.execute(f"ALTER ROLE {login.user} PASSWORD '{PASSWORD}'")
    with closing(connect(replace(login, password=PASSWORD))) as connection:
        execute(connection, ledger.CREATE_LEDGER)
        execute(connection, "CREATE SCHEMA app; CREATE TABLE app.items (id integer PRIMARY KEY, name text)")
    make_items(tmp_path, [(1, "one"), (2, "two"), (3, "three")])
    yield Workplace(replace(login, password=PASSWORD), tmp_path)
    server.execute(f"ALTER ROLE {login.user} PASSWORD '{login.password}'")


@pytest.fixture
def estate(small_estate: Workplace) -> Workplace:
    """The same with many rows."""
    (small_estate.directory / "source.db").unlink()
    # Wide enough that what is still on its way to the server is a small part of all.
    make_items(small_estate.directory, ((number, f"item number {number}".ljust(1900)) for number in range(ROWS)))
    return small_estate


def make_items(directory: Path, rows: Iterable[tuple[int, str]]) -> None:
    """Make the source with these rows."""
    make_source(directory / "source.db", "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)", {"items": rows})


class Looker(threading.Thread):
    """Looks for a password on the disk and in the arguments of every process, and into the server, meanwhile."""

    def __init__(self, estate: Workplace, server: Server) -> None:
        super().__init__(daemon=True)
        self._estate = estate
        self._superuser = replace(server.superuser, database=estate.login.database)
        self.ended = threading.Event()
        self.password_in: set[str] = set()
        self.left_on_disk: set[str] = set()
        self.rows: list[tuple[Any, ...]] = []
        self.copied: list[int] = []

    def run(self) -> None:
        """Look ten times a second."""
        with closing(connect(self._superuser)) as connection:
            while not self.ended.wait(0.1):
                self.rows += query(connection, "SELECT step, table_name, rows_done, rows_total FROM migration.progress")
                self.copied += [
                    row[0] for row in query(connection, "SELECT tuples_processed FROM pg_stat_progress_copy")
                ]
                self._look_at_files()

    def _look_at_files(self) -> None:
        # As texts: with a Path for each process of the machine, this took more time than the load.
        for directory, _, names in os.walk(self._estate.directory):
            for name in names:
                if name not in ("source.db", "snapshot.db") and self._look_at(f"{directory}/{name}"):
                    self.left_on_disk.add(f"{directory}/{name}")
        for process in filter(str.isdigit, os.listdir("/proc")):
            self._look_at(f"/proc/{process}/cmdline")

    def _look_at(self, path: str) -> bool:
        """Note whether the password is in a file, and return whether it could be read."""
        try:
            with open(path, "rb") as file:
                if PASSWORD.encode() in file.read():
                    self.password_in.add(path)
        except OSError:
            return False
        return True


@pytest.mark.promise("progress-shown")
def test_a_slow_load_is_shown_while_it_runs_and_nothing_secret_is(estate: Workplace, server: Server) -> None:
    estate.execute(SLOW)
    looker = Looker(estate, server)
    looker.start()
    play = estate.played("-vvvv")
    looker.ended.set()
    looker.join()

    shown = [line for _, line in play.progress]
    counts = [int(match[1].replace(",", "")) for match in map(LINE.match, shown) if match]
    assert counts == sorted(set(counts)) and counts, shown
    assert all(LINE.match(line) or re.match(r"  \[localhost\] test: [a-z, ]+, \d+ s so far$", line) for line in shown)
    ended = next(seconds for seconds, line in play.lines if line.startswith("changed: [localhost]"))
    assert play.progress[0][0] < ended - 2

    assert ("load", "app.items") in {row[:2] for row in looker.rows}
    assert {row[3] for row in looker.rows if row[1] == "app.items"} == {ROWS}
    assert len({row[2] for row in looker.rows}) > 3
    assert max(looker.copied) > 0
    with connected(estate.login) as connection:
        assert query(connection, "SELECT * FROM migration.progress") == []
        assert query(connection, "SELECT count(*) FROM app.items") == [(ROWS,)]

    assert PASSWORD not in play.output
    assert looker.password_in == set()
    # Neither a module with its arguments nor its result was ever written there.
    assert not [path for path in looker.left_on_disk if re.search("AnsiballZ|/async/", path)]
    assert not list((estate.directory / "work").glob("progress-*"))


@pytest.mark.promise("run-readable")
def test_a_person_is_told_once_what_a_load_did(small_estate: Workplace) -> None:
    """The module's message comes as soon as the group is loaded, and the summary of the role does not repeat it.

    A small load shows no progress.
    """
    play = small_estate.played(callback="swarm.sqlite_to_postgresql.console")
    assert play.progress == []
    with connected(small_estate.login) as connection:
        assert query(connection, "SELECT count(*) FROM app.items") == [(3,)]
    lines = play.output.splitlines()
    (told,) = [number for number, line in enumerate(lines) if line.startswith("  localhost: test is rehearsed")]
    assert lines[told + 1].startswith("  localhost: changed: Make PostgreSQL equal to the SQLite file of each cutover")
    assert lines[told + 2] == "  localhost: test: items → app.items: 3 rows, equal on both sides"


@pytest.mark.parametrize(
    "cases",
    [
        [(True, ""), (False, "login")],
        # Whose file is not watched: test_the_plugin_reads_the_file_that_the_module_writes.
        pytest.param([(False, "group")], marks=pytest.mark.long_search),
        pytest.param([(False, "group without a source")], marks=pytest.mark.long_search),
        pytest.param([(True, "login")], marks=pytest.mark.long_search),
    ],
)
def test_results_failures_and_dry_runs_are_those_of_the_module_alone(
    small_estate: Workplace, cases: list[tuple[bool, str]]
) -> None:
    """Each case is a play on a host of its own: whether it is a dry run, and what is wrong. It ends the run."""
    # Not in a folder "collections": what is there beside a playbook counts more than any configuration.
    alone = small_estate.directory / "alone"
    project = alone / "ansible_collections" / "swarm" / "sqlite_to_postgresql"
    for name in ("meta", "plugins"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("action", "__pycache__"))
    login = small_estate.login
    refused = {f"login_{name}": getattr(login, name) for name in ("host", "port", "user")}
    variables: dict[str, dict[str, Any]] = {
        "": {},
        "login": {"sqlite_migrate_login": {**refused, "login_password": "wrong", "login_db": login.database}},
        "group": {"sqlite_migrate_groups": [{}]},
        "group without a source": {"sqlite_migrate_groups": [{"name": "test"}]},
    }
    plays = [
        small_estate.play_of(host, check_mode, **variables[wrong])
        for host, (check_mode, wrong) in zip(HOSTS, cases, strict=False)
    ]
    watched, unwatched = (
        small_estate.played("-v", plays=plays, succeeds=False, collections=collections)
        for collections in (ROOT / ".collections", alone)
    )
    assert without_times(watched.output) == without_times(unwatched.output)
    failed = re.findall(r"^\w+ +: .* failed=(\d)", watched.output, re.MULTILINE)
    assert [count == "1" for count in failed] == [bool(wrong) for _, wrong in cases], watched.output
    with connected(login) as connection:
        assert query(connection, "SELECT count(*) FROM app.items") == [(0,)]


def without_times(output: str) -> str:
    """Return an output without what differs from run to run."""
    return re.sub(r"\d\.\d+|\d{4}-\d\d-\d\dT\S+|inode: \d+", "…", output)


# The thread that shows a line keeps the lock of the queue to the terminal for some time after the line has arrived, as
# it does by chance on a busy machine.
SLOW_QUEUE = """
import multiprocessing.queues, threading, time

def put(self, value):
    data = multiprocessing.queues._ForkingPickler.dumps(value)
    with self._wlock:
        self._writer.send_bytes(data)
        if threading.current_thread() is not threading.main_thread():
            time.sleep(1)

multiprocessing.queues.SimpleQueue.put = put
"""


def test_an_interrupted_playbook_ends_at_once_and_the_next_run_finishes(
    estate: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate.execute(SLOW.replace("0.04", "1.2"))  # The load would take six minutes.
    (estate.directory / "sitecustomize.py").write_text(SLOW_QUEUE)
    with monkeypatch.context() as slow:
        slow.setenv("PYTHONPATH", str(estate.directory))
        play = estate.play()
    reader = threading.Thread(target=play.read)
    reader.start()
    while not play.progress:
        assert reader.is_alive(), play.output
        time.sleep(0.1)
    play.process.send_signal(signal.SIGINT)
    reader.join(300)
    assert not reader.is_alive(), "it waits for the load"
    assert play.process.returncode != 0
    # It waits for the server, which goes on with what had been sent to it by then.
    estate.execute("ALTER TABLE app.items DROP CONSTRAINT be_slow")
    estate.played()
    with connected(estate.login) as connection:
        assert query(connection, "SELECT count(*) FROM app.items") == [(ROWS,)]
        assert query(connection, "SELECT * FROM migration.progress") == []


# ---------------------------------------------------------------- the plugin and the module agree


def test_the_plugin_reads_the_file_that_the_module_writes() -> None:
    for name in ("registry", "a/b", "größer", "x" * 500):
        assert sqlite_migrate.watched_file({"group": {"name": name}, "work_directory": "/srv/work"}) == str(
            progress_file(name, "/srv/work")
        )
    assert sqlite_migrate.watched_file({"group": {"name": "a"}}) == str(progress_file("a"))
    unusable: list[dict[str, Any]] = [{}, {"group": "a"}, {"group": {}}, {"group": {"name": 5}}]
    for arguments in unusable:
        assert sqlite_migrate.watched_file(arguments) is None


def test_a_line_holds_nothing_that_a_terminal_obeys() -> None:
    assert sqlite_migrate.printable("app.items: 5 of 10\x1b[2J rows\nmore\n") == "app.items: 5 of 10?[2J rows"
    assert len(sqlite_migrate.printable("x" * 5000)) == 200


def test_the_cutover_is_watched_by_the_same_plugin() -> None:
    assert issubclass(cutover_group.ActionModule, sqlite_migrate.ActionModule)
