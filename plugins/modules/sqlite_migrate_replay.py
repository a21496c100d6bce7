#!/usr/bin/python
"""Load rejected rows that somebody has repaired into a cutover group that lives on PostgreSQL."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sqlite_migrate_replay
short_description: Load rejected rows that were repaired into a cutover group that lives on PostgreSQL
description:
  - Takes each row from the frozen SQLite file, puts the repaired values in, converts it as the first load would have
    done, and inserts it.
  - Takes the row out of C(migration.reject) and keeps what was repaired in C(migration.original_value).
  - All rows are loaded in one transaction, or none.
  - A group that still lives on SQLite is refused; repair its rows there, and the next run loads them.
options:
  group:
    description: One entry of C(estate_cutover_groups), as described in the README of the role.
    type: dict
    required: true
  rows:
    description: The repaired rows.
    type: list
    elements: dict
    required: true
    suboptions:
      table:
        description: The table in SQLite.
        type: str
        required: true
      key:
        description: The row's C(row_key) in C(migration.reject).
        type: str
        required: true
      values:
        description:
          - The repaired values by column of SQLite. All others stay as they are in the frozen file.
          - "Text, numbers, C(null), or C({blob: hexadecimal digits})."
        type: dict
        default: {}
  work_directory:
    description: Directory on the host for a private snapshot. It is created with mode 0700.
    type: path
    default: /var/lib/sqlite-migration
attributes:
  check_mode:
    description: Does everything, then rolls it back.
    support: full
  diff_mode:
    description: Shows nothing more.
    support: none
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Load an order whose customer was missing
  swarm.sqlite_to_postgresql.sqlite_migrate_replay:
    group: "{{ estate_cutover_groups[0] }}"
    rows:
      - table: orders
        key: id=7
        values: {customer_id: 12}
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
rows:
  description: Table and key of each row that was loaded.
  returned: success
  type: list
  elements: dict
problems:
  description: Every violation, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.connection import LOGIN_ARGUMENTS, Login, connected
from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.migration.core.estate import Group, parse_group
from ..module_utils.migration.core.files import WORK_DIRECTORY
from ..module_utils.migration.engine.transfer.replay import RepairedRow, replay_rejects
from ..module_utils.migration.sqlite.tables import Value


def as_value(where: str, value: Any) -> Value:
    """Return a value as SQLite holds it.

    :raises MigrationError: if it is neither text, a number, null nor a BLOB.
    """
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    try:
        if isinstance(value, Mapping) and list(value) == ["blob"]:
            return bytes.fromhex(value["blob"])
    except (TypeError, ValueError):
        pass
    raise MigrationError(
        "A repaired row cannot be read.",
        [
            Problem(
                where,
                f"its value is {type(value).__name__}",
                "Write text, a number, null or {blob: hexadecimal digits}",
            )
        ],
    )


def as_row(entry: Mapping[str, Any]) -> RepairedRow:
    """Return one entry of the option ``rows``."""
    where = f"{entry['table']}, {entry['key']}"
    values = {str(column): as_value(f"{where}: {column}", value) for column, value in entry["values"].items()}
    return RepairedRow(entry["table"], entry["key"], values)


def secrets_of(group: Group, rows: Sequence[RepairedRow]) -> set[str]:
    """Return the values that must not be printed."""
    mappings = {mapping.source: mapping for mapping in group.tables}
    return {
        str(value)
        for row in rows
        if row.table in mappings
        for column, value in row.values.items()
        if mappings[row.table].options(column).secret and value not in (None, "")
    }


def main() -> None:
    """Read the arguments, replay the rows, and report."""
    module = AnsibleModule(
        argument_spec={
            "group": {"type": "dict", "required": True},
            "rows": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "table": {"type": "str", "required": True},
                    "key": {"type": "str", "required": True, "no_log": False},
                    "values": {"type": "dict", "default": {}},
                },
            },
            "work_directory": {"type": "path", "default": WORK_DIRECTORY},
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        group = parse_group(module.params["group"])
        rows = [as_row(entry) for entry in module.params["rows"]]
        module.no_log_values.update(secrets_of(group, rows))
        with connected(Login.from_arguments(module.params)) as connection:
            result = replay_rejects(connection, group, rows, module.check_mode, module.params["work_directory"])
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
