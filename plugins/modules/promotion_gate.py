#!/usr/bin/python
"""Documentation of the action plugin promotion_gate, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: promotion_gate
short_description: Refuse a run on a protected environment without signed evidence
description:
  - Fails before anything was changed, unless this very tree has evidence of a passed run in another environment.
  - The evidence must be signed by a key of C(keys/allowed_signers), be young enough, and name all required checks as
    passed.
  - The work tree must be clean, and the host must say of itself that it is this environment.
  - Which environments are protected is read from the group C(all) of the inventory, never from extra variables.
  - Where the environment is not protected it asks the host one thing, and refuses it if it says of itself that it is a
    protected environment. Where none is protected it does nothing.
options:
  leads_back:
    description: Whether the play takes back what an earlier one has done, which is never refused.
    type: bool
    default: false
  may_name_host:
    description: Whether a host that does not say yet what it is may be told so, by C(-e promotion_this_host_is).
    type: bool
    default: false
  needs_plan:
    description:
      - Whether the run has to name, by C(-e plan), the plan that a dry run has shown.
      - Only what the controller knows of the plan is looked at.
        M(swarm.sqlite_to_postgresql.promotion_plan) compares it with the host.
    type: bool
    default: true
  only_records:
    description:
      - Whether nothing is refused, and nothing asked of a host. Of a play that takes something back on a protected
        environment only the grounds are returned, for the record of the run.
    type: bool
    default: false
attributes:
  check_mode:
    description: Warns of what would be refused, and refuses nothing, because a dry run changes nothing.
    support: full
  diff_mode:
    description: It shows no differences.
    support: none
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Refuse to change a protected environment without evidence
  swarm.sqlite_to_postgresql.promotion_gate:
    may_name_host: true
"""

RETURN = r"""
environment:
  description: The protected environment, or nothing.
  returned: always
  type: str
plan:
  description: The id of the plan that the host is to be compared with, or nothing.
  returned: always
  type: str
grounds:
  description:
    - What lets the run change the environment, for its record. C(tree), C(plan), C(evidence), C(override).
    - C(override) is there only if the operator's reason has overridden something, and says what.
  returned: if the environment is protected and the run is no dry one
  type: dict
problems:
  description: Everything that is missing, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""
