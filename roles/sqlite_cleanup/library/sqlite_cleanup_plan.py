#!/usr/bin/python
"""Say which SQLite files cleanup would archive and remove, and what keeps it from it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sqlite_cleanup_plan
short_description: Say which SQLite files cleanup would remove, and why not yet
description:
  - Looks at the source of each cutover group and at each legacy file, and returns what is there - size, hash, the rows
    of every table, the symlinks that lead to it - what would become of it, and every condition that is not met.
  - Rows are counted in a private copy made together with the C(-wal), so no file is called empty by its size and none
    is changed by looking at it.
  - Never archives, moves or deletes anything.
options:
  groups:
    description: The cutover groups, as described in the README of the role sqlite_migrate.
    type: list
    elements: dict
    required: true
  legacy_files:
    description: Files that no service uses any longer.
    type: list
    elements: path
    default: []
  soak_days:
    description: Days that a group must have lived on PostgreSQL, counted from the ledger's time of its cutover.
    type: float
    default: 7
  work_directory:
    description: Directory on the host for private copies. It is created with mode 0700.
    type: path
    default: /var/lib/sqlite-migration
  login_host:
    description: Address of the PostgreSQL server, or the directory of its Unix socket.
    type: str
    default: 127.0.0.1
  login_port:
    description: Port of the server.
    type: int
    default: 5432
  login_db:
    description: Target database.
    type: str
    required: true
  login_user:
    description: Role that reads the ledger.
    type: str
    required: true
  login_password:
    description: Password of that role.
    type: str
  session_role:
    description: Role to become after the login, the owner of the tables.
    type: str
  ssl_mode:
    description: How the connection is protected, as in libpq.
    type: str
    default: prefer
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  ca_cert:
    description: File with the certificate authorities that may have signed the server's certificate.
    type: path
  connect_timeout:
    description: Seconds to wait for the server.
    type: int
    default: 10
attributes:
  check_mode:
    description: The same, because nothing is ever changed. Where there is no server or ledger yet, that is one more
      condition that is not met.
    support: full
requirements:
  - psycopg2 on the host
author:
  - The maintainers of this project
"""

EXAMPLES = r"""
- name: Explain what cleanup would do
  sqlite_cleanup_plan:
    groups: "{{ estate_cutover_groups }}"
    legacy_files: "{{ estate_legacy_files }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
plan_id:
  description: Changes as soon as any file, its content, its links or what would become of it changes.
  returned: success
  type: str
entries:
  description: Each file with its rows, what would become of it, and the conditions that are not met.
  returned: success
  type: list
  elements: dict
packages:
  description: Each service, and the version of better-sqlite3 that its package.json names.
  returned: success
  type: list
  elements: dict
lines:
  description: The plan for a person.
  returned: success
  type: list
  elements: str
problems:
  description: Why there is no plan, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migration import cleanup_plan, ledger
from ansible.module_utils.migration.connection import LOGIN_ARGUMENTS, Login, ServerUnreachable, connected
from ansible.module_utils.migration.errors import MigrationError
from ansible.module_utils.migration.estate import parse_group
from ansible.module_utils.migration.snapshot import WORK_DIRECTORY


def plan(parameters: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return the cleanup plan.

    :raises MigrationError: if the ledger cannot be read, unless a dry run finds no server or ledger yet.
    """
    make = partial(
        cleanup_plan.make_plan,
        groups=[parse_group(entry) for entry in parameters["groups"]],
        legacy_files=parameters["legacy_files"],
        soak_days=parameters["soak_days"],
        work_directory=parameters["work_directory"],
    )
    result: dict[str, Any]
    try:
        with connected(Login.from_arguments(parameters)) as connection:
            if check_mode and not ledger.exists(connection):
                result = make(None, unreachable="the database has no ledger yet")
            else:
                result = make(connection)
    except ServerUnreachable:
        if not check_mode:
            raise
        result = make(None, unreachable="there is no server yet")
    return result


def main() -> None:
    """Make the plan and return it."""
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "dict", "required": True},
            "legacy_files": {"type": "list", "elements": "path", "default": []},
            "soak_days": {"type": "float", "default": 7},
            "work_directory": {"type": "path", "default": WORK_DIRECTORY},
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        result = plan(module.params, module.check_mode)
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
