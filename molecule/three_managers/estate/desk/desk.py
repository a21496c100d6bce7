"""Takes tickets of a help desk, in the database that DATABASE_URL names."""

import http.server
import json
import os
import signal
import sqlite3
import sys
import uuid
from typing import Any

store: Any
URL = os.environ["DATABASE_URL"]
ON_POSTGRESQL = URL.startswith("postgres")
if ON_POSTGRESQL:
    import psycopg2

    store = psycopg2.connect(URL)
    store.autocommit = True
    TABLE, MARK = "desk.tickets", "%s"
else:
    store = sqlite3.connect(URL.removeprefix("sqlite:///"), isolation_level=None)
    store.execute("CREATE TABLE IF NOT EXISTS tickets (id TEXT PRIMARY KEY, subject TEXT NOT NULL, closed INTEGER)")
    TABLE, MARK = "tickets", "?"
# The first process of a container ends by no signal that it does not handle.
signal.signal(signal.SIGTERM, lambda *_: sys.exit())


def query(statement: str, values: tuple[str, ...] = ()) -> list[str]:
    cursor = store.cursor()
    cursor.execute(statement, values)
    return [subject for (subject,) in cursor.fetchall()] if cursor.description else []


def add(subject: str) -> None:
    query(f"INSERT INTO {TABLE} (id, subject) VALUES ({MARK}, {MARK})", (str(uuid.uuid4()), subject))


if not ON_POSTGRESQL and not query("SELECT subject FROM tickets"):
    add("first")
    add("second")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        items = query(f"SELECT subject FROM {TABLE} ORDER BY subject")
        body = json.dumps({"store": "postgresql" if ON_POSTGRESQL else "sqlite", "items": items}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        add(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


http.server.HTTPServer(("", 8080), Handler).serve_forever()
