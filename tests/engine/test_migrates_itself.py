"""A service that migrates itself owns its schema from its cutover on: what it may, and what it cannot do to us."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Access, Group
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import (
    window as cutover_window,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import (
    migrate,
    replay,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import write_protection
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    ServicesLogin,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import (
    code_in_tables,
    privileges,
    schema,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.schema_files import (
    SqlFile,
    read_files,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import dump as group_dump
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks import Options
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import (
    database as validate_database,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.validation import group as validate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.checks import (
    Handles,
    Settings,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.context import WindowContext
from tests.applications.support import CACHE
from tests.conftest import MIGRATOR, OWNER, PASSWORD, PROGRAMS

from .support import execute, make_group, make_source, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server

ROLE = "swarm_crm"
SERVICE = {
    "name": "crm",
    "user": "crm",
    "directory": "/opt/crm",
    "database_role": ROLE,
    "schemas": ["crm"],
    "health_url": "http://127.0.0.1:4999/health",
    "migrates_itself": True,
}
TABLES = """
CREATE SCHEMA crm;
CREATE TABLE crm.people (id serial PRIMARY KEY, name text NOT NULL CHECK (length(name) < 100),
                         made timestamptz DEFAULT now());
CREATE TABLE crm.notes (id integer PRIMARY KEY, person integer REFERENCES crm.people (id), body text);
CREATE VIEW crm.names AS SELECT name FROM crm.people;
CREATE SEQUENCE crm.numbers;
"""
# What a framework does: a table of its own, a column, an index, a key.
MIGRATION = """
CREATE TABLE crm.migrations (id serial PRIMARY KEY, name text);
CREATE TABLE crm.tags (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, person integer REFERENCES crm.people (id));
ALTER TABLE crm.people ADD COLUMN mail text DEFAULT '';
CREATE INDEX people_mail ON crm.people (lower(mail));
ALTER TABLE crm.notes ALTER COLUMN body SET DEFAULT 'empty';
INSERT INTO crm.migrations (name) VALUES ('001_tags');
INSERT INTO crm.people (name, mail) VALUES ('Cid', 'cid@example.org')
"""


@dataclass
class Estate:
    """One group whose service migrates itself."""

    connection: Connection
    login: Login
    group: Group
    settings: Settings
    directory: Path
    files: list[SqlFile]

    @property
    def access(self) -> Access:
        assert self.settings.access is not None
        return self.settings.access

    def phase_1(self, *files: SqlFile, check_mode: bool = False) -> dict[str, Any]:
        """Apply the schema and set the rights, as the role schema_apply does."""
        result: dict[str, Any] = schema.apply(self.connection, [*self.files, *files], check_mode)
        access = self.access
        given = privileges.synchronise(
            self.connection, access.schemas, check_mode, access.rights, access.tables, access.roles,
            owners=access.owners,
        )  # fmt: skip
        return {**result, **given, "changed": result["changed"] or given["changed"]}

    def go_live(self) -> None:
        """Freeze the file, load the last difference, and make PostgreSQL the store."""
        context = WindowContext(self.connection, self.login, self.group, self.settings, Handles())
        window = cutover_window.Window(context, ledger.read_group(self.connection, "test"))
        window._stop(datetime.now(UTC))
        digest = sha256_of(window._freeze())
        migrate.migrate(self.connection, self.group, migrate.FINAL, work_directory=self.settings.work_directory)
        window._go_live(digest)
        ledger.record_run(self.connection, "test", "cutover", datetime.now(UTC), {})
        self.connection.commit()

    def as_service(self, statements: str) -> None:
        """Run statements as the service's role."""
        with closing(connect(replace(self.login, user=ROLE, session_role=None))) as session:
            execute(session, statements)

    def validate(self) -> dict[str, Any]:
        """Run the validation of the group and of the database, as the modules do."""
        group = replace(self.group, services=self.services)
        with code_in_tables.held_still(self.login, group) as held:
            found: dict[str, Any] = validate.validate(
                self.connection, group, str(self.directory / "work"), ask_services=False, code=held.code
            )
        whole = validate_database.validate(self.connection, [group], 48)
        return {
            **found,
            "findings": [*found["findings"], *(entry for entry in whole["findings"] if "crm" in str(entry))],
            "information": [*found["information"], *whole["information"]],
        }

    @property
    def services(self) -> Any:
        return make_group(self.directory / "data.db", services=[SERVICE]).services

    def roll_back(self, check_mode: bool = False, lose_rows: int | None = None) -> dict[str, Any]:
        options = Options(str(self.directory / "dumps"), lose_rows)
        result: dict[str, Any] = rollback.roll_back(self.login, self.group, self.settings, check_mode, options)
        return result

    def owners(self) -> dict[str, str]:
        """Return who owns what of the schema."""
        return dict(
            query(
                self.connection,
                "SELECT 'schema ' || nspname, pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'crm' "
                "UNION ALL SELECT relname, pg_get_userbyid(relowner)::text FROM pg_class "
                "WHERE relnamespace = 'crm'::regnamespace AND relkind IN ('r', 'S', 'v')",
            )
        )

    def people(self) -> list[tuple[Any, ...]]:
        """Return the names in the file."""
        with closing(sqlite3.connect(f"file:{self.group.source_path}?mode=ro", uri=True)) as opened:
            return opened.execute("SELECT id, name FROM people ORDER BY id").fetchall()


