"""What the processes of tasks find loaded: the callback preload."""

from __future__ import annotations

from pathlib import Path

import pytest

from .support import Bench

_PLUGINS = "ansible_collections.swarm.sqlite_to_postgresql.plugins"
# What the names of the modules begin with, for each kind of plugin.
_LOADED = (
    "ansible.plugins.filter.",
    "ansible.plugins.test.",
    "ansible_collections.ansible.builtin.plugins.lookup.template",
    f"{_PLUGINS}.filter.service_rights",
    f"{_PLUGINS}.lookup.promotion_gate",
    f"{_PLUGINS}.lookup.run_limit",
)
# Kinds and names, as Ansible keeps them, of plugins whose documentation has been read; the task that looks uses none.
_READ = (
    ("become", "ansible_collections.ansible.builtin.plugins.become.su"),
    ("become", f"{_PLUGINS}.become.runuser"),
    ("connection", "ansible_collections.ansible.builtin.plugins.connection.ssh"),
)
_ACTION = f"""
import sys
from ansible import constants
from ansible.plugins.action import ActionBase
LOADED, READ = {_LOADED!r}, {_READ!r}
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        missing = [name for name in LOADED if not any(loaded.startswith(name) for loaded in sys.modules)]
        missing += [name for kind, name in READ if not constants.config.has_configuration_definition(kind, name)]
        return {{"changed": False, "failed": bool(missing), "msg": "Not loaded: " + ", ".join(missing)}}
"""
_PLAYS = [{"hosts": "one", "gather_facts": False, "tasks": [{"name": "Look", "look": {}}]}]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A place with an action that fails if a plugin is not loaded when the task begins."""
    made = Bench(tmp_path)
    (tmp_path / "action_plugins" / "look.py").write_text(_ACTION)
    (tmp_path / "library" / "look.py").write_text("")
    return made


def test_a_task_finds_the_plugins_loaded_that_most_tasks_use(bench: Bench) -> None:
    outcome = bench.run(_PLAYS, ANSIBLE_STDOUT_CALLBACK="default")
    assert outcome.status == 0, outcome.output
    assert "WARNING" not in outcome.output
    run_record = "swarm.sqlite_to_postgresql.run_record"
    without = bench.run(_PLAYS, ANSIBLE_STDOUT_CALLBACK="default", ANSIBLE_CALLBACKS_ENABLED=run_record)
    missing = ", ".join((*_LOADED, *(name for _, name in _READ)))
    assert f"Not loaded: {missing}" in without.output, without.output
