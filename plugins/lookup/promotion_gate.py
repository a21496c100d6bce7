"""Lets no task of a play run in a protected environment unless the gate lets the run pass."""

from __future__ import annotations

DOCUMENTATION = r"""
name: promotion_gate
short_description: Let no task of a play run unless the gate lets the run pass
description:
  - Gives an empty text, or fails with everything that is missing before this tree may change a protected environment.
  - Stands in the C(environment) of every play that changes something, which Ansible resolves for each task. So it also
    holds for tasks of Ansible's own modules when the gate's own task was left out with C(--skip-tags) or
    C(--start-at-task).
  - It asks no host. In check mode, and where the environment is not protected, it does nothing.
options:
  _terms:
    description: Nothing, or one value. If it is true, the play takes back what an earlier one has done, and is open.
    type: list
    elements: raw
  plan:
    description: Whether the run has to name a plan. Phase 6 and the replay of rows name by themselves what they do.
    type: bool
    default: true
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Change something
  hosts: service_hosts
  environment:
    MIGRATION_GATE: "{{ lookup('swarm.sqlite_to_postgresql.promotion_gate') or omit }}"
"""

RETURN = r"""
_raw:
  description: One empty text.
  type: list
  elements: str
"""

from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

from ..plugin_utils.gated import may_be_protected


class LookupModule(LookupBase):  # type: ignore[misc]  # Ansible ships without types
    """Asks the gate."""

    def run(self, terms: list[Any], variables: dict[str, Any] | None = None, **options: Any) -> list[str]:
        """Return an empty text.

        :raises AnsibleError: with everything that is missing.
        """
        known = variables or {}
        if context.CLIARGS.get("check") or any(terms) or not may_be_protected(known, self._templar):
            return [""]
        from ..module_utils.migration.core.errors import MigrationError
        from ..plugin_utils import promotion

        try:
            protection = promotion.find_protection(known, self._templar)
            if protection is not None:
                promotion.require(protection, known, needs_plan=bool(options.get("plan", True)))
        except MigrationError as error:
            raise AnsibleError(error.message()) from None
        return [""]
