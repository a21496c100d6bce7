"""Makes the SQLite files that are measured. The same arguments give the same rows on every machine."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]

SEED = 20251216
# 2025-12-16 05:51:27 UTC, in milliseconds.
FIRST_MOMENT = 1765864287178
STEPS_OF_A_RUN = 100
AGENTS = 50

# The parents hold only the columns that their target demands; the rest of the target's columns have defaults.
STEP_EXECUTIONS_TABLES = """
CREATE TABLE agents (id TEXT PRIMARY KEY, name TEXT, version TEXT, path TEXT, UNIQUE (name, version));
CREATE TABLE workflows (id TEXT PRIMARY KEY, name TEXT, version TEXT, path TEXT, steps JSON NOT NULL);
CREATE TABLE workflow_runs (id TEXT PRIMARY KEY, workflow_id TEXT REFERENCES workflows (id), status TEXT);
CREATE TABLE step_executions (
  id TEXT PRIMARY KEY, run_id TEXT REFERENCES workflow_runs (id), step_id TEXT,
  agent_id TEXT REFERENCES agents (id), agent_name TEXT, agent_version TEXT, status TEXT, vm_id TEXT,
  inputs JSON, outputs JSON, queued_at TIMESTAMP, started_at TIMESTAMP, completed_at TIMESTAMP,
  duration_ms INTEGER, api_tokens_used INTEGER DEFAULT 0, error TEXT, retry_count INTEGER DEFAULT 0
);
"""
STEP_COLUMNS = (
    "id", "run_id", "step_id", "agent_id", "agent_name", "agent_version", "status", "vm_id", "inputs", "outputs",
    "queued_at", "started_at", "completed_at", "duration_ms", "api_tokens_used", "error", "retry_count",
)  # fmt: skip
STEP_EXECUTIONS_PARENTS = ("agents", "workflows", "workflow_runs")

NARROW_TABLES = "CREATE TABLE narrow (id INTEGER PRIMARY KEY, name TEXT, value INTEGER, created_at TEXT);"
VALUE_TABLES = "CREATE TABLE large_values (id INTEGER PRIMARY KEY, content_text TEXT, content_bytes BLOB);"

# The targets of the tables that are not in the plan's schema.
BENCH_SCHEMA = """
CREATE SCHEMA bench;
CREATE TABLE bench.narrow (id integer PRIMARY KEY, name text, value integer, created_at timestamptz);
CREATE TABLE bench.large_values (id integer PRIMARY KEY, content_text text, content_bytes bytea);
"""

# What the services do between two runs: 0.8 % of the rows change, 0.1 % go, 0.1 % come. The two sets of rows are apart.
CHANGED_STATUS = "retried"
CHANGES = f"""
UPDATE step_executions SET status = '{CHANGED_STATUS}', retry_count = retry_count + 1 WHERE rowid % 125 = 3;
DELETE FROM step_executions WHERE rowid % 1000 = 7;
"""  # noqa: S608 (a constant)
NEW_ROWS_OF_A_THOUSAND = 1

_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True)
class Dataset:
    """One SQLite file and the one large table in it.

    :param table: name of the table that is counted.
    :param target: ``schema.table`` where it goes.
    :param parents: source tables that it references, in the order in which they must be loaded.
    """

    name: str
    description: str
    path: Path
    rows: int
    table: str
    target: str
    parents: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """Return the schema of the target tables."""
        return self.target.partition(".")[0]

    def group(self) -> dict[str, Any]:
        """Return the cutover group, as the inventory describes one."""
        return {
            "name": "benchmark",
            "source": {"path": str(self.path)},
            "tables": [{"source": name, "target": f"{self.schema}.{name}"} for name in (*self.parents, self.table)],
        }


def make_step_executions(name: str, path: Path, rows: int, text_ids: bool = False) -> Dataset:
    """Create a file with ``rows`` rows of ``step_executions``, about 430 bytes each, and their parents.

    :param text_ids: ids such as the services write, instead of UUIDs.
    """
    with closing(_open_new(path, STEP_EXECUTIONS_TABLES)) as connection:
        maker = _Steps(connection, rows, text_ids)
        maker.add_parents()
        maker.add_steps(rows)
        connection.commit()
    ids = "text ids" if text_ids else "UUIDs"
    return Dataset(
        name,
        f"rows of step_executions with {ids}, into the plan's table with its three indexes and two foreign keys",
        path,
        rows,
        "step_executions",
        "registry.step_executions",
        STEP_EXECUTIONS_PARENTS,
    )


def grow_step_executions(path: Path, rows: int) -> None:
    """Add ``rows`` rows of ``step_executions`` and their parents to a file that a service uses."""
    with closing(sqlite3.connect(path, timeout=60)) as connection:
        maker = _Steps(connection, rows, text_ids=False)
        maker.add_parents()
        maker.add_steps(rows)
        connection.commit()


def change_step_executions(path: Path, rows: int) -> None:
    """Change one row of a hundred in such a file: most are updated, a few are deleted, a few are new."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(CHANGES)
        maker = _Steps(connection, rows, text_ids=False)
        # Numbers that the first rows did not have, so that these rows are new.
        maker.add_steps(rows * NEW_ROWS_OF_A_THOUSAND // 1000, first=rows)
        connection.commit()


def make_narrow(path: Path, rows: int) -> Dataset:
    """Create a file with ``rows`` rows of four short columns."""
    numbers = random.Random(SEED)  # noqa: S311 (rows, not secrets)

    def make(number: int) -> Row:
        moment = FIRST_MOMENT + number * 613
        value = numbers.randrange(-(10**6), 10**9)
        return (number + 1, f"sensor-{number % 9973:05d}", value, _time_text(moment, number))

    with closing(_open_new(path, NARROW_TABLES)) as connection:
        _insert(connection, "narrow", ("id", "name", "value", "created_at"), map(make, range(rows)))
        connection.commit()
    return Dataset(
        "narrow", "four short columns, into a table with a primary key", path, rows, "narrow", "bench.narrow"
    )


def make_large_value(name: str, path: Path, size: int, as_blob: bool) -> Dataset:
    """Create a file with a single row that holds one value of ``size`` bytes, as a BLOB or as text."""
    block = random.Random(SEED).randbytes(1 << 20)  # noqa: S311 (a value, not a secret)
    content: bytes | str
    if as_blob:
        content = (block * (size // len(block) + 1))[:size]
    else:
        # Hexadecimal digits with line ends, which the lines of COPY must escape.
        lines = "\n".join(block[start : start + 39].hex() for start in range(0, len(block), 39))
        content = (lines * (size // len(lines) + 1))[:size]
    with closing(_open_new(path, VALUE_TABLES)) as connection:
        row = (1, None, content) if as_blob else (1, content, None)
        _insert(connection, "large_values", ("id", "content_text", "content_bytes"), iter([row]))
        connection.commit()
    kind = "BLOB" if as_blob else "text"
    return Dataset(name, f"one {kind} of {size:,} bytes in one row", path, 1, "large_values", "bench.large_values")


def column_names(path: Path, table: str) -> list[str]:
    """Return the names of a source table's columns in their order."""
    with closing(sqlite3.connect(path)) as connection:
        return [str(row[1]) for row in connection.execute(f'PRAGMA table_info("{table}")')]


def write_copy_file(path: Path, table: str, copy_path: Path) -> None:
    """Write a source table in the text format of COPY, ready to be loaded."""
    with closing(sqlite3.connect(path)) as connection, copy_path.open("w", encoding="utf-8", newline="") as file:
        for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 (a constant)
            file.write("\t".join(map(_copy_field, row)))
            file.write("\n")


def count_source(path: Path, table: str, condition: str = "1") -> int:
    """Return how many rows of a source table meet an SQL condition."""
    with closing(sqlite3.connect(path)) as connection:
        row = connection.execute(f'SELECT count(*) FROM "{table}" WHERE {condition}').fetchone()  # noqa: S608
    return int(row[0])


class _Steps:
    """Adds runs and their steps to one file."""

    def __init__(self, connection: sqlite3.Connection, rows: int, text_ids: bool) -> None:
        self._connection = connection
        # One run has about a hundred steps; small files still have some runs.
        self._runs = max(10, rows // STEPS_OF_A_RUN)
        self._make_id: Callable[[str, int], str] = _text_id if text_ids else _uuid_text

    def add_parents(self) -> None:
        """Add the agents, one workflow and its runs."""
        make_id = self._make_id
        agents = ((make_id("agent", n), f"agent {n}", "1.2.3", f"/opt/agents/{n}") for n in range(AGENTS))
        _insert(self._connection, "agents", ("id", "name", "version", "path"), agents)
        workflow = make_id("workflow", 0)
        workflows = iter([(workflow, "nightly build", "1.0.0", "/opt/nightly", "[]")])
        _insert(self._connection, "workflows", ("id", "name", "version", "path", "steps"), workflows)
        runs = ((make_id("run", n), workflow, "completed") for n in range(self._runs))
        _insert(self._connection, "workflow_runs", ("id", "workflow_id", "status"), runs)

    def add_steps(self, rows: int, first: int = 0) -> None:
        """Add steps with the numbers from ``first`` on."""
        runs = [self._make_id("run", number) for number in range(self._runs)]
        agents = [self._make_id("agent", number) for number in range(AGENTS)]
        numbers = random.Random(SEED + first)  # noqa: S311 (rows, not secrets)
        make_id = self._make_id

        def make(number: int) -> Row:
            agent = number % AGENTS
            started = FIRST_MOMENT + number * 977
            duration = numbers.randrange(40, 90_000)
            failed = number % 40 == 11
            inputs = {
                "ticket": f"TKT-{number:08X}",
                "branch": f"größer/{number % 7919}",
                "attempt": number % 3 + 1,
                "files": ["main.py"],
            }
            outputs = {"ok": not failed, "score": numbers.randrange(100) / 4, "note": f"{duration} ms"}
            return (
                make_id("step", number),
                runs[numbers.randrange(len(runs))],
                f"step-{number % 9}",
                agents[agent],
                f"agent {agent}",
                "1.2.3",
                "failed" if failed else "completed",
                f"vm-{number % 100}",
                _encode_json(inputs),
                None if number % 50 == 7 else _encode_json(outputs),
                _time_text(started - 1500, number),
                _time_text(started, 1),
                _time_text(started + duration, 1),
                duration,
                numbers.randrange(5000),
                f'Step {number} failed:\n\tFile "C:\\build\\step.py" was not found' if failed else None,
                number % 4 // 3,
            )

        _insert(self._connection, "step_executions", STEP_COLUMNS, map(make, range(first, first + rows)))


def _open_new(path: Path, tables: str) -> sqlite3.Connection:
    """Create a file that nobody else writes to, so it needs no journal while it is filled."""
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(tables)
    return connection


def _insert(connection: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterator[Row]) -> None:
    """Insert rows as parameters: the values of the table's columns of these names, which may have others too."""
    marks = ", ".join("?" * len(columns))
    connection.executemany(f'INSERT INTO "{table}" ({", ".join(columns)}) VALUES ({marks})', rows)  # noqa: S608


def _uuid_text(kind: str, number: int) -> str:
    """Return a UUID that looks random (version 4) in its canonical text form, the same for the same arguments."""
    digits = hashlib.blake2b(f"{kind} {number}".encode(), digest_size=16).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _text_id(kind: str, number: int) -> str:
    """Return an id as the services write them: ``step-17-1765864287195``."""
    return f"{kind}-{number}-{FIRST_MOMENT + number}"


def _time_text(milliseconds: int, number: int) -> str:
    """Return a time in one of the two forms that the services write: CURRENT_TIMESTAMP's, or JavaScript's."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    if number % 2 == 0:
        return f"{moment:%Y-%m-%d %H:%M:%S}"
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"


def _copy_field(value: Any) -> str:
    """Return one value in the text format of COPY."""
    if value is None:
        return "\\N"
    text = str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
