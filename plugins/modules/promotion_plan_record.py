#!/usr/bin/python
"""Documentation of the action plugin promotion_plan_record, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: promotion_plan_record
short_description: Keep the plan of a run, and say its id
description:
  - Makes a plan of what M(swarm.sqlite_to_postgresql.promotion_plan) has found on every host of the run, and writes it
    to C(reports/ENVIRONMENT/plans/ID.json) on the controller, mode 0600, in a dry run too.
  - The id stands for all that the plan says, when it was made and by whom too.
  - Fails if a host of the run has failed, because the plan is about all of them.
options:
  environment_name:
    description: The environment.
    type: str
    required: true
  found:
    description:
      - By host the C(found) of M(swarm.sqlite_to_postgresql.promotion_plan).
      - With C(reports), the reports that M(swarm.sqlite_to_postgresql.sqlite_migrate) has given in the same run, the
        rows of each table are shown.
    type: dict
    required: true
attributes:
  check_mode:
    description: A dry run is what a plan is made for, so it is kept too.
    support: full
  diff_mode:
    description: It shows no differences.
    support: none
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Keep the plan
  swarm.sqlite_to_postgresql.promotion_plan_record:
    environment_name: prod
    found:
      swarm-prod: {found: "{{ looked.found }}", reports: []}
  run_once: true
"""

RETURN = r"""
plan:
  description: The id.
  returned: success
  type: str
path:
  description: Where it is kept.
  returned: success
  type: str
lines:
  description: The plan as a person reads it, with the command that carries it out.
  returned: success
  type: list
  elements: str
problems:
  description: What is missing, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""
