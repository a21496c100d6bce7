"""Makes a plan of what was found on every host of a run, and keeps it on the controller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.plugins.action import ActionBase

from ..module_utils.migration.core.commands import playbook_on, site_on
from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.promotion import gate, plan
from ..module_utils.promotion.tree import read_tree
from ..plugin_utils.gated import ROOT
from ..plugin_utils.promotion import limit_of_run

# As module promotion_plan_record documents them.
ARGUMENTS: dict[str, Any] = {
    "environment_name": {"type": "str", "required": True},
    "found": {"type": "dict", "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships without types
    """Writes the plan, and says how a run names it."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the plan's id and what a person reads of it."""
        result = dict(super().run(tmp, task_vars))
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        variables = task_vars or {}
        environment = arguments["environment_name"]
        try:
            missing = [host for host in variables["ansible_play_hosts_all"] if host not in arguments["found"]]
            if missing:
                fix = "See why above, and run it again"
                problem = Problem(", ".join(missing), "the dry run has failed there", fix)
                raise MigrationError("There is no plan, because it is about all hosts of the run.", [problem])
            tree = read_tree(ROOT).digest
            hosts = {host: _of_host(entry) for host, entry in sorted(arguments["found"].items())}
            name = plan.write(ROOT, environment, tree, hosts)
        except MigrationError as error:
            return {**result, "failed": True, "msg": error.message(), "problems": error.as_dicts()}
        limit = limit_of_run(variables, environment)
        words = {gate.THIS_HOST_IS: environment, plan.NAMED: name}
        mark = playbook_on(limit, "1_infrastructure", **words)
        lines = plan.lines(name, environment, tree, hosts, site_on(limit, plan=name), mark)
        path = str(plan.path_of(ROOT, environment, name))
        return {**result, "changed": False, "plan": name, "path": path, "lines": lines}


def _of_host(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was found on a host, with the rows that the dry run has counted in each table."""
    found = dict(entry["found"])
    shown = dict(found["shown"])
    rows = _rows(entry.get("reports") or ())
    shown["groups"] = {name: {**group, "rows": rows.get(name, {})} for name, group in shown["groups"].items()}
    return {**found, "shown": shown}


def _rows(reports: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return by group and source table the rows of each."""
    return {
        str(report["group"]): {str(table["source"]): int(table["source_rows"]) for table in report["tables"]}
        for report in reports
    }
