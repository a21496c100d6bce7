"""Validation of one cutover group, in every state, against a real PostgreSQL."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import ColumnOptions
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.group_detail import (
    Phase,
    changes,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import group as validate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import ledger_lists

from .support import Estate, make_estate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
    from tests.conftest import Server


@pytest.fixture
def estate(connection: Connection, tmp_path: Path) -> Estate:
    """Return an estate that has not been rehearsed."""
    return make_estate(connection, tmp_path)


def test_pending_group_has_nothing_to_compare(estate: Estate) -> None:
    result = estate.validate()
    assert result["valid"]
    assert result["tables"] == []
    assert "not been rehearsed" in result["basis"]
    assert "3_data_migration.yml" in result["next_step"]


def test_without_ledger_the_next_step_is_named(connection: Connection, estate: Estate) -> None:
    estate.on_target("DROP SCHEMA migration CASCADE")
    with pytest.raises(MigrationError, match=r"1_infrastructure\.yml"):
        estate.validate()


def test_rehearsed_group_is_equal_on_both_sides(estate: Estate) -> None:
    estate.rehearse()
    result = estate.validate()
    assert result["findings"] == []
    assert {table["target"]: (table["source_rows"], table["target_rows"]) for table in result["tables"]} == {
        "app.owners": (2, 2),
        "app.pets": (2, 2),
    }
    assert all(table["equal"] for table in result["tables"])
    assert result["loaded_by"] == "rehearsal"
    assert result["information"] == []


def test_rows_written_to_sqlite_since_the_rehearsal_are_information(estate: Estate) -> None:
    estate.rehearse()
    estate.on_source("INSERT INTO pets (owner_id, name) VALUES ('ann', 'Leo')")
    result = estate.validate()
    assert result["valid"]
    assert "pets: written to in SQLite since" in result["information"][0]
    assert "2 rows then, 3 now" in result["information"][0]


@pytest.mark.promise("damage-is-a-finding")
def test_a_row_lost_from_the_target_after_the_rehearsal_is_a_finding(estate: Estate) -> None:
    estate.rehearse()
    estate.on_target("DELETE FROM app.pets WHERE id = 1")
    findings = estate.findings()
    assert "zoo: pets → app.pets: PostgreSQL does not hold what the rehearsal run left" in findings
    assert "what differs from SQLite now: id=1: 1 rows in SQLite and 0 rows in PostgreSQL" in findings


@pytest.mark.promise("damage-is-a-finding")
def test_a_changed_value_in_the_target_is_a_finding(estate: Estate) -> None:
    estate.rehearse()
    estate.on_target("UPDATE app.owners SET name = 'Anna' WHERE name = 'Ann'")
    assert "2 rows then, 2 now" in estate.findings()
    assert "id='ann': name is 'Ann' in SQLite and 'Anna' in PostgreSQL" in estate.findings()


@pytest.mark.promise("secret-column-masked")
def test_a_changed_secret_is_found_and_not_shown(estate: Estate) -> None:
    estate.rehearse()
    estate.on_target("UPDATE app.owners SET token = 'another secret' WHERE name = 'Ann'")
    assert "id='ann': token is (secret) in SQLite and (secret) in PostgreSQL" in estate.findings()
    assert "another secret" not in json.dumps(estate.validate())


@pytest.mark.parametrize("live", [False, True])
def test_a_table_that_the_last_run_did_not_move_is_a_finding(estate: Estate, live: bool) -> None:
    whole = estate.group
    estate.group = replace(whole, tables=whole.tables[:1], ignored_tables=("pets",))
    if live:
        estate.cut_over()
    else:
        estate.rehearse()
    assert estate.findings() == ""
    estate.group = whole
    assert "zoo: pets → app.pets: the inventory names it, and the" in estate.findings()
    assert "run did not move it: its rows are in SQLite alone" in estate.findings()


@pytest.mark.parametrize("live", [False, True])
def test_a_table_that_the_inventory_names_no_more_is_told(estate: Estate, live: bool) -> None:
    if live:
        estate.cut_over()
    else:
        estate.rehearse()
    estate.group = replace(estate.group, tables=estate.group.tables[:1], ignored_tables=("pets",))
    result = estate.validate()
    assert any("pets → app.pets: moved by the" in entry for entry in result["information"])
    assert [table["target"] for table in result["tables"]] == ["app.owners"]
    assert result["findings"] == []


def test_a_source_that_can_no_longer_be_converted_is_a_finding(estate: Estate) -> None:
    estate.rehearse()
    estate.on_source("INSERT INTO owners VALUES ('cy', NULL, NULL, NULL)")
    result = estate.validate()
    assert not result["valid"]
    assert any("owners" in finding["where"] for finding in result["findings"])


def test_interrupted_cutover_is_a_finding(estate: Estate) -> None:
    estate.rehearse()
    ledger.take_step(estate.connection, "zoo", "freeze", str(estate.source), frozen_sha256="0" * 64)
    estate.connection.commit()
    assert "frozen" in estate.findings()
    assert "4_service_cutover.yml" in estate.findings()


def test_a_file_that_the_cleanup_has_taken_away_is_no_finding(live_estate: Estate) -> None:
    live_estate.source.unlink()
    assert "and with it the rollback" in live_estate.findings()
    for step in ("archive", "remove"):
        ledger.take_step(live_estate.connection, "zoo", step, str(live_estate.source))
        live_estate.connection.commit()
        result = live_estate.validate()
        assert (result["state"], result["findings"]) == (f"{step}d", [])


@pytest.mark.promise("proof-repeated")
def test_live_group_right_after_the_cutover(live_estate: Estate) -> None:
    result = live_estate.validate()
    assert result["findings"] == []
    assert result["state"] == "live"
    assert [table["written_since"] for table in result["tables"]] == [False, False]
    assert result["cutover"]["downtime_seconds"] == 1.5
    assert result["cutover"]["at"]
    # SQLite had given out 9 before it was deleted.
    assert result["sequences"] == [
        {"name": "app.pets_id_seq", "next_value": 10, "required": 10, "correct": True},
    ]
    assert result["foreign_keys"] == [{"name": "app.pets: pets_owner", "valid": True, "orphans": 0}]
    assert all(index["valid"] for index in result["indexes"])
    assert len(result["indexes"]) == 3
    assert {entry["name"]: entry["valid"] for entry in result["constraints"]} == {
        "app.owners: owners_pkey": True,
        "app.pets: pets_pkey": True,
    }
    assert result["proof_repeated"] is True
    assert "hashed again now: they are the ones that were proven" in result["basis"]


@pytest.mark.promise("later-writes-are-counted")
def test_rows_written_to_postgresql_since_the_cutover_are_information(live_estate: Estate) -> None:
    live_estate.on_target("INSERT INTO app.pets (name) VALUES ('Ida')")
    result = live_estate.validate()
    assert result["valid"]
    assert {table["target"]: (table["written_since"], table["rows_now"]) for table in result["tables"]} == {
        "app.owners": (False, 2),
        "app.pets": (True, 3),
    }
    assert result["information"] == ["app.pets: rows written since the cutover: 1 added"]
    assert result["proof_repeated"] is True


@pytest.mark.promise("later-writes-are-counted")
def test_rows_of_the_frozen_file_that_changed_or_are_gone_are_counted_by_table(live_estate: Estate) -> None:
    live_estate.on_target("DELETE FROM app.pets WHERE id = 1")
    live_estate.on_target("UPDATE app.pets SET name = 'Thomas' WHERE id = 2")
    live_estate.on_target("INSERT INTO app.owners VALUES (gen_random_uuid(), 'Eve'), (gen_random_uuid(), 'Zoe')")
    result = live_estate.validate()
    assert result["valid"]
    assert {table["target"]: table["written_rows"] for table in result["tables"]} == {
        "app.owners": {"added": 2, "changed": 0, "gone": 0},
        "app.pets": {"added": 0, "changed": 1, "gone": 1},
    }
    assert "app.pets: rows written since the cutover: 1 changed, 1 gone" in result["information"]


@pytest.mark.promise("damage-is-a-finding")
def test_what_differs_in_a_table_that_nobody_writes_to_is_a_finding(live_estate: Estate) -> None:
    live_estate.unwritten_tables = ("app.owners",)
    live_estate.on_target("INSERT INTO app.pets (name) VALUES ('Ida')")
    assert live_estate.validate()["valid"]
    live_estate.on_target(
        "UPDATE app.owners SET name = 'Anna' WHERE name = 'Ann'; DELETE FROM app.pets WHERE name = 'Tom'"
    )
    (finding,) = live_estate.validate()["findings"]
    assert finding["where"] == "zoo: owners → app.owners"
    assert "it was written to since the cutover, and validation_unwritten_tables says" in finding["what"]
    assert "id='ann': name is 'Ann' in SQLite and 'Anna' in PostgreSQL" in finding["what"]
    # Without the file nobody can tell the row, and it is wrong all the same.
    live_estate.source.unlink()
    assert "zoo: owners → app.owners: it was written to since the cutover" in live_estate.findings()


def test_a_value_that_was_put_back_is_right_again(live_estate: Estate) -> None:
    live_estate.unwritten_tables = ("app.owners",)
    live_estate.on_target("UPDATE app.owners SET name = 'Anna' WHERE name = 'Ann'")
    live_estate.on_target("UPDATE app.owners SET name = 'Ann' WHERE name = 'Anna'")
    assert live_estate.findings() == ""


def test_writes_are_counted_where_the_work_directory_is_gone(live_estate: Estate) -> None:
    shutil.rmtree(live_estate.work)
    live_estate.on_target("INSERT INTO app.pets (name) VALUES ('Ida')")
    assert live_estate.validate()["information"] == ["app.pets: rows written since the cutover: 1 added"]
    assert not Path(live_estate.work).exists()


def test_a_table_that_somebody_has_locked_is_a_finding(
    live_estate: Estate, login: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "_LOCK_TIMEOUT", "100ms")
    with closing(connect(login)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE app.owners IN ACCESS EXCLUSIVE MODE")
        findings = live_estate.findings()
        other.rollback()
    assert "canceling statement due to lock timeout (SQLSTATE 55P03). Another session has a table locked" in findings
    assert live_estate.findings() == ""


def test_a_table_that_may_not_be_read_is_a_finding_and_the_rest_is_told(live_estate: Estate) -> None:
    live_estate.on_target("REVOKE SELECT ON migration.run FROM CURRENT_USER; SELECT setval('app.pets_id_seq', 1)")
    result = live_estate.validate()
    assert "permission denied for table run" in result["findings"][0]["what"]
    assert result["rejects"] == {"total": 0, "rows": []}


@pytest.mark.promise("strangers-run-nothing-in-a-validation")
@pytest.mark.parametrize("live", [False, True])
def test_a_table_is_not_read_where_a_service_has_code_in_it(
    estate: Estate, server: Server, login: Login, live: bool
) -> None:
    """A service may have got a function of its own into an index, and can let it do something else on any day."""

    def findings() -> list[dict[str, str]]:
        # A session evaluates an index once.
        with closing(connect(login)) as connection:
            found: list[dict[str, str]] = replace(estate, connection=connection).validate()["findings"]
            return found

    estate.cut_over() if live else estate.rehearse()
    estate.on_target("CREATE FUNCTION app.rise() RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'")
    estate.on_target("CREATE INDEX ON app.pets ((app.rise()))")
    assert not [found for found in findings() if "rise" in found["what"]]
    estate.on_target(
        "CREATE OR REPLACE FUNCTION app.rise() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'it runs as %', current_user; END $$"
    )
    server.execute("ALTER FUNCTION app.rise() OWNER TO swarm_deploy", database=login.database)
    told = findings()
    assert not [found for found in told if "it runs as" in found["what"]]
    (found,) = [found for found in told if "rise" in found["what"]]
    assert found["where"] == "app.pets"
    assert "function app.rise() belongs to role swarm_deploy" in found["what"]
    server.execute(found["fix"].partition("trust it: ")[2].partition(";")[0], database=login.database)
    assert [found for found in findings() if "it runs as" in found["what"]], "now it is ours"


def test_a_work_directory_that_cannot_be_used_is_a_finding(estate: Estate) -> None:
    estate.rehearse()
    estate.work = "/proc/nowhere"
    assert "/proc/nowhere: it cannot be used: " in estate.findings()


def test_an_interrupted_rollback_is_a_finding(live_estate: Estate) -> None:
    ledger.merge_detail(live_estate.connection, "zoo", changes(rollback={"phase": Phase.OPEN}))
    live_estate.connection.commit()
    assert "cutover group zoo: its rollback to SQLite was interrupted" in live_estate.findings()


@pytest.mark.promise("proof-repeated")
def test_a_proof_that_is_not_that_of_the_frozen_file_is_a_finding(live_estate: Estate) -> None:
    live_estate.on_target(
        "UPDATE migration.run SET report = jsonb_set(jsonb_set(report, '{tables,0,source_hash}', '\"0\"'), "
        "'{tables,0,target_hash}', '\"0\"') WHERE kind = 'final'"
    )
    assert "owners: the rows of the frozen file are not those that were proven at the cutover" in live_estate.findings()
    assert live_estate.validate()["proof_repeated"] is False


def test_tables_that_have_moved_on_do_not_fail_the_validation(live_estate: Estate) -> None:
    live_estate.on_target("ALTER TABLE app.pets DROP COLUMN name")
    result = live_estate.validate()
    assert result["valid"]
    assert any("cannot be hashed again as at the cutover" in entry for entry in result["information"])
    assert any("cannot be told" in entry for entry in result["information"])


def test_a_group_that_went_back_is_compared_with_what_postgresql_kept(live_estate: Estate) -> None:
    ledger.take_step(live_estate.connection, "zoo", "roll_back", str(live_estate.source))
    live_estate.connection.commit()
    result = live_estate.validate()
    assert (result["state"], result["findings"], result["information"]) == ("rolled_back", [], [])
    assert all(table["equal"] for table in result["tables"])


def test_after_the_rollback_writes_on_both_sides_are_information(live_estate: Estate) -> None:
    # As the rollback leaves it: what PostgreSQL has gained is in the file too, and the services go on there.
    live_estate.on_target("INSERT INTO app.pets (name) VALUES ('Ida')")
    live_estate.on_source("INSERT INTO pets VALUES (10, NULL, 'Ida')")
    ledger.take_step(live_estate.connection, "zoo", "roll_back", str(live_estate.source))
    live_estate.connection.commit()
    result = live_estate.validate()
    assert (result["findings"], result["information"]) == ([], [])
    live_estate.on_source("INSERT INTO pets VALUES (11, NULL, 'Max')")
    result = live_estate.validate()
    assert result["valid"]
    assert "pets: SQLite, its store, holds 4 rows and PostgreSQL 3" in result["information"][0]
    assert [(table["equal"], table["rows_now"]) for table in result["tables"]] == [(True, 2), (True, 3)]


@pytest.mark.promise("validation-only-reads")
def test_validation_writes_nothing(live_estate: Estate) -> None:
    live_estate.on_target("INSERT INTO app.pets (name) VALUES ('Ida')")
    live_estate.on_target("SET default_transaction_read_only = on")
    before = live_estate.source.stat(), sorted(path.name for path in live_estate.source.parent.iterdir())
    first = live_estate.validate()
    second = live_estate.validate()
    assert first == second
    assert (live_estate.source.stat().st_mtime_ns, live_estate.source.stat().st_size) == (
        before[0].st_mtime_ns,
        before[0].st_size,
    )
    assert sorted(path.name for path in live_estate.source.parent.iterdir()) == before[1]


@pytest.mark.promise("proof-repeated")
def test_a_frozen_file_written_to_is_a_finding(live_estate: Estate) -> None:
    live_estate.on_source("INSERT INTO pets (name) VALUES ('lost')")
    assert "has changed since the cutover" in live_estate.findings()


def test_rows_in_the_wal_of_a_frozen_file_are_a_finding(live_estate: Estate) -> None:
    Path(f"{live_estate.source}-wal").write_bytes(b"x" * 4128)
    assert "zoo.db-wal: rows were written to the frozen SQLite file" in live_estate.findings()


def test_pages_in_the_journal_of_a_frozen_file_are_a_finding(live_estate: Estate) -> None:
    journal = Path(f"{live_estate.source}-journal")
    # As journal_mode = PERSIST leaves it at rest.
    journal.write_bytes(bytes(512))
    assert live_estate.findings() == ""
    journal.write_bytes(bytes.fromhex("d9d505f920a163d7") + bytes(504))
    assert "zoo.db-journal: rows were written to the frozen SQLite file" in live_estate.findings()


def test_a_frozen_file_whose_protection_is_gone_is_a_finding(live_estate: Estate) -> None:
    ledger.merge_detail(live_estate.connection, "zoo", {"fence": {"mode": "0644"}})
    live_estate.connection.commit()
    assert "zoo.db: its write protection is gone: an old program could write rows to it" in live_estate.findings()
    live_estate.source.chmod(0o444)
    assert live_estate.findings() == ""


def test_a_frozen_file_that_is_gone_is_a_finding(live_estate: Estate) -> None:
    live_estate.source.unlink()
    assert "the rollback" in live_estate.findings()


def test_a_table_unequal_in_the_ledger_is_a_finding(live_estate: Estate) -> None:
    live_estate.on_target(
        "UPDATE migration.run SET report = jsonb_set(report, '{tables,0,equal}', 'false') WHERE kind = 'final'"
    )
    assert "owners → app.owners: the two sides differ" in live_estate.findings()


def test_a_live_group_without_a_final_run_is_a_finding(live_estate: Estate) -> None:
    live_estate.on_target("DELETE FROM migration.run WHERE kind = 'final'")
    assert "the ledger holds no final sync" in live_estate.findings()


@pytest.mark.promise("damage-is-a-finding")
def test_a_dropped_table_is_a_finding(live_estate: Estate) -> None:
    live_estate.on_target("DROP TABLE app.pets")
    assert "zoo: app.pets: the table is not in the database" in live_estate.findings()


@pytest.mark.promise("damage-is-a-finding")
def test_a_sequence_that_is_behind_is_a_finding(live_estate: Estate) -> None:
    live_estate.on_target("SELECT setval('app.pets_id_seq', 1)")
    findings = live_estate.findings()
    assert "sequence app.pets_id_seq: its next value is 2, and 10 or more is needed" in findings


def test_a_sequence_that_no_column_owns_is_looked_at_too(estate: Estate) -> None:
    estate.on_target(
        "CREATE SEQUENCE app.ids; ALTER TABLE app.pets ALTER COLUMN id SET DEFAULT nextval('app.ids');"
        "DROP SEQUENCE app.pets_id_seq"
    )
    options = ColumnOptions("id", "id", sequence="app.ids")
    pets = replace(estate.group.tables[1], columns={**estate.group.tables[1].columns, "id": options})
    estate.group = replace(estate.group, tables=(estate.group.tables[0], pets))
    estate.cut_over()
    assert estate.findings() == ""
    estate.on_target("SELECT setval('app.ids', 1)")
    assert "sequence app.ids: its next value is 2, and 10 or more is needed" in estate.findings()


def test_a_sequence_with_an_odd_name_is_read(live_estate: Estate) -> None:
    live_estate.on_target("""ALTER SEQUENCE app.pets_id_seq RENAME TO "The ""ids"".of pets" """)
    assert live_estate.validate()["sequences"][0]["next_value"] == 10


@pytest.mark.promise("damage-is-a-finding")
def test_orphans_and_a_foreign_key_that_is_not_valid_are_findings(live_estate: Estate) -> None:
    live_estate.on_target(
        "ALTER TABLE app.pets DROP CONSTRAINT pets_owner;"
        "INSERT INTO app.pets (owner_id, name) VALUES (gen_random_uuid(), 'stray');"
        "ALTER TABLE app.pets ADD CONSTRAINT pets_owner FOREIGN KEY (owner_id) REFERENCES app.owners (id) NOT VALID"
    )
    findings = live_estate.findings()
    assert "foreign key app.pets: pets_owner: PostgreSQL has not validated it" in findings
    assert "rows that reference a row that is not there: 1" in findings


def test_a_constraint_that_is_not_valid_is_a_finding(live_estate: Estate) -> None:
    live_estate.on_target("ALTER TABLE app.pets ADD CONSTRAINT named CHECK (name <> 'Tom') NOT VALID")
    assert "constraint app.pets: named: PostgreSQL has not validated it" in live_estate.findings()


@pytest.mark.promise("damage-is-a-finding")
def test_all_findings_come_at_once(live_estate: Estate) -> None:
    live_estate.on_target("SELECT setval('app.pets_id_seq', 1)")
    live_estate.on_source("INSERT INTO pets (name) VALUES ('lost')")
    findings = live_estate.findings()
    assert "the frozen SQLite file has changed" in findings
    assert "zoo: pets: the rows of the frozen file are not those that were proven" in findings
    assert "sequence app.pets_id_seq" in findings


def test_values_that_were_kept_are_listed_and_secret_ones_are_not(estate: Estate) -> None:
    estate.on_source("INSERT INTO pets VALUES (4, 'nobody', 'stray')")
    estate.cut_over()
    result = estate.validate()
    shown = {(entry["column"], entry["value"]) for entry in result["original_values"]["rows"]}
    assert ("owner_id", "nobody") in shown
    assert {("rank", "chief"), ("rank", "guest")} <= shown
    assert result["original_values"]["total"] == 3
    assert "hush-hush" not in json.dumps(result)


def test_original_values_of_secret_columns_are_masked(live_estate: Estate) -> None:
    live_estate.on_target(
        "INSERT INTO migration.original_value VALUES "
        "('zoo', 'owners', 'id=''ann''', 'token', 'nul_character', '{\"text\": \"hush-hush\"}')"
    )
    result = live_estate.validate()
    assert "hush-hush" not in json.dumps(result)
    assert "(secret)" in {entry["value"] for entry in result["original_values"]["rows"]}


def test_hash_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_secret_column_is_masked_in_the_key_of_a_row_too() -> None:
    secret = {("tokens", "token")}
    assert ledger_lists._shown_key("tokens", "token='s3cr3t'", secret) == "(secret)"
    assert ledger_lists._shown_key("tokens", "owner='a', token='s3cr3t'", secret) == "(secret)"
    assert ledger_lists._shown_key("tokens", "id=1", secret) == "id=1"
    assert ledger_lists._shown_key("users", "token='public here'", secret) == "token='public here'"
