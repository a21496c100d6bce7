"""Tells which hosts the run is limited to, for the commands that the run prints."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_limit
short_description: The hosts that the commands of this run name
description:
  - Gives the run's own limit, else the name of its environment, as one word for a shell.
  - It stands behind C(-l) in every command that is shown to an operator. Without it a command means every environment.
options:
  _terms:
    description: With V(environment) the limit of the run does not matter, so that what is written to a host stays the
      same when the next run is limited otherwise.
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
  description: One pattern of hosts, quoted for a shell where that is needed.
  type: list
  elements: str
"""

import shlex
from typing import Any

from ansible.plugins.lookup import LookupBase

from ..module_utils.migration.core.commands import UNKNOWN_LIMIT


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible ships without types
    """Looks at the variables of the run."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_options: Any) -> list[str]:
        """Return the pattern, alone in a list."""
        known = variables or {}
        limit = None if "environment" in terms else known.get("ansible_limit")
        environment = known.get("environment_name")
        if not limit and environment:
            limit = self._templar.template(environment)
        return [shlex.quote(str(limit or UNKNOWN_LIMIT))]