@pytest.fixture
def role(server: Server) -> Iterator[str]:
    """The service's role, of which phase 1 makes the owner a member; gone after the database."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'", f"GRANT {ROLE} TO {OWNER}")
    yield ROLE
    server.execute(f"DROP ROLE {ROLE}")


def made_estate(
    connection: Connection,
    login: Login,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    files: list[SqlFile],
) -> Estate:
    """Return the estate of a file with some tables, all of which go to the service's schema."""
    # The windows have no services to stop in these tests; the rights know them.
    group = make_group(tmp_path / "data.db", *({"source": name, "target": f"crm.{name}"} for name in names))
    targets = sorted(f"crm.{name}" for name in names)
    access = Access({ROLE: ["crm"]}, tables={"test": targets}, roles={"test": [ROLE]}, owners={ROLE: ["crm"]})
    settings = Settings(
        ServicesLogin(login.host, login.port, login.database), {}, 2.0, 2.0, 0.0, access=access,
        work_directory=str(tmp_path / "work"),
    )  # fmt: skip
    monkeypatch.setattr(rollback, "check_services", lambda *_, **__: Handles())
    monkeypatch.setattr(group_dump, "_PATH", f"{PROGRAMS}:{group_dump._PATH}")
    return Estate(connection, login, group, settings, tmp_path, files)


@pytest.fixture
def estate(
    role: str, connection: Connection, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Estate]:
    source = make_source(
        tmp_path / "data.db",
        "CREATE TABLE people (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);"
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, person INTEGER REFERENCES people (id), body TEXT)",
        {"people": [(1, "Ann"), (2, "Bob")], "notes": [(1, 1, "first")]},
    )
    files = read_files([{"name": "001_crm.sql", "content": TABLES}])
    made = made_estate(connection, login, tmp_path, monkeypatch, ["people", "notes"], files)
    made.phase_1()
    rehearse(connection, made.group, tmp_path)
    yield made
    write_protection.unprotect(source, {})


@pytest.mark.promise("self-migrating-owns-from-cutover")
def test_its_role_owns_the_schema_from_the_cutover_on_and_no_more_after_the_rollback(estate: Estate) -> None:
    everything = {"schema crm", "people", "notes", "numbers", "people_id_seq"}
    before = estate.owners()
    assert set(before.values()) == {OWNER}
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        estate.as_service("CREATE TABLE crm.early (id integer)")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        estate.as_service("INSERT INTO crm.people (name) VALUES ('early')")
    assert not estate.phase_1()["changed"]

    estate.go_live()
    after = estate.owners()
    assert {name for name, owner in after.items() if owner == ROLE} == everything
    assert after["names"] == OWNER, "a view would read with the rights of whoever owns it"
    assert not estate.phase_1()["changed"]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        estate.as_service("CREATE SCHEMA another")

    estate.as_service(MIGRATION)
    assert not estate.phase_1(check_mode=True)["changed"]
    assert not estate.phase_1()["changed"]
    with pytest.raises(MigrationError, match=r"people.mail: holds data, and the file has no such column"):
        estate.roll_back()
    # The framework's own way back; its other tables may stay.
    estate.as_service("ALTER TABLE crm.people DROP COLUMN mail")
    assert estate.roll_back(check_mode=True)["changed"]
    assert estate.owners()["people"] == ROLE
    result = estate.roll_back()
    assert result["state"] == "rolled_back"
    assert estate.people() == [(1, "Ann"), (2, "Bob"), (3, "Cid")]
    assert {name for name, owner in estate.owners().items() if owner == ROLE} == set()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        estate.as_service("INSERT INTO crm.people (name) VALUES ('late')")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        estate.as_service("CREATE TABLE crm.late (id integer)")
    estate.as_service("SELECT * FROM crm.people")
    result = estate.phase_1()
    assert result["drift"] == [], "it has changed them while they were its own"
    assert not result["changed"], "it has the rights of every service whose group is back on SQLite"


