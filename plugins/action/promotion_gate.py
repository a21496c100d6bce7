"""Refuses a run on a protected environment before the first task that could change anything.

Where the environment is not protected it computes nothing, and asks the host one thing: whether it is another one.
"""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..plugin_utils.gated import PROTECTED, may_be_protected, plan_of_run, read_host, values_for_all_hosts
from ..plugin_utils.messages import printable

# As module promotion_gate documents them.
ARGUMENTS: dict[str, Any] = {
    "leads_back": {"type": "bool", "default": False},
    "may_name_host": {"type": "bool", "default": False},
    "needs_plan": {"type": "bool", "default": True},
    "only_records": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships without types
    """Asks the gate, and lets a host say once which environment it is."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return whether the host was named and which plan counts, or a failure with everything that is missing."""
        result = dict(super().run(tmp, task_vars))
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        variables = task_vars or {}
        if arguments["only_records"]:
            return {**result, "changed": False, "environment": "", "plan": "", **self._going_back(variables)}
        # A run names a plan where it must, and may elsewhere; a dry run makes one.
        named = "" if arguments["leads_back"] or not arguments["needs_plan"] else plan_of_run(variables)
        result.update(changed=False, environment="", plan="" if self._task.check_mode else named)
        # What the host says of itself, where the inventory does not protect it.
        said: tuple[str | None, str] | None = None
        if not may_be_protected(variables, self._templar):
            if arguments["leads_back"] or not any(values_for_all_hosts(variables, PROTECTED)):
                return result
            try:
                said = read_host(self, becomes=False)
            except AnsibleConnectionFailure:
                # The first task of the phase tells it, and the other hosts go on.
                return result
            if said[0] is None:
                return result
        # Loaded only now: see plugin_utils/gated.py.
        from ..module_utils.migration.core.errors import MigrationError
        from ..plugin_utils import promotion

        try:
            protection = promotion.find_protection(variables, self._templar)
            if arguments["leads_back"]:
                return result
            if protection is None:
                promotion.require_no_other(variables, *(said or read_host(self, becomes=False)))
            else:
                result["environment"] = protection.environment
                result["changed"], overridden = promotion.require_all(
                    self, protection, variables, arguments["may_name_host"], arguments["needs_plan"]
                )
                if not self._task.check_mode:
                    result["grounds"] = promotion.grounds(protection, variables, overridden)
        except MigrationError as error:
            if self._task.check_mode:
                told = printable(error.message())
                Display().warning(f"Without --check this run would be refused. {told}")
            else:
                result.update(failed=True, msg=error.message(), problems=error.as_dicts())
        return result

    def _going_back(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Return the grounds of a run that takes something back; none if there is nothing to record, or that fails."""
        from ..module_utils.migration.core.errors import MigrationError

        try:
            if self._task.check_mode or not any(values_for_all_hosts(variables, PROTECTED)):
                return {}
            from ..plugin_utils import promotion

            grounds = promotion.grounds_of_going_back(variables, self._templar)
        except (MigrationError, AnsibleError) as error:
            # The way out of trouble is never closed.
            told = error.message() if isinstance(error, MigrationError) else str(error)
            Display().warning(printable(f"This run leaves no record for the auditor. {told}"))
            return {}
        return {} if grounds is None else {"grounds": grounds}
