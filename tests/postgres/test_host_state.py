"""What a role reads of a host in one call, and what it makes of that."""

from __future__ import annotations

import importlib
import json
import os
import pwd
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.swarm.sqlite_to_postgresql.plugins.filter import host_state as filters
from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules import host_state
from tests.conftest import PLUGINS

if TYPE_CHECKING:
    from tests.conftest import Server

ROOT = Path(__file__).resolve().parents[2]
SHOWN = """\
Id=one.timer
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no

Id=other.service
ActiveState=inactive
UnitFileState=
NeedDaemonReload=yes
"""
WANTED = {"path": "/a", "kind": "file", "owner": "root", "group": "root", "mode": "0600", "content": "text\n"}
# Of that text.
SHA256 = "b9e68e1bea3e5b19ca6b2f98b73a54b73daafaa250484902e09982e07a12e733"


def call(capsys: pytest.CaptureFixture[str], module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a module and return what it prints."""
    with patch_module_args(arguments), pytest.raises(SystemExit):
        importlib.import_module(f"{PLUGINS}.modules.{module}").main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


class TestModule:
    """What is there."""

    def test_each_kind_of_file(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """A link is a link, whatever it leads to; what is not there does not appear."""
        (tmp_path / "file").write_text("text\n")
        (tmp_path / "file").chmod(0o600)
        (tmp_path / "link").symlink_to("file")
        (tmp_path / "directory").mkdir(mode=0o750)
        os.mkfifo(tmp_path / "pipe")
        names = ["file", "link", "directory", "pipe", "socket", "absent", "file/below"]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
            result = call(capsys, "host_state", {"files": [str(tmp_path / name) for name in names]})
        found = {path.removeprefix(f"{tmp_path}/"): state for path, state in result["files"].items()}
        kinds = {name: state["kind"] for name, state in found.items()}
        expected = {"file": "file", "link": "link", "directory": "directory", "pipe": "other", "socket": "socket"}
        assert kinds == expected
        owner = pwd.getpwuid(os.geteuid()).pw_name
        assert (found["file"]["owner"], found["file"]["mode"], found["file"]["sha256"]) == (owner, "0600", SHA256)
        assert found["directory"]["mode"] == "0750"
        assert "sha256" not in found["link"] and "sha256" not in found["pipe"]

    def test_an_owner_without_a_name_is_a_number(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root gives a file away")
        (tmp_path / "file").touch()
        os.chown(tmp_path / "file", 4242, 4243)
        state = call(capsys, "host_state", {"files": [str(tmp_path / "file")]})["files"][str(tmp_path / "file")]
        assert (state["owner"], state["group"]) == ("4242", "4243")

    def test_units_and_packages_from_the_programs_text(self) -> None:
        """A package that is only known, or half removed, is not installed."""
        states = host_state.unit_states(SHOWN)
        assert states["one.timer"] == {"ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}
        assert states["other.service"]["NeedDaemonReload"] == "yes"
        assert host_state.installed("a installed\na installed\nb config-files\nc not-installed\nd \n") == ["a"]


class TestFilters:
    """What differs from what is wanted."""

    @pytest.mark.parametrize(
        ("change", "differs"),
        [
            ({}, False),
            ({"kind": "link"}, True),
            ({"owner": "postgres"}, True),
            ({"group": "adm"}, True),
            ({"mode": "0644"}, True),
            ({"sha256": "0" * 64}, True),
        ],
    )
    def test_every_attribute_of_a_file_counts(self, change: dict[str, str], differs: bool) -> None:
        found = {"kind": "file", "owner": "root", "group": "root", "mode": "0600", "sha256": SHA256, **change}
        assert filters.differing_files([WANTED], {"/a": found}) == (["/a"] if differs else [])

    def test_a_missing_file_differs_and_what_is_left_out_does_not_matter(self) -> None:
        assert filters.differing_files([WANTED], {}) == ["/a"]
        directory = {"kind": "directory", "owner": "root", "group": "root", "mode": "0700"}
        assert filters.differing_files([{"path": "/d", "kind": "directory"}], {"/d": directory}) == []

    def test_units(self) -> None:
        """One that does not exist differs, and so does one whose file is newer than what systemd has loaded."""
        found = importlib.import_module(
            "ansible_collections.swarm.sqlite_to_postgresql.plugins.modules.host_state"
        ).unit_states(SHOWN)
        wanted = {"one.timer": {"ActiveState": "active"}, "other.service": {"NeedDaemonReload": "no"}, "no": {"a": "b"}}
        assert filters.differing_units(wanted, found) == ["other.service", "no"]


def test_a_login_that_is_refused_is_named(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    """Every one of them, and none with its password."""
    server.execute(
        "CREATE ROLE login_test_a LOGIN PASSWORD 'right'",
        "CREATE ROLE login_test_b LOGIN PASSWORD 'right'",
        "CREATE ROLE login_test_c NOLOGIN PASSWORD 'right'",
    )
    address = {"login_host": server.superuser.host, "login_port": server.superuser.port, "login_db": "postgres"}
    try:
        good = call(capsys, "postgres_logins", {**address, "passwords": {"login_test_a": "right"}})
        assert good["changed"] is False and "failed" not in good
        passwords = {"login_test_a": "right", "login_test_b": "wrong-one", "login_test_c": "right"}
        refused = call(capsys, "postgres_logins", {**address, "passwords": passwords})
    finally:
        server.execute(*(f"DROP ROLE login_test_{name}" for name in "abc"))
    assert refused["failed"] is True
    assert [role in refused["msg"] for role in passwords] == [False, True, True]
    assert "wrong-one" not in json.dumps(refused["problems"]) + refused["msg"]