@pytest.mark.promise("self-migrating-owns-from-cutover")
def test_its_role_owns_and_writes_again_after_a_second_cutover(estate: Estate) -> None:
    estate.go_live()
    estate.as_service(MIGRATION)
    estate.as_service("ALTER TABLE crm.people DROP COLUMN mail")
    assert estate.roll_back()["state"] == "rolled_back"
    assert not estate.phase_1()["changed"]
    rehearse(estate.connection, estate.group, estate.directory)
    estate.phase_1()

    estate.go_live()
    assert estate.owners()["people"] == ROLE
    writes = (
        "INSERT INTO crm.people (name) VALUES ('Dan'); UPDATE crm.people SET name = 'Don' WHERE name = 'Dan';"
        "INSERT INTO crm.notes (id, person) VALUES (9, 1);"
        "DELETE FROM crm.notes WHERE id = 9; SELECT nextval('crm.numbers'); INSERT INTO crm.tags (person) VALUES (1)"
    )
    estate.as_service(writes)
    assert not estate.phase_1()["changed"]
    estate.as_service(writes)
    assert estate.validate()["findings"] == []


@pytest.mark.promise("self-migrating-is-no-drift")
def test_what_the_service_changes_is_said_and_is_neither_drift_nor_a_finding(estate: Estate) -> None:
    estate.go_live()
    assert estate.validate()["findings"] == []
    estate.as_service(MIGRATION)
    result = estate.phase_1()
    assert result["drift"] == []
    assert "not from our files: table crm.tags" in result["own_changes"]
    assert "not from our files: column crm.people.mail text default ''::text" in result["own_changes"]
    found = estate.validate()
    assert found["findings"] == []
    assert [line for line in found["information"] if "column crm.people.mail" in line]

    estate.as_service("DROP TABLE crm.notes; ALTER TABLE crm.people DROP COLUMN made")
    found = estate.validate()
    assert found["findings"] == []
    assert "crm.notes: the service that migrates itself has dropped this table" in found["information"]
    assert [line for line in found["information"] if "missing: column crm.people.made" in line]


@pytest.mark.promise("self-migrating-is-no-drift")
def test_a_file_of_ours_that_names_the_schema_is_refused_after_the_cutover(estate: Estate) -> None:
    estate.go_live()
    ours, other = read_files(
        [
            {"name": "002_more.sql", "content": "-- crm.people\nSELECT 1;\nALTER TABLE crm.people ADD COLUMN x text;"},
            {"name": "003_other.sql", "content": "CREATE SCHEMA other; CREATE TABLE other.crm (id integer);"},
        ]
    )
    for check_mode in (True, False):
        with pytest.raises(
            MigrationError, match=r"002_more.sql:3: it names schema crm, which belongs to role swarm_crm"
        ):
            estate.phase_1(ours, other, check_mode=check_mode)
    assert "x" not in str(query(estate.connection, "SELECT attname FROM pg_attribute WHERE attname = 'x'"))
    # Named by the same number, which is free now.
    other = replace(other, number=2, name="002_other.sql")
    assert estate.phase_1(other)["applied"] == ["002_other.sql"]
    assert not estate.phase_1(other)["changed"]


