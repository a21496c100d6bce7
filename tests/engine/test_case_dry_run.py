"""A dry run says what the run says: whatever PostgreSQL would refuse is refused in a dry run, in the same words."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import execute, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..conftest import Server

# From here on a case takes seconds.
MANY_ROWS = 1_000
CHOSEN = random.Random(13)  # noqa: S311 (the same on every run)


def incompressible(length: int, characters: str = string.ascii_letters + string.digits) -> str:
    """Return a text that PostgreSQL cannot make shorter."""
    return "".join(CHOSEN.choice(characters) for _ in range(length))


def many(count: int, type_name: str) -> str:
    """Return the definitions of many columns."""
    return ", ".join(f"c{number} {type_name}" for number in range(count))


@dataclass(frozen=True)
class Case:
    """A target that refuses something.

    :param columns: of table t in PostgreSQL, behind its key, and whatever else is needed.
    :param source: columns of table t in SQLite, behind its key.
    :param rows: of t, without their keys.
    :param said: what the message says; empty if nothing is refused.
    :param parents: keys of table p on both sides.
    """

    columns: str
    source: str
    rows: Sequence[Sequence[Any]]
    said: str = ""
    parents: Iterable[int] = field(default=())


PLANETS = "".join(map(chr, range(0x1F300, 0x1F500)))
BY_V = (
    "v integer, w integer, UNIQUE (id, v)) PARTITION BY RANGE (v);"
    "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10"
)
CASES = {
    "a key that is checked at the commit": Case(
        "v integer, UNIQUE (v) DEFERRABLE INITIALLY DEFERRED", "v", [[1], [1]], "holds the same key more than once"
    ),
    "columns that are too long for an index together": Case(
        f"{many(6, 'text')}); CREATE INDEX t_all ON t (c0, c1, c2, c3, c4, c5",
        many(6, "TEXT"),
        [[incompressible(590) for _ in range(6)], list("abcdef")],
        "too long for the index t_all: an entry of a B-tree has at most 2,704 bytes (1 row: id=1",
    ),
    "characters of four bytes": Case(
        f"{many(2, 'text')}); CREATE INDEX t_both ON t (c0, c1",
        many(2, "TEXT"),
        [[incompressible(550, PLANETS), incompressible(550, PLANETS)]],
        "too long for the index t_both",
    ),
    "a number of many digits": Case(
        "v numeric); CREATE INDEX t_v ON t (v", "v TEXT", [[incompressible(20_000, "123456789")], ["1"]],
        "too long for the index t_v",
    ),
    "ranges of several columns": Case(
        f"{many(8, 'text')}); CREATE INDEX t_all ON t USING brin (c0, c1, c2, c3, c4, c5, c6, c7",
        many(8, "TEXT"),
        [["a" + incompressible(590) for _ in range(8)], ["z" + incompressible(590) for _ in range(8)]],
        "too long for the index t_all: an entry has at most 8,152 bytes",
    ),
    "the predicate of an index": Case(
        "v integer); CREATE INDEX ON t (id) WHERE (10 / v > 1", "v", [[0], [1]],
        "division by zero (SQLSTATE 22012) (1 row: id=1)",
    ),
    "statistics of an expression": Case(
        "v integer); CREATE STATISTICS s ON (10 / v) FROM t; CREATE TABLE other (id integer", "v", [[0], [1]],
        "division by zero (SQLSTATE 22012) (1 row: id=1)",
    ),
    "no partition": Case(
        BY_V, "v, w", [[1, 1], [100, 1]], "t.v: PostgreSQL refuses it: the table has no partition for it (1 row: id=2"
    ),
    "no partition of a partition": Case(
        "v text, w integer, UNIQUE (id, v)) PARTITION BY LIST (v); CREATE TABLE ta PARTITION OF t FOR VALUES IN ('a');"
        "CREATE TABLE tb PARTITION OF t DEFAULT PARTITION BY HASH (id);"
        "CREATE TABLE tb0 PARTITION OF tb FOR VALUES WITH (MODULUS 2, REMAINDER 0",
        "v, w", [["ab"[number % 2], 1] for number in range(8)], "the table has no partition for it (",
    ),
    "a check of one partition": Case(
        BY_V + "); ALTER TABLE t1 ADD CONSTRAINT small CHECK (w < 5", "v, w", [[1, 1], [2, 9]],
        "t.w: PostgreSQL refuses it: it violates the check constraint small (1 row: id=2: 9)",
    ),
    "a key of one partition": Case(
        BY_V + "); CREATE UNIQUE INDEX t1_w ON t1 (w", "v, w", [[1, 1], [2, 1]],
        "t.w: PostgreSQL refuses it: an earlier row has the same key in t1_w (1 row: id=2: 1)",
    ),
    "partitions that hold all rows": Case(
        BY_V + "); CREATE TABLE t2 PARTITION OF t DEFAULT; CREATE INDEX ON t (abs(w)", "v, w", [[1, 1], [100, 1]]
    ),
    "a default that is always the same, in a key": Case(
        "v integer, w integer DEFAULT 1 UNIQUE", "v", [[1], [2]],
        "an earlier row has the same key in t_w_key because of the default of w (1 row: id=2)",
    ),
    "a default that fails": Case(
        "v integer, w integer DEFAULT 10 / 0", "v", [[1]],
        "division by zero (SQLSTATE 22012) because of the default of w (1 row: id=1)",
    ),
    "a name and a default that look like the end of a function": Case(
        '"v$body$" integer CHECK ("v$body$" < 5), w text DEFAULT \'see $body$ there\'', "v$body$", [[1], [7]],
        "it violates the check constraint t_v$body$_check (1 row: id=2: 7)",
    ),
    "a default that refers to nothing": Case(
        "v integer, w integer DEFAULT 7 REFERENCES o", "v", [[1], [2]],
        "a row of app.o, which this group does not fill, that does not exist because of the default of w (2 rows",
    ),
    "a default that refers to no moved row": Case(
        "v integer, w integer DEFAULT 7 REFERENCES p", "v", [[1], [2]],
        "it refers to a row of app.p that does not exist because of the default of w (2 rows", [1],
    ),
    "a default that refers to a moved row": Case(
        "v integer, w integer DEFAULT 7 REFERENCES p", "v", [[1], [2]], parents=[7]
    ),
    "a generated column that refers to nothing": Case(
        "v integer, w integer GENERATED ALWAYS AS (v + 1) STORED REFERENCES p", "v", [[0], [5]],
        "it refers to a row of app.p that does not exist (1 row: id=2)", [1],
    ),
    "a default that takes a number from a sequence": Case(
        "v integer CHECK (v > 0), w text NOT NULL DEFAULT 'A' || nextval('app.numbers')", "v", [[1], [2]]
    ),
    "a number of a sequence that begins elsewhere": Case(
        "v integer CHECK (v > 0), w integer GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT 10) CHECK (w >= 1000),"
        "x serial CHECK (x IN (7, 8))); ALTER SEQUENCE t_x_seq START 7 RESTART; CREATE TABLE other (id integer",
        "v", [[1], [2]],
    ),
    "half a key": Case(
        "a integer, b integer, FOREIGN KEY (a, b) REFERENCES pairs MATCH FULL", "a, b", [[None, 1], [None, None]],
        "t.a+b: PostgreSQL refuses it: only a part is NULL of its foreign key t_a_b_fkey, which MATCH FULL forbids",
    ),
    "a row of texts that fits into no page": Case(
        many(480, "text"), many(480, "TEXT"), [[incompressible(60) for _ in range(480)]], "does not fit into a page"
    ),
    "a row that fits into a page, but not its texts": Case(
        f"{many(420, 'bigint')}, CHECK (c0 > 0)", many(420, "INTEGER"), [range(10**18, 10**18 + 420)]
    ),
    "a value that must not be stored elsewhere": Case(
        "v text); ALTER TABLE t ALTER v SET STORAGE PLAIN; CREATE TABLE other (id integer", "v",
        [[incompressible(9_000)]], "does not fit into a page",
    ),
    "more rows than a small sequence numbers": Case(
        "v integer, n smallserial NOT NULL", "v", [[0]] * 33_000,
        "smallint out of range (SQLSTATE 22003) because of the default of n (233 rows",
    ),
}  # fmt: skip


def told(connection: Connection, group: Any, tmp_path: Path, check_mode: bool) -> str:
    """Return what a run says, empty if it refuses nothing."""
    try:
        rehearse(connection, group, tmp_path, check_mode)
    except MigrationError as error:
        return str(error)
    return ""


@pytest.mark.promise("dry-run-changes-nothing")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long_search if len(CASES[name].rows) > 1_000 else []) for name in CASES],
)
def test_a_dry_run_refuses_what_the_run_refuses(connection: Connection, tmp_path: Path, name: str) -> None:
    compare_dry_run_with_run(connection, tmp_path, CASES[name])


@pytest.mark.long_search
@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name].rows) >= MANY_ROWS])
def test_a_dry_run_refuses_what_the_run_refuses_of_many_rows(connection: Connection, tmp_path: Path, name: str) -> None:
    compare_dry_run_with_run(connection, tmp_path, CASES[name])


@pytest.mark.parametrize("name", [name for name in CASES if len(CASES[name].rows) < MANY_ROWS])
def test_a_dry_run_refuses_what_the_run_refuses_on_every_version(
    fetched_connection: Connection, tmp_path: Path, name: str
) -> None:
    compare_dry_run_with_run(fetched_connection, tmp_path, CASES[name])


def compare_dry_run_with_run(connection: Connection, tmp_path: Path, case: Case) -> None:
    """See that both say the same, and that a dry run takes no number from a sequence."""
    key = "id integer" if "PARTITION BY" in case.columns else "id integer PRIMARY KEY"
    make_target(
        connection,
        "CREATE TABLE o (id integer PRIMARY KEY); CREATE TABLE p (id integer PRIMARY KEY); CREATE SEQUENCE numbers;"
        f"CREATE TABLE pairs (a integer, b integer, PRIMARY KEY (a, b)); CREATE TABLE t ({key}, {case.columns})",
    )
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE pairs (a INTEGER, b INTEGER, PRIMARY KEY (a, b));"
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, {case.source})",
        {"p": [(number,) for number in case.parents], "t": [(key, *row) for key, row in enumerate(case.rows, 1)]},
    )
    group = make_group(source, {"source": "p"}, {"source": "pairs"}, {"source": "t"})
    said = told(connection, group, tmp_path, check_mode=True)
    assert query(connection, "SELECT last_value, is_called FROM app.numbers") == [(1, False)]
    assert told(connection, group, tmp_path, check_mode=False) == said
    assert (case.said in said) if case.said else not said
    held = query(connection, "SELECT count(*) FROM app.t")[0][0]
    assert held == (0 if case.said else len(case.rows))


@pytest.mark.parametrize("largest", [2**31 - 1, 2**31 - 2])
def test_a_sequence_without_a_number_for_a_new_row_is_named(
    connection: Connection, tmp_path: Path, largest: int
) -> None:
    make_target(connection, "CREATE TABLE t (id serial PRIMARY KEY)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", {"t": [(largest,)]})
    group = make_group(source, {"source": "t"})
    said = told(connection, group, tmp_path, check_mode=True)
    assert told(connection, group, tmp_path, check_mode=False) == said
    if largest == 2**31 - 2:
        assert not said
        return
    assert "app.t_id_seq: its next number has to be 2,147,483,648, after all ids" in said
    # What it advises.
    execute(
        connection,
        "ALTER SEQUENCE app.t_id_seq AS bigint NO MAXVALUE; ALTER TABLE app.t ALTER id TYPE bigint",
    )
    assert not told(connection, group, tmp_path, check_mode=False)
    assert query(connection, "SELECT nextval('app.t_id_seq')") == [(2**31,)]


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (
            ["ALTER TABLE app.t ENABLE ROW LEVEL SECURITY", "ALTER TABLE app.t FORCE ROW LEVEL SECURITY"],
            "app.t: row level security lets role swarm_owner see and write only the rows that a policy allows",
        ),
        (
            ["ALTER TABLE app.t OWNER TO postgres", "GRANT SELECT, UPDATE, DELETE ON app.t TO PUBLIC"],
            "app.t: role swarm_owner may not INSERT, TRUNCATE there",
        ),
        (["REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"], ""),
        (
            ["ALTER DATABASE {database} OWNER TO postgres", "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC"],
            "target database: role swarm_owner may not make temporary tables",
        ),
    ],
)
def test_rights_that_the_run_needs_are_asked_for_in_a_dry_run(
    connection: Connection, server: Server, database: str, tmp_path: Path, statements: list[str], said: str
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY)")
    server.execute(*(statement.format(database=database) for statement in statements), database=database)
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", {"t": [(1,)]})
    group = make_group(source, {"source": "t"})
    message = told(connection, group, tmp_path, check_mode=True)
    assert told(connection, group, tmp_path, check_mode=False) == message
    assert (said in message) if said else not message


def test_no_right_is_asked_for_that_the_run_does_not_need(
    connection: Connection, server: Server, database: str, tmp_path: Path
) -> None:
    """PostgreSQL reads a referenced table as its owner, and a table that others refer to is emptied by DELETE."""
    make_target(
        connection,
        "CREATE TABLE o (id integer PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v integer REFERENCES o, "
        "w integer DEFAULT 7 REFERENCES o); CREATE TABLE others (id integer REFERENCES t)",
    )
    server.execute(
        "INSERT INTO app.o VALUES (7)",
        "ALTER TABLE app.o OWNER TO postgres",
        "ALTER TABLE app.t OWNER TO postgres",
        "REVOKE ALL ON app.o, app.t FROM swarm_owner",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON app.t TO swarm_owner",
        database=database,
    )
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)", {"t": [(1, 7)]})
    group = make_group(source, {"source": "t"})
    assert [told(connection, group, tmp_path, check_mode) for check_mode in (True, False)] == ["", ""]
    assert query(connection, "SELECT * FROM app.t") == [(1, 7, 7)]
