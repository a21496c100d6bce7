"""Times of a named zone: PostgreSQL reads them, the proof asks Python, and what they disagree on is told."""

from __future__ import annotations

import random
import zoneinfo
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2.extensions
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# With half hours, changes on both sides of the equator, and none at all.
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Asia/Tokyo")
# In Berlin clocks go from 2:00 to 3:00 on the first day, and back from 3:00 to 2:00 on the second.
GAP, OVERLAP = "2024-03-31 02:30:00", "2024-10-27 02:30:00"


@pytest.fixture
def without_summer_time(tmp_path: Path) -> Iterator[Path]:
    """Give a directory with a zone Europe/Berlin whose clocks are never changed, as if its data were of another day."""
    directory = tmp_path / "zones" / "Europe"
    directory.mkdir(parents=True)
    found = [Path(root) / "Africa" / "Algiers" for root in zoneinfo.TZPATH]
    (directory / "Berlin").write_bytes(next(path for path in found if path.is_file()).read_bytes())
    yield directory.parent
    zoneinfo.reset_tzpath()
    zoneinfo.ZoneInfo.clear_cache()


def use(directory: Path) -> None:
    """Let Python read its time zones from a directory."""
    zoneinfo.reset_tzpath(to=[str(directory)])
    zoneinfo.ZoneInfo.clear_cache()


def test_python_and_postgresql_agree_on_times_near_every_change_of_the_clocks(
    connection: Connection, tmp_path: Path
) -> None:
    choose = random.Random(13)  # noqa: S311 (a test makes up its times)
    columns = ", ".join(f'"{zone}" {{}}' for zone in ZONES)
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, {columns.format(*['timestamptz'] * len(ZONES))})")
    rows: list[tuple[Any, ...]] = []
    for year in range(1975, 2036):
        # The days on which any of these zones changes its clocks, and one that is none.
        for month in (3, 4, 7, 10, 11):
            moment = datetime(year, month, choose.randint(1, 30)) + timedelta(minutes=30 * choose.randrange(48))
            rows.append((len(rows), *[f"{moment:%Y-%m-%d %H:%M:%S}"] * len(ZONES)))
    rows += [(len(rows) + number, *[text] * len(ZONES)) for number, text in enumerate((GAP, OVERLAP))]
    script = f"CREATE TABLE t (id INTEGER PRIMARY KEY, {columns.format(*['TEXT'] * len(ZONES))})"
    source = make_source(tmp_path / "t.db", script, {"t": rows})
    options = {zone: {"time_zone": zone, "unconvertible": "set_null"} for zone in ZONES}
    group = make_group(source, {"source": "t", "columns": options})
    report = rehearse(connection, group, tmp_path)["report"]
    assert report["tables"][0]["equal"]
    kept = query(
        connection, "SELECT value ->> 'text' FROM migration.original_value WHERE column_name = 'Europe/Berlin'"
    )
    assert {(GAP,), (OVERLAP,)} <= set(kept)
    # Each moment that PostgreSQL holds comes back, those that a clock shows twice with their offset.
    execute(connection, f"UPDATE app.t SET \"Europe/Berlin\" = '{OVERLAP}+02' WHERE id = 0")
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (0, 1, 0)}
    assert rows_of(copy, 'SELECT "Europe/Berlin" FROM t WHERE id = 0') == [("2024-10-27T00:30:00.000000Z",)]


def estate(connection: Connection, tmp_path: Path, *times: str) -> Group:
    """Make a target and a source with times of Berlin."""
    make_target(connection, "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz)")
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, at TEXT)"
    source = make_source(tmp_path / "t.db", script, {"t": list(enumerate(times))})
    return make_group(source, {"source": "t", "columns": {"at": {"time_zone": "Europe/Berlin"}}})


def test_where_this_host_knows_other_zones_than_the_server_nothing_is_committed(
    connection: Connection, tmp_path: Path, without_summer_time: Path
) -> None:
    group = estate(connection, tmp_path, "2024-01-10 10:00:00", "2024-05-01 10:00:00", "2024-05-01T10:00:00Z")
    use(without_summer_time)
    with pytest.raises(MigrationError) as error:
        rehearse(connection, group, tmp_path)
    (problem,) = error.value.problems
    assert "id=1: at is 2024-05-01 09:00:00+00 in SQLite and 2024-05-01 08:00:00+00 in PostgreSQL" in problem.what
    assert query(connection, "SELECT count(*) FROM app.t") == [(0,)]


def test_where_they_differ_a_time_that_was_written_on_postgresql_comes_back_in_the_form_that_both_read_alike(
    connection: Connection, tmp_path: Path, without_summer_time: Path
) -> None:
    group = estate(connection, tmp_path, "2024-01-10 10:00:00")
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (1, '2024-02-01 10:00+01'), (2, '2024-06-01 10:00+00')")
    use(without_summer_time)
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (2, 0, 0)}
    assert rows_of(copy, "SELECT at FROM t WHERE id > 0") == [
        ("2024-02-01 10:00:00",),
        ("2024-06-01T10:00:00.000000Z",),
    ]


@pytest.mark.parametrize("before", ["2024-01-10 10:00:00", "2024-01-10T10:00:00+02:00"])
def test_the_last_moments_of_the_calendar_come_back_where_the_columns_own_form_has_no_year_for_them(
    connection: Connection, tmp_path: Path, before: str
) -> None:
    group = estate(connection, tmp_path, before)
    rehearse(connection, group, tmp_path)
    execute(connection, "INSERT INTO app.t VALUES (1, '9999-12-31 23:30+00')")
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (1, 0, 0)}
    assert rows_of(copy, "SELECT at FROM t ORDER BY id") == [(before,), ("9999-12-31T23:30:00.000000Z",)]


class CountingCursor(psycopg2.extensions.cursor):
    """Counts what is said to the server."""

    said = 0

    def execute(self, query: Any, parameters: Any = None) -> None:
        """Count and execute one statement."""
        CountingCursor.said += 1
        super().execute(query, parameters)


def test_the_server_is_asked_about_many_times_at_once(connection: Connection, tmp_path: Path) -> None:
    group = estate(connection, tmp_path, "2024-01-10 10:00:00")
    rehearse(connection, group, tmp_path)
    said = []
    for rows in (1, 400):
        execute(
            connection,
            f"INSERT INTO app.t SELECT n, TIMESTAMPTZ '2024-06-01 00:00+00' + n * INTERVAL '1 hour' "
            f"FROM generate_series(1, {rows}) n ON CONFLICT DO NOTHING",
        )
        CountingCursor.said = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(connection, "cursor_factory", CountingCursor)
            exported, copy = bring_back(connection, group)
        said.append(CountingCursor.said)
        assert counts(exported) == {"t": (rows, 0, 0)}
    assert rows_of(copy, "SELECT at FROM t WHERE id = 400") == [("2024-06-17 18:00:00",)]
    assert 0 < said[0] == said[1]
