"""Triggers and rules of the target do not act on rows that are moved, on a managed server too; foreign keys do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.migrate import (
    CHANGED_ROWS,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.report import (
    warnings_of,
)

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..conftest import Server

TABLES = """
CREATE TABLE t (id integer PRIMARY KEY, updated_at text, parent integer REFERENCES t DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE audit (id serial PRIMARY KEY, what text);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := 'now'; RETURN NEW; END $$;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO app.audit (what) VALUES (TG_NAME); RETURN NULL; END $$;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not here'; END $$;
"""
TRIGGERS = {
    "touch": "CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION touch()",
    "always": "CREATE TRIGGER touch BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION touch();"
    "ALTER TABLE t ENABLE ALWAYS TRIGGER touch",
    "audit": "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note()",
    "statement": "CREATE TRIGGER note AFTER INSERT ON t EXECUTE FUNCTION note()",
    "truncate": "CREATE TRIGGER fail BEFORE TRUNCATE ON t EXECUTE FUNCTION fail()",
    "deferred": "CREATE CONSTRAINT TRIGGER note AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION note()",
    "rule": "CREATE RULE note AS ON INSERT TO t DO ALSO INSERT INTO app.audit (what) VALUES ('rule')",
    "instead": "CREATE RULE nothing AS ON DELETE TO t DO INSTEAD NOTHING",
}
MODES = (
    "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid = 'app.t'::regclass AND NOT tgisinternal "
    "UNION ALL SELECT rulename::text, ev_enabled::text FROM pg_rewrite WHERE ev_class = 'app.t'::regclass ORDER BY 1"
)
SCRIPT = "CREATE TABLE t (id INTEGER PRIMARY KEY, updated_at TEXT, parent INTEGER); CREATE TABLE audit (id, what)"


def change_source(path: Path, statement: str) -> None:
    """Write to the source as a service does."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("kind", TRIGGERS)
def test_what_acts_on_written_rows_does_not_act_on_moved_ones(
    connection: Connection, tmp_path: Path, kind: str, mapped: bool
) -> None:
    make_target(connection, TABLES + TRIGGERS[kind])
    rows: dict[str, Iterable[Sequence[Any]]] = {"t": [(1, "then", 2), (2, "earlier", None)]}
    if mapped:
        rows["audit"] = [(1, "by the service")]
    source = make_source(tmp_path / "t.db", SCRIPT, rows)
    group = make_group(source, {"source": "t"}, *([{"source": "audit"}] if mapped else []))
    before = query(connection, MODES)
    assert rehearse(connection, group, tmp_path, check_mode=True)["changed"]
    report = rehearse(connection, group, tmp_path)["report"]
    audit = "SELECT what FROM app.audit"
    assert query(connection, audit) == [("by the service",)] * mapped
    for statement in (
        "INSERT INTO t VALUES (3, 'new', 1)",
        "UPDATE t SET updated_at = 'changed' WHERE id = 1",
        "UPDATE t SET parent = NULL WHERE parent = 2",
        "DELETE FROM t WHERE id = 2",
    ):
        change_source(source, statement)
        assert rehearse(connection, group, tmp_path)["report"]["way"] == CHANGED_ROWS
    stored = query(connection, "SELECT id, updated_at FROM app.t ORDER BY id")
    assert stored == [(1, "changed"), (3, "new")]
    assert query(connection, audit) == [("by the service",)] * mapped
    assert query(connection, MODES) == before
    names = [f"{'rule' if kind in ('rule', 'instead') else 'trigger'} {name} of app.t" for name, _ in before]
    assert report["triggers"] == names
    assert f"{names[0]}: did not act on the rows that were moved" in warnings_of(report)[0]


def test_a_trigger_that_was_disabled_stays_so(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TABLES + TRIGGERS["audit"] + ";" + TRIGGERS["touch"] + ";"
                "ALTER TABLE t DISABLE TRIGGER note; ALTER TABLE t ENABLE REPLICA TRIGGER touch")  # fmt: skip
    source = make_source(tmp_path / "t.db", SCRIPT, {"t": [(1, "then", None)]})
    report = rehearse(connection, make_group(source, {"source": "t"}), tmp_path)["report"]
    assert query(connection, MODES) == [("note", "D"), ("touch", "R")]
    assert report["triggers"] == []


@pytest.mark.parametrize("deferred", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_foreign_keys_are_enforced_all_the_same(connection: Connection, tmp_path: Path, deferred: str) -> None:
    make_target(
        connection,
        f"CREATE TABLE other (id integer PRIMARY KEY);{TABLES}{TRIGGERS['touch']};"
        f"ALTER TABLE t ADD FOREIGN KEY (parent) REFERENCES other {deferred}",
    )
    source = make_source(tmp_path / "t.db", SCRIPT, {"t": [(1, "then", 1)]})
    with pytest.raises(MigrationError, match=r"it refers to a row of app\.other, which this group does not fill"):
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    assert query(connection, MODES) == [("touch", "O")]
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]


def test_triggers_of_partitions_do_not_act_either(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        TABLES + "CREATE TABLE p (id integer PRIMARY KEY, updated_at text) PARTITION BY RANGE (id);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);"
        "CREATE TRIGGER touch BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION touch();"
        "CREATE TRIGGER own AFTER INSERT ON p2 FOR EACH ROW EXECUTE FUNCTION note();",
    )
    modes = "SELECT tgrelid::regclass::text, tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid::regclass::text ~ '^app.p' ORDER BY 1, 2"  # noqa: E501
    before = query(connection, modes)
    script = "CREATE TABLE p (id INTEGER PRIMARY KEY, updated_at TEXT)"
    source = make_source(tmp_path / "p.db", script, {"p": [(1, "a"), (11, "b")]})
    rehearse(connection, make_group(source, {"source": "p"}), tmp_path)
    assert query(connection, "SELECT updated_at FROM app.p ORDER BY id") == [("a",), ("b",)]
    assert query(connection, "SELECT count(*) FROM app.audit") == [(0,)]
    assert query(connection, modes) == before


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_trigger_of_a_table_that_is_not_ours_is_named_before_anything_is_done(
    connection: Connection, server: Server, database: str, tmp_path: Path, check_mode: bool
) -> None:
    make_target(connection, TABLES + TRIGGERS["touch"])
    server.execute("ALTER TABLE app.t OWNER TO postgres", "GRANT ALL ON app.t TO PUBLIC", database=database)
    source = make_source(tmp_path / "t.db", SCRIPT, {"t": [(1, "then", None)]})
    group = make_group(source, {"source": "t"})
    with pytest.raises(MigrationError, match=r"app\.t: its trigger touch would act on every row.*own the table"):
        rehearse(connection, group, tmp_path, check_mode)
    server.execute("ALTER TABLE app.t DISABLE TRIGGER touch", database=database)
    assert rehearse(connection, group, tmp_path, check_mode)["changed"]
    execute(connection, "SELECT 1")
