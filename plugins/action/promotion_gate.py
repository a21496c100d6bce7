"""Refuses a run on a protected environment before the first task that could change anything.

It opens no connection, and computes nothing, where the environment is not protected.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.promotion import gate
from ..plugin_utils import promotion

# As module promotion_gate documents them.
ARGUMENTS: dict[str, Any] = {
    "leads_back": {"type": "bool", "default": False},
    "may_name_host": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships without types
    """Asks the gate, and lets a host say once which environment it is."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return whether the host was named, or a failure with everything that is missing."""
        result = dict(super().run(tmp, task_vars))
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        result.update(changed=False, environment="")
        variables = task_vars or {}
        try:
            protection = promotion.find_protection(variables)
            if protection is not None and not arguments["leads_back"]:
                result["environment"] = protection.environment
                result["changed"] = self._pass(protection, variables, arguments["may_name_host"])
        except MigrationError as error:
            if self._task.check_mode:
                Display().warning(f"Without --check this run would be refused. {error.message()}")
            else:
                result.update(failed=True, msg=error.message(), problems=error.as_dicts())
        return result

    def _pass(self, protection: gate.Protection, variables: Mapping[str, Any], may_name_host: bool) -> bool:
        """Return whether the host has got a name, or would get it.

        :raises MigrationError: with everything that is missing.
        """
        said = variables["hostvars"]._variable_manager.extra_vars.get(gate.THIS_HOST_IS)
        problems = []
        if said is not None and said != protection.environment:
            what = f"it says {said}, and the inventory says {protection.environment}"
            problems.append(Problem(gate.THIS_HOST_IS, what, "See which host this is"))
        # What the controller knows is told before a host is asked.
        promotion.require(protection, variables, problems)
        text, machine_id = promotion.read_host(self)
        is_named = text is None and said is not None and may_name_host and bool(machine_id.strip())
        if is_named:
            text = gate.host_text(protection.environment, machine_id)
        promotion.require_host(protection, variables, text, machine_id)
        if is_named and text is not None and not self._task.check_mode:
            self._write(text)
        return is_named

    def _write(self, text: str) -> None:
        """Write the file by which the host says what it is.

        :raises MigrationError: if the host refuses it.
        """
        path = promotion.HOST_FILE
        directory, new = shlex.quote(str(PurePosixPath(path).parent)), shlex.quote(f"{path}.new")
        write = f"printf %s {shlex.quote(text)} > {new} && mv {new} {shlex.quote(path)}"
        command = f"umask 022 && mkdir -p {directory} && {write}"
        answer = self._low_level_execute_command(command)
        if answer["rc"] != 0:
            problem = Problem(path, f"it cannot be written: {answer['stderr'].strip()}", "Run as root, or with become")
            raise MigrationError("The host could not be named.", [problem])
