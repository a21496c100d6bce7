#!/usr/bin/python
"""Documentation of the action plugin promotion_evidence, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: promotion_evidence
short_description: Write down what a run has left in an environment, as evidence
description:
  - Writes a record into C(evidence/) on the controller, named for the environment and the tree. It is not signed yet.
  - The work tree must be clean. What is missing is told, and stays in the record.
  - All service hosts of the environment must have been looked at, and no variable may be given with C(-e) that
    C(promotion_extra_variables) does not name.
options:
  environment_name:
    description: The environment, such as V(dev).
    type: str
    required: true
  validations:
    description:
      - What was found on each host just now, as C(host), C(groups), C(checks) and C(database).
      - These are the results of M(swarm.sqlite_to_postgresql.validate_group), M(swarm.sqlite_to_postgresql.http_checks)
        and M(swarm.sqlite_to_postgresql.validate_database).
    type: list
    elements: dict
    required: true
attributes:
  check_mode:
    description: Says what is missing, writes nothing, and also looks at what runs where the work tree is not clean.
    support: full
  diff_mode:
    description: It shows no differences.
    support: none
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Write down what was found
  swarm.sqlite_to_postgresql.promotion_evidence:
    environment_name: dev
    validations: "{{ found }}"
"""

RETURN = r"""
path:
  description: The record.
  returned: success
  type: str
missing:
  description: Each check that has not passed, as a sentence.
  returned: success
  type: list
  elements: str
lines:
  description: The summary for the terminal.
  returned: success
  type: list
  elements: str
problems:
  description: Why nothing was written, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""