# Each does something with our rights if it is ever run.
_ACT = "CREATE FUNCTION crm.act() RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN {} END $$"
_RISE = "RAISE EXCEPTION 'it runs as %', current_user;"
_PLANTED = {
    "index": "CREATE INDEX planted ON crm.people ((crm.act()))",
    "statistics": "CREATE STATISTICS crm.planted ON id, (crm.act()) FROM crm.people",
    "check": "ALTER TABLE crm.people ADD CONSTRAINT planted CHECK (crm.act()) NOT VALID",
    "default": "ALTER TABLE crm.people ADD COLUMN planted boolean; "
    "ALTER TABLE crm.people ALTER planted SET DEFAULT crm.act()",
    "child": "CREATE TABLE crm.child (CHECK (crm.act())) INHERITS (crm.people)",
    "reference": "CREATE TABLE crm.far (id integer PRIMARY KEY); INSERT INTO crm.far VALUES (1); "
    "CREATE INDEX planted ON crm.far ((crm.act())); "
    "ALTER TABLE crm.notes ADD COLUMN far integer REFERENCES crm.far (id)",
    "view": "ALTER TABLE crm.people RENAME TO hidden; "
    "CREATE VIEW crm.people AS SELECT * FROM crm.hidden WHERE crm.act()",
    "domain": "CREATE DOMAIN crm.planted AS text CHECK (crm.act()); ALTER TABLE crm.notes ADD COLUMN d crm.planted",
    "domain in a check": "CREATE DOMAIN crm.planted AS text CHECK (crm.act()); "
    "ALTER TABLE crm.people ADD CHECK (name::crm.planted IS NOT NULL)",
    "domain in an index": "CREATE DOMAIN crm.planted AS text CHECK (crm.act()); "
    "CREATE INDEX planted ON crm.people ((name::crm.planted::text))",
    "domain in an array": "CREATE DOMAIN crm.planted AS text CHECK (crm.act()); "
    "ALTER TABLE crm.people ADD CHECK (ARRAY[name]::crm.planted[] IS NOT NULL)",
    "partition of": "CREATE FUNCTION crm.act(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS "
    "'BEGIN RETURN crm.act(); END'; "
    "CREATE TABLE crm.whole (LIKE crm.people) PARTITION BY LIST ((crm.act(name))); "
    "ALTER TABLE crm.whole ATTACH PARTITION crm.people DEFAULT",
}


@pytest.mark.promise("self-migrating-runs-nothing-of-ours")
@pytest.mark.parametrize("planted", list(_PLANTED.values()), ids=list(_PLANTED))
def test_code_that_the_service_plants_is_named_and_not_run(estate: Estate, planted: str) -> None:
    estate.go_live()
    estate.as_service("INSERT INTO crm.people (name) VALUES ('Cid')")
    estate.as_service(_ACT.format("RETURN true;"))
    estate.as_service(planted)
    estate.as_service(_ACT.replace("CREATE", "CREATE OR REPLACE").format(_RISE))
    told = [f"{entry['where']}: {entry['what']}" for entry in estate.validate()["findings"]]
    assert told
    assert not [line for line in told if "it runs as" in line], told
    for check_mode in (True, False):
        with pytest.raises(MigrationError) as refused:
            estate.roll_back(check_mode=check_mode)
        assert "nothing was stopped" in str(refused.value)
        assert "it runs as" not in str(refused.value)
        assert "own down-migration" in str(refused.value) or "drop it" in str(refused.value)
    assert ledger.read_group(estate.connection, "test").state == "live"
    with pytest.raises(MigrationError, match="whose code would run with our rights"):
        replay.replay_rejects(estate.connection, estate.group, [replay.RepairedRow("people", "1", {})])
    assert not estate.phase_1()["changed"]


@pytest.mark.promise("self-migrating-runs-nothing-of-ours")
def test_a_default_that_acts_keeps_the_tables_from_becoming_ours(estate: Estate) -> None:
    """A load of ours evaluates the defaults of columns that the service has added, and the server's own can act too."""
    estate.go_live()
    estate.as_service("ALTER TABLE crm.people ADD COLUMN planted text")
    estate.as_service("ALTER TABLE crm.people ALTER planted SET DEFAULT query_to_xml('SELECT 1', true, true, '')::text")
    assert estate.validate()["findings"] == []
    with pytest.raises(MigrationError, match=r"a default of table crm.people calls query_to_xml"):
        estate.roll_back()
    estate.as_service("ALTER TABLE crm.people ALTER planted DROP DEFAULT")
    assert estate.roll_back()["state"] == "rolled_back"


