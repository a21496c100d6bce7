"""What ``ansible-doc`` tells of each module is what the module takes."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PLUGINS, PROJECT

MODULES = sorted(path.stem for path in (PROJECT / "plugins" / "modules").glob("*.py"))
# What an argument is when its specification does not say.
DEFAULTS = {"type": "str", "required": False, "default": None, "choices": None, "elements": None}


class Constructed(Exception):
    """The module asks for its arguments; this is what it takes."""


@pytest.fixture(scope="module")
def documentation() -> dict[str, dict[str, Any]]:
    """Return each module's documentation, as a user of ``ansible-doc`` gets it."""
    command = [str(Path(sys.executable).parent / "ansible-doc"), "--json", "--type", "module"]
    done = subprocess.run(
        [*command, *(f"swarm.sqlite_to_postgresql.{name}" for name in MODULES)],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.rpartition(".")[2]: document for name, document in json.loads(done.stdout).items()}


def taken_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments that a module asks for when it starts."""
    module = importlib.import_module(f"{PLUGINS}.modules.{name}")
    if not hasattr(module, "main"):  # an action plugin of the same name does everything
        action = importlib.import_module(f"{PLUGINS}.action.{name}")
        return {"argument_spec": action.ARGUMENTS, "supports_check_mode": action.ActionModule._supports_check_mode}

    def construct(**keywords: Any) -> None:
        raise Constructed(keywords)

    monkeypatch.setattr(module, "AnsibleModule", construct)
    with pytest.raises(Constructed) as caught:
        module.main()
    return dict(caught.value.args[0])


def comparable(arguments: dict[str, Any], nested: str) -> dict[str, Any]:
    """Return what must be equal of these arguments; ``nested`` is the key of arguments in an argument."""
    return {
        name: {key: argument.get(key, default) for key, default in DEFAULTS.items()}
        | {"nested": comparable(argument.get(nested) or {}, nested)}
        for name, argument in arguments.items()
    }


@pytest.mark.parametrize("name", MODULES)
def test_a_module_documents_the_arguments_that_it_takes(
    name: str, documentation: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    keywords = taken_arguments(name, monkeypatch)
    document = documentation[name]["doc"]
    assert comparable(document["options"], "suboptions") == comparable(keywords["argument_spec"], "options")
    assert keywords["supports_check_mode"] is True
    assert document["attributes"]["check_mode"]["support"] == "full"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_documents_examples_and_results(name: str, documentation: dict[str, dict[str, Any]]) -> None:
    assert f"swarm.sqlite_to_postgresql.{name}:" in documentation[name]["examples"]
    assert all(value["description"] and value["type"] for value in documentation[name]["return"].values())
