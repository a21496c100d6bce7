"""Runs the module of the same name, and refuses a host that is no longer as it was planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action.normal import ActionModule as NormalAction

from ..module_utils.migration.core.commands import site_on
from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.promotion import plan
from ..module_utils.promotion.gate import machine_of
from ..plugin_utils import promotion
from ..plugin_utils.gated import ROOT, read_host
from ..plugin_utils.host_settings import digests_of_settings


class ActionModule(NormalAction):  # type: ignore[misc]  # Ansible ships without types
    """Compares on the controller what the module has found with the plan that the run names."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was found, or a failure with every difference."""
        result = dict(super().run(tmp, task_vars))
        name = str(self._task.args.get("plan") or "")
        failed = bool(result.get("failed"))
        if result.get("unreachable") or result.get("skipped") or (failed and not name):
            return result
        variables = task_vars or {}
        try:
            if failed:
                overridden = self._pass_over(name, result, variables)
                return {"changed": False, "found": {}, "override": promotion.override(variables, overridden)}
            decides = result["found"]["decides"]
            text, machine_id = read_host(self, becomes=False)
            decides.update(machine=machine_of(machine_id), settings=self._settings(variables))
            result["found"]["shown"]["is_marked"] = text is not None or not self._is_protected(variables)
            if name:
                result["override"] = promotion.override(variables, self._compare(name, decides, variables))
            elif decides["refused"]:
                fix = (
                    "Correct the login. Where only phase 1 can do that (a new password of the migrating role, or a "
                    "server that is there before its roles), give phase 1 a promotion_override_reason"
                )
                problem = Problem(decides["login"], decides["refused"], fix)
                raise MigrationError("There is no plan, because a server answers, and refuses the login.", [problem])
        except MigrationError as error:
            result.pop("found", None)
            result.update(failed=True, msg=error.message(), problems=error.as_dicts())
        return result

    def _settings(self, variables: Mapping[str, Any]) -> dict[str, str]:
        """Return what the inventory says of the task's host.

        :raises MigrationError: if two sources of the inventory contradict each other.
        """
        words = promotion.value_for_all_hosts(variables, "promotion_extra_variables") or ()
        return digests_of_settings(variables, frozenset(map(str, words)))

    def _is_protected(self, variables: Mapping[str, Any]) -> bool:
        """Return whether the environment of the task's host is protected, so that the host has to say what it is.

        :raises MigrationError: if the inventory contradicts itself.
        """
        return promotion.find_protection(variables, self._templar) is not None

    def _pass_over(self, name: str, result: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Problem]:
        """Refuse a host where nobody could look, for example because a source is gone.

        :param result: the module's failure.
        :returns: what the operator's reason has overridden.
        :raises MigrationError: with it, unless the operator has given a reason to go on.
        """
        told = result.get("problems") or [{"where": f"plan {name}", "what": str(result.get("msg")), "fix": "See above"}]
        return self._refuse([Problem(str(one["where"]), str(one["what"]), str(one["fix"])) for one in told], variables)

    def _compare(self, name: str, found: Mapping[str, Any], variables: Mapping[str, Any]) -> list[Problem]:
        """Refuse what was not planned; return what the operator's reason has overridden.

        :raises MigrationError: with every difference, unless the operator has given a reason to go on.
        """
        environment = self._environment(variables)
        host = str(variables["inventory_hostname"])
        command = site_on(promotion.limit_of_run(variables, environment), dry_run=True)
        fix = f"See what the run would do now, and name that plan: {command}"
        try:
            content = plan.read(ROOT, environment, name, fix)
            planned = content["hosts"].get(host)
            told = ["it says nothing of this host"]
            if planned is not None:
                told = plan.differences(planned["decides"], found, content["made_at"])
            problems = [Problem(f"{host}, plan {name}", text, fix) for text in told]
        except MigrationError as error:
            problems = list(error.problems)
        return self._refuse(problems, variables) if problems else []

    def _environment(self, variables: Mapping[str, Any]) -> str:
        """Return the environment of the task's host."""
        protection = promotion.find_protection(variables, self._templar)
        return protection.environment if protection else str(variables["environment_name"])

    def _refuse(self, problems: list[Problem], variables: Mapping[str, Any]) -> list[Problem]:
        """Refuse the run, or return what the operator's reason has overridden.

        :raises MigrationError: unless the environment is protected and the operator has given a reason to go on.
        """
        protection = promotion.find_protection(variables, self._templar)
        if protection is not None:
            return promotion.require(protection, variables, problems, needs_plan=True)
        raise MigrationError("What is there is not what was planned, and nothing was changed.", problems)