@pytest.mark.promise("self-migrating-runs-nothing-of-ours")
def test_a_trigger_of_the_service_runs_in_no_session_of_ours(estate: Estate) -> None:
    """The next load after a rollback deletes rows, and a key that cascades deletes those of a table of the service.

    The server deletes these as their owner, but what a trigger does after the statement runs as whoever began it.
    """
    estate.go_live()
    estate.as_service(
        "CREATE TABLE crm.tags (id integer PRIMARY KEY, person integer REFERENCES crm.people ON DELETE CASCADE);"
        "CREATE TABLE crm.marks (id integer PRIMARY KEY, tag integer REFERENCES crm.tags ON DELETE CASCADE);"
        "ALTER TABLE crm.people ADD COLUMN main integer REFERENCES crm.tags;"
        "INSERT INTO crm.tags VALUES (1, 2); INSERT INTO crm.marks VALUES (1, 1);"
        "CREATE FUNCTION crm.act() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF current_user <> 'swarm_crm' THEN RAISE EXCEPTION 'it runs as %', current_user; END IF; "
        "RETURN OLD; END $$;"
        "CREATE FUNCTION crm.acts() RETURNS boolean LANGUAGE sql AS 'SELECT true';"
        "CREATE TRIGGER act BEFORE INSERT OR DELETE ON crm.people FOR EACH ROW EXECUTE FUNCTION crm.act()"
    )
    for table, act in {
        "crm.tags": "CREATE TRIGGER act AFTER DELETE ON crm.tags FOR EACH ROW EXECUTE FUNCTION crm.act()",
        "crm.marks": "CREATE CONSTRAINT TRIGGER act AFTER DELETE ON crm.marks DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (crm.acts()) EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    }.items():
        estate.as_service(act)
        with pytest.raises(MigrationError, match=rf"{table}: it has a trigger, a rule.* a foreign key leads to it"):
            estate.roll_back()
        estate.as_service(f"DROP TRIGGER act ON {table}")
    assert estate.roll_back()["state"] == "rolled_back"
    assert {estate.owners()[name] for name in ("people", "tags", "marks")} == {OWNER}
    with closing(sqlite3.connect(estate.group.source_path)) as file:
        file.execute("DELETE FROM people WHERE id = 2")
        file.commit()
    rehearse(estate.connection, estate.group, estate.directory)
    assert query(estate.connection, "SELECT count(*) FROM crm.people") == [(1,)]
    assert query(estate.connection, "SELECT count(*) FROM crm.tags") == [(0,)]


@pytest.mark.promise("self-migrating-runs-nothing-of-ours")
def test_rights_that_the_service_gave_let_nobody_put_code_into_what_is_ours_again(estate: Estate) -> None:
    estate.go_live()
    estate.as_service(
        "GRANT CREATE ON SCHEMA crm TO pg_monitor; GRANT TRIGGER, SELECT ON crm.people TO pg_monitor WITH GRANT OPTION;"
        "GRANT REFERENCES (id) ON crm.notes TO pg_monitor; GRANT ALL ON crm.notes TO PUBLIC"
    )
    assert estate.roll_back()["state"] == "rolled_back"
    rights = (
        "has_schema_privilege('pg_monitor', 'crm', 'CREATE'), "
        "has_table_privilege('pg_monitor', 'crm.people', 'TRIGGER'), "
        "has_any_column_privilege('pg_monitor', 'crm.notes', 'REFERENCES'), "
        "has_table_privilege('pg_monitor', 'crm.people', 'SELECT')"
    )
    assert query(estate.connection, f"SELECT {rights}") == [(False, False, False, True)]


@pytest.mark.promise("self-migrating-runs-nothing-of-ours")
def test_nothing_is_planted_between_the_look_and_the_read(estate: Estate) -> None:
    estate.go_live()
    estate.as_service(_ACT.format("RETURN true;"))
    with code_in_tables.held_still(estate.login, replace(estate.group, services=estate.services)) as held:
        assert held == ([], True)
        for planted in (*_PLANTED.values(), "ALTER SEQUENCE crm.people_id_seq RENAME TO other"):
            with pytest.raises((psycopg2.errors.LockNotAvailable, psycopg2.errors.FeatureNotSupported)):
                estate.as_service(f"SET lock_timeout = '50ms'; {planted}")


@pytest.mark.promise("self-migrating-way-back")
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("DROP TABLE crm.notes", "crm.notes"),
        ("ALTER TABLE crm.people RENAME COLUMN name TO label", "name"),
        ("ALTER TABLE crm.people DROP COLUMN name CASCADE", "name"),
    ],
    ids=["table", "renamed", "dropped"],
)
@pytest.mark.parametrize("written", [False, True])
def test_a_rollback_names_what_fits_no_more_before_anything_is_stopped(
    estate: Estate, change: str, what: str, written: bool
) -> None:
    estate.go_live()
    if written:
        estate.as_service("INSERT INTO crm.people (name) VALUES ('Cid')")
    estate.as_service(change)
    with pytest.raises(MigrationError) as refused:
        estate.roll_back()
    assert what in str(refused.value)
    assert "down-migration" in str(refused.value)
    assert "nothing was stopped" in str(refused.value)
    assert estate.owners()["people"] == ROLE


