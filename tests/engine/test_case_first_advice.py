"""The first piece of advice of each kind of refusal is followed to the letter, and the next run loses nothing."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import POLICIES, Group

from .support import execute, make_group, make_tables, query, rehearse
from .test_case_server_knows import INCOMPRESSIBLE
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

IDS = ("6fa459ea-ee8a-4ca4-894e-db77e160355e", "6FA459EA-EE8A-4CA4-894E-DB77E160355E")
# Kind of refusal → columns of the target behind its key, those of the source, and the rows behind theirs. A kind that
# is a policy has its name, maybe with more behind it.
KINDS: dict[str, tuple[str, str, list[tuple[Any, ...]]]] = {
    "orphan": ("v integer REFERENCES parents", "v INTEGER", [(1,), (7,)]),
    "orphan, spelled otherwise": ("v text REFERENCES words", "v TEXT", [("USD",), ("usd",)]),
    "orphan, never NULL": ("v integer NOT NULL REFERENCES parents", "v INTEGER", [(1,), (7,)]),
    "duplicate": ("v integer UNIQUE", "v INTEGER", [(1,), (1,), (2,)]),
    "duplicate, an expression": ("v text); CREATE UNIQUE INDEX ON t (lower(v)", "v TEXT", [("a",), ("A",)]),
    "invalid_json": ("v jsonb", "v TEXT", [("{}",), ("no",)]),
    "repeated_key": ("v jsonb", "v TEXT", [('{"a": 1, "a": 2}',)]),
    "rewritten": ("v money", "v TEXT", [("$1.99",), ("1.999",)]),
    "nul_character": ("v text", "v TEXT", [("a\x00b",)]),
    "invalid_utf8": ("v text", "v TEXT", [(b"a\xff",)]),
    "empty_string": ("v integer", "v", [("",), (1,)]),
    "fraction": ("v integer", "v", [(1.5,), (2,)]),
    "null_value": ("v integer NOT NULL", "v INTEGER", [(None,), (2,)]),
    "out_of_range": ("v smallint", "v INTEGER", [(40_000,)]),
    "sub_microsecond": ("v timestamp", "v TEXT", [("2024-05-01 10:00:00.1234567",)]),
    "unconvertible": ("v inet", "v TEXT", [("nowhere",)]),
    "unconvertible, a check": ("v integer CHECK (v > 0)", "v INTEGER", [(0,), (1,)]),
    "unconvertible, an index": ("v text); CREATE INDEX t_v ON t (v", "v TEXT", [(INCOMPRESSIBLE,), ("short",)]),
    "unconvertible, another day": ("v timetz", "v TEXT", [("now",), ("10:00:00+02",)]),
    "unconvertible, a limit": ("v tsvector", "v TEXT", [("'" + "a" * 3_000 + "'",)]),
    "duplicate, excluded": ("v integer, EXCLUDE (v WITH =)", "v INTEGER", [(1,), (1,), (2,)]),
    "invalid_json, a number": ("v jsonb", "v TEXT", [("[1]",), ("1e999999",)]),
    "invalid_json, half a pair": ("v jsonb", "v TEXT", [("[1]",), ('["\\ud800"]',)]),
    "nul_character, in JSON": ("v jsonb", "v TEXT", [("[1]",), ('["a\\u0000"]',)]),
    "fraction, decimals": ("v numeric(6,1)", "v REAL", [(1.25,), (2.5,)]),
    "out_of_range, digits": ("v numeric(3,1)", "v REAL", [(1234.5,), (2.5,)]),
    "out_of_range, a time": ("v timestamptz", "v TEXT", [("9999-12-31 23:59:59-05",), ("2024-05-01 10:00:00",)]),
    "null_value, a domain": ("v obliged", "v INTEGER", [(None,), (1,)]),
    "unconvertible, too long": ("v varchar(3)", "v TEXT", [("abc",), ("abcdef",)]),
    "unconvertible, a space": ("v char(5)", "v TEXT", [("abc",), ("ab ",)]),
    "unconvertible, a BLOB": ("v text", "v", [("abc",), (b"ab",)]),
    "unconvertible, a text": ("v integer", "v", [("abc",), (1,)]),
    "unconvertible, a boolean": ("v boolean", "v", [(7,), (1,)]),
    "unconvertible, single precision": ("v real", "v REAL", [(0.1,), (0.5,)]),
    "unconvertible, double precision": ("v double precision", "v", [(2**53 + 1,), (1,)]),
    "unconvertible, a damaged id": ("v uuid", "v", [(1.5,), (IDS[0],)]),
    "unconvertible, nobody's id": ("v uuid", "v TEXT", [("role-1",), (IDS[0],)]),
    "unconvertible, a time of day": ("v date", "v TEXT", [("2024-05-01 10:00",), ("2024-05-01",)]),
    "unconvertible, an offset": ("v timestamp", "v TEXT", [("2024-05-01 10:00+02",), ("2024-05-01 10:00",)]),
    "unconvertible, no time": ("v timestamptz", "v TEXT", [("soon",), ("2024-05-01 10:00",)]),
    "unconvertible, no day": ("v date", "v TEXT", [("2023-02-30",), ("2024-05-01",)]),
    "unconvertible, no time of day": ("v time", "v TEXT", [("24:00",), ("10:00",)]),
    "unconvertible, no number": ("v numeric", "v TEXT", [("1.5x",), ("1.5",)]),
    "without_target": ("v integer", "v INTEGER, w TEXT", [(1, "kept"), (2, None)]),
    "duration without a unit": ("v interval", "v INTEGER", [(90,), (120,)]),
    "a time without a unit": ("v timestamptz", "v INTEGER", [(1,), (1_700_000_000,)]),
    "a year": ("v date", "v INTEGER", [(2024,), (1999,)]),
    "sub_microsecond, digits of a moment": ("v timestamptz(1)", "v TEXT", [("2024-05-01 10:00:00.66Z",)]),
    "sub_microsecond, digits of a time of day": ("v time(0)", "v TEXT", [("10:00:00.5",), ("10:00:00",)]),
    "sub_microsecond, a duration": ("v interval", "v REAL", [(1.5,), (2.0,)]),
    "out_of_range, single precision": ("v real", "v REAL", [(1e300,), (0.5,)]),
    "out_of_range, whole numbers": ("v integer", "v", [(float("inf"),), (1,)]),
    "orphan, of a table that nobody fills": ("v integer REFERENCES elsewhere", "v INTEGER", [(1,), (None,)]),
    "invalid_json, nested": ("v jsonb", "v TEXT", [("[" * 20_000 + "]" * 20_000,), ("[]",)]),
    "unconvertible, a gap of summer time": ("v timestamptz", "v TEXT", [("2024-03-31 02:30",), ("2024-05-01 10:00",)]),
    "unconvertible, a domain": ("v even", "v INTEGER", [(1,), (2,)]),
    "unconvertible, a damaged text": ("v ids[]", "v TEXT", [("{1.5}",), ("{2}",)]),
    "unconvertible, text for bytes": ("v bytea", "v", [("abc",), (b"ab",)]),
    "a generated column": ("v integer, g integer GENERATED ALWAYS AS (10 / v) STORED", "v INTEGER", [(0,), (2,)]),
    "null_value, a generated column": (
        "v integer, g integer NOT NULL GENERATED ALWAYS AS (nullif(v, 0)) STORED",
        "v INTEGER",
        [(0,), (2,)],
    ),
    "unconvertible, an offset that no clock has": (
        "v timestamptz",
        "v TEXT",
        [("2024-05-01 10:00:00+17:00",), ("2024-05-01 10:00:00+02:00",)],
    ),
    "unconvertible, a time before the epoch of a spreadsheet": ("v timestamp", "v REAL", [(-1.25,), (45_000.5,)]),
    "a default that fails": ("v integer, w integer DEFAULT 10 / 0", "v INTEGER", [(1,), (2,)]),
    "a default that its type refuses": ("v integer, w even DEFAULT 1", "v INTEGER", [(4,), (2,)]),
    "a default of a domain that fails": ("v integer, w failing", "v INTEGER", [(1,), (2,)]),
    "null_value, a default": ("v integer, w integer NOT NULL DEFAULT nullif(1, 1)", "v INTEGER", [(1,), (2,)]),
    "a default that excludes": ("v integer, w integer DEFAULT 1, EXCLUDE (w WITH =)", "v INTEGER", [(1,), (2,)]),
    "a default that refers to nothing": ("v integer, w integer DEFAULT 7 REFERENCES parents", "v INTEGER", [(1,)]),
    "a default that refers to nobody's row": (
        "v integer, w integer DEFAULT 7 REFERENCES elsewhere",
        "v INTEGER",
        [(1,)],
    ),
    "a default that is half a key": (
        "v integer, w integer DEFAULT 7, FOREIGN KEY (v, w) REFERENCES pairs MATCH FULL",
        "v INTEGER",
        [(None,)],
    ),
    "a default that a check refuses": ("v integer, w integer DEFAULT 1 CHECK (w > 1)", "v INTEGER", [(1,), (2,)]),
    "duplicate, a default": ("v integer, w integer DEFAULT 1 UNIQUE", "v INTEGER", [(1,), (2,)]),
    "unconvertible, no partition": (
        "v integer) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (2",
        "v INTEGER",
        [(1,), (2,)],
    ),
    "unconvertible, an index of two": (
        "v text, w text); CREATE INDEX t_vw ON t (v, w",
        "v TEXT, w TEXT",
        [(INCOMPRESSIBLE[:500], INCOMPRESSIBLE[500:])],
    ),
    "orphan, half a key": (
        "v integer, w integer, FOREIGN KEY (v, w) REFERENCES pairs MATCH FULL",
        "v INTEGER, w INTEGER",
        [(1, None), (None, None)],
    ),
    "a row that no page holds": (
        "v text, w text); ALTER TABLE t ALTER w SET STORAGE PLAIN; CREATE TABLE more (id integer",
        "v INTEGER, w TEXT",
        [(1, INCOMPRESSIBLE), (2, "short")],
    ),
    "unconvertible, an unclear id": ("v text", "v TEXT", [("one",), ("agent",), ("nobody",)]),
    "a UUID in two spellings": ("v uuid UNIQUE", "v TEXT", [(IDS[0],), (IDS[1],)]),
}
# Kind → options that its column has from the beginning.
OPTIONS: dict[str, dict[str, Any]] = {
    "unconvertible, an unclear id": {"rewrite_ids_of": ["app.orgs", "app.agents"]},
    "sub_microsecond, a duration": {"duration_unit": "microseconds"},
    "unconvertible, a time before the epoch of a spreadsheet": {"epoch_unit": "days_since_1899"},
    "unconvertible, a gap of summer time": {"time_zone": "Europe/Berlin"},
}
# Kind → what a person computes in place of its default, if not a number for each row.
COMPUTED_INSTEAD = {
    "a default that refers to nothing": "1",
    "a default that refers to nobody's row": "NULL",
    "a default that is half a key": "NULL",
}
# Where no piece of advice lets every row arrive: the ledger has what is missing.
IN_THE_LEDGER = frozenset(("set_null", "reject", "round", "keep", "keep_last", "remove", "replace", "as_json_string",
                           "as_parent", "truncate"))  # fmt: skip


def follow(kind: str, table: str, fix: str, connection: Connection, source: Path) -> dict[str, Any]:
    """Do what the first piece of advice for a table says; return the table's options for the next run."""
    first = fix.split("; or ")[0]
    if found := re.match(rf"Give (app\.{table})\.(\w+) the type (.+?) in files/sql", first):
        execute(connection, f"ALTER TABLE {found[1]} ALTER {found[2]} TYPE {found[3]} USING NULL")
    elif found := re.match(rf"Let (app\.{table})\.(\w+) be NULL in files/sql", first):
        execute(connection, f"ALTER TABLE {found[1]} ALTER {found[2]} DROP NOT NULL")
    elif found := re.match(
        r"Let the check constraint (\w+) allow them in files/sql \(or .+?\), if they are right", first
    ):
        whose = f"DOMAIN app.even_{table}" if found[1] == f"even_{table}_check" else f"TABLE app.{table}"
        execute(connection, f"ALTER {whose} DROP CONSTRAINT {found[1]}")
    elif found := re.match(r"Let the index (\w+) be one of (md5\(\w+\)) in files/sql", first):
        execute(connection, f"DROP INDEX app.{found[1]}; CREATE INDEX {found[1]} ON app.{table} ({found[2]})")
    elif found := re.match(r"Bring the values there by '(computed: .*)' with '(columns: .*\}\})'", first):
        return {**yaml.safe_load(found[1]), **yaml.safe_load(found[2])}
    elif found := re.match(r"Set '(\w+)' for the column: (\w+) \(", first):
        assert found[2] in IN_THE_LEDGER
        return {"columns": {"v": {found[1]: found[2]}}}
    elif found := re.match(r"Name '(\w+)' for the column(?: in the inventory)?[: (]+(\w+)", first):
        return {"columns": {"v": {found[1]: found[2]}}}
    elif found := re.match(r"Name only the table whose ids stand there \('(\w+): \[(app\.orgs)\]' or ", first):
        return {"columns": {"v": {found[1]: [found[2]]}}}
    elif found := re.search(r"eep its values in the ledger by '(\w+): (\w+)'", first):
        return {"columns": {"w": {found[1]: found[2]}}}
    elif found := re.match(r"Say by 'computed' in the inventory which day they mean, for example (.*)", first):
        return {"computed": yaml.safe_load(found[1]), "columns": {"v": {"without_target": "keep"}}}
    elif found := re.match(r"Name values for (\w+) by 'computed' in the inventory", first):
        return {"computed": {found[1]: COMPUTED_INSTEAD.get(kind, "id * 2")}}
    elif first.startswith("Add a partition for them in files/sql"):
        execute(connection, f"CREATE TABLE app.{table}_2 PARTITION OF app.{table} DEFAULT")
    elif found := re.match(r"Let the index (\w+) be of fewer columns in files/sql", first):
        execute(connection, f"DROP INDEX app.{found[1]}; CREATE INDEX {found[1]} ON app.{table} (id, length(v))")
    elif first.startswith("Divide the table in files/sql") and "without_target: keep" in fix:
        execute(connection, f"ALTER TABLE app.{table} DROP w")
        return {"columns": {"w": {"without_target": "keep"}}}
    elif first.startswith("Write it the same way in every row of the source"):
        with closing(sqlite3.connect(source)) as opened:
            opened.execute(f"UPDATE {table} SET v = lower(v)")
            opened.execute(f"DELETE FROM {table} WHERE id = 2")  # which is the same id
            opened.commit()
    elif first == "Repair the values in the source":
        with closing(sqlite3.connect(source)) as opened:
            opened.execute(f"UPDATE {table} SET v = 1 WHERE v = 0")
            opened.commit()
    else:
        pytest.fail(f"{kind}: nobody could follow this: {fix}")
    return {}


