#!/usr/bin/python
"""Look which cutover groups live on PostgreSQL and need nothing."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cutover_look
short_description: Look which cutover groups live on PostgreSQL and need nothing
description:
  - Makes the checks that M(swarm.sqlite_to_postgresql.cutover_group) makes of a group that lives on PostgreSQL, and
    tells of which groups it would change nothing. That module need not be called for them.
  - One call for all of them, because most of a call is the start of the engine on the host.
  - A group of which anything else is true is left out, whatever that is. The other module says it, and does what has to
    be done. So this one fails for no group.
options:
  groups:
    description: Entries of C(estate_cutover_groups), as described in the READMEs of service_env and sqlite_migrate.
    type: list
    elements: dict
    required: true
  role_passwords:
    description: Password of each role of the groups' services, by the role's name.
    type: dict
    required: true
  estate_connections:
    description: For each role of the estate the connections that the pools of its services open.
    type: dict
    default: {}
  work_directory:
    description: Directory on the host for private snapshots.
    type: path
    default: /var/lib/sqlite-migration
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It shows no differences.
    support: none
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
  - swarm.sqlite_to_postgresql.services_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Look which groups need nothing
  swarm.sqlite_to_postgresql.cutover_look:
    groups: "{{ estate_cutover_groups }}"
    services_login: {host: 127.0.0.1, port: 5432, database: swarm}
    role_passwords: "{{ postgres_role_passwords }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
results:
  description: What M(swarm.sqlite_to_postgresql.cutover_group) says of each group of which it would change nothing.
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
      description: Since when it lives on PostgreSQL.
      type: str
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core import ledger
from ..module_utils.migration.core.connection import (
    LOGIN_ARGUMENTS,
    SERVICES_LOGIN_ARGUMENT,
    Login,
    connected,
    psycopg2,
)
from ..module_utils.migration.core.decide import decide
from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.core.estate import Group, parse_group
from ..module_utils.migration.core.files import WORK_DIRECTORY
from ..module_utils.migration.core.state import is_on_postgresql

if TYPE_CHECKING:
    from ..module_utils.migration.host.service_health import Listings

ARGUMENTS: dict[str, dict[str, Any]] = {
    "groups": {"type": "list", "elements": "dict", "required": True},
    "services_login": SERVICES_LOGIN_ARGUMENT,
    "role_passwords": {"type": "dict", "required": True, "no_log": True},
    "estate_connections": {"type": "dict", "default": {}},
    "work_directory": {"type": "path", "default": WORK_DIRECTORY},
    **LOGIN_ARGUMENTS,
}


def settled(groups: Sequence[Group], login: Login, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the result of each group that lives on PostgreSQL and needs nothing.

    :param arguments: the module's.
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
    decided = [(group, decide(record)) for group, record in zip(groups, records, strict=True)]
    at_rest = [group for group, action in decided if action.on_postgresql and not action.window_is_open]
    if not at_rest:
        return
    # Only here: where no group has moved yet nothing of this is needed, and importing it takes long.
    from ..module_utils.migration.host import pm2
    from ..module_utils.migration.host.service_health import Listings

    listings = Listings()
    pm2.share(at_rest, listings.pm2s)
    for group in at_rest:
        result = _dry_run(group, login, arguments, listings)
        if result is not None and not result["changed"] and is_on_postgresql(result["state"]):
            yield {"item": group.name, **{name: value for name, value in result.items() if name != "diff"}}


def _dry_run(group: Group, login: Login, arguments: Mapping[str, Any], listings: Listings) -> dict[str, Any] | None:
    """Return what a dry run of the cutover says of a group; None if something else has to be done with it first.

    :param listings: shared by the groups.
    """
    from ..module_utils.migration.cutover.cutover import cut_over
    from ..module_utils.migration.host.recovery_unit import RecoveryUnit
    from ..module_utils.migration.host.service_health import ServicesLogin
    from ..module_utils.migration.rollback.rollback import put_right
    from ..module_utils.migration.window.checks import Settings
    from ..module_utils.migration.window.signals import server_errors

    unit = RecoveryUnit(group.name, group.source_path, "", {}, arguments["work_directory"])
    own = {service.database_role for service in group.services}
    settings = Settings(
        services_login=ServicesLogin(**arguments["services_login"]),
        role_passwords={role: password for role, password in arguments["role_passwords"].items() if role in own},
        estate_connections={str(role): int(count) for role, count in arguments["estate_connections"].items()},
        work_directory=arguments["work_directory"],
        listings=listings,
    )
    # The run that finds one takes it away.
    if unit.is_there():
        return None
    try:
        with server_errors(group):
            if put_right(login, group, settings, check_mode=True):
                return None
            return cut_over(login, group, settings, check_mode=True)
    except MigrationError:
        return None


def main() -> None:
    """Read the arguments, look, and report."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        groups = [parse_group(group) for group in module.params["groups"]]
        results = list(settled(groups, Login.from_arguments(module.params), module.params))
    except MigrationError:
        # The module that is called for each group says what is wrong.
        results = []
    for result in results:
        for warning in result.pop("warnings", []):
            module.warn(warning)
    module.exit_json(changed=False, results=results)


if __name__ == "__main__":
    main()
