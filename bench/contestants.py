#!/usr/bin/env python3
"""The ways to bring an SQLite table into PostgreSQL that are measured against each other.

Each is a command that runs in a process of its own. Those that are Python run this file with a job, which is one JSON
object: ``{"work": "engine" | "execute_values" | "copy_expert", ...}``. What they have to tell goes to the file that the
job names.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parent.parent / name) for name in ("", ".collections"))

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from bench.datasets import Dataset, column_names
from bench.target import DATABASE, Server, TableRules, insert_values

EXECUTE_VALUES_PAGE_SIZE = 1000
COPY_BUFFER_BYTES = 1 << 20

COPY_WITH_INDEXES = "copy_with_indexes"
COPY_THEN_INDEXES = "copy_then_indexes"
ENGINE = "engine"
PGLOADER = "pgloader"
PGLOADER_DROP_INDEXES = "pgloader_drop_indexes"
EXECUTE_VALUES = "execute_values"

DESCRIPTIONS = {
    COPY_WITH_INDEXES: "psql's \\copy of a ready text file into the table with its indexes and constraints: the limit",
    COPY_THEN_INDEXES: "the same; indexes and constraints are dropped before it and built again after it",
    ENGINE: "this project's engine: snapshot, profile, load, and every row read back and compared",
    PGLOADER: "pgloader from the SQLite file, data only, 10,000 rows at a time; it verifies nothing",
    PGLOADER_DROP_INDEXES: "the same with its option drop indexes",
    EXECUTE_VALUES: f"Python: sqlite3 and psycopg2's execute_values, {EXECUTE_VALUES_PAGE_SIZE:,} rows a statement",
}


@dataclass(frozen=True)
class Setting:
    """What a contestant works with in one run.

    :param directory: private directory for its files.
    :param copy_path: the ready text file, for those that load it.
    :param rules: indexes and constraints of the target table.
    """

    server: Server
    dataset: Dataset
    directory: Path
    copy_path: Path
    rules: TableRules

    @property
    def result_path(self) -> Path:
        """Return where a Python contestant writes what it has to tell."""
        return self.directory / "result.json"


@dataclass(frozen=True)
class Contestant:
    """One way to load a table.

    :param program: what does the work, as a reader knows it.
    :param command: makes the command of one run.
    :param loads_parents: it loads the referenced tables itself; for the others they are there before.
    """

    name: str
    program: str
    command: Callable[[Setting], list[str]]
    loads_parents: bool = False

    @property
    def description(self) -> str:
        """Return what it does, in a few words."""
        return DESCRIPTIONS.get(self.name, "")


def available_contestants() -> tuple[list[Contestant], list[dict[str, str]]]:
    """Return the contestants that this machine has, in their order, and those that it lacks with the reason."""
    psql, pgloader = shutil.which("psql"), shutil.which("pgloader")
    if psql:
        found = [
            Contestant(COPY_WITH_INDEXES, "psql", lambda setting: _psql_command(psql, setting, rebuild=False)),
            Contestant(COPY_THEN_INDEXES, "psql", lambda setting: _psql_command(psql, setting, rebuild=True)),
        ]
    else:
        # The same bytes to the server, read by psycopg2 in C.
        program = "psycopg2's copy_expert, because psql is not installed"
        found = [
            Contestant(COPY_WITH_INDEXES, program, lambda setting: _copy_expert_command(setting, rebuild=False)),
            Contestant(COPY_THEN_INDEXES, program, lambda setting: _copy_expert_command(setting, rebuild=True)),
        ]
    found.append(Contestant(ENGINE, "this project", engine_command, loads_parents=True))
    missing = []
    if pgloader:
        found += [
            Contestant(PGLOADER, "pgloader", lambda setting: _pgloader_command(pgloader, setting, False)),
            Contestant(PGLOADER_DROP_INDEXES, "pgloader", lambda setting: _pgloader_command(pgloader, setting, True)),
        ]
    else:
        missing = [
            {"contestant": name, "reason": "pgloader is not installed"} for name in (PGLOADER, PGLOADER_DROP_INDEXES)
        ]
    found.append(Contestant(EXECUTE_VALUES, "psycopg2", _execute_values_command))
    return found, missing


# ---------------------------------------------------------------- the commands


def engine_command(setting: Setting, group: dict[str, Any] | None = None) -> list[str]:
    """Return the command that runs the engine on one cutover group.

    :param group: the group as the inventory describes it; that of the dataset if not given.
    """
    return engine_command_of(setting.server, group or setting.dataset.group(), setting.directory, setting.result_path)


def engine_command_of(server: Server, group: dict[str, Any], directory: Path, result_path: Path) -> list[str]:
    """Return the command that runs the engine with its work directory in ``directory``."""
    job = {"group": group, "work_directory": str(directory / "work"), "result": str(result_path)}
    return _python_command(server, {"work": "engine", **job})


def _execute_values_command(setting: Setting) -> list[str]:
    return _python_command(setting.server, {"work": "execute_values", **_table_job(setting)})


def _copy_expert_command(setting: Setting, rebuild: bool) -> list[str]:
    target = setting.dataset.target
    return _python_command(
        setting.server,
        {
            "work": "copy_expert",
            "copy_path": str(setting.copy_path),
            "before": setting.rules.statements_to_drop(target) if rebuild else [],
            "after": setting.rules.statements_to_rebuild(target) if rebuild else [],
            **_table_job(setting),
        },
    )


def _table_job(setting: Setting) -> dict[str, Any]:
    dataset = setting.dataset
    return {
        "source": str(dataset.path),
        "table": dataset.table,
        "target": dataset.target,
        "columns": column_names(dataset.path, dataset.table),
    }


def _python_command(server: Server, job: dict[str, Any]) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), json.dumps({"server": asdict(server), **job})]


def _psql_command(program: str, setting: Setting, rebuild: bool) -> list[str]:
    """Return psql with a script; with ``rebuild`` everything in it is one transaction."""
    dataset = setting.dataset
    columns = ", ".join(column_names(dataset.path, dataset.table))
    lines = [f"\\copy {dataset.target} ({columns}) FROM '{setting.copy_path}'"]
    if rebuild:
        before = setting.rules.statements_to_drop(dataset.target)
        after = setting.rules.statements_to_rebuild(dataset.target)
        lines = ["BEGIN;", *before, *lines, *after, "COMMIT;"]
    script = setting.directory / "copy.sql"
    script.write_text("\n".join(["SET timezone = 'UTC';", *lines, ""]), encoding="utf-8")
    server = setting.server
    # fmt: off
    return [
        program, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--host", server.host,
        "--port", str(server.port), "--username", server.user, "--dbname", DATABASE, "--file", str(script),
    ]
    # fmt: on


def _pgloader_command(program: str, setting: Setting, drop_indexes: bool) -> list[str]:
    """Return pgloader with its command file. It finds the target table by the database's search_path."""
    server, dataset = setting.server, setting.dataset
    host = f"unix:{server.host}" if server.host.startswith("/") else server.host
    options = ["data only", "include no drop", "create no tables", "no truncate", "create no indexes"]
    # With its default of 100,000 rows it exhausts the heap of 1 GB that Debian gives it, and ends half done.
    options.append("prefetch rows = 10000")
    if drop_indexes:
        options.append("drop indexes")
    script = setting.directory / "pgloader.load"
    # The declared types are named only so that pgloader passes the texts on as they are, which is its fastest way.
    script.write_text(
        f"LOAD DATABASE\n"
        f" FROM sqlite://{dataset.path}\n"
        f" INTO postgresql://{server.user}@{host}:{server.port}/{DATABASE}\n"
        f" WITH {', '.join(options)}\n"
        f" SET timezone TO 'UTC', search_path TO '{dataset.schema}'\n"
        f" CAST type text TO text, type json TO jsonb, type timestamp TO timestamptz\n"
        f" INCLUDING ONLY TABLE NAMES LIKE '{dataset.table}';\n",
        encoding="utf-8",
    )
    return [program, "--quiet", "--on-error-stop", "--root-dir", str(setting.directory / "pgloader"), str(script)]


