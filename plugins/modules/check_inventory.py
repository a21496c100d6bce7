#!/usr/bin/python
"""Documentation of the action plugin check_inventory, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: check_inventory
short_description: Find every mistake in the inventory before any host is touched
description:
  - Looks at the variables of the hosts of a run, on the controller, and opens no connection.
  - Fails with all mistakes at once. These are hosts of more than one environment in one run, a description of the
    estate that is not valid, roles of the database without a password, variables of a wrong type, and variables that
    nothing reads and whose names are almost right.
  - No value of a variable that is secret is told.
options: {}
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Refuse an inventory that is not right
  swarm.sqlite_to_postgresql.check_inventory:
"""

RETURN = r"""
problems:
  description: Every mistake, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""
