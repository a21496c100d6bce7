#!/usr/bin/python
"""Documentation of the action plugin ``engine_program``, which does all the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: engine_program
short_description: Put a Python package on a host as one program
description:
  - Makes one zip archive of a package and a starter, and copies it with M(ansible.builtin.copy).
  - The same sources give the same bytes, so a second run changes nothing.
options:
  source:
    description: Directory of the package on the controller.
    type: path
    required: true
  dest:
    description: Where the program lies on the host. Its directory must exist.
    type: path
    required: true
  owner:
    description: Name of its owner.
    type: str
    required: true
  group:
    description: Name of its group.
    type: str
    required: true
  mode:
    description: Its mode, as a text of four octal digits.
    type: str
    required: true
attributes:
  check_mode:
    description: Says whether the file would be replaced.
    support: full
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Install the engine as one program
  swarm.sqlite_to_postgresql.engine_program:
    source: plugins/module_utils/migration
    dest: /usr/local/lib/sqlite-to-postgresql.pyz
    owner: root
    group: root
    mode: "0644"
"""

RETURN = r"""
dest:
  description: Where the program lies.
  returned: success
  type: str
checksum:
  description: SHA-1 of the program.
  returned: success
  type: str
"""
