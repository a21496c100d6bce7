#!/usr/bin/python
"""Say what a run would find on a host and do there; with a plan, refuse if that is no longer what was planned."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: promotion_plan
short_description: Say what a run would do on a host, or refuse what was not planned
description:
  - Reads, and changes nothing. It takes no copy of a source.
  - With O(plan) the action plugin of the same name compares on the controller what was found with what was planned, and
    fails with every difference. What the planned work itself has changed is none. So a run that was interrupted can be
    finished under the same plan.
  - Without it the result is what M(swarm.sqlite_to_postgresql.promotion_plan_record) makes a plan of.
options:
  groups:
    description: The cutover groups of this host, as C(estate_cutover_groups) describes them.
    type: list
    elements: dict
    required: true
  files:
    description: The SQL files of the schema, each with its SHA-256.
    type: dict
    required: true
  work_directory:
    description: Directory on the host for private snapshots. It need not exist yet.
    type: path
    default: /var/lib/sqlite-migration
  plan:
    description: The id of the plan that the host is compared with.
    type: str
    default: ''
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It shows no differences.
    support: none
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Say what a run would find
  swarm.sqlite_to_postgresql.promotion_plan:
    groups: "{{ estate_cutover_groups }}"
    files:
      001_auth_schema.sql: "{{ lookup('ansible.builtin.file', 'files/sql/001_auth_schema.sql') | hash('sha256') }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
found:
  description: C(decides), which is compared with a plan, and C(shown), the figures beside it.
  returned: success
  type: dict
problems:
  description: Every difference, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.connection import LOGIN_ARGUMENTS, Login
from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.core.files import WORK_DIRECTORY
from ..module_utils.migration.cutover.planned import find


def main() -> None:
    """Read the arguments, look, and report."""
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "dict", "required": True},
            "files": {"type": "dict", "required": True},
            "work_directory": {"type": "path", "default": WORK_DIRECTORY},
            "plan": {"type": "str", "default": ""},
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        found = find(given["groups"], Login.from_arguments(given), given["files"], given["work_directory"])
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    module.exit_json(changed=False, found=found)


if __name__ == "__main__":
    main()
