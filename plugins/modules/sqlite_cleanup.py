#!/usr/bin/python
"""Explain, carry out, or undo the cleanup of SQLite files after their move to PostgreSQL."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sqlite_cleanup
short_description: Explain, carry out, or undo the cleanup of SQLite files
description:
  - Looks at the source of each cutover group and at each legacy file, and returns what is there - size, hash, the rows
    of every table, the symlinks that lead to it - what would become of it, and every condition that is not met.
  - With O(confirm) it does what is ready, and only that - first archive, quarantine and tombstone; after a second
    period, in a later run under another id, the deletion from quarantine.
  - With O(restore_groups) it brings files back from quarantine to where they were.
  - Rows are counted in a private copy made together with the C(-wal), so no file is called empty by its size and none
    is changed by looking at it.
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
  confirm:
    description:
      - Id of the plan to carry out, as a run without it has printed it.
      - An id that is not that of the present plan is refused, with what has changed since it was shown.
    type: str
    default: ""
  restore_groups:
    description: Names of the cutover groups whose files come back from quarantine, and V(legacy) for the legacy files.
    type: list
    elements: str
    default: []
  soak_days:
    description: Days on PostgreSQL, proven by the daily checks, before a group's file may go into quarantine.
    type: float
    default: 7
  quarantine_days:
    description: Days in quarantine, proven by the daily checks, before a file may be deleted.
    type: float
    default: 7
  archive_directory:
    description: Directory on the host for the archives, which stay. It is created with mode 0700.
    type: path
    default: /var/backups/sqlite-migration
  quarantine_directory:
    description:
      - Directory on the host for the quarantine of files on its file system. It is created with mode 0700.
      - Files on another file system go to a directory at the top of theirs.
    type: path
    default: /var/lib/sqlite-migration/quarantine
  work_directory:
    description: Directory on the host for private copies. It is created with mode 0700.
    type: path
    default: /var/lib/sqlite-migration
attributes:
  check_mode:
    description: Says what would be done, and does nothing. Where there is no server or ledger yet, that is one more
      condition that is not met.
    support: full
requirements:
  - npm on the host, to remove better-sqlite3
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Explain what cleanup would do
  swarm.sqlite_to_postgresql.sqlite_cleanup:
    groups: "{{ estate_cutover_groups }}"
    legacy_files: "{{ estate_legacy_files }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner

- name: Do what the plan with this id says is ready
  swarm.sqlite_to_postgresql.sqlite_cleanup:
    groups: "{{ estate_cutover_groups }}"
    legacy_files: "{{ estate_legacy_files }}"
    confirm: 3f0a86c1d2b7
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
plan_id:
  description: Changes as soon as anything that would be done changes; waiting alone does not change it until a file
    becomes ready.
  returned: success
  type: str
entries:
  description: Each file with its rows, what would become of it, and the conditions that are not met.
  returned: success
  type: list
  elements: dict
packages:
  description: Each package of the services, and the version of better-sqlite3 that it names.
  returned: success
  type: list
  elements: dict
done:
  description: What was done, or in check mode would be.
  returned: success
  type: list
  elements: str
lines:
  description: The plan, or what was done, for a person.
  returned: success
  type: list
  elements: str
problems:
  description: Why there is no plan or it was refused, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.cleanup import cleanup, conditions
from ..module_utils.migration.cleanup import plan as cleanup_plan
from ..module_utils.migration.cleanup import restore as cleanup_return
from ..module_utils.migration.cleanup import run as cleanup_estate
from ..module_utils.migration.core import ledger
from ..module_utils.migration.core.connection import (
    LOGIN_ARGUMENTS,
    Login,
    LoginRefused,
    ServerUnreachable,
    connected,
    explained,
)
from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.migration.core.estate import parse_group
from ..module_utils.migration.core.files import WORK_DIRECTORY
from ..module_utils.migration.quarantine import archive


def run(parameters: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Explain the plan, carry it out, or bring files back.

    :raises MigrationError: if it is refused, or the ledger cannot be read, unless a dry run finds no ledger yet.
    """
    groups = [parse_group(entry) for entry in parameters["groups"]]
    legacy = parameters["legacy_files"]
    settings = conditions.Settings(
        soak_days=parameters["soak_days"],
        quarantine_days=parameters["quarantine_days"],
        work_directory=parameters["work_directory"],
        quarantine_directory=parameters["quarantine_directory"],
        archive_directory=parameters["archive_directory"],
    )
    confirm, restored = parameters["confirm"], parameters["restore_groups"]
    if confirm and restored:
        problem = Problem(
            "sqlite_cleanup_restore_groups", "a plan is confirmed in the same run", "Do one after the other"
        )
        raise MigrationError("Cleanup cannot go forward and back at once.", [problem])
    try:
        with connected(Login.from_arguments(parameters)) as connection, explained("cleaning up"):
            if check_mode and not ledger.exists(connection):
                return _bare(groups, legacy, settings, "the database has no ledger yet")
            estate = cleanup_estate.Estate(connection, groups, legacy, settings)
            if restored:
                result: dict[str, Any] = cleanup_return.restore(estate, restored, check_mode)
            elif confirm:
                result = cleanup.carry_out(estate, confirm, check_mode)
            else:
                result = cleanup.explain(estate, check_mode)
            return result
    except (ServerUnreachable, LoginRefused) as error:
        if not check_mode:
            raise
        # The roles before this one may only have announced the server, its database or the new password.
        why = "there is no server yet" if isinstance(error, ServerUnreachable) else str(error.problems[0])
        return _bare(groups, legacy, settings, why)


def _bare(groups: Any, legacy: Any, settings: Any, why: str) -> dict[str, Any]:
    """Return the plan on a host without a ledger."""
    plan = cleanup_plan.make_plan(None, groups, legacy, settings, unreachable=why)
    return {**plan, "changed": False, "done": []}


def main() -> None:
    """Do what the arguments ask for, and return the result."""
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "dict", "required": True},
            "legacy_files": {"type": "list", "elements": "path", "default": []},
            "confirm": {"type": "str", "default": ""},
            "restore_groups": {"type": "list", "elements": "str", "default": []},
            "soak_days": {"type": "float", "default": 7},
            "quarantine_days": {"type": "float", "default": 7},
            "archive_directory": {"type": "path", "default": archive.ARCHIVE_DIRECTORY},
            "quarantine_directory": {"type": "path", "default": conditions.QUARANTINE_DIRECTORY},
            "work_directory": {"type": "path", "default": WORK_DIRECTORY},
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    # What the id stands for is long, and in the ledger.
    module.exit_json(**{key: value for key, value in result.items() if key != "facts"})


if __name__ == "__main__":
    main()
