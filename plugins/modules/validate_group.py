#!/usr/bin/python
"""Compare the SQLite file of each cutover group with its PostgreSQL tables, whatever state it is in."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: validate_group
short_description: Compare both sides of cutover groups
description:
  - Reads both sides of each cutover group and says what is wrong, without writing anything.
  - Before the cutover the target must be what the last rehearsal proved. What the services wrote to SQLite since is
    information.
  - After it the frozen file must be the recorded one, its rows must hash to what the final sync proved equal, and no
    process may have it open. What the services wrote to PostgreSQL since is counted by table, as information.
  - What differs in a table of O(unwritten_tables) after the cutover is wrong, and its rows are named.
  - After a rollback both sides are compared; what the services wrote to SQLite since is information.
  - Sequences must be ahead of every id, constraints validated, foreign keys without orphans, indexes valid.
  - Each service must answer its health address.
  - Findings do not fail the task, so that a report can tell all of them; the caller decides.
options:
  groups:
    description:
      - Entries of C(estate_cutover_groups), as described in the README of the role sqlite_migrate.
      - One call for all of them, because most of a call is the start of the engine on the host.
    type: list
    elements: dict
    required: true
  work_directory:
    description: Directory on the host for private snapshots. It is created with mode 0700.
    type: path
    default: /var/lib/sqlite-migration
  ask_services:
    description: Whether to ask each service for its health, and to look for processes that have the frozen file open.
    type: bool
    default: true
  unwritten_tables:
    description: Target tables, as C(schema.table), that no service writes to.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Compares all the same, because nothing is written; the server itself would refuse it. Where there is
      no server or ledger yet, says so.
    support: full
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Compare both sides of the registry
  swarm.sqlite_to_postgresql.validate_group:
    groups: "{{ estate_cutover_groups | selectattr('name', 'equalto', 'registry') }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
validations:
  description: What was found in each group, in the order of O(groups).
  returned: success
  type: list
  elements: dict
  contains:
    group:
      description: Name of the cutover group.
      type: str
    state:
      description: Its state in the ledger.
      type: str
    valid:
      description: Whether there is no finding.
      type: bool
    findings:
      description: Everything that is wrong, as where, what and fix.
      type: list
      elements: dict
    information:
      description: What is worth knowing without being wrong.
      type: list
      elements: str
    tables:
      description: Rows and hashes of both sides of each table.
      type: list
      elements: dict
problems:
  description: Why groups could not be compared at all, as where, what and fix.
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
from ..module_utils.migration.core.files import WORK_DIRECTORY
from ..module_utils.migration.host.service_health import Listings
from ..module_utils.migration.postgres.code_in_tables import held_still
from ..module_utils.migration.validation import group as validate


def validation(
    group: Group,
    login: Login,
    work_directory: str,
    check_mode: bool,
    ask_services: bool,
    unwritten_tables: Sequence[str],
    listings: Listings,
) -> dict[str, Any]:
    """Return what was found in one group.

    :raises MigrationError: if nothing can be compared, unless a dry run finds no server or ledger yet.
    """
    result: dict[str, Any]
    try:
        with connected(login, read_only=True) as connection:
            if check_mode and not ledger.exists(connection):
                result = validate.not_compared(group, "there is no ledger in the database yet")
            else:
                with held_still(login, group) as held:
                    result = validate.validate(
                        connection, group, work_directory, ask_services, unwritten_tables, listings, held.code
                    )
    except ServerUnreachable:
        if not check_mode:
            raise
        result = validate.not_compared(group, "there is no server yet")
    return result


def validations(
    groups: Sequence[Group],
    login: Login,
    work_directory: str,
    check_mode: bool,
    ask_services: bool,
    unwritten_tables: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what was found in each group.

    :raises MigrationError: with what every group says that cannot be compared at all, once the others are compared.
    """
    results = []
    listings = Listings()
    errors: dict[str, MigrationError] = {}
    for group in groups:
        try:
            results.append(
                validation(group, login, work_directory, check_mode, ask_services, unwritten_tables, listings)
            )
        except MigrationError as error:
            # Two groups that fail for one reason, such as a server that does not answer, say it once.
            errors.setdefault(str(error), error)
    if errors:
        summary = "\n".join(error.summary for error in errors.values())
        raise MigrationError(summary, [problem for error in errors.values() for problem in error.problems])
    return results


def main() -> None:
    """Compare the groups and return what was found."""
    module = AnsibleModule(
        argument_spec={
            "groups": {"type": "list", "elements": "dict", "required": True},
            "work_directory": {"type": "path", "default": WORK_DIRECTORY},
            "ask_services": {"type": "bool", "default": True},
            "unwritten_tables": {"type": "list", "elements": "str", "default": []},
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        result = validations(
            [parse_group(group) for group in parameters["groups"]],
            Login.from_arguments(parameters),
            parameters["work_directory"],
            module.check_mode,
            parameters["ask_services"],
            parameters["unwritten_tables"],
        )
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    for found in result:
        for warning in found.pop("warnings"):
            module.warn(f"{found['group']}: {warning}.")
    module.exit_json(changed=False, validations=result)


if __name__ == "__main__":
    main()
