"""Advice is tested by following it: the first piece loses nothing, each other piece has the effect that it names."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan.planner import KINDS
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare import advice
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer.migrate import (
    compare,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.sqlite.tables import show, show_both

from .support import execute, make_group, make_source, make_tables, make_target, query, rehearse
from .test_export import bring_back, counts

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

GUID = uuid.UUID("6fa459ea-ee8a-4ca4-894e-db77e160355e")
# Target type, values, the type that holds all of them (empty: there is none), what an expression would make of them.
REFUSED: list[tuple[str, list[Any], str, list[Any] | None]] = [
    ("smallint", [1, 40_000], "integer", None),
    ("smallint", [1, 4_220_000_000], "bigint", None),
    ("integer", [1, 4_220_000_000], "bigint", None),
    ("bigint", [1, "9223372036854775808"], "numeric", None),
    ("integer", [1, 2.5], "numeric", None),
    ("integer", [1, float("inf")], "double precision", None),
    ("integer", [1, "A7"], "text", None),
    ("integer", [1, "007"], "text", None),
    ("integer", [1, " 7"], "text", [1, 7]),
    ("integer", [1, b"\x00"], "", None),
    ("integer", [b"\x01", b"\x00"], "bytea", None),
    ("char(10)", ["a" * 20], "character varying(20)", None),
    ("varchar(10)", ["a" * 20, "b" * 31, "c"], "character varying(31)", None),
    ("char(3)", ["ab "], "character varying(3)", None),
    ("numeric(6,2)", [1.5, 1_200_000], "numeric(9,2)", None),
    ("numeric(6,2)", [1.555, 12], "numeric(7,3)", None),
    ("numeric(6,2)", ["1,5"], "text", [1.5]),
    ("numeric(6,2)", ["1,555", "1,5"], "text", None),
    ("real", [0.1], "double precision", None),
    ("double precision", [2**53 + 1], "numeric", None),
    ("double precision", ["0.5", 1.0], "numeric", [0.5, 1]),
    ("boolean", ["t", "f", "N", 1], "text", [True, False, False, True]),
    ("boolean", [0, 1, 2], "smallint", None),
    ("date", ["2024-05-01 10:00:00"], "timestamp", ["2024-05-01"]),
    ("date", ["2024-05-01T10:00:00+02:00"], "timestamp with time zone", ["2024-05-01"]),
    ("date", [1_714_557_600], "timestamp", ["2024-05-01"]),
    ("date", [1_714_557_600_000], "timestamp", ["2024-05-01"]),
    ("date", ["2024/05/01"], "text", ["2024-05-01"]),
    ("timestamp", ["01.05.2024 10:00"], "text", ["2024-05-01 10:00:00"]),
    ("timestamp", ["2024-05-01 10:00\r"], "text", ["2024-05-01 10:00:00"]),
    ("timestamp(0)", ["2024-05-01 10:00:00.5"], "timestamp", None),
    ("timestamptz(0)", ["2024-05-01 10:00:00.5Z"], "timestamp with time zone", None),
    ("timestamptz", ["2024-05-01 10:00:00.1234567Z"], "text", None),
    ("time(0)", ["10:00:00.5"], "time", None),
    ("time", ["24:00"], "text", None),
    ("uuid", [GUID.bytes], "bytea", [str(GUID)]),
    ("uuid", [GUID.bytes_le], "bytea", [str(GUID)]),
    ("uuid", [f"{{{GUID}}}"], "text", [str(GUID)]),
    ("uuid", [5, 6], "bigint", None),
    ("uuid", [float("inf"), 9e90], "text", None),
    ("jsonb", ['{"a": 1, "a": 2}'], "json", None),
    ("json", ["{'a': 1}"], "text", [r"""{'a': 1}"""]),
    ("bytea", ["text"], "text", None),
    ("inet", ["nowhere"], "text", None),
    ("money", ["1.999"], "numeric", None),
    ("inet", ["10.0.0.1 "], "text", ["10.0.0.1/32"]),
    ('"char"', ["xyz"], "text", None),
    ("name", ["n" * 80], "text", None),
    ("boolean", [0, 40_000], "integer", None),
    ("boolean", [0, 4_220_000_000], "bigint", None),
    ("boolean", [0, 2.5], "numeric", None),
    ("boolean", [0, float("inf")], "double precision", None),
    ("boolean", [b"\x00"], "bytea", None),
    ("numeric(6,2)", [1, float("inf")], "double precision", None),
    ("numeric(6,2)", [b"\x00"], "bytea", None),
    ("real", [2**53 + 1], "numeric", None),
    ("real", ["much"], "text", None),
    ("real", [b"\x00"], "bytea", None),
    ("double precision", ["much"], "text", None),
    ("double precision", [b"\x00"], "bytea", None),
    ("date", [b"\x00"], "bytea", None),
    ("timestamp", ["2024-05-01 10:00:00+02:00"], "timestamp with time zone", None),
    ("timestamp", [b"\x00"], "bytea", None),
    ("time", [b"\x00"], "bytea", None),
    ("jsonb", [b"\x00"], "bytea", None),
    ("text", [b"\x00"], "bytea", None),
    ("char(10)", [b"\x00"], "bytea", None),
    ("bytea", [4_220_000_000], "bigint", None),
    ("bytea", [2.5], "numeric", None),
    ("inet", [4_220_000_000], "bigint", None),
    ("inet", [b"\x00"], "bytea", None),
]


# A type with a length holds no more characters than this, and is the narrowest for every shorter text.
LONGEST_VARCHAR = 10_485_760
ONLY_FOR_LONGER_TEXTS = {("text", "text"), ("char", "text")}


def refusal(
    connection: Connection, tmp_path: Path, type_name: str, values: list[Any], **options: Any
) -> tuple[Path, Problem]:
    """Return a source with these values and the one problem that they are in a column of this type."""
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": enumerate(values)})
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t", **options}), tmp_path)
    (problem,) = error.value.problems
    return source, problem


def tables_of(entries: Sequence[Any]) -> dict[str, Any]:
    """Return the entries by the name of a table: all are tried in one run, each in a table of its own."""
    return {f"t{number}": entry for number, entry in enumerate(entries)}


def refusals(connection: Connection, tmp_path: Path, suffix: str = "") -> tuple[Path, dict[str, str]]:
    """Return a source whose tables hold what is refused, and what helps, by the table.

    :param suffix: what follows the type of each column.
    """
    tables = {
        name: (f"id integer PRIMARY KEY, v {type_name}{suffix}", "id INTEGER PRIMARY KEY, v", enumerate(values))
        for name, (type_name, values, *_) in tables_of(REFUSED).items()
    }
    source = make_tables(connection, tmp_path / "t.db", tables)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, *({"source": name} for name in tables)), tmp_path)
    fixes = {re.findall(r"(\w+)\.v\b", problem.where)[-1]: problem.fix for problem in error.value.problems}
    # One problem for each.
    assert (set(fixes), len(error.value.problems)) == (set(tables), len(tables))
    return source, fixes


def group_of(source: Path, *tables: dict[str, Any]) -> Group:
    """Return a group of these tables of a source; the others are left where they are."""
    names = {table["source"] for table in tables}
    return make_group(source, *tables, ignored_tables=[name for name in tables_of(REFUSED) if name not in names])


@pytest.mark.promise("violation-names-next-step")
def test_the_type_that_holds_all_values_comes_first_and_holds_them(connection: Connection, tmp_path: Path) -> None:
    source, fixes = refusals(connection, tmp_path)
    told = {
        name: re.match(rf"Give app\.{name}\.v the type (.+?) in files/sql \(or .+?\), which holds ", fix)
        for name, fix in fixes.items()
    }
    wider = {name: wider for name, (_, _, wider, _) in tables_of(REFUSED).items()}
    assert {name: found.group(1) if found else "" for name, found in told.items()} == wider, fixes
    held = {name: type_name for name, type_name in wider.items() if type_name}
    for name, type_name in held.items():
        execute(connection, f"ALTER TABLE app.{name} ALTER v TYPE {type_name} USING NULL")
    group = group_of(source, *({"source": name} for name in held))
    moved = {table["source"]: table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"]}
    assert moved == dict.fromkeys(held, True)
    assert query(connection, "SELECT count(*) FROM migration.original_value") == [(0,)]
    report, _ = bring_back(connection, group)
    assert counts(report) == dict.fromkeys(held, (0, 0, 0))


def test_each_type_that_can_be_told_is_told_for_some_values(connection: Connection) -> None:
    def base_of(type_name: str) -> str:
        return str(query(connection, f"SELECT typname FROM pg_type WHERE oid = '{type_name}'::regtype")[0][0])

    told = {(KINDS.get(base_of(type_name), "other"), base_of(wider)) for type_name, _, wider, _ in REFUSED if wider}
    wider = {(kind, each) for kind, types in advice.WIDER.items() for each in types}
    assert told == wider - ONLY_FOR_LONGER_TEXTS


@pytest.mark.parametrize("type_name", ["varchar(10)", "char(10)"])
def test_a_text_that_is_longer_than_a_type_with_a_length_needs_one_without(
    connection: Connection, tmp_path: Path, type_name: str
) -> None:
    _, problem = refusal(connection, tmp_path, type_name, ["a" * (LONGEST_VARCHAR + 1)])
    assert problem.fix.startswith("Give app.t.v the type text in files/sql")


@pytest.mark.promise("violation-names-next-step")
def test_the_expression_brings_the_values_to_their_type(connection: Connection, tmp_path: Path) -> None:
    source, fixes = refusals(connection, tmp_path)
    answered: list[dict[str, Any]] = []
    for name, (_, _, _, computed) in tables_of(REFUSED).items():
        found = re.search(r"bring the values there by '(computed: .*?)' with '(columns: .*?\}\})'", fixes[name])
        assert found is not None or computed is None, fixes[name]
        if found is not None:
            options = {**yaml.safe_load(found.group(1)), **yaml.safe_load(found.group(2))}
            answered.append({"source": name, **options})
    report = rehearse(connection, group_of(source, *answered), tmp_path)["report"]
    assert {table["source"]: table["equal"] for table in report["tables"]} == {
        table["source"]: True for table in answered
    }
    for name, (type_name, _, _, computed) in tables_of(REFUSED).items():
        if computed is not None:
            cast = "#>> '{}'" if "json" in type_name else "::text"
            stored = [text for (text,) in query(connection, f"SELECT v{cast} FROM app.{name} ORDER BY id")]
            wanted = query(connection, "SELECT " + ", ".join(f"(%s::{type_name}){cast}" % literal(value, type_name)
                                                             for value in computed))[0]  # fmt: skip
            assert stored == list(wanted), (type_name, computed)


def literal(value: Any, type_name: str) -> str:
    """Return a value as SQL, a JSON string for a column of JSON."""
    if "json" in type_name:
        return f"to_json('{value.replace(chr(39), chr(39) * 2)}'::text)"
    return f"'{value}'"


@pytest.mark.promise("violation-names-next-step")
@pytest.mark.parametrize("not_null", [False, True])
def test_each_policy_that_is_offered_has_the_effect_that_it_names(
    connection: Connection, tmp_path: Path, not_null: bool
) -> None:
    source, fixes = refusals(connection, tmp_path, " NOT NULL" * not_null)
    policies: dict[str, str] = {}
    answers: dict[str, list[tuple[str, str]]] = {}
    for name, fix in fixes.items():
        offered = re.search(r"[Ss]et '(\w+)' for the column: (.*)\Z", fix)
        assert offered is not None, fix
        policies[name] = offered.group(1)
        answers[name] = re.findall(r"(\w+) \((\d+) (?:value|row)s?\)", offered.group(2))
        assert ("set_null" in dict(answers[name])) <= (not not_null), fix
        assert "reject" in dict(answers[name]), fix
    # The first answer of every table in one run, then the second one.
    for place in range(max(map(len, answers.values()))):
        given = {name: offered[place] for name, offered in answers.items() if place < len(offered)}
        tables = [{"source": name, "columns": {"v": {policies[name]: given[name][0]}}} for name in given]
        report = rehearse(connection, group_of(source, *tables), tmp_path)["report"]
        assert {table["source"] for table in report["tables"]} == set(given)
        for table in report["tables"]:
            answer, number = given[table["source"]]
            changed = sum(entry["rows"] for entry in table["conversions"] if f": {answer}," in entry["conversion"])
            assert table["equal"]
            assert (table["rejected_rows"] if answer == "reject" else changed) == int(number), (table, answer)


def test_a_type_is_not_offered_that_a_foreign_key_does_not_allow(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE p (id integer PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, v integer REFERENCES p)",
    )
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        {"p": [(1,)], "t": [(1, "seven")]},
    )
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "p"}, {"source": "t"}), tmp_path)
    assert "Set 'unconvertible' for the column: set_null (1 value) or reject (1 row)" in str(error.value)
    assert "the type" not in str(error.value)


def test_null_where_none_may_be_names_what_would_allow_it(connection: Connection, tmp_path: Path) -> None:
    _, problem = refusal(connection, tmp_path, "text NOT NULL", ["a", None, None])
    assert problem.fix == (
        "Let app.t.v be NULL in files/sql (or the application's own migrations), which holds all rows; or set "
        "'null_value' for the column: reject (2 rows)"
    )


# ---------------------------------------------------------------- one problem for each column and reason


def test_many_texts_of_many_lengths_are_one_problem(connection: Connection, tmp_path: Path) -> None:
    texts = ["x" * (11 + number) for number in range(3_000)]
    _, problem = refusal(connection, tmp_path, "varchar(10)", ["short", *texts])
    assert problem.what.startswith(
        "holds more characters than character varying(10) can (3,000 rows, the longest of 3,010 characters: id=1: "
    )
    assert problem.what.endswith(" and 2,997 more)")
    assert problem.what.count("id=") == 3
    assert problem.fix.startswith(
        "Give app.t.v the type character varying(3010) in files/sql (or the application's own migrations), which holds "
        "all 3,001 values; or set "
    )


def test_a_secret_shows_neither_its_values_nor_their_length(connection: Connection, tmp_path: Path) -> None:
    _, problem = refusal(connection, tmp_path, "varchar(10)", ["x" * 1_234], columns={"v": {"secret": True}})
    assert "x" * 5 not in str(problem)
    assert "234" not in str(problem)
    assert problem.fix.startswith("Give app.t.v the type text in files/sql")


# ---------------------------------------------------------------- two values never look alike

ALIKE: list[tuple[Any, Any]] = [
    ("a" * 60 + "b", "a" * 60 + "c"),
    ("a" * 500 + "b" + "d" * 500, "a" * 500 + "c" + "d" * 500),
    ("trailing ", "trailing"),
    ("line\r\n", "line\n"),
    ("", None),
    ("NULL", None),
    ("1", 1),
    (1, 1.0),
    ("x" * 70, "x" * 71),
    (b"\x00" * 60 + b"\x01", b"\x00" * 60 + b"\x02"),
    ("x'00'", b"\x00"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_two_values_are_never_shown_alike(one: Any, other: Any) -> None:
    assert show(one) != show(other)


@pytest.mark.parametrize(
    ("one", "other"), [pair for pair in ALIKE if isinstance(pair[0], str) and isinstance(pair[1], str)]
)
def test_the_place_of_the_first_difference_is_shown(one: str, other: str) -> None:
    shown = show_both(one, other)
    assert shown[0] != shown[1]
    if len(one) > 60:
        place = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
        assert f"different from {place + 1:,} on" in shown[0]
        assert one[place : place + 1] in shown[0]
        assert len(shown[0]) < 80


@pytest.mark.parametrize("type_name", ["text", "jsonb"])
def test_a_difference_that_the_proof_finds_is_quoted_and_placed(
    connection: Connection, tmp_path: Path, type_name: str
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    values = ['"' + "a" * 100 + 'b"', '"end "', '""']
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": enumerate(values)})
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(connection, """UPDATE app.t SET v = CASE id WHEN 0 THEN replace(v::text, 'b', 'c') WHEN 1 THEN '"end"'
                           END::""" + type_name)  # fmt: skip
    found = {each["key"]: each for each in compare(connection, group, str(tmp_path / "w"))["tables"][0]["differences"]}
    assert all(each["source"] != each["target"] for each in found.values())
    assert "different from 102 on" in found["id=0"]["source"]
    assert (found["id=2"]["source"], found["id=2"]["target"]) == ("""'""'""" if type_name == "text" else '""', "NULL")
