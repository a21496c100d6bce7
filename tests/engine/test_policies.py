"""What the policies for numbers and times out of reach do, from the source to the ledger and the proof."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

TIMES = "CREATE TABLE t (id integer PRIMARY KEY, text timestamptz, epoch timestamp, day timestamp(0), clock time(2))"
ROWS: dict[str, Iterable[Sequence[Any]]] = {
    "t": [
        (1, "2025-02-03 04:05:06.12345678", 1738555506.1234567, 2460709.674300926, "04:05:06.129"),
        (2, "2025-02-03 04:05:06.123", 1738555506.5, 2460709.5, "04:05:06"),
        (3, None, None, None, None),
    ]
}


def times_source(path: Path, rows: dict[str, Iterable[Sequence[Any]]]) -> Path:
    """Create a source with times of every form."""
    return make_source(path, "CREATE TABLE t (id INTEGER PRIMARY KEY, text, epoch, day, clock)", rows)


def answered(answer: str, *policies: str) -> dict[str, dict[str, str]]:
    """Return the same answer for every column of times."""
    return {name: dict.fromkeys(policies, answer) for name in ("text", "epoch", "day", "clock")}


@pytest.mark.promise("violation-names-next-step")
def test_times_that_are_too_fine_are_refused_by_name(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TIMES)
    source = times_source(tmp_path / "times.db", ROWS)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, make_group(source, {"source": "t"}), tmp_path)
    found = str(error.value)
    assert "t.text: holds a time finer than a microsecond (1 row: id=1: '2025-02-03 04:05:06.12345678')" in found
    assert "t.day: holds a time finer than timestamp(0) without time zone can hold (1 row: id=1" in found
    assert "t.clock: holds a time finer than time(2) without time zone can hold" in found
    answers = "round (1 value), truncate (1 value), set_null (1 value) or reject (1 row)"
    assert f"set 'sub_microsecond' for the column: {answers}" in found


@pytest.mark.promise("policy-keeps-original")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("round", ("2025-02-03 04:05:06.123457", "2025-02-03 04:05:06.123457", "2025-02-03 04:11:00", "04:05:06.13")),
        (
            "truncate",
            ("2025-02-03 04:05:06.123456", "2025-02-03 04:05:06.123456", "2025-02-03 04:10:59", "04:05:06.12"),
        ),
        ("set_null", (None, None, None, None)),
    ],
)
def test_times_are_repaired_and_proven(
    connection: Connection, tmp_path: Path, answer: str, expected: tuple[str | None, ...]
) -> None:
    make_target(connection, TIMES)
    source = times_source(tmp_path / "times.db", ROWS)
    group = make_group(source, {"source": "t", "columns": answered(answer, "sub_microsecond")})
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["tables"][0]["equal"]
    shown = "SELECT (text AT TIME ZONE 'UTC')::text, epoch::text, day::text, clock::text FROM app.t WHERE id = 1"
    assert query(connection, shown) == [expected]
    originals = query(connection, "SELECT column_name, value FROM migration.original_value ORDER BY column_name")
    assert originals == [
        ("clock", {"text": "04:05:06.129"}),
        ("day", {"real": "2460709.674300926"}),
        ("epoch", {"real": "1738555506.1234567"}),
        ("text", {"text": "2025-02-03 04:05:06.12345678"}),
    ]
    counted = {entry["column"]: entry["rows"] for entry in report["tables"][0]["conversions"]
               if entry["conversion"] == f"sub_microsecond: {answer}, original kept in the ledger"}  # fmt: skip
    assert counted == {"text": 1, "epoch": 1, "day": 1, "clock": 1}
    assert not rehearse(connection, group, tmp_path)["changed"]


def test_rows_with_times_that_are_too_fine_can_be_rejected(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, TIMES)
    source = times_source(tmp_path / "times.db", ROWS)
    group = make_group(source, {"source": "t", "columns": {"clock": {}, **answered("reject", "sub_microsecond")}})
    report = rehearse(connection, group, tmp_path)["report"]
    assert [(reject["key"], reject["reason"]) for reject in report["rejects"]] == [
        ("id=1", "text holds a time finer than a microsecond")
    ]


def test_what_is_out_of_range_has_a_policy_of_its_own(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection, "CREATE TABLE t (id integer PRIMARY KEY, n smallint, p numeric(4, 2), at timestamptz, r real)"
    )
    rows = [(1, 32768, 100, "9999-12-31 23:30:00-01:00", 1e39), (2, -1, 99.99, "2025-01-01 00:00:00", 0.5)]
    source = make_source(tmp_path / "range.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, n, p, at, r)", {"t": rows})
    names = ("n", "p", "at", "r")

    def group(**policies: str) -> Any:
        return make_group(source, {"source": "t", "columns": dict.fromkeys(names, policies)})

    with pytest.raises(MigrationError) as error:
        # Another policy does not answer for it.
        rehearse(connection, group(unconvertible="set_null", fraction="round"), tmp_path)
    assert str(error.value).count("set 'out_of_range' for the column: set_null (1 value) or reject (1 row)") == 4
    report = rehearse(connection, group(out_of_range="set_null"), tmp_path)["report"]
    assert report["tables"][0]["equal"]
    assert query(connection, "SELECT id, num_nulls(n, p, at, r) FROM app.t ORDER BY id") == [(1, 4), (2, 0)]
    assert query(connection, "SELECT count(*) FROM migration.original_value") == [(4,)]
    report = rehearse(connection, group(out_of_range="reject"), tmp_path)["report"]
    assert report["rejects"] == [
        {"table": "t", "key": "id=1", "reason": "n holds a number outside the range of smallint"}
    ]
    assert query(connection, "SELECT id FROM app.t") == [(2,)]


@pytest.mark.promise("violations-at-once")
@pytest.mark.parametrize(
    ("policy", "answer"),
    [("out_of_range", "clamp"), ("sub_microsecond", "floor"), ("duplicate", "set_null"), ("duplicates", "reject")],
)
def test_an_unknown_policy_or_answer_is_refused(tmp_path: Path, policy: str, answer: str) -> None:
    with pytest.raises(MigrationError, match=policy):
        make_group(tmp_path / "x.db", {"source": "t", "columns": {"a": {policy: answer}}})
