#!/usr/bin/env python3
"""Draft, move and verify any SQLite file on a throwaway PostgreSQL: the shortest way to try this project.

`make demo-own FILE=path/to/any.db` drafts the target's SQL and the mapping, loads the SQL into a scratch database, lets
the real engine plan, load and verify, and writes draft and report to a folder below `drafts/`. The file is only read.
`make demo-own FILE=… DRAFT=drafts/name` tries a draft again that a person has corrected.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".collections"))

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import (
    Login,
    connect,
    connected,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import scratch
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft import mapping, page
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.draft import Draft, draft
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.names import schema_name
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.report import build
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import (
    database as validate_database,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import (
    group as validate_group,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import report_files
from scripts.run_demo import title
from scripts.throwaway_postgres import throwaway_postgres

ROOT = Path(__file__).resolve().parent.parent
DRAFTS = ROOT / "drafts"
USAGE = "Name an SQLite file: make demo-own FILE=path/to/any.db"
_HEADER = b"SQLite format 3\x00"
# Lines of one kind that are printed; the page in the folder has all.
_SHOWN = 15


class Stopped(Exception):
    """The demo cannot go on; its text says why."""


def source_file(name: str) -> Path:
    """Return the file to draft from.

    :raises Stopped: if it is none, in words for a visitor.
    """
    if not name:
        raise Stopped(USAGE)
    path = Path(name).expanduser()
    if not path.exists():
        raise Stopped(f"{name}: there is no such file. {USAGE}")
    if not path.is_file():
        raise Stopped(f"{name} is not a regular file. {USAGE}")
    try:
        with path.open("rb") as file:
            beginning = file.read(1 << 16)
    except OSError as error:
        raise Stopped(f"{name} cannot be read: {error.strerror}") from None
    has_log = Path(f"{path}-wal").exists()
    if not beginning and not has_log:
        raise Stopped(f"{name} is empty: it has 0 bytes, so there is nothing to draft from. {USAGE}")
    if beginning and not beginning.startswith(_HEADER):
        if path.stat().st_size % 512 == 0 and _entropy(beginning) > 7.9:
            raise Stopped(
                f"{name} is encrypted, as it seems (SQLCipher, SEE): every page looks random. Decrypt it first, "
                "for example with sqlcipher_export(), and name the decrypted file."
            )
        raise Stopped(f"{name} is not an SQLite file: it does not begin with SQLite's header. {USAGE}")
    return path.resolve()


def _entropy(data: bytes) -> float:
    """Return how random bytes are, in bits for each: 8 at most."""
    return -sum(count / len(data) * math.log2(count / len(data)) for count in Counter(data).values())


def new_folder(name: str) -> Path:
    """Make a folder for a draft; an earlier one stays as it is."""
    number = 1
    while True:
        folder = DRAFTS / (name if number == 1 else f"{name}-{number}")
        try:
            # Examples of values may stand in it.
            folder.mkdir(parents=True, mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return folder


def write_draft(folder: Path, drafted: Draft, source: Path, refused: Sequence[Problem] = ()) -> None:
    """Write SQL, mapping and page into the draft's folder."""
    choices = mapping.with_refusals(drafted.choices, drafted.tables, refused)
    estate = mapping.write_estate(drafted.group, drafted.mapping, choices)
    (folder / page.SQL_FILE.format(group=drafted.group)).write_text(drafted.sql, encoding="utf-8")
    (folder / page.ESTATE_FILE).write_text(estate, encoding="utf-8")
    (folder / "README.md").write_text(page.render(drafted, str(source), refused), encoding="utf-8")


