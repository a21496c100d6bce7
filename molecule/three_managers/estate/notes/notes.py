"""Keeps notes: in PostgreSQL where PGHOST says so, else in a file of SQLite."""

import http.server
import json
import os
import sqlite3
from typing import Any

store: Any
ON_POSTGRESQL = "PGHOST" in os.environ
if ON_POSTGRESQL:
    import psycopg2

    store = psycopg2.connect("")
    store.autocommit = True
    TABLE, MARK = "notes.notes", "%s"
else:
    store = sqlite3.connect(os.environ["NOTES_FILE"], isolation_level=None)
    store.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL, weight REAL)")
    TABLE, MARK = "notes", "?"


def query(statement: str, values: tuple[str, ...] = ()) -> list[str]:
    cursor = store.cursor()
    cursor.execute(statement, values)
    return [text for (text,) in cursor.fetchall()] if cursor.description else []


if not ON_POSTGRESQL and not query("SELECT text FROM notes"):
    query("INSERT INTO notes (text, weight) VALUES ('first', 0.1), ('second', NULL)")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        items = query(f"SELECT text FROM {TABLE} ORDER BY id")
        body = json.dumps({"store": "postgresql" if ON_POSTGRESQL else "sqlite", "items": items}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        query(f"INSERT INTO {TABLE} (text) VALUES ({MARK})", (text,))
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


http.server.HTTPServer(("127.0.0.1", 5002), Handler).serve_forever()
