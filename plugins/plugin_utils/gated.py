"""Whether a task's host may be protected, and the action of a module that is behind the gate.

Each task has a process of its own, which loads what it uses. So this file is small, and the gate itself is loaded only
where an environment is protected.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.action.normal import ActionModule as NormalAction
from ansible.vars.plugins import get_vars_from_inventory_sources

# The project's folder.
ROOT = Path(__file__).resolve().parent.parent.parent
# The file by which a host says what environment it is.
HOST_FILE = "/etc/sqlite-to-postgresql/environment"
PROTECTED = "promotion_protected_environments"
# Beginnings of the names of variables that only the inventory may set.
ONLY_IN_THE_INVENTORY = ("environment_name", "promotion_")

_MACHINE_ID = "/etc/machine-id"


class GatedAction(NormalAction):  # type: ignore[misc]  # Ansible ships without types
    """Runs the module of the same name, in a protected environment only if the gate lets it."""

    # Whether the run has to name a plan. What does less names what it does by itself.
    NEEDS_PLAN = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or the gate's refusal."""
        variables = task_vars or {}
        if not self.leads_back() and may_be_protected(variables, self._templar):
            from .promotion import refuse

            refusal = refuse(self, variables, self.NEEDS_PLAN)
            if refusal:
                return refusal
        return dict(super().run(tmp, task_vars))

    def leads_back(self) -> bool:
        """Return whether the task takes back what an earlier one has done: the way out of trouble is open."""
        return False


def may_be_protected(variables: Mapping[str, Any], templar: Any) -> bool:
    """Return whether the gate has to be asked about a task's host: it is protected, or that is not clear."""
    values = values_for_all_hosts(variables, PROTECTED)
    if not any(values):
        return False
    if len(values) > 1 or not isinstance(values[0], Mapping):
        return True
    given = variables["hostvars"]._variable_manager.extra_vars
    return any(name.startswith(ONLY_IN_THE_INVENTORY) for name in given) or any(
        name in values[0] for name in environment_names(variables, templar)
    )


def plan_of_run(variables: Mapping[str, Any]) -> str:
    """Return the id of the plan that a run names with ``-e plan``; empty if it names none."""
    return str(variables["hostvars"]._variable_manager.extra_vars.get("plan", "")).strip()


def environment_names(variables: Mapping[str, Any], templar: Any) -> list[str]:
    """Return what the environment of a task's host may be called: its ``environment_name``, and its groups."""
    names = [templar.template(variables.get("environment_name")), *variables.get("group_names", ())]
    return [str(name) for name in names if name]


def values_for_all_hosts(variables: Mapping[str, Any], name: str) -> list[Any]:
    """Return the values that the inventory gives to a variable for all hosts: more than one if its sources differ.

    The tree's own inventory is always asked too: one given with ``-i`` in its place may say nothing of the gate.
    """
    hostvars = variables["hostvars"]
    inventory = hostvars._inventory
    group = inventory.groups["all"]
    found = [group.get_vars()]
    found += [
        get_vars_from_inventory_sources(hostvars._loader, [source], [group], "task") for source in inventory._sources
    ]
    if not any(Path(str(source)).resolve() == ROOT / "inventory" for source in inventory._sources):
        found.append(_of_the_tree(hostvars._loader))
    values: list[Any] = []
    for source in found:
        if name in source and source[name] not in values:
            values.append(source[name])
    return values


def _of_the_tree(loader: Any) -> dict[str, Any]:
    """Return what the tree's own inventory gives to all hosts; what is encrypted there is nothing of this run."""
    found: dict[str, Any] = {}
    directory = ROOT / "inventory" / "group_vars"
    for path in (directory / "all.yml", *sorted((directory / "all").glob("*.yml"))):
        if path.is_file():
            with suppress(AnsibleError):
                found.update(loader.load_from_file(str(path)) or {})
    return found


def read_host(action: ActionBase, becomes: bool = True) -> tuple[str | None, str]:
    """Return the file by which a host says what environment it is, None if it is not there, and its machine id.

    :param becomes: whether the command runs as the user whom the task becomes. Everybody may read both files.
    """
    command = f'printf "%s\\n" "$(cat {_MACHINE_ID} 2>/dev/null)"; cat {HOST_FILE} 2>/dev/null'
    answer = action._low_level_execute_command(command, sudoable=becomes)
    machine_id, _, text = answer["stdout"].replace("\r\n", "\n").partition("\n")
    return (text if answer["rc"] == 0 else None), machine_id
