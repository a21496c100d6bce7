"""Tells which hosts the run is limited to, for the commands that the run prints."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_limit
short_description: The hosts and the inventory that the commands of this run name
description:
  - Gives the run's own limit, else the name of its environment, as one word for a shell.
  - It stands behind C(-l) in every command that is shown to an operator. Without it a command means every environment.
  - If the run was started with C(-i), or with E(ANSIBLE_INVENTORY), the same inventories follow, each behind C(-i).
    Without them a command means the hosts of another estate. A path below the project is relative to it.
options:
  _terms:
    description: With V(environment) the options of the run do not matter, so that what is written to a host stays the
      same when the next run is started with others.
    type: list
    elements: str
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants as constants
from ansible.plugins.lookup import LookupBase

from ..module_utils.migration.core.commands import UNKNOWN_LIMIT


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible ships without types
    """Looks at the variables of the run."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_options: Any) -> list[str]:
        """Return the pattern and the inventories, as one text alone in a list."""
        known = variables or {}
        stays = "environment" in terms
        limit = None if stays else known.get("ansible_limit")
        environment = known.get("environment_name")
        if not limit and environment:
            limit = self._templar.template(environment)
        inventories = [] if stays else _given_inventories(known)
        options = [f"-i {shlex.quote(source)}" for source in inventories]
        return [" ".join([shlex.quote(str(limit or UNKNOWN_LIMIT)), *options])]


def _given_inventories(variables: Mapping[str, Any]) -> list[str]:
    """Return the inventories of the run as ``-i`` takes them; none if they are those that ansible.cfg names."""
    given = [str(source) for source in variables.get("ansible_inventory_sources") or ()]
    usual, origin = constants.config.get_config_value_and_origin("DEFAULT_HOST_LIST")
    # A shell in which the command is pasted later may not have the variable.
    if given == usual and not str(origin).startswith("env"):
        return []
    return [_relative(source, variables.get("ansible_config_file")) for source in given]


def _relative(source: str, configuration: Any) -> str:
    """Return the path of an inventory as seen from the project, where commands are run; else the source as it is."""
    # A list of hosts is no path: it holds a comma.
    if not configuration or "," in source:
        return source
    project = Path(str(configuration)).parent
    return str(Path(source).relative_to(project)) if Path(source).is_relative_to(project) else source
