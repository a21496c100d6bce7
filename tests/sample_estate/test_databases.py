"""The sample databases hold what the tests of everything else count on."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import create_databases

REGISTRY = "opt/swarm-registry/registry.db"
DEPLOYMENTS = "opt/swarm-deploy/data/deployments.db"
SWARM = "opt/swarm-platform/data/swarm.db"
LEGACY = "opt/swarm-mcp-factory.legacy/registry.db"

ROWS = {
    REGISTRY: {
        "agents": 3,
        "workflows": 2,
        "workflow_runs": 3,
        "step_executions": 3,
        "secrets": 3,
        "triggers": 2,
        "vm_assignments": 2,
        "execution_artifacts": 2,
    },
    DEPLOYMENTS: {"deployments": 60, "deployment_events": 195, "deploy_queue": 8, "commit_ticket_map": 17},
    SWARM: {"users": 2, "roles": 4, "permissions": 17, "role_permissions": 46, "verification_attempts": 3},
    LEGACY: {"mcp_servers": 2},
}


@contextmanager
def opened(estate: Path, path: str, tmp_path: Path, with_log: bool = True) -> Iterator[sqlite3.Connection]:
    """Open a copy of a database, with its write-ahead log or without: to open the original would change it."""
    copy = tmp_path / "copy.db"
    shutil.copyfile(estate / path, copy)
    log = estate / f"{path}-wal"
    if with_log and log.exists():
        shutil.copyfile(log, tmp_path / "copy.db-wal")
    with closing(sqlite3.connect(copy)) as connection:
        yield connection


def row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the number of rows of every table that is not SQLite's own."""
    tables = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    ).fetchall()
    return {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in tables}


def contents(estate: Path, path: str, tmp_path: Path) -> list[str]:
    """Return a database as SQL text."""
    with opened(estate, path, tmp_path) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("path", ROWS)
def test_every_table_has_its_rows(estate: Path, path: str, tmp_path: Path) -> None:
    with opened(estate, path, tmp_path) as connection:
        assert row_counts(connection) == ROWS[path]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    assert mode == ("delete" if path == REGISTRY else "wal")


@pytest.mark.parametrize(("path", "expected"), [(DEPLOYMENTS, {}), (SWARM, {"users": 2}), (LEGACY, {})])
def test_a_bare_copy_of_the_file_lacks_the_rows_and_looks_sound(
    estate: Path, path: str, expected: dict[str, int], tmp_path: Path
) -> None:
    with opened(estate, path, tmp_path, with_log=False) as connection:
        assert row_counts(connection) == expected
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_sizes_are_those_of_files_that_were_hardly_checkpointed(estate: Path) -> None:
    assert (estate / LEGACY).stat().st_size == 4096
    assert (estate / DEPLOYMENTS).stat().st_size == 4096
    assert (estate / SWARM).stat().st_size == 16384


def test_three_symlinks_lead_to_the_platform_database(estate: Path) -> None:
    for path in ("opt/swarm-tickets/data/swarm.db", "opt/swarm-tickets/tickets.db", "opt/swarm-platform/tickets.db"):
        assert (estate / path).is_symlink()
        assert (estate / path).samefile(estate / SWARM)


def test_four_files_are_empty(estate: Path) -> None:
    empty = sorted(
        str(path.relative_to(estate)) for path in estate.rglob("*") if path.is_file() and not path.stat().st_size
    )
    assert empty == [
        "opt/swarm-app/apps/platform/data/swarm.db",
        "opt/swarm-platform/data/platform.db",
        "opt/swarm-platform/data/swarm-platform.db",
        "opt/swarm-platform/swarm.db",
    ]


# Each query counts the values of one kind; there must be some.
KINDS: list[tuple[str, str, str]] = [
    ("a UUID as id", REGISTRY, "SELECT count(*) FROM workflows WHERE id LIKE '________-____-4___-____-____________'"),
    ("a text as id", REGISTRY, "SELECT count(*) FROM agents WHERE id = 'forge-agent-001'"),
    (
        "time without a zone",
        DEPLOYMENTS,
        "SELECT count(*) FROM deployments WHERE created_at LIKE '____-__-__ __:__:__'",
    ),
    (
        "JavaScript's time",
        DEPLOYMENTS,
        "SELECT count(*) FROM deployments WHERE created_at LIKE '____-__-__T__:__:__.___Z'",
    ),
    (
        "milliseconds as text",
        DEPLOYMENTS,
        "SELECT count(*) FROM deployments WHERE created_at GLOB '[0-9]*.0' AND typeof(created_at) = 'text'",
    ),
    ("milliseconds as integer", REGISTRY, "SELECT count(*) FROM agents WHERE typeof(created_at) = 'integer'"),
    ("JSON null", REGISTRY, "SELECT count(*) FROM agents WHERE triggers = 'null'"),
    ("JSON number as integer", REGISTRY, "SELECT count(*) FROM workflows WHERE typeof(variables) = 'integer'"),
    ("JSON number as real", REGISTRY, "SELECT count(*) FROM workflow_runs WHERE typeof(trigger_data) = 'real'"),
    ("NULL where the target has a default", REGISTRY, "SELECT count(*) FROM agents WHERE runtime IS NULL"),
    (
        "a dangling agent",
        REGISTRY,
        "SELECT count(*) FROM step_executions WHERE agent_id NOT IN (SELECT id FROM agents)",
    ),
    ("a global secret", REGISTRY, "SELECT count(*) FROM secrets WHERE workflow_id IS NULL AND scope = 'global'"),
    ("a blob", REGISTRY, "SELECT count(*) FROM secrets WHERE typeof(encrypted_value) = 'blob'"),
    ("a disabled workflow", REGISTRY, "SELECT count(*) FROM workflows WHERE enabled = 0"),
    ("a number as vm_id", REGISTRY, "SELECT count(*) FROM vm_assignments WHERE vm_id = '7'"),
    ("free text as details", DEPLOYMENTS, "SELECT count(*) FROM deployment_events WHERE NOT json_valid(details)"),
    ("a JSON array as text", DEPLOYMENTS, "SELECT count(*) FROM deploy_queue WHERE json_type(waiting_for) = 'array'"),
    ("an administrator", SWARM, "SELECT count(*) FROM users WHERE role = 'admin' AND tenant_id = 'tenant-swarm'"),
    ("a user", SWARM, "SELECT count(*) FROM users WHERE role = 'user' AND tenant_id = 'default'"),
]


