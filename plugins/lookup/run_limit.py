"""Tells which hosts the run is limited to, for the commands that the run prints."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_limit
short_description: The hosts and the inventory that the commands of this run name
description:
  - Gives the run's own limit, else the name of its environment, as one word for a shell.
  - It stands behind C(-l) in every command that is shown to an operator. Without it a command means every environment.
  - If the run names a plan with C(-e plan), the command does so too, unless O(plan) is false.
  - If the run was started with C(-i), or with E(ANSIBLE_INVENTORY), the same inventories follow, each behind C(-i).
    Without them a command means the hosts of another estate. A path below the project is relative to it.
options:
  _terms:
    description: With V(environment) the limit of the run does not matter, nor how it names the project's own inventory,
      so that what is written to a host stays the same when the next run is started with others. The commands of a run
      whose inventory is outside the project then name no host, and are refused as they stand. It is written as systemd
      reads it between double quotes in a unit.
    type: list
    elements: str
  plan:
    description: Whether a plan that the run names belongs to the command. It does not if the playbook needs no plan,
      nor after a rollback, which no plan outlives.
    type: bool
    default: true
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Say what to do next
  ansible.builtin.debug:
    msg: "ansible-playbook site.yml -l {{ lookup('swarm.sqlite_to_postgresql.run_limit') }}"
"""

RETURN = r"""
_raw:
  description: One pattern of hosts, and perhaps inventories, quoted for a shell where that is needed.
  type: list
  elements: str
"""

import shlex
from typing import Any

from ansible.plugins.lookup import LookupBase

from ..module_utils.migration.core.commands import UNKNOWN_LIMIT
from ..plugin_utils.gated import plan_of_run
from ..plugin_utils.run_inventory import inventory_options, lasting_inventory_options


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible ships without types
    """Looks at the variables of the run."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **options: Any) -> list[str]:
        """Return the pattern and the inventories, as one text alone in a list."""
        known = variables or {}
        stays = "environment" in terms
        limit = None if stays else known.get("ansible_limit")
        environment = known.get("environment_name")
        if not limit and environment:
            limit = self._templar.template(environment)
        inventories = lasting_inventory_options(known) if stays else inventory_options(known)
        if inventories is None:
            return [UNKNOWN_LIMIT]
        is_over = stays or not options.get("plan", True)
        plan = "" if is_over or "hostvars" not in known else plan_of_run(known)
        named = [f"-e {shlex.quote(f'plan={plan}')}"] if plan else []
        text = " ".join([shlex.quote(str(limit or UNKNOWN_LIMIT)), *inventories, *named])
        return [text.replace("\\", r"\\").replace('"', r"\"").replace("%", "%%") if stays else text]
