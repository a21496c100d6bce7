"""A small pm2 for tests without a host: it starts, lists, restarts and deletes one real service of Python.

The real pm2 is used by the tests on a host. This one lets a whole window, with services that really open their store,
run in seconds, and a service misbehave at a chosen moment.
"""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.manager import (
    ERRORED,
    ONLINE,
    Process,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.pm2 import Application, Pm2

# Reads .env as a service does. What it shall do on PostgreSQL stands in the file "behaviour" beside it:
# "crash" ends at once, "write" first writes a row, "end" ends seconds after its first answer, "lazy" connects only
# when it is asked for /query, "stubborn" goes on with SQLite. "deaf" ends at once on SQLite. It loads what it needs
# alone, for it is started in every test: http.server takes as long as the rest.
SERVICE = """
import os, socketserver, sys, threading, time
place, source, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
values = {}
for line in open(place + "/.env"):
    key, equals, value = line.strip().partition("=")
    if equals and not key.startswith("#"):
        values[key] = value.strip("'\\"")
behaviour = open(place + "/behaviour").read().split()
on_postgresql = "PGHOST" in values and "stubborn" not in behaviour
store = None
def connect():
    global store
    if on_postgresql and store is None:
        import psycopg2
        store = psycopg2.connect(host=values["PGHOST"], port=values["PGPORT"], dbname=values["PGDATABASE"],
                                 user=values["PGUSER"], password=values["PGPASSWORD"])
        store.autocommit = True
    elif store is None:
        import sqlite3
        store = sqlite3.connect(source, check_same_thread=False, isolation_level=None)
    return store
def query():
    cursor = connect().cursor()
    cursor.execute("SELECT count(*) FROM " + ("app.notes" if on_postgresql else "notes"))
    cursor.fetchall()
if on_postgresql and "write" in behaviour:
    connect().cursor().execute("INSERT INTO app.notes VALUES ('on postgresql') ON CONFLICT DO NOTHING")
if on_postgresql and "crash" in behaviour or not on_postgresql and "deaf" in behaviour:
    sys.exit(1)
if not on_postgresql or "lazy" not in behaviour:
    query()
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        _, path, *_ = self.rfile.readline().decode().split()
        while self.rfile.readline().strip():
            pass
        if path != "/ping":
            query()
        self.wfile.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
        if on_postgresql and "end" in behaviour:
            threading.Timer(2, lambda: os._exit(1)).start()
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("127.0.0.1", port), Handler).serve_forever()
"""


@dataclass
class SmallPm2(Pm2):
    """One service under supervision.

    :param place: directory of the service, with its ``.env``.
    :param most_restarts: as often pm2 starts it again, then it gives up.
    :param instances: how many processes the ecosystem file asks for.
    :param variables: names of the variables that the ecosystem file sets.
    :param has_no_daemon: whether the daemon of pm2 does not run.
    :param refuses_to_delete: whether a service cannot be stopped.
    """

    place: Path
    source: Path
    port: int
    name: str = "service"
    user: str = field(default_factory=getpass.getuser)
    most_restarts: int = 15
    instances: int = 1
    variables: tuple[str, ...] = ()
    has_no_daemon: bool = False
    refuses_to_delete: bool = False
    starts: int = 0
    home: Path = field(default_factory=Path)
    _process: subprocess.Popen[bytes] | None = None
    _restarts: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Begin to supervise."""
        self.behave("")
        self.home = self.place / ".pm2"
        threading.Thread(target=self._supervise, daemon=True).start()

    def behave(self, behaviour: str) -> None:
        """Say what the service does when it is started next on PostgreSQL."""
        (self.place / "behaviour").write_text(behaviour)

    def close(self) -> None:
        """End everything."""
        self._ended.set()
        self.delete([self.name])

    @property
    def command(self) -> str:
        """Return how a person would call it."""
        return "pm2"

    def problem(self) -> Problem | None:
        """Return why it cannot be used: its daemon does not run."""
        return (
            Problem(f"pm2 of user {self.user}", "its daemon does not run", "Start it") if self.has_no_daemon else None
        )

    def read_ecosystem(self, _path: str) -> dict[str, Application]:
        """Return its one application."""
        return {self.name: Application(self.variables, self.instances)}

    def is_started_at_boot(self) -> bool:
        """Return True, so that nobody warns."""
        return True

    def save(self, _names: Iterable[str], _secrets: Iterable[str], check_mode: bool = False) -> bool:
        """Return that there is nothing to save."""
        return check_mode and False

    def start(self, _ecosystem_file: str, name: str) -> None:
        """Start the service."""
        with self._lock:
            assert name == self.name
            self._restarts = 0
            self._spawn()
            self.starts += 1

    def delete(self, names: Iterable[str], _known: Sequence[str] = ()) -> None:
        """Kill the service and forget it."""
        if self.refuses_to_delete:
            raise MigrationError("pm2 does not delete.", [Problem("pm2", "refused on purpose", "Look")])
        with self._lock:
            if self.name in list(names) and self._process is not None:
                self._process.send_signal(signal.SIGKILL)
                self._process.wait()
                self._process = None

    def processes(self) -> list[Process]:
        """Return the service, if it is known."""
        with self._lock:
            if self._process is None:
                return []
            alive = self._process.poll() is None
            status = ONLINE if alive or self._restarts < self.most_restarts else ERRORED
            return [Process(self.name, self._process.pid if alive else 0, status, self._restarts, frozenset())]

    def _spawn(self) -> None:
        command = [sys.executable, "-c", SERVICE, str(self.place), str(self.source), str(self.port)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.place)}
        self._process = subprocess.Popen(command, env=environment, cwd=self.place, stderr=subprocess.DEVNULL)

    def _supervise(self) -> None:
        """Start the service again when it has ended."""
        while not self._ended.is_set():
            with self._lock:
                process = self._process
                if process is not None and process.poll() is not None and self._restarts < self.most_restarts:
                    self._restarts += 1
                    self._spawn()
            time.sleep(0.05)
