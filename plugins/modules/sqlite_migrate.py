#!/usr/bin/python
"""Make the PostgreSQL tables of one cutover group equal to its SQLite file."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: sqlite_migrate
short_description: Make the PostgreSQL tables of one cutover group equal to its SQLite file
description:
  - Takes a private snapshot of the source, plans each column by the target's type, converts every value,
    loads the target tables, reads them back through the inverse mapping and compares every row.
  - Rows, ledger and state commit in one transaction, and only if both sides are equal.
  - Refuses, with every violation listed and nothing written, what would lose anything and has no policy in the
    inventory.
  - A group that already lives on PostgreSQL is left alone.
options:
  group:
    description: One entry of C(estate_cutover_groups), as described in the README of the role.
    type: dict
    required: true
  rehearse_rollback:
    description:
      - Also bring everything back into a scratch copy of the snapshot, and refuse if that does not give back what was
        loaded. It reads both sides once more, which takes about as long as the load.
      - It is done once for each snapshot that was loaded, and never in check mode.
    type: bool
    default: true
  work_directory:
    description: Directory on the host for private snapshots. It is created with mode 0700.
    type: path
    default: /var/lib/sqlite-migration
attributes:
  check_mode:
    description: Takes the snapshot, plans, converts and compares, but writes nothing to PostgreSQL.
    support: full
  diff_mode:
    description: Shows the rows of each table before and after.
    support: full
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Make the tables of the registry equal to registry.db
  swarm.sqlite_to_postgresql.sqlite_migrate:
    group: "{{ estate_cutover_groups[0] }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
report:
  description: What was found and done, table by table. Absent if the group already lives on PostgreSQL.
  returned: success
  type: dict
  contains:
    group:
      description: Name of the cutover group.
      type: str
    tables:
      description: For each table the rows and hashes of both sides, conversions, kept values and rejected rows.
      type: list
      elements: dict
      contains:
        source_rows:
          description: Rows of the source, without those of C(filtered_rows).
          type: int
        target_rows:
          description: Rows of the target.
          type: int
        rejected_rows:
          description: Rows that a policy left in C(migration.reject).
          type: int
        filtered_rows:
          description: Rows of the source that the inventory's C(row_filter) left behind.
          type: int
        equal:
          description: Whether rows and hashes of both sides are equal.
          type: bool
    sequences:
      description: What each sequence gives out next, and the least that it must.
      type: list
      elements: dict
    unset_sequences:
      description: Sequences that have given out nothing yet, and of which nothing shows whose values they are.
      type: list
      elements: str
    ids_in_texts:
      description: >-
        In check mode, columns of texts and JSON that keep ids which become UUIDs, with their rows, and with those in
        which such an id is the name of a member or stands in JSON inside a string, and the policy that rewrites
        them where one can.
      type: list
      elements: dict
    number_readings:
      description:
        - In a rehearsal and in check mode, columns whose numbers are times, days or durations.
        - Each has its C(column), the C(unit) in which it is read, and what the C(first) and the C(last) number become.
      type: list
      elements: dict
    text_readings:
      description:
        - The same for texts in columns of times and days.
        - Each has its C(column), the C(time_zone) of texts without one, and what the C(first) and the C(last) become.
        - C(time_zone) is null where the target's type has none, which then keeps what the text says.
      type: list
      elements: dict
    one_way_columns:
      description: Computed columns without an inverse, and required columns without a target, which a rollback lacks.
      type: list
      elements: str
    row_level_security:
      description: In a rehearsal, target tables of which a service sees only the rows that a policy allows its role.
      type: list
      elements: str
    missing_views:
      description: In a rehearsal, views of the source whose name nothing has in the schemas of the group.
      type: list
      elements: str
    other_defaults:
      description: In a rehearsal, columns in which a new row that names no value gets another one than in SQLite.
      type: list
      elements: str
    search_paths:
      description: In a rehearsal, target tables that the role of a service does not find by their bare name.
      type: list
      elements: str
    triggers:
      description: Triggers and rules of the target tables; they do not act on rows that are moved.
      type: list
      elements: str
    foreign_keys:
      description: Each foreign key, whether it is valid, and its orphans.
      type: list
      elements: dict
    rejects:
      description: Each rejected row with its reason.
      type: list
      elements: dict
    ignored_tables:
      description: Source tables that the inventory leaves behind on purpose.
      type: list
      elements: str
    left_out:
      description:
        - What else is not moved as it is, each with C(kind) and C(name).
        - Kinds are C(view), C(trigger), C(virtual table), C(shadow table) and C(collation).
      type: list
      elements: dict
      sample:
        - kind: trigger
          name: nodes_after_insert
    seconds:
      description: Time of each step, in seconds.
      type: dict
rehearsal:
  description: What to expect of the cutover and of the rollback.
  returned: success, unless in check mode or the group already lives on PostgreSQL
  type: dict
  contains:
    load_seconds:
      description: Time in which all rows were loaded and proven; null if only changed rows ever were.
      type: float
    final_sync_seconds:
      description: Time of a sync of what the services wrote meanwhile, which is what the window does too.
      type: float
    services_seconds:
      description: Time that the managers and the services take to stop and start.
      type: float
    services_seconds_from:
      description: Where that is known from. Two calls of pm2 or systemd do not hold what the services themselves take.
      type: str
    expected_downtime_seconds:
      description: Their sum.
      type: float
    new_ids_load_all_rows:
      description: >-
        Target tables that C(rewrite_ids_of) names. If one of their rows comes or goes before the cutover,
        the final sync loads all rows of the group, which takes as long as C(load_seconds).
      type: list
      elements: str
    way_back:
      description: Time in C(seconds), C(tables) and C(rows) of the whole trip back; null if it was not made.
      type: dict
state:
  description: State of the group in the ledger before this run.
  returned: success
  type: str
problems:
  description: Every violation, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core import ledger, state
from ..module_utils.migration.core.connection import LOGIN_ARGUMENTS, Login, ServerUnreachable, connected
from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.core.estate import Group, parse_group
from ..module_utils.migration.core.files import WORK_DIRECTORY
from ..module_utils.migration.core.left_alone import left_alone


def synchronise(
    group: Group, login: Login, work_directory: str, check_mode: bool, rehearse_rollback: bool = True
) -> dict[str, Any]:
    """Return the module's result for one group.

    :raises MigrationError: with every violation.
    """
    try:
        with connected(login) as connection:
            if check_mode and not ledger.exists(connection):
                return _before_the_schema(group, work_directory)
            ledger.require(connection)
            record = ledger.read_group(connection, group.name, group.source_path)
            connection.rollback()
            result = left_alone(record)
            if result is not None:
                return result
            # Only here: a group that lives on PostgreSQL needs nothing of the engine, and importing that takes long.
            from ..module_utils.migration.cutover import rehearsal
            from ..module_utils.migration.engine.transfer import migrate, report

            if check_mode:
                result = migrate.migrate(connection, group, migrate.REHEARSAL, check_mode, work_directory)
                result["warnings"] = [*report.warnings_of_group(group), *report.warnings_of(result["report"])]
            else:
                result = rehearsal.rehearse(connection, group, work_directory, rehearse_rollback)
            return {**result, "state": record.state, "diff": _diff(result["report"])}
    except ServerUnreachable:
        if not check_mode:
            raise
        return _before_the_schema(group, work_directory)


def _before_the_schema(group: Group, work_directory: str) -> dict[str, Any]:
    """Return what a dry run can say while the server or its schema is still to be made."""
    from ..module_utils.migration.engine.transfer import migrate

    report = migrate.profile(group, work_directory)
    return {
        "changed": True,
        "state": state.PENDING,
        "report": report,
        "diff": _diff(report),
        "msg": f"{group.name} would be loaded into PostgreSQL, once phase 1 has made the server and its tables.",
    }


def _diff(report: dict[str, Any]) -> dict[str, str]:
    """Return the rows of each changed table before and after, and the first that differ, for --diff."""
    before, after = [], []
    for table in report["tables"]:
        if not table["changed"]:
            continue
        if "target_rows" in table:
            before.append(f"{table['target']}: {table['target_rows']} rows, which differ from {table['source']}\n")
        else:
            before.append(f"{table['target']}: does not exist yet\n")
        after.append(
            f"{table['target']}: {table['source_rows'] - table.get('rejected_rows', 0)} rows of {table['source']}\n"
        )
        for found in table.get("differences", []):
            before.append(f"  {found['key']}: {found['column']} is {found['target']}\n")
            after.append(f"  {found['key']}: {found['column']} is {found['source']}\n")
    return {"before": "".join(before), "after": "".join(after)}


def main() -> None:
    """Read the arguments, synchronise one group, and report."""
    module = AnsibleModule(
        argument_spec={
            "group": {"type": "dict", "required": True},
            "rehearse_rollback": {"type": "bool", "default": True},
            "work_directory": {"type": "path", "default": WORK_DIRECTORY},
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    try:
        group = parse_group(module.params["group"])
        login = Login.from_arguments(module.params)
        result = synchronise(
            group, login, module.params["work_directory"], module.check_mode, module.params["rehearse_rollback"]
        )
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
