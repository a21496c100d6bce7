"""The driver in the services' packages: real npm, no registry, and nothing else of the package changed."""

from __future__ import annotations

import getpass
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.migration import driver_package
from ansible.module_utils.migration.errors import MigrationError
from ansible.module_utils.migration.estate import Group, parse_group

from tests.validation.support import GROUP

needs_npm = pytest.mark.skipif(shutil.which("npm", path="/usr/local/bin:/usr/bin:/bin") is None, reason="needs npm")


def make_package(directory: Path, indent: int = 4, **further: Any) -> Path:
    """Create a package with two dependencies that lie in its ``node_modules``."""
    versions = {"better-sqlite3": "11.10.0", "pg": "8.0.0"}
    for name, version in versions.items():
        (directory / "node_modules" / name).mkdir(parents=True)
        (directory / "node_modules" / name / "package.json").write_text(json.dumps({"name": name, "version": version}))
    path = directory / "package.json"
    text = json.dumps({"name": "service", "version": "1.0.0", "dependencies": versions, **further}, indent=indent)
    path.write_text(text + "\n")
    return path


def groups_of(*directories: Path) -> list[Group]:
    """Return one group with one service for each directory."""
    group = parse_group({**GROUP, "source": {"path": "/opt/zoo.db"}})
    return [
        replace(
            group,
            name=f"group-{number}",
            services=(replace(group.services[0], directory=str(directory), user=getpass.getuser()),),
        )
        for number, directory in enumerate(directories)
    ]


@needs_npm
@pytest.mark.parametrize("indent", [2, 4])
def test_npm_removes_it_without_a_registry_and_keeps_the_form(tmp_path: Path, indent: int) -> None:
    path = make_package(tmp_path, indent)
    (tmp_path / "node_modules" / "shared-library").mkdir()
    wanted = json.loads(path.read_text())
    del wanted["dependencies"]["better-sqlite3"]
    (package,) = driver_package.find(groups_of(tmp_path))
    assert package["driver"] == "11.10.0"
    assert driver_package.remove(package) is True
    assert path.read_text() == json.dumps(wanted, indent=indent) + "\n"
    assert not (tmp_path / "node_modules" / "better-sqlite3").exists()
    assert (tmp_path / "node_modules" / "pg").is_dir()
    # What was put there without a word in package.json stays.
    assert (tmp_path / "node_modules" / "shared-library").is_dir()
    assert not (tmp_path / "package-lock.json").exists()
    assert driver_package.remove(package) is False


@needs_npm
def test_a_lock_file_is_kept_up_to_date(tmp_path: Path) -> None:
    make_package(tmp_path)
    lock = {
        "name": "service",
        "version": "1.0.0",
        "lockfileVersion": 3,
        "packages": {
            "": {"name": "service", "dependencies": {"better-sqlite3": "11.10.0", "pg": "8.0.0"}},
            "node_modules/better-sqlite3": {"version": "11.10.0"},
            "node_modules/pg": {"version": "8.0.0"},
        },
    }
    (tmp_path / "package-lock.json").write_text(json.dumps(lock))
    (package,) = driver_package.find(groups_of(tmp_path))
    driver_package.remove(package)
    assert "better-sqlite3" not in (tmp_path / "package-lock.json").read_text()
    assert not (tmp_path / "node_modules" / "better-sqlite3").exists()
    assert "node_modules/pg" in (tmp_path / "package-lock.json").read_text()


def test_services_that_share_a_package_have_it_together(tmp_path: Path) -> None:
    one, other, alone = (tmp_path / name for name in ("one", "other", "alone"))
    make_package(one)
    make_package(alone)
    other.mkdir()
    (other / "package.json").write_text((one / "package.json").read_text())
    (other / "node_modules").symlink_to(one / "node_modules")
    packages = driver_package.find(groups_of(one, other, alone))
    assert [package["groups"] for package in packages] == [
        ["group-0", "group-1"],
        ["group-1", "group-0"],
        ["group-2"],
    ]


def test_a_package_that_is_no_json_or_a_fifo_is_named(tmp_path: Path) -> None:
    one, other, none = (tmp_path / name for name in ("one", "other", "none"))
    for directory in (one, other, none):
        directory.mkdir()
    (one / "package.json").write_text("[")
    os.mkfifo(other / "package.json")
    notes = [package["note"] for package in driver_package.find(groups_of(one, other, none))]
    assert notes == ["cannot be read: JSONDecodeError", "cannot be read: JSONDecodeError", "absent"]


def test_without_npm_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path)
    (tmp_path / "rm").symlink_to(shutil.which("rm") or "/bin/rm")
    monkeypatch.setattr(driver_package, "_PATH", str(tmp_path))
    (package,) = driver_package.find(groups_of(tmp_path))
    with pytest.raises(MigrationError, match="npm is not in"):
        driver_package.remove(package)