def test_every_policy_has_a_refusal_here() -> None:
    assert {kind.partition(",")[0] for kind in KINDS} >= set(POLICIES)


# Dry runs that tell all: what the plan needs, and what the rows say.
ROUNDS = 2
# What the types and the foreign keys of the kinds name.
PARENTS = """
CREATE DOMAIN obliged AS integer NOT NULL; CREATE DOMAIN ids AS integer;
CREATE DOMAIN failing AS integer DEFAULT 10 / 0;
CREATE TABLE elsewhere (id integer PRIMARY KEY);
"""
PARENT_TABLES: dict[str, tuple[str, str, list[tuple[Any, ...]]]] = {
    "parents": ("id integer PRIMARY KEY", "id INTEGER PRIMARY KEY", [(1,)]),
    "words": ("id text PRIMARY KEY", "id TEXT COLLATE NOCASE PRIMARY KEY", [("USD",)]),
    "pairs": ("a integer, b integer, PRIMARY KEY (a, b)", "a INTEGER, b INTEGER, PRIMARY KEY (a, b)", []),
    "agents": ("id uuid PRIMARY KEY", "id TEXT PRIMARY KEY", [("one",), ("agent",)]),
    "orgs": ("id uuid PRIMARY KEY", "id TEXT PRIMARY KEY", [("one",), ("org",)]),
}


