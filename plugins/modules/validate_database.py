#!/usr/bin/python
"""Look at what all cutover groups share: the server, its schema, who may do what, and the backups."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: validate_database
short_description: Look at the server, its schema, the services' privileges and the backups
description:
  - Says what is wrong, without writing anything. Findings do not fail the task, so that a report can tell all of them.
  - Settings that may lose data must have their values, also those of single roles; and none that the role
    postgres_config has set may be overruled. The tables must be as the applied SQL files left them, no index or
    constraint missing. Each service's role must have the privileges of its schemas, no more and no less, and PUBLIC
    none.
  - Once a group lives in PostgreSQL and backups are taken, one that was proven to restore must not be too old.
options:
  groups:
    description: Every cutover group of the estate, as described in the README of the role sqlite_migrate.
    type: list
    elements: dict
    required: true
  backup_max_age_hours:
    description: How old the newest backup that was proven to restore may be.
    type: float
    default: 48
  unwritten_tables:
    description: The names given to M(swarm.sqlite_to_postgresql.validate_group); one that no group moves is a finding.
    type: list
    elements: str
    default: []
  overruled_settings:
    description:
      - Settings for which the server does not use the value that the role postgres_config has given them, as that
        role's C(tasks/look.yml) finds them.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the setting.
        type: str
        required: true
      wanted:
        description: The value that the role has given it.
        type: str
        required: true
      found:
        description: The value that the server uses.
        type: str
        required: true
      source:
        description: The file, or the kind of place, where that value comes from.
        type: str
        required: true
attributes:
  check_mode:
    description: Looks all the same, because nothing is written. Where there is no server or ledger yet, says so.
    support: full
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Look at the server
  swarm.sqlite_to_postgresql.validate_database:
    groups: "{{ estate_cutover_groups }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
validation:
  description: What was found.
  returned: success
  type: dict
  contains:
    findings:
      description: Everything that is wrong, as where, what and fix.
      type: list
      elements: dict
    information:
      description: What is worth knowing without being wrong.
      type: list
      elements: str
    server:
      description: Version and settings.
      type: dict
    drift:
      description: How the tables differ from what the applied SQL files left.
      type: list
      elements: str
    privileges:
      description: The roles that were looked at, with their schemas.
      type: dict
    backup:
      description: The newest backup that was proven to restore.
      type: dict
problems:
  description: Why nothing could be looked at, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from collections.abc import Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core import ledger
from ..module_utils.migration.core.connection import LOGIN_ARGUMENTS, Login, ServerUnreachable, connected
from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.core.estate import Group, parse_group
from ..module_utils.migration.validation import database as validate_database


def validation(groups: Sequence[Group], login: Login, parameters: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Return what was found.

    :raises MigrationError: if nobody can look, unless a dry run finds no server or ledger yet.
    """
    result: dict[str, Any]
    try:
        with connected(login, read_only=True) as connection:
            if check_mode and not ledger.exists(connection):
                result = validate_database.blank("there is no ledger in the database yet")
            else:
                result = validate_database.validate(
                    connection,
                    groups,
                    parameters["backup_max_age_hours"],
                    parameters["unwritten_tables"],
                    parameters["overruled_settings"],
                )
    except ServerUnreachable:
        if not check_mode:
            raise
        result = validate_database.blank("there is no server yet")
    return result


def main() -> None:
    """Look at the server and return what was found."""
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "dict", "required": True},
            "backup_max_age_hours": {"type": "float", "default": 48},
            "unwritten_tables": {"type": "list", "elements": "str", "default": []},
            "overruled_settings": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {name: {"type": "str", "required": True} for name in ("name", "wanted", "found", "source")},
            },
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        result = validation(
            [parse_group(group) for group in parameters["groups"]],
            Login.from_arguments(parameters),
            parameters,
            module.check_mode,
        )
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    module.exit_json(changed=False, validation=result)


if __name__ == "__main__":
    main()
