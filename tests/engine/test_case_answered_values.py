"""Values that a policy has answered for stay in the file as they are, whatever the fast path would take them for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export.export import (
    count_changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare import fast_path

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Target type, declared in SQLite, policy, values that fit, values that do not.
ANSWERED: list[tuple[str, str, str, list[Any], list[Any]]] = [
    (
        "date",
        "TEXT",
        "unconvertible",
        ["2023-02-28", "9999-12-31"],
        ["0000-00-00", "2023-02-30", "0000-01-01", "x" * 10],
    ),
    ("date", "TEXT", "unconvertible", ["2023-02-28"], ["-001-01-01", "2023-02-28 25:00:00"]),
    (
        "timestamp",
        "TEXT",
        "unconvertible",
        ["2023-02-28 12:00:00", "2023-02-28T12:00:00.178Z"],
        ["2023-02-28 25:00:00", "2023-02-28 24:00:00", "2023-02-28 23:59:60", "2023-02-30T12:00:00.178Z"],
    ),
    (
        "timestamptz",
        "TEXT",
        "unconvertible",
        ["2023-02-28 12:00:00", "2023-02-28T12:00:00.178Z"],
        ["0000-01-01 00:00:00", "2023-02-28T12:00:00.1x8Z", "2023-00-28 12:00:00", "2023-02-28T25:00:00.178Z"],
    ),
    ("time", "TEXT", "unconvertible", ["12:00:00"], ["24:00:00", "25:00", "12:60", "noon"]),
    ("numeric(6,2)", "DECIMAL(6,2)", "out_of_range", [9.5, 12, 9999], [1200000, -10000, 1e9, "1e40"]),
    ("numeric(6,2)", "", "out_of_range", [9.5, 12, "9.25"], [1200000, "1200000", 1200000.0]),
    ("numeric(6,2)", "DECIMAL(6,2)", "fraction", [9.5, 12], [9.555]),
    ("numeric(3,-2)", "", "fraction", [100, 99900], [150]),
    ("numeric(3,-2)", "", "out_of_range", [100, 99900], [100000]),
    ("numeric(2,4)", "", "out_of_range", [0, 0.0012], [1]),
    ("jsonb", "TEXT", "invalid_json", ['{"a": 1e5}', '"12e3456"'], ['{"a": 1e999999}', "[1E-99999]", "[1e+99999]"]),
    ("jsonb", "TEXT", "invalid_json", ["[1]"], ["[" + "9" * 140_000 + "]", "[" + "9" * 15_000 + "e9000]"]),
]
ANSWERS = {
    "unconvertible": ("set_null", "reject"),
    "out_of_range": ("set_null", "reject"),
    "fraction": ("round", "reject"),
    "invalid_json": ("set_null", "reject", "as_json_string"),
}
CASES = [(*case, answer) for case in ANSWERED for answer in ANSWERS[case[2]]]


@pytest.mark.parametrize(("type_name", "declared", "policy", "fit", "others", "answer"), CASES)
def test_an_answered_value_stays_as_it_is(
    connection: Connection,
    tmp_path: Path,
    type_name: str,
    declared: str,
    policy: str,
    fit: list[Any],
    others: list[Any],
    answer: str,
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name}, note text)")
    rows = [(number, value, "old") for number, value in enumerate([*fit, *others], 1)]
    source = make_source(
        tmp_path / "frozen.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared}, note TEXT)", {"t": rows}
    )
    group = make_group(source, {"source": "t", "columns": {"v": {policy: answer}}})
    first = rehearse(connection, group, tmp_path)["report"]["tables"][0]
    assert first["equal"]
    assert first["rejected_rows"] == (len(others) if answer == "reject" else 0)
    assert query(connection, "SELECT count(*) FROM migration.original_value") == [
        (0 if answer == "reject" else len(others),)
    ]
    assert not rehearse(connection, group, tmp_path)["changed"]
    assert count_changes(connection, group, source, tmp_path)["t"].total == 0
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (0, 0, 0)}
    assert rows_of(copy, "SELECT id, v, typeof(v), note FROM t") == rows_of(
        source, "SELECT id, v, typeof(v), note FROM t"
    )

    execute(connection, "UPDATE app.t SET note = 'new'; INSERT INTO app.t VALUES (90, NULL, 'more')")
    report, copy = bring_back(connection, group)
    stay = set() if answer != "reject" else set(range(len(fit) + 1, len(rows) + 1))
    assert counts(report) == {"t": (1, len(rows) - len(stay), 0)}
    expected = [(key, value, "old" if key in stay else "new") for key, value, _ in rows_of(source, "SELECT * FROM t")]
    assert rows_of(copy, "SELECT * FROM t ORDER BY id") == [*expected, (90, None, "more")]


@pytest.mark.parametrize(
    ("type_name", "declared", "policy", "fit", "others"),
    [case for case in ANSWERED if case[0] != "time"],  # which has no fast path
)
def test_only_the_rows_that_need_it_leave_the_fast_path(
    connection: Connection,
    tmp_path: Path,
    type_name: str,
    declared: str,
    policy: str,
    fit: list[Any],
    others: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, v {type_name})")
    plain = [value for value in fit if not type_name.startswith("numeric(") or isinstance(value, int)]
    source = make_source(
        tmp_path / "t.db",
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})",
        {"t": enumerate([*plain * 10, *others])},
    )
    taken: list[int] = []
    count = fast_path.count_plain_rows

    def counted(*arguments: Any) -> Any:
        result = count(*arguments)
        taken.append(result[1])
        return result

    monkeypatch.setattr(
        "ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.prepare.prepare.count_plain_rows",
        counted,
    )
    group = make_group(source, {"source": "t", "columns": {"v": {policy: ANSWERS[policy][0]}}})
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["way"] == "all rows"
    assert taken == [len(plain) * 10]


def test_a_row_that_the_fast_path_took_by_mistake_is_converted_exactly(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, v date, n numeric(4,1))")
    rows = [(1, "2023-02-28", 5), (2, "2023-02-30", 6), (3, "2023-03-01", 123456)]
    source = make_source(tmp_path / "frozen.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, n)", {"t": rows})
    policies = {"v": {"unconvertible": "set_null"}, "n": {"out_of_range": "set_null"}}
    group = make_group(source, {"source": "t", "columns": policies})
    # What the fast path does not see must not matter for what comes back.
    real = fast_path._rule

    def blind(column: Any, affinity: str) -> Any:
        rule = real(column, affinity)
        return rule if rule is None or column.kind not in ("date", "numeric") else replace(rule, odd="0")

    monkeypatch.setattr(fast_path, "_rule", blind)
    assert rehearse(connection, group, tmp_path)["report"]["way"] == "every row checked"
    assert count_changes(connection, group, source, tmp_path)["t"].total == 0
    execute(connection, "INSERT INTO app.t VALUES (4, '2024-02-29', 7)")
    report, copy = bring_back(connection, group)
    assert counts(report) == {"t": (1, 0, 0)}
    assert rows_of(copy, "SELECT * FROM t ORDER BY id") == [*rows, (4, "2024-02-29", 7)]