# ---------------------------------------------------------------- the work of those that are Python


def run_engine(server: Server, job: dict[str, Any]) -> dict[str, Any]:
    """Move one cutover group; return the engine's times of each step, and its own verdict on each table."""
    login = Login(server.host, server.port, DATABASE, server.user)
    group = parse_group(job["group"])
    with connected(login) as connection:
        result = migrate.migrate(connection, group, migrate.REHEARSAL, False, job["work_directory"])
    report = result["report"]
    return {
        "changed": result["changed"],
        "steps": report["seconds"],
        "tables": [
            {key: table[key] for key in ("target", "source_rows", "target_rows", "equal")} for table in report["tables"]
        ],
    }


def run_execute_values(server: Server, job: dict[str, Any]) -> None:
    """Insert a table's rows with execute_values, in one transaction."""
    with (
        closing(sqlite3.connect(f"file:{job['source']}?mode=ro", uri=True)) as source,
        server.connected(DATABASE) as connection,
        connection.cursor() as cursor,
    ):
        insert_values(cursor, source, job["table"], job["columns"], job["target"], EXECUTE_VALUES_PAGE_SIZE)
        connection.commit()


def run_copy_expert(server: Server, job: dict[str, Any]) -> None:
    """Load a ready text file, in one transaction with what comes before and after it."""
    statement = f"COPY {job['target']} ({', '.join(job['columns'])}) FROM STDIN"
    with server.connected(DATABASE) as connection, connection.cursor() as cursor, open(job["copy_path"], "rb") as file:
        for before in job["before"]:
            cursor.execute(before)
        cursor.copy_expert(statement, file, COPY_BUFFER_BYTES)
        for after in job["after"]:
            cursor.execute(after)
        connection.commit()


WORK: dict[str, Callable[[Server, dict[str, Any]], dict[str, Any] | None]] = {
    "engine": run_engine,
    "execute_values": run_execute_values,
    "copy_expert": run_copy_expert,
}


def main() -> int:
    """Do the job that the first argument describes."""
    job = json.loads(sys.argv[1])
    try:
        result = WORK[job["work"]](Server(**job["server"]), job)
    except MigrationError as error:
        print(error, file=sys.stderr)
        return 1
    if result is not None:
        Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