@pytest.mark.parametrize(("path", "query"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_every_kind_of_value_is_there(estate: Path, path: str, query: str, tmp_path: Path) -> None:
    with opened(estate, path, tmp_path) as connection:
        assert connection.execute(query).fetchone()[0] > 0


def test_the_greatest_event_ids_are_deleted(estate: Path, tmp_path: Path) -> None:
    with opened(estate, DEPLOYMENTS, tmp_path) as connection:
        assert connection.execute("SELECT max(id) FROM deployment_events").fetchone() == (200,)
        assert connection.execute("SELECT seq FROM sqlite_sequence").fetchall() == [(203,)]


def test_a_secret_holds_every_byte(estate: Path, tmp_path: Path) -> None:
    with opened(estate, REGISTRY, tmp_path) as connection:
        (value,) = connection.execute("SELECT encrypted_value FROM secrets WHERE id = 'secret-1'").fetchone()
    assert value == bytes(range(256))


def test_texts_are_awkward_and_survive_json(estate: Path, tmp_path: Path) -> None:
    with opened(estate, REGISTRY, tmp_path) as connection:
        text, outputs = connection.execute(
            "SELECT (SELECT description FROM agents WHERE id = 'forge-agent-001'), outputs FROM step_executions "
            "WHERE step_id = 'write'"
        ).fetchone()
    assert set("\"'\\\n\t\r") < set(text)
    assert "👩‍🚀" in text
    assert json.loads(outputs)["text"] == text


def test_passwords_are_hashed_by_scrypt(estate: Path, tmp_path: Path) -> None:
    with opened(estate, SWARM, tmp_path) as connection:
        hashes: dict[str, Any] = dict(connection.execute("SELECT email, password_hash FROM users").fetchall())
    scheme, cost, block_size, parallelization, salt, digest = hashes["admin@example.org"].split(":")
    computed = hashlib.scrypt(
        b"sample-admin-password",
        salt=bytes.fromhex(salt),
        n=int(cost),
        r=int(block_size),
        p=int(parallelization),
        dklen=64,
    )
    assert (scheme, computed.hex()) == ("scrypt", digest)


def test_two_runs_create_the_same_contents(estate: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert create_databases(other).returncode == 0
    for number, path in enumerate(ROWS):
        copies = [tmp_path / f"{number}-{side}" for side in ("one", "two")]
        for copy in copies:
            copy.mkdir()
        assert contents(estate, path, copies[0]) == contents(other, path, copies[1])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / SWARM
    precious.parent.mkdir(parents=True)
    precious.write_text("precious", encoding="utf-8")
    result = create_databases(tmp_path)
    assert result.returncode == 1
    assert str(precious) in result.stderr
    assert "Traceback" not in result.stderr
    assert precious.read_text(encoding="utf-8") == "precious"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [precious]


def test_an_unknown_owner_is_named(tmp_path: Path) -> None:
    result = create_databases(tmp_path, "--owner", "nobody-of-this-name")
    assert result.returncode == 1
    assert result.stderr.startswith("There is no user nobody-of-this-name")


def variant(tmp_path: Path, name: str) -> sqlite3.Connection:
    """Return a connection to the registry's database of a variant."""
    result = create_databases(tmp_path, "--variant", name)
    assert result.returncode == 0, result.stderr
    return sqlite3.connect(tmp_path / REGISTRY)


def test_variant_corrupt_page(tmp_path: Path) -> None:
    with closing(variant(tmp_path, "corrupt-page")) as connection:
        assert connection.execute("SELECT count(*) FROM agents").fetchone() == (3,)
        with pytest.raises(sqlite3.DatabaseError, match="malformed"):
            connection.execute("SELECT content FROM execution_artifacts").fetchall()


def test_variant_not_sqlite(tmp_path: Path) -> None:
    with (
        closing(variant(tmp_path, "not-sqlite")) as connection,
        pytest.raises(sqlite3.DatabaseError, match="not a database"),
    ):
        connection.execute("SELECT count(*) FROM sqlite_master")


def test_variant_nul_byte(tmp_path: Path) -> None:
    with closing(variant(tmp_path, "nul-byte")) as connection:
        for query in (
            "SELECT count(*) FROM agents WHERE instr(description, char(0))",
            "SELECT count(*) FROM execution_artifacts WHERE instr(content, char(0))",
        ):
            assert connection.execute(query).fetchone() == (1,)


def test_variant_text_in_integer(tmp_path: Path) -> None:
    with closing(variant(tmp_path, "text-in-integer")) as connection:
        for query in (
            "SELECT count(*) FROM agents WHERE typeof(memory_mb) = 'text'",
            "SELECT count(*) FROM step_executions WHERE typeof(duration_ms) = 'text'",
        ):
            assert connection.execute(query).fetchone() == (1,)
