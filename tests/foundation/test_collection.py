"""What the collection says about itself is what the project is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import connection
from scripts import install_collections
from tests.conftest import PROJECT

from .test_documentation import MODULES, taken_arguments


def described(path: str) -> dict[str, Any]:
    """Return a YAML file of the project."""
    found: dict[str, Any] = yaml.safe_load((PROJECT / path).read_text(encoding="utf-8"))
    return found


def test_a_login_given_to_the_group_reaches_every_module_that_logs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {name: taken_arguments(name, monkeypatch)["argument_spec"] for name in MODULES}
    logging_in = [name for name in MODULES if arguments[name].keys() >= connection.LOGIN_ARGUMENTS.keys()]
    assert described("meta/runtime.yml")["action_groups"]["postgresql"] == logging_in


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    galaxy = described("galaxy.yml")
    assert (galaxy["version"], galaxy["description"]) == (project["version"], project["description"])
    pinned = re.findall(r"ansible-core==(\d+\.\d+)", "\n".join(project["dependencies"]))
    oldest = min(pinned, key=lambda version: tuple(map(int, version.split("."))))
    assert described("meta/runtime.yml")["requires_ansible"] == f">={oldest}.0"


def test_setup_links_the_project_and_says_where_the_link_is_missing(tmp_path: Path) -> None:
    link = tmp_path / "ansible_collections" / "swarm" / "sqlite_to_postgresql"
    missing = f"{link} does not lead to {PROJECT}"
    assert missing in install_collections.differences(install_collections.REQUIREMENTS, tmp_path)
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    assert missing in install_collections.differences(install_collections.REQUIREMENTS, tmp_path)
    for _ in range(2):
        install_collections.link_project(tmp_path)
        assert link.resolve() == PROJECT
    assert missing not in install_collections.differences(install_collections.REQUIREMENTS, tmp_path)
