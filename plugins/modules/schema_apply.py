#!/usr/bin/python
"""Apply the numbered SQL files of the target's schema, and set the services' privileges on it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: schema_apply
short_description: Apply numbered SQL files once, in order, and set the services' privileges
description:
  - Creates the ledger, then applies the files that it does not know yet. Each file and its row in the ledger commit
    together.
  - An edited, renamed, missing or out-of-order file, and tables that are not as the last file left them, stop the run
    before anything is written.
  - Then gives each service's role exactly the privileges on its schemas that it needs.
options:
  files:
    description: The files, in any order. Without this option applications make their tables themselves, and nothing is
      applied.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the file, for example C(001_auth_schema.sql).
        type: str
        required: true
      content:
        description: Its text.
        type: str
        required: true
  privileges:
    description: For each role the schemas whose tables and sequences it reads and writes.
    type: dict
    default: {}
  rights:
    description: For each role what holds for single schemas, tables (C(schema.table)) and columns
      (C(schema.table.column)) instead, each as V(write), V(read) or V(none).
    type: dict
    default: {}
  tables:
    description:
      - For each cutover group its tables, as C(schema.table). While SQLite is the group's store, no role of
        O(privileges) writes to them; the cutover gives that right.
      - A role of a group that lives on PostgreSQL keeps such a right that it has already, with a warning.
    type: dict
    default: {}
  roles:
    description:
      - For each cutover group the roles of its services.
      - As long as the ledger knows a group on PostgreSQL that is not among them, as one that was renamed, each role
        counts as one of that group's.
    type: dict
    default: {}
  owners:
    description:
      - For each role whose service migrates itself the schemas that it owns, with the tables and sequences in them,
        while one of its groups in O(roles) lives on PostgreSQL. They are no other role's.
      - What has changed in such a schema since the cutover is no drift, and files that name it are refused.
    type: dict
    default: {}
  drift:
    description: What to do if the tables are not as the applied files left them.
    type: str
    choices: [fail, warn]
    default: fail
attributes:
  check_mode:
    description:
      - Lists what would be applied, granted and revoked, and writes nothing. While files are still to be applied, the
        privileges on what they create are not listed.
    support: full
  diff_mode:
    description: Lists the applied files before and after.
    support: full
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Apply the schema
  swarm.sqlite_to_postgresql.schema_apply:
    files:
      - name: 001_auth_schema.sql
        content: "{{ lookup('ansible.builtin.file', 'files/sql/001_auth_schema.sql') }}"
    privileges:
      swarm_tickets: [auth]
    rights:
      swarm_tickets: {auth.users.password_hash: none}
    tables:
      platform: [auth.users, auth.roles]
    roles:
      platform: [swarm_tickets]
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
applied:
  description: The files that were applied, or in check mode would be.
  returned: success
  type: list
  elements: str
granted:
  description: The privileges that were given.
  returned: success
  type: list
  elements: str
revoked:
  description: The privileges that were taken away.
  returned: success
  type: list
  elements: str
drift:
  description: How the tables differ from what the applied files left.
  returned: success
  type: list
  elements: str
own_changes:
  description: The same lines for the schemas that services which migrate themselves own, or have owned.
  returned: success
  type: list
  elements: str
login_refused:
  description: Why the login failed. What is applied already is then not known, and every file is listed.
  returned: in check mode, if the server refuses the login
  type: str
problems:
  description: Every violation, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.connection import (
    LOGIN_ARGUMENTS,
    Login,
    LoginRefused,
    ServerUnreachable,
    connected,
)
from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.postgres import foreign_objects, privileges, schema, schema_files

# Of the changed schemas, how many a warning names.
_SHOWN = 10


def apply(
    login: Login,
    files: Sequence[schema_files.SqlFile],
    schemas_by_role: Mapping[str, Sequence[str]],
    fail_on_drift: bool,
    check_mode: bool,
    rights_by_role: Mapping[str, Mapping[str, str]],
    tables_by_group: Mapping[str, Sequence[str]],
    roles_by_group: Mapping[str, Sequence[str]],
    owners: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return the module's result.

    :raises MigrationError: with every violation.
    """
    names = [file.name for file in files]
    nothing: dict[str, Any] = {"granted": [], "revoked": [], "warnings": []}
    try:
        with connected(login) as connection:
            result = schema.apply(connection, files, check_mode, fail_on_drift)
            # In check mode the schemas that the privileges are for may be still to be made.
            given = nothing
            if not (check_mode and result["applied"]):
                given = privileges.synchronise(
                    connection,
                    schemas_by_role,
                    check_mode,
                    rights_by_role,
                    tables_by_group,
                    roles_by_group,
                    owners=owners,
                )
        given = {**given, "warnings": [*given["warnings"], *foreign_objects.warnings(login)]}
    except (ServerUnreachable, LoginRefused) as error:
        if not check_mode:
            raise
        # The roles before this one have only announced the server, its database or the new password.
        result = {"changed": True, "applied": names, "drift": [], "own_changes": []}
        if isinstance(error, LoginRefused):
            result["login_refused"] = str(error.problems[0])
        given = nothing
    before = [name for name in names if name not in result["applied"]]
    diff = {
        "before": "".join(f"{line}\n" for line in before + given["revoked"]),
        "after": "".join(f"{line}\n" for line in names + given["granted"]),
    }
    return {**result, **given, "changed": result["changed"] or bool(given.get("changed")), "diff": diff}


def main() -> None:
    """Read the arguments, apply, and report."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "content": {"type": "str", "required": True},
                },
            },
            "privileges": {"type": "dict", "default": {}},
            "rights": {"type": "dict", "default": {}},
            "tables": {"type": "dict", "default": {}},
            "roles": {"type": "dict", "default": {}},
            "owners": {"type": "dict", "default": {}},
            "drift": {"type": "str", "choices": ["fail", "warn"], "default": "fail"},
            **LOGIN_ARGUMENTS,
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        result = apply(
            Login.from_arguments(parameters),
            [] if parameters["files"] is None else schema_files.read_files(parameters["files"]),
            parameters["privileges"],
            parameters["drift"] == "fail",
            module.check_mode,
            parameters["rights"],
            parameters["tables"],
            parameters["roles"],
            parameters["owners"],
        )
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    for line in result["drift"]:
        module.warn(f"The target database is not as the applied files left it: {line}")
    changed = result["own_changes"]
    if changed:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        module.warn(f"Services that migrate themselves have changed their schemas: {'; '.join(changed[:_SHOWN])}{more}")
    for line in result.pop("warnings"):
        module.warn(line)
    if "login_refused" in result:
        module.warn(f"All files are listed, as nobody could look: {result['login_refused']}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
