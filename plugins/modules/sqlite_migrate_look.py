#!/usr/bin/python
"""Look which cutover groups a rehearsal leaves alone."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sqlite_migrate_look
short_description: Look which cutover groups a rehearsal leaves alone
description:
  - Asks the ledger which groups M(swarm.sqlite_to_postgresql.sqlite_migrate) would leave alone. It need not be called
    for them.
  - One call for all of them, because most of a call is its start on the host.
  - Where the ledger cannot be asked no group is named. The other module says what is wrong, so this one does not fail.
options:
  groups:
    description: Entries of C(estate_cutover_groups), as described in the README of the role.
    type: list
    elements: dict
    required: true
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
- name: Look which groups live on PostgreSQL already
  swarm.sqlite_to_postgresql.sqlite_migrate_look:
    groups: "{{ estate_cutover_groups }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
results:
  description: What M(swarm.sqlite_to_postgresql.sqlite_migrate) says of each group that it would leave alone.
  returned: success
  type: list
  elements: dict
  contains:
    item:
      description: Name of the cutover group.
      type: str
    state:
      description: State of the group in the ledger.
      type: str
    msg:
      description: Why it is left alone.
      type: str
"""

from collections.abc import Iterator, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core import ledger
from ..module_utils.migration.core.connection import LOGIN_ARGUMENTS, Login, connected, psycopg2
from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.core.estate import Group, parse_group
from ..module_utils.migration.core.left_alone import left_alone


def settled(groups: Sequence[Group], login: Login) -> Iterator[dict[str, Any]]:
    """Give the result of each group that a rehearsal leaves alone.

    :raises MigrationError: if the ledger cannot be read.
    """
    with connected(login, read_only=True) as connection:
        try:
            if not ledger.exists(connection):
                return
            records = [ledger.read_group(connection, group.name, group.source_path) for group in groups]
        except psycopg2.Error:
            # The module that is called for each group says what is wrong.
            return
    for group, record in zip(groups, records, strict=True):
        result = left_alone(record)
        if result is not None:
            yield {"item": group.name, **result}


def main() -> None:
    """Read the arguments, look, and report."""
    module = AnsibleModule(
        argument_spec={"groups": {"type": "list", "elements": "dict", "required": True}, **LOGIN_ARGUMENTS},
        supports_check_mode=True,
    )
    try:
        groups = [parse_group(group) for group in module.params["groups"]]
        results = list(settled(groups, Login.from_arguments(module.params)))
    except MigrationError:
        # The module that is called for each group says what is wrong.
        results = []
    module.exit_json(changed=False, results=results)


if __name__ == "__main__":
    main()