def read_mapping(folder: Path, source: Path) -> Group:
    """Return the cutover group as it stands in a draft's folder.

    :raises Stopped: if there is none.
    :raises MigrationError: with every mistake in it.
    """
    try:
        entries = yaml.safe_load((folder / page.ESTATE_FILE).read_text(encoding="utf-8"))["estate_cutover_groups"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise Stopped(f"{folder / page.ESTATE_FILE} cannot be read: {error}") from None
    found = [group for group in map(parse_group, entries) if group.source_path == str(source)]
    if len(found) != 1:
        raise Stopped(f"{folder / page.ESTATE_FILE} describes no cutover group whose source is {source}")
    return found[0]


def make_tables(login: Login, folder: Path) -> None:
    """Make the ledger and the drafted tables.

    :raises Stopped: if PostgreSQL does not take the SQL.
    """
    files = {str(file): file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.sql"))}
    with connected(login) as connection:
        refused = scratch.make_tables(connection, files)
    for file, said in refused.items():
        raise Stopped(f"PostgreSQL does not take {file}:\n{said}")


def move(login: Login, group: Group, work_directory: str) -> dict[str, Any]:
    """Plan, load and verify with the real engine, compare both sides once more, and return the report.

    :raises MigrationError: with every value that the engine refuses.
    """
    with closing(connect(login)) as connection:
        migrate.migrate(connection, group, migrate.REHEARSAL, work_directory=work_directory)
        validated = validate_group.validate(connection, group, work_directory, ask_services=False)
    server = validate_database.blank("the server is a throwaway one, made for this run")
    report = build.build("demo", "throwaway PostgreSQL", [validated], [], server)
    report["next_steps"] = ["Read the draft, decide what it asks, and take it into files/sql and inventory"]
    return report


# --- what is shown ------------------------------------------------------------------------------


def print_some(lines: Sequence[str], where: str) -> None:
    """Print the first lines, and where the others stand."""
    for line in lines[:_SHOWN]:
        print(f"  {line}")
    if len(lines) > _SHOWN:
        print(f"  … and {len(lines) - _SHOWN:,} more in {where}")


def print_types(drafted: Draft, where: str) -> None:
    """Print how many columns got which type, and the choices that the declared type does not explain."""
    columns = [(table["source"], column) for table in drafted.tables for column in table["columns"]]
    counts = Counter(column["type"] for _, column in columns)
    print("  " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    explained = [
        f"{table}.{column['source']}: {column['type']} ({column['why']})"
        for table, column in columns
        if column["why"] and column["type"] != "integer"
    ]
    print_some(explained, where)


def print_tables(report: Mapping[str, Any]) -> None:
    """Print every table with its rows and the hash of both sides."""
    tables = [table for group in report["groups"] for table in group["tables"]]
    width = max((len(table["target"]) for table in tables), default=0)
    for table in tables:
        verdict = f"equal, {table['target_hash'][:8]}" if table["equal"] else "DIFFERENT"
        print(
            f"  {table['target']:<{width}}  {table['source_rows']:>9,} rows  {table['target_rows']:>9,} rows  {verdict}"
        )


def shown(path: Path) -> str:
    """Return a path as short as it can be said."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def run(file: str, earlier_draft: str, work_directory: str) -> int:
    """Run the demo.

    :param earlier_draft: folder of a draft to try again; empty for a new one.
    :return: 0 if every value arrived, else 1.
    """
    source = source_file(file)
    group = schema_name(source.stem)
    drafted = draft(str(source), group, work_directory)
    if earlier_draft:
        folder = Path(earlier_draft).resolve()
    else:
        folder = new_folder(group)
        write_draft(folder, drafted, source)
    there = shown(folder)
    title(f"{'The draft' if earlier_draft else 'Drafted'}: {there}")
    rows = sum(table["rows"] for table in drafted.tables)
    print(f"  {len(drafted.tables):,} {'table' if len(drafted.tables) == 1 else 'tables'} with {rows:,} rows")
    if not earlier_draft:
        print_types(drafted, f"{there}/README.md")
    mapped = read_mapping(folder, source)
    with throwaway_postgres() as server, scratch.scratch_database(server.superuser) as login:
        make_tables(login, folder)
        try:
            report = move(login, mapped, work_directory)
        except MigrationError as error:
            title("Refused: nothing was loaded, because of these values")
            print_some([str(problem) for problem in error.problems] or [error.summary], f"{there}/README.md")
            if not earlier_draft:
                write_draft(folder, drafted, source, error.problems)
            print(f"\n  {there}/{page.ESTATE_FILE} lists the answers as comments. Choose, or correct the SQL; then:")
            print(f"  make demo-own FILE={file} DRAFT={there}")
            return 1
    written = Path(report_files.write(folder / "report", report)["path"])
    title("Moved and verified: rows in SQLite, rows in PostgreSQL, and one hash of the content of both")
    print_tables(report)
    print(f"\n  {report['headline']}")
    for finding in report["findings"]:
        print(f"  {finding['where']}: {finding['what']}")
    if drafted.questions:
        title(f"Decisions for a person: {len(drafted.questions):,}")
        print_some([str(question) for question in drafted.questions], f"{there}/README.md")
    title("Where it is")
    for name, path in (
        ("The SQL", folder / page.SQL_FILE.format(group=group)),
        ("The mapping", folder / page.ESTATE_FILE),
        ("What was drafted and why", folder / "README.md"),
        ("The report", written / "report.html"),
        ("The report as JSON", written / "report.json"),
    ):
        print(f"  {name + ':':<26}{shown(path)}")
    return 1 if report["findings"] else 0


def main() -> int:
    """Read the file's name from the environment, where make puts it, and run the demo."""
    with tempfile.TemporaryDirectory(prefix="demo-own-") as work_directory:
        try:
            return run(os.environ.get("FILE", ""), os.environ.get("DRAFT", ""), work_directory)
        except (Stopped, MigrationError) as error:
            print(error, file=sys.stderr)
        except subprocess.CalledProcessError as error:
            print(f"The throwaway PostgreSQL cannot be started: {json.dumps(error.cmd)}", file=sys.stderr)
            print((error.stderr or b"").decode(errors="replace"), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