@pytest.mark.promise("violation-names-next-step")
def test_the_first_advice_is_followed_and_nothing_is_lost(connection: Connection, tmp_path: Path) -> None:
    """Each kind has a table of its own, and one refusal, which the dry run tells by itself."""
    kinds = {f"k{number}": kind for number, kind in enumerate(KINDS, 1)}
    tables: dict[str, tuple[str, str, Iterable[Sequence[Any]]]] = {**PARENT_TABLES}
    domains = ""
    for name, kind in kinds.items():
        target, declared, rows = KINDS[kind]
        # A kind calls its table t, and has its indexes, partitions and domain for itself.
        target = re.sub(r"\bt(?=\b|_v|1)", name, target.replace(" even", f" even_{name}"))
        domains += f"CREATE DOMAIN even_{name} AS integer CHECK (VALUE % 2 = 0);"
        columns = (f"id integer PRIMARY KEY, {target}", f"id INTEGER PRIMARY KEY, {declared}")
        tables[name] = (*columns, [(number, *row) for number, row in enumerate(rows, 1)])
    source = make_tables(connection, tmp_path / "t.db", tables, PARENTS + domains)
    (invalid,) = (name for name, kind in kinds.items() if kind == "invalid_utf8")
    with closing(sqlite3.connect(source)) as opened:
        opened.execute(f"UPDATE {invalid} SET v = CAST(v AS TEXT)")
        opened.commit()
    given = {name: OPTIONS.get(kind, {}) for name, kind in kinds.items()}
    options: dict[str, dict[str, Any]] = {name: {"columns": {"v": given[name]}} for name in kinds}

    def described() -> Group:
        mapped = ({"source": name, **options[name]} for name in kinds)
        return make_group(source, *({"source": name} for name in PARENT_TABLES), *mapped)

    refused: list[str] = []
    for _ in range(ROUNDS):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, described(), tmp_path, check_mode=True)
        for problem in error.value.problems:
            (name,) = set(re.findall(r"\bk\d+\b", problem.where))
            followed = follow(kinds[name], name, problem.fix, connection, source)
            columns = followed.pop("columns", {})
            columns["v"] = {**given[name], **columns.get("v", {})}
            options[name] = {"columns": columns, **followed}
            refused.append(name)
    assert sorted(refused) == sorted(kinds), "each kind is refused once"
    group = described()
    report = rehearse(connection, group, tmp_path)["report"]
    for table in report["tables"]:
        assert table["equal"], table["source"]
        if table["source"] in kinds:
            # Each row has arrived, or the ledger holds it.
            name, kind = table["source"], kinds[table["source"]]
            ((rejected,),) = query(connection, f"SELECT count(*) FROM migration.reject WHERE source_table = '{name}'")
            ((held,),) = query(connection, f"SELECT count(*) FROM app.{name}")
            assert rejected == table["rejected_rows"], kind
            assert held + rejected == table["source_rows"], kind
    exported, copy = bring_back(connection, group)
    brought = counts(exported)
    for name, kind in kinds.items():
        assert brought[name] == (0, 0, 0), kind
        statement = f"SELECT id, CAST(v AS BLOB), typeof(v) FROM {name}"
        assert rows_of(copy, statement) == rows_of(source, statement), kind
