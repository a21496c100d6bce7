"""What a rehearsal finds out beside the load: the window to expect, the rollback, and who would be in the way."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import rehearsal
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.export import export
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.proof.target_state import (
    LaterFingerprint,
    fingerprint,
    since,
)
from tests.validation.support import Estate, make_estate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

pytestmark = pytest.mark.usefixtures("no_older_processes")


@pytest.fixture
def estate(connection: Connection, tmp_path: Path) -> Iterator[Estate]:
    yield make_estate(connection, tmp_path)


def rehearse(estate: Estate, rollback: bool = True) -> dict[str, Any]:
    """Rehearse the estate's group."""
    result: dict[str, Any] = rehearsal.rehearse(estate.connection, estate.group, estate.work, rollback)
    return result


@pytest.mark.promise("rehearsal-includes-rollback", "rehearsal-expects-downtime")
def test_a_rehearsal_goes_the_whole_way_and_back_once(estate: Estate) -> None:
    first = rehearse(estate)
    found = first["rehearsal"]
    assert first["changed"]
    assert found["way_back"]["rows"] == 4
    assert found["expected_downtime_seconds"] == round(found["final_sync_seconds"] + found["services_seconds"], 3)
    assert "nothing to change, 4 rows of equal content" in first["msg"]
    second = rehearse(estate)
    # The very same: nothing was done again.
    assert (second["changed"], second["rehearsal"]) == (False, found)
    estate.on_source("INSERT INTO pets VALUES (10, 'ann', 'Kit')")
    third = rehearse(estate)
    assert (third["changed"], third["rehearsal"]["way_back"]["rows"]) == (True, 5)
    assert third["rehearsal"]["load_seconds"] == found["load_seconds"]
    kept_files = [path.name for path in Path(estate.work).iterdir()]
    assert [name[:5] for name in kept_files] == ["kept-"]
    assert stat.S_IMODE((Path(estate.work) / kept_files[0]).stat().st_mode) == 0o600


def test_the_rollback_may_be_left_out_and_rehearsed_later(estate: Estate) -> None:
    first = rehearse(estate, rollback=False)
    assert first["rehearsal"]["way_back"] is None
    assert "The rollback was not rehearsed." in first["msg"]
    assert rehearse(estate, rollback=False)["rehearsal"] == first["rehearsal"]
    assert rehearse(estate)["rehearsal"]["way_back"]["rows"] == 4


@pytest.mark.promise("rehearsal-includes-rollback")
def test_a_rollback_that_gives_back_something_else_is_an_error(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearse_rollback = export.rehearse

    def interfere(connection: Connection, *arguments: Any) -> Any:
        # Somebody writes to PostgreSQL after the load was proven.
        estate.on_target("UPDATE app.pets SET name = 'Max' WHERE id = 1")
        return rehearse_rollback(connection, *arguments)

    monkeypatch.setattr(rehearsal, "rehearse_rollback", interfere)
    with pytest.raises(MigrationError, match="update 1 and delete 0 rows"):
        rehearse(estate)


@pytest.mark.promise("rehearsal-expects-downtime")
def test_the_services_part_of_the_window_comes_from_an_earlier_cutover(estate: Estate) -> None:
    with estate.connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (now,) = cursor.fetchone() or (None,)
    report = {"downtime_seconds": 5.5, "own_seconds": 1.5, "measured_by": "client"}
    ledger.record_run(estate.connection, "another group", "cutover", now, report)
    estate.connection.commit()
    found = rehearse(estate)["rehearsal"]
    assert (found["services_seconds"], found["services_seconds_from"]) == (4.0, rehearsal.FROM_CUTOVER)


@pytest.mark.promise("foreign-process-refused")
def test_a_process_that_would_stop_the_cutover_is_named_in_time(estate: Estate) -> None:
    code = "import sys; f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        ["python3", "-c", code, str(estate.source)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        (warning,) = rehearse(estate)["warnings"]
    finally:
        process.communicate()
    assert f"process {process.pid} (python3 -c)" in warning
    assert "the cutover will refuse" in warning
    assert rehearse(estate)["warnings"] == []


@pytest.mark.promise("self-migrating-named")
def test_services_that_change_their_tables_themselves_are_named_before_the_cutover(estate: Estate) -> None:
    """With the cutover it ends: their role owns no table."""
    estate.on_source("CREATE TABLE _prisma_migrations (id TEXT)")
    estate.group = replace(estate.group, ignored_tables=(*estate.group.ignored_tables, "_prisma_migrations"))
    (warning,) = rehearse(estate, rollback=False)["warnings"]
    assert "its table _prisma_migrations shows that Prisma changes the services' tables" in warning
    assert "switch these changes off before the cutover" in warning
    assert "set 'migrates_itself' for the service" in warning
    own = tuple(replace(service, migrates_itself=True) for service in estate.group.services)
    estate.group = replace(estate.group, services=own)
    assert rehearse(estate, rollback=False)["warnings"] == []


# ---------------------------------------------------------------- whether tables were written to


def recorded(estate: Estate) -> dict[str, Any]:
    """Return what the ledger holds of the tables at the end of a load."""
    detail = ledger.read_group(estate.connection, "zoo", str(estate.source)).detail
    estate.connection.rollback()
    return {name: {"rows": left["rows"], "writers": left["writers"]} for name, left in detail.loaded.items()}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE app.pets SET name = name WHERE id = 1",
        "DELETE FROM app.pets WHERE id = 1",
        "INSERT INTO app.pets VALUES (77, NULL, 'new')",
        "WITH gone AS (DELETE FROM app.pets WHERE id = 1 RETURNING *) SELECT 1",
    ],
)
def test_what_was_written_is_seen_without_reading_the_content(estate: Estate, statement: str) -> None:
    estate.rehearse()
    before = recorded(estate)
    assert {found.written for found in since(estate.connection, estate.group, before).values()} == {False}
    estate.on_target(statement)
    after = since(estate.connection, estate.group, before)
    assert (after["app.pets"].written, after["app.owners"].written) == (True, False)


def test_after_a_restore_the_content_decides(estate: Estate) -> None:
    estate.rehearse()
    before = recorded(estate)
    content = fingerprint(estate.connection, estate.group)
    estate.connection.rollback()
    # The same rows, written by another transaction, as a restore leaves them.
    rows = (
        "CREATE TEMP TABLE copy AS SELECT * FROM app.pets; TRUNCATE app.pets; INSERT INTO app.pets SELECT * FROM copy"
    )
    estate.on_target(rows)
    assert since(estate.connection, estate.group, before)["app.pets"].written
    complete = {name: {**left, "hash": content[name]["hash"]} for name, left in before.items()}
    assert since(estate.connection, estate.group, complete)["app.pets"].written is False
    estate.on_target("UPDATE app.pets SET name = 'other' WHERE id = 1")
    assert since(estate.connection, estate.group, complete)["app.pets"].written
    assert since(estate.connection, estate.group, {})["app.pets"].written is None


def test_the_content_is_that_of_the_moment_that_was_held(estate: Estate, login: Login) -> None:
    estate.rehearse()
    expected = fingerprint(estate.connection, estate.group)
    estate.connection.rollback()
    later = LaterFingerprint(login, estate.group)
    later.hold()
    estate.on_target("UPDATE app.pets SET name = 'other' WHERE id = 1")
    later.begin()
    assert later.result() == expected
