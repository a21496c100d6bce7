"""The module as Ansible calls it: on a bare host, in check mode, with bad input; and that a plan writes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import plan as cleanup_plan
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from tests.validation.support import GROUP, Estate
from tests.validation.test_modules import call, login_arguments

from .support import Cleaned, make_legacy, make_ready, settings_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

PROJECT = Path(__file__).resolve().parents[2]
# Runs the module where neither psycopg2 nor any program is installed.
ON_A_BARE_HOST = """
import json, sys
sys.modules["psycopg2"] = None
sys.path.append(sys.argv[1] + "/.collections")
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.loads(sys.argv[2])):
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules import sqlite_cleanup
    sqlite_cleanup.main()
"""


def on_a_bare_host(arguments: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Run the module without psycopg2 and without any program."""
    text = json.dumps({**arguments, "_ansible_check_mode": check_mode})
    result = subprocess.run(
        [sys.executable, "-c", ON_A_BARE_HOST, str(PROJECT), text],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in result.stderr, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def arguments_of(directory: Path, source: Path, *legacy: Path, **further: Any) -> dict[str, Any]:
    """Return arguments of the module whose private directories do not exist yet."""
    return {
        "groups": [{**GROUP, "source": {"path": str(source)}}],
        "legacy_files": [str(path) for path in legacy],
        "work_directory": str(directory / "none" / "deep" / "work"),
        "archive_directory": str(directory / "archives"),
        "quarantine_directory": str(directory / "quarantine"),
        "login_host": "127.0.0.1",
        "login_port": 1,
        "login_db": "swarm",
        "login_user": "swarm_migrator",
        **further,
    }


def everything(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return what is below a directory, with its times."""
    return {
        str(path): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.lstat().st_ctime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in [directory, *directory.rglob("*")]
    }


def everything_but(before: dict[str, Any], *directories: Path) -> dict[str, Any]:
    """Return the same without directories whose times a private copy has changed."""
    return {path: found for path, found in before.items() if path not in {str(directory) for directory in directories}}


def test_a_bare_host_in_check_mode(tmp_path: Path) -> None:
    make_legacy(tmp_path / "old.db")
    before = everything(tmp_path)
    arguments = arguments_of(tmp_path, tmp_path / "none.db", tmp_path / "old.db", tmp_path / "absent.db")
    result = on_a_bare_host(arguments, check_mode=True)
    assert result["changed"] is False
    source, old, absent = result["entries"]
    assert (source["action"], absent["action"]) == ("absent", "absent")
    assert old["rows"] == {"notes": 2}
    assert "the ledger cannot be read: there is no server yet" in old["unmet"]
    assert result["lines"][0].startswith("Cleanup plan ")
    assert everything_but(everything(tmp_path), tmp_path) == everything_but(before, tmp_path)


def test_a_bare_host_without_check_mode_fails_with_what_to_do(tmp_path: Path) -> None:
    result = on_a_bare_host(arguments_of(tmp_path, tmp_path / "none.db"), check_mode=False)
    assert result["failed"] is True
    assert "python3-psycopg2" in result["problems"][0]["fix"]


@pytest.mark.parametrize("confirm", ["", "123456789abc"])
def test_a_server_without_our_database_in_check_mode(
    capsys: pytest.CaptureFixture[str], login: Login, tmp_path: Path, confirm: str
) -> None:
    (tmp_path / "old.db").write_bytes(b"")
    login_to = {**login_arguments(login), "login_db": "nowhere"}
    arguments = arguments_of(tmp_path, tmp_path / "none.db", tmp_path / "old.db", confirm=confirm, **login_to)
    result = call(capsys, "sqlite_cleanup", arguments, check_mode=True)
    (reason, *_) = result["entries"][1]["unmet"]
    assert 'database "nowhere" does not exist' in reason
    assert result["changed"] is False
    assert call(capsys, "sqlite_cleanup", arguments)["failed"] is True


def ledger_rows(connection: Connection) -> dict[str, int]:
    """Return the number of changes that every table of the ledger has seen, but the list of plans that were shown."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'migration'")
        names = [name for (name,) in cursor.fetchall() if name != "cleanup_plan"]
        found = {}
        for name in names:
            cursor.execute(
                f"SELECT md5(string_agg(t::text || xmin::text, '' ORDER BY t::text)) FROM migration.{name} t"
            )
            (found[name],) = cursor.fetchone() or (None,)
    connection.rollback()
    return found


@pytest.mark.promise("plan-id-required")
@pytest.mark.parametrize("check_mode", [False, True])
def test_a_plan_is_no_change_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], estate: Estate, login: Login, tmp_path: Path, check_mode: bool
) -> None:
    make_legacy(tmp_path / "old.db")
    make_ready(estate, [tmp_path / "old.db"])
    # It is not there before, and not afterwards.
    arguments = arguments_of(tmp_path, estate.source, tmp_path / "old.db", **login_arguments(login))
    before, rows = everything(tmp_path), ledger_rows(estate.connection)
    results = [call(capsys, "sqlite_cleanup", arguments, check_mode) for _ in range(2)]
    assert [result["changed"] for result in results] == [False, False]
    assert results[0]["plan_id"] == results[1]["plan_id"]
    assert everything_but(everything(tmp_path), tmp_path) == everything_but(before, tmp_path)
    assert ledger_rows(estate.connection) == rows
    with closing(connect(login)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM migration.cleanup_plan")
        assert cursor.fetchone() == (0 if check_mode else 1,)


def problems_of(estate: Estate, legacy: Sequence[str], **further: Any) -> str:
    """Return why there is no plan."""
    with pytest.raises(MigrationError) as caught:
        cleanup_plan.make_plan(estate.connection, [estate.group], legacy, replace(settings_of(estate), **further))
    return str(caught.value)


def test_bad_input_is_refused_all_at_once(estate: Estate) -> None:
    text = problems_of(
        estate,
        ["relative.db", "/opt/a/../b.db", "/opt/c.db", "/opt//c.db"],
        soak_days=float("nan"),
        quarantine_days=-1.0,
    )
    assert text.count("it is no absolute path free of '..'") == 2
    assert "/opt//c.db: it is named twice" in text
    assert "sqlite_cleanup_soak_days: it is nan" in text
    assert "sqlite_cleanup_quarantine_days: it is -1" in text


def test_to_go_forward_and_back_at_once_is_refused(
    capsys: pytest.CaptureFixture[str], login: Login, tmp_path: Path
) -> None:
    both = {"confirm": "123456789abc", "restore_groups": ["zoo"], **login_arguments(login)}
    result = call(capsys, "sqlite_cleanup", arguments_of(tmp_path, tmp_path / "none.db", **both))
    assert "forward and back at once" in result["msg"]


def test_a_file_that_the_inventory_has_forgotten_stays_in_the_plan(estate: Estate, tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"")
    ready = make_ready(estate, [tmp_path / "old.db"])
    ready.confirm()
    ready.wait_in_quarantine()
    forgetful = Cleaned(estate, ready.group)
    source, forgotten = forgetful.explain()["entries"]
    assert (source["ready"], forgotten["path"]) == (True, str(tmp_path / "old.db"))
    assert forgotten["unmet"] == ["the inventory does not name it any longer: write it there again"]
    forgetful.confirm()
    assert ready.steps() == {str(estate.source): "deleted", str(tmp_path / "old.db"): "quarantined"}
