"""Refuses a run on a protected environment before the first task that could change anything.

It opens no connection, and computes nothing, where the environment is not protected.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..plugin_utils.gated import may_be_protected

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
        if not may_be_protected(variables, self._templar):
            return result
        # Loaded only now: see plugin_utils/gated.py.
        from ..module_utils.migration.core.errors import MigrationError
        from ..plugin_utils import promotion

        try:
            protection = promotion.find_protection(variables, self._templar)
            if protection is not None and not arguments["leads_back"]:
                result["environment"] = protection.environment
                result["changed"] = promotion.require_all(self, protection, variables, arguments["may_name_host"])
        except MigrationError as error:
            if self._task.check_mode:
                Display().warning(f"Without --check this run would be refused. {error.message()}")
            else:
                result.update(failed=True, msg=error.message(), problems=error.as_dicts())
        return result
