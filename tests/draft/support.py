"""Drafts small sources, and moves them with the real engine into what was drafted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import parse_group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.draft import Draft, draft
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.mapping import write_estate
from tests.engine.support import make_source, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


def draft_of(tmp_path: Path, script: str, rows: dict[str, Any] | None = None) -> Draft:
    """Return the draft of a new SQLite file, which is ``app.db``."""
    path = tmp_path / "app.db"
    make_source(path, script, rows)
    return draft(str(path), "app", str(tmp_path / "work"))


def types_of(drafted: Draft) -> dict[str, str]:
    """Return the type of each column by ``table.column``."""
    return {
        f"{table['source']}.{column['source']}": column["type"]
        for table in drafted.tables
        for column in table["columns"]
    }


def load_sql(connection: Connection, drafted: Draft) -> None:
    """Make the ledger and the drafted schema."""
    with connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        cursor.execute(drafted.sql)
    connection.commit()


def move(connection: Connection, drafted: Draft, tmp_path: Path) -> dict[str, Any]:
    """Run the engine once with the mapping as it is written to the file, and return its report."""
    (entry,) = yaml.safe_load(write_estate("test", drafted.mapping, drafted.choices))["estate_cutover_groups"]
    group = parse_group(entry)
    report: dict[str, Any] = rehearse(connection, group, tmp_path)["report"]
    return report