@pytest.mark.promise("self-migrating-owns-from-cutover")
def test_what_the_service_could_not_own_is_said_by_phase_1(estate: Estate) -> None:
    execute(
        estate.connection,
        "CREATE FUNCTION crm.ours(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';"
        "CREATE INDEX ours ON crm.people (crm.ours(name))",
    )
    with pytest.raises(MigrationError, match=r"crm.people: an index.* no service may own it"):
        privileges.synchronise(
            estate.connection, estate.access.schemas, False, {}, estate.access.tables, estate.access.roles,
            owners=estate.access.owners,
        )  # fmt: skip


@pytest.mark.promise("self-migrating-owns-from-cutover")
def test_phase_1_gives_and_takes_by_the_inventory_while_the_service_is_live(estate: Estate) -> None:
    access = estate.access
    estate.settings = replace(estate.settings, access=replace(access, owners={}))
    estate.go_live()
    assert set(estate.owners().values()) == {OWNER}
    estate.settings = replace(estate.settings, access=access)
    assert estate.phase_1()["granted"] == [f"{ROLE}: schema crm and its tables are its own"]
    assert not estate.phase_1()["changed"]
    estate.as_service(MIGRATION)
    estate.settings = replace(estate.settings, access=replace(access, owners={}))
    assert estate.phase_1()["revoked"] == [f"{ROLE}: schema crm and its tables are its own"]
    assert estate.owners()["people"] == OWNER
    estate.as_service("INSERT INTO crm.people (name) VALUES ('Dan'); SELECT nextval('crm.numbers')")
    assert not estate.phase_1()["changed"]


DJANGO = """
import sys, django
from django.conf import settings
from django.core.management import call_command
from urllib.parse import urlsplit
url, action = urlsplit(sys.argv[1]), sys.argv[2:]
database = {"ENGINE": "django.db.backends.sqlite3", "NAME": url.path}
if url.scheme == "postgresql":
    database = {
        "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username, "HOST": url.hostname,
        "PASSWORD": url.password, "PORT": url.port, "OPTIONS": {"options": "-c search_path=crm " + url.query},
    }
settings.configure(
    DATABASES={"default": database}, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
)
django.setup()
if action[0] == "group":
    from django.contrib.auth.models import Group
    Group.objects.create(name=action[1])
else:
    call_command(*action, verbosity=0)
"""


@pytest.mark.long_search
@pytest.mark.promise("self-migrating-way-back")
def test_django_migrates_itself_after_the_move_and_goes_back(
    role: str, connection: Connection, login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = CACHE / "django-5.2"
    python = str(place / "bin" / "python")
    if not (place / "is-complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "Django==5.2.19", "psycopg2-binary==2.9.13"]
        subprocess.run(pip, check=True)
        (place / "is-complete").touch()

    def django(user: str, *action: str, options: str = "") -> None:
        where = f"postgresql://{user}:{PASSWORD}@{login.host}:{login.port}/{login.database}?{options}"
        url = f"sqlite://{tmp_path}/data.db" if user == "sqlite" else where
        subprocess.run([python, "-c", DJANGO, url, *action], check=True, cwd=tmp_path)

    django("sqlite", "migrate", "auth", "0010")
    django("sqlite", "group", "editors")
    execute(connection, ledger.CREATE_LEDGER)
    execute(connection, "CREATE SCHEMA crm")
    django(MIGRATOR, "migrate", "auth", "0010", options=f"-c role={OWNER}")
    with closing(sqlite3.connect(tmp_path / "data.db")) as file:
        found = file.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        names = [name for (name,) in found]
    execute(connection, f"TRUNCATE {', '.join(f'crm.{name}' for name in names)}")
    estate = made_estate(connection, login, tmp_path, monkeypatch, names, [])
    rehearse(connection, estate.group, tmp_path)
    estate.go_live()

    django(role, "migrate")
    django(role, "group", "authors")
    assert estate.validate()["findings"] == []
    assert not estate.phase_1(check_mode=True)["changed"]
    # Its tables still fit: a wider column, and rows in the table of its migrations.
    assert estate.roll_back()["state"] == "rolled_back"
    django("sqlite", "migrate")
    with closing(sqlite3.connect(tmp_path / "data.db")) as file:
        assert file.execute("SELECT name FROM auth_group ORDER BY 1").fetchall() == [("authors",), ("editors",)]
