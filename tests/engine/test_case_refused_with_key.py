"""What no type can read is refused with its table, column and row, whatever the mode; a policy may answer for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof import (
    canonical,
    checksums,
)

from .support import make_group, make_source, make_tables, make_target, problems_by_table, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

BLANKS = [" ", "  ", "\r", "\n", "\r\n", "\t", "\f"]
TIMES = [
    ("date", "2021-05-01", ["2021-05-01", "2021-05-01T00:00:00Z"]),
    ("timestamp", "2021-05-01 10:00:00", ["2021-05-01 10:00", "2021-05-01T10:00:00.123Z"]),
    ("timestamptz", "2021-05-01 10:00:00", ["2021-05-01T10:00:00.123Z", "2021-05-01 10:00:00 +02:00"]),
    ("time", "10:00:00", ["10:00", "10:00:00.5"]),
]


def times_with_blanks(connection: Connection, tmp_path: Path) -> tuple[Path, dict[str, tuple[int, list[str]]]]:
    """Make a table for each of TIMES; return how many of its texts are times, and those with a blank behind them."""
    fitting = {type_name: [fits, *texts] for type_name, fits, texts in TIMES}
    others = {name: [text + blank for text in texts for blank in BLANKS] for name, texts in fitting.items()}
    tables = {
        f"t_{name}": (
            *(f"id integer PRIMARY KEY, v {name}", "id INTEGER PRIMARY KEY, v"),
            enumerate([*texts, *others[name]]),
        )
        for name, texts in fitting.items()
    }
    source = make_tables(connection, tmp_path / "t.db", tables)
    return source, {f"t_{name}": (len(texts), others[name]) for name, texts in fitting.items()}


def test_blanks_behind_a_time_are_refused_with_their_keys(connection: Connection, tmp_path: Path) -> None:
    source, tables = times_with_blanks(connection, tmp_path)
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as error:
            rehearse(connection, make_group(source, *({"source": name} for name in tables)), tmp_path, check_mode)
        problems = problems_by_table(error.value)
        for name, (first, others) in tables.items():
            found = problems[name]
            assert f"{name}.v: holds text that is not a time" in found
            assert f"({len(others)} rows: id={first}: {others[0]!r}; id={first + 1}: {others[1]!r}; " in found
            assert "; or set 'unconvertible" in found


@pytest.mark.parametrize("answer", ["set_null", "reject"])
def test_a_policy_answers_for_blanks_behind_a_time(connection: Connection, tmp_path: Path, answer: str) -> None:
    source, tables = times_with_blanks(connection, tmp_path)
    group = make_group(source, *({"source": name, "columns": {"v": {"unconvertible": answer}}} for name in tables))
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    report, copy = bring_back(connection, group)
    assert counts(report) == dict.fromkeys(tables, (0, 0, 0))
    for name, (fitting, _) in tables.items():
        assert query(connection, f"SELECT count(v) FROM app.{name}") == [(fitting,)], name
        assert rows_of(copy, f"SELECT * FROM {name}") == rows_of(source, f"SELECT * FROM {name}"), name


def test_a_value_that_the_proof_cannot_read_is_named(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v time)")
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v)", {"t": [(1, "10:00"), (2, "11:00")]}
    )
    real = canonical.source_reader

    def unable(column: Any, normal_form: Any) -> Any:
        read = real(column, normal_form)

        def read_most(value: Any) -> str:
            if value == "11:00":
                raise ValueError("no such time")
            return str(read(value))

        return read_most

    monkeypatch.setattr(checksums, "source_reader", unable)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    assert "t.v: the proof cannot read it (id=2: '11:00')" in str(error.value)
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]


# ---------------------------------------------------------------- numbers that were hexadecimal ids


@pytest.mark.parametrize("type_name", ["smallint", "integer", "bigint"])
@pytest.mark.parametrize("policies", [{}, {"fraction": "round"}])
def test_infinity_in_a_column_of_whole_numbers_is_out_of_range(
    connection: Connection, tmp_path: Path, type_name: str, policies: dict[str, str]
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)",
        {"t": [(1, "9e7866347"), (2, "-1e999"), (3, 7)]},
    )
    assert rows_of(source, "SELECT v FROM t WHERE id < 3") == [(float("inf"),), (float("-inf"),)]
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t", "columns": {"v": policies}}), tmp_path)
    assert f"t.v: holds a number outside the range of {type_name} (2 rows: id=1: inf; id=2: -inf)" in str(error.value)
    assert "set 'out_of_range' for the column: set_null (2 values)" in str(error.value)
    answered = make_group(source, {"source": "t", "columns": {"v": {**policies, "out_of_range": "set_null"}}})
    assert rehearse(connection, answered, tmp_path)["report"]["tables"][0]["equal"]
    report, _ = bring_back(connection, answered)
    assert counts(report) == {"t": (0, 0, 0)}


@pytest.mark.parametrize(
    ("ddl", "columns"),
    [
        ("v uuid", {"references": "things"}),
        ("v uuid REFERENCES other (id)", {}),
    ],
)
def test_ids_that_became_numbers_with_a_fraction_or_an_exponent_are_refused(
    connection: Connection, tmp_path: Path, ddl: str, columns: dict[str, str]
) -> None:
    make_target(
        connection,
        f"CREATE TABLE other (id uuid PRIMARY KEY); CREATE TABLE t (id integer PRIMARY KEY, {ddl});",
    )
    damaged = ["9e7866347", "8e7866347", "1e400", "12e90", "1.5"]
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE other (id NUMERIC PRIMARY KEY); CREATE TABLE t (id INTEGER PRIMARY KEY, v NUMERIC);",
        {"other": [("role-admin",)], "t": [(1, None), *enumerate(damaged, 2)]},
    )
    group = make_group(source, {"source": "other"}, {"source": "t", "columns": {"v": columns}})
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    assert "t.v: holds a REAL where an id is needed" in str(error.value)
    assert "(5 rows: id=2: inf; id=3: inf; id=4: inf and 2 more)" in str(error.value)


def test_whole_numbers_are_ids_as_before(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id uuid PRIMARY KEY)")
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", {"t": [(1,), (2,)]})
    rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    assert query(connection, "SELECT old_id FROM migration.id_map ORDER BY 1") == [("1",), ("2",)]
