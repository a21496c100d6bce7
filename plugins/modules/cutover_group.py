#!/usr/bin/python
"""Bring the services of one cutover group to PostgreSQL, or back to SQLite."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cutover_group
short_description: Bring the services of one cutover group to PostgreSQL, or back to SQLite
description:
  - With O(state=postgresql) a rehearsed group is moved in one window. Its services are stopped, the SQLite file is
    completed, hashed and write-protected, the last difference is loaded and verified, the settings are written to
    each C(.env), and the services are started from their ecosystem files with a clean environment.
  - A service counts as moved when it is online, answers, and a session of its role on the server comes from a socket
    of its own process, while none of its processes has the SQLite file open.
  - Whatever fails before that puts the group back on SQLite, running.
  - Then the functional checks that ask its services are run, see O(functional_checks). If one fails the task fails, and
    the group stays on PostgreSQL, running.
  - A group that lives on PostgreSQL is kept there. Only services with wrong settings, or not proven to be on
    PostgreSQL, are started again.
  - With O(state=sqlite) a group goes back to SQLite with every row written to PostgreSQL since the cutover. They are
    brought into a copy of the frozen file, which is proven equal to PostgreSQL and then takes its place, and a dump of
    the tables that has been read back is kept. If nothing was written, the frozen file is taken as it is.
  - Rows that SQLite cannot represent are all listed and refused, before anything is stopped, after a trial on a
    scratch copy. Rows are lost only if O(lose_rows) is their exact number.
  - A rollback that was interrupted is undone, or finished, before anything else is done.
options:
  group:
    description: One entry of C(estate_cutover_groups), as described in the READMEs of service_env and sqlite_migrate.
    type: dict
    required: true
  state:
    description: The store that the group's services use.
    type: str
    default: postgresql
    choices: [postgresql, sqlite]
  role_passwords:
    description:
      - Password of each role of the group's services, by the role's name.
      - One of another role is refused, so that no call carries what it does not need.
    type: dict
    required: true
  stop_timeout:
    description: Seconds until the stopped services must have closed the SQLite file.
    type: int
    default: 30
  health_timeout:
    description: Seconds until the started services must be healthy.
    type: int
    default: 30
  stable_seconds:
    description:
      - Seconds that the healthy services then have to run without a restart.
      - A service that ends in that time has failed. They are no downtime.
    type: int
    default: 10
  on_failure:
    description:
      - What becomes of a group that fails after its services have written rows to PostgreSQL.
      - V(rollback) brings it back to SQLite with these rows, as O(state=sqlite) does.
      - V(stay) leaves it on PostgreSQL, where its services are started again.
      - A group that fails before that is on SQLite again in either case.
    type: str
    default: rollback
    choices: [rollback, stay]
  functional_checks:
    description:
      - The functional checks of the estate, as O(swarm.sqlite_to_postgresql.http_checks#module:checks).
      - A check belongs to the groups with a service whose C(health_url) has the host and the port of one of its
        requests. It is run as soon as all of them have moved.
      - Before a group moves, those that moved before it must have passed theirs; the ledger keeps which have.
      - A failed check says nothing about where rows are, so O(on_failure) has no part in it.
    type: list
    elements: dict
    default: []
  functional_check_secrets:
    description: Values for placeholders in the checks that may appear in no output.
    type: dict
    default: {}
  health_urls:
    description: For each cutover group of the estate the C(health_url) of each of its services.
    type: dict
    default: {}
  estate_connections:
    description:
      - For each role of the estate the connections that the pools of its services open, those of other groups included.
      - Together with what others have open they must fit the server's limit, or nothing is stopped.
      - The group's own services count in any case.
    type: dict
    default: {}
  estate_access:
    description:
      - What the roles of the whole estate may do, as the filter C(estate_access) of this collection gives it.
      - In the commit that makes PostgreSQL the store they get the right to write to the group's tables.
      - Without it the group's own services count alone.
    type: dict
    suboptions:
      schemas:
        description: For each role the schemas whose tables it may use.
        type: dict
        required: true
      rights:
        description: For each role what holds for single schemas, tables and columns instead.
        type: dict
        default: {}
      tables:
        description: For each cutover group its tables.
        type: dict
        required: true
      roles:
        description: For each cutover group the roles of its services.
        type: dict
        default: {}
      owners:
        description: For each role whose service migrates itself the schemas that it owns from its cutover on.
        type: dict
        default: {}
  work_directory:
    description: Directory on the host for private snapshots. It is created with mode 0700.
    type: path
    default: /var/lib/sqlite-migration
  rollback_directory:
    description: Directory on the host where a rollback keeps its dumps. It is created with mode 0700.
    type: path
    default: /var/lib/sqlite-migration/rollback
  recovery_program:
    description:
      - The engine on the host, as the role C(engine_program) installs it.
      - If it is given, a unit of systemd stands on the host while a window is open. It runs this program at boot and
        when the run's process is gone, and finishes or undoes the window. Until then what this call knows stands in
        a file in O(work_directory) that only root can read.
      - Nothing is put on a host without systemd. Without this option one of an earlier run is taken away as soon as the
        window is shut.
    type: path
  lose_rows:
    description: With O(state=sqlite) the exact number of rows that may be lost. All are kept if it is not given.
    type: int
attributes:
  check_mode:
    description: Makes every check and says what would be done. Writes, stops and starts nothing.
    support: full
  diff_mode:
    description: Shows each C(.env) before and after, with every secret masked.
    support: full
requirements:
  - pm2 and its running daemon, systemd, or Docker with compose, as the group's services say
extends_documentation_fragment:
  - swarm.sqlite_to_postgresql.postgres_login
  - swarm.sqlite_to_postgresql.services_login
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Move the registry to PostgreSQL
  swarm.sqlite_to_postgresql.cutover_group:
    group: "{{ estate_cutover_groups[0] }}"
    services_login: {host: 127.0.0.1, port: 5432, database: swarm}
    role_passwords:
      swarm_registry: "{{ postgres_role_passwords.swarm_registry }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner

- name: Put it back on SQLite
  swarm.sqlite_to_postgresql.cutover_group:
    group: "{{ estate_cutover_groups[0] }}"
    state: sqlite
    services_login: {host: 127.0.0.1, port: 5432, database: swarm}
    role_passwords:
      swarm_registry: "{{ postgres_role_passwords.swarm_registry }}"
    login_db: swarm
    login_user: swarm_migrator
    login_password: "{{ postgres_role_passwords.swarm_migrator }}"
    session_role: swarm_owner
"""

RETURN = r"""
state:
  description: State of the group in the ledger; in check mode before the run.
  returned: success
  type: str
report:
  description: What was done, and the proof of it.
  returned: success, unless there was nothing to look at
  type: dict
  contains:
    group:
      description: Name of the cutover group.
      type: str
    downtime_seconds:
      description:
        - Time from the first service's last answer until all answered again, as a client saw it that asked them all
          the time; or, with RV(report.measured_by=steps), the same as RV(report.window_seconds).
      type: float
    measured_by:
      description: V(client) or V(steps), if no client could measure it, for example after a run that was killed.
      type: str
    window_seconds:
      description: Time from the call for the stop until every service was proven healthy.
      type: float
    services_seconds:
      description: The part of it in which the managers and the services stopped and started.
      type: float
    own_seconds:
      description: The rest of it, our own steps.
      type: float
    steps:
      description: Each step of the window with its seconds, in their order.
      type: list
      elements: dict
    services:
      description:
        - Each service with its process, the process on the server that serves its session, and its store.
        - C(downtime_seconds) and C(start_seconds) are what the client saw of it, with the C(requests) that it made and
          the C(requests_failed) among them.
      type: list
      elements: dict
    migration:
      description: The report of the final sync, as the module sqlite_migrate returns it. With O(state=postgresql).
      type: dict
    way:
      description: How the group went back, with O(state=sqlite). One of unchanged, exported, and rows given up.
      type: str
    tables:
      description: Of each table the rows brought back (inserted, updated, deleted), and the hash of its content.
      type: list
      elements: dict
    lost_rows:
      description: How many rows were given up.
      type: int
    dump:
      description: Path, SHA-256, size and rows of the dump that was kept.
      type: dict
    frozen_sha256:
      description: Hash of the file that was frozen at the cutover.
      type: str
    exported_sha256:
      description: Hash of the file that took its place.
      type: str
    old_file:
      description: Where the frozen file is kept until the next cutover.
      type: str
problems:
  description: Every violation, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.commands import playbook
from ..module_utils.migration.core.connection import LOGIN_ARGUMENTS, SERVICES_LOGIN_ARGUMENT, Login
from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.migration.core.estate import Group
from ..module_utils.migration.core.files import WORK_DIRECTORY
from ..module_utils.migration.core.state import is_on_postgresql
from ..module_utils.migration.cutover.cutover import cut_over
from ..module_utils.migration.recovery.call import ROLLBACK, STAY, Call
from ..module_utils.migration.rollback.checks import Options
from ..module_utils.migration.rollback.dump import DIRECTORY
from ..module_utils.migration.rollback.rollback import put_right, roll_back
from ..module_utils.migration.validation.group_checks import GroupChecks
from ..module_utils.migration.window.back_on_sqlite import RowsWritten
from ..module_utils.migration.window.checks import Settings
from ..module_utils.migration.window.host_lock import LOCK_SECONDS, locked_on_host
from ..module_utils.migration.window.one_run import leave_to_a_person
from ..module_utils.migration.window.signals import server_errors

ARGUMENTS: dict[str, dict[str, Any]] = {
    "group": {"type": "dict", "required": True},
    "state": {"type": "str", "default": "postgresql", "choices": ["postgresql", "sqlite"]},
    "services_login": SERVICES_LOGIN_ARGUMENT,
    "role_passwords": {"type": "dict", "required": True, "no_log": True},
    "stop_timeout": {"type": "int", "default": 30},
    "health_timeout": {"type": "int", "default": 30},
    "stable_seconds": {"type": "int", "default": 10},
    "on_failure": {"type": "str", "default": ROLLBACK, "choices": [ROLLBACK, STAY]},
    "functional_checks": {"type": "list", "elements": "dict", "default": []},
    "functional_check_secrets": {"type": "dict", "default": {}, "no_log": True},
    "health_urls": {"type": "dict", "default": {}},
    "estate_connections": {"type": "dict", "default": {}},
    "estate_access": {
        "type": "dict",
        "options": {
            "schemas": {"type": "dict", "required": True},
            "rights": {"type": "dict", "default": {}},
            "tables": {"type": "dict", "required": True},
            "roles": {"type": "dict", "default": {}},
            "owners": {"type": "dict", "default": {}},
        },
    },
    "work_directory": {"type": "path", "default": WORK_DIRECTORY},
    "rollback_directory": {"type": "path", "default": DIRECTORY},
    "recovery_program": {"type": "path"},
    "lose_rows": {"type": "int"},
    **LOGIN_ARGUMENTS,
}

_OF_CHECKS = ("functional_checks", "functional_check_secrets", "health_urls")


def _require_own_passwords(group: Group, role_passwords: Mapping[str, str]) -> None:
    """Refuse the passwords of roles that no service of the group logs in as.

    :raises MigrationError: naming the roles.
    """
    own = {service.database_role for service in group.services}
    others = sorted(set(role_passwords) - own)
    if others:
        fix = f"Give it those of {', '.join(sorted(own))} alone"
        raise MigrationError(
            f"Cutover group {group.name} was given passwords that it does not need.",
            [Problem("role_passwords", f"it holds those of {', '.join(others)}", fix)],
        )


def move(login: Login, group: Group, settings: Settings, check_mode: bool, options: Options) -> dict[str, Any]:
    """Bring a group to PostgreSQL, or keep it there; if it fails with rows written there, do what the settings say.

    :raises MigrationError: saying what failed and where the group is now.
    """
    if check_mode:
        return _move(login, group, settings, check_mode, options)
    # Between a cutover that failed and its rollback nobody else may look after the group, as the recovery unit would.
    with server_errors(group), locked_on_host(group.name, settings.work_directory, LOCK_SECONDS):
        return _move(login, group, replace(settings, is_locked=True), check_mode, options)


def _move(login: Login, group: Group, settings: Settings, check_mode: bool, options: Options) -> dict[str, Any]:
    """Do what :func:`move` says."""
    before = put_right(login, group, settings, check_mode)
    try:
        result = cut_over(login, group, settings, check_mode)
    except RowsWritten as error:
        policy = f"service_env_on_failure is '{ROLLBACK}'"
        try:
            back = roll_back(login, group, settings, options=options)
        except MigrationError as second:
            leave_to_a_person(login, group, settings)
            again = playbook("rollback", service_env_rollback_groups=group.name)
            fix = f"Repair its services there, or correct the problems above, then: {again}"
            raise MigrationError(
                f"{error.summary} {policy}, and the rollback did not succeed. {second.summary}",
                [
                    *error.problems,
                    *second.problems,
                    Problem(f"cutover group {group.name}", "it was not rolled back", fix),
                ],
            ) from None
        said = " ".join([back["msg"], *back.get("warnings", [])])
        raise MigrationError(
            f"{error.summary} {policy}, so it was rolled back with these rows. {said}", error.causes
        ) from None
    if before:
        result |= {"changed": True, "msg": f"{before} {result['msg']}"}
    return result


def move_and_check(call: Call, checks: GroupChecks, check_mode: bool) -> dict[str, Any]:
    """Bring a group to PostgreSQL, or keep it there, and run the functional checks of what was moved.

    :returns: the result of :func:`move`; with ``failed`` and ``problems`` if a check has failed behind it.
    :raises MigrationError: as :func:`move` does, or because of a check of groups that moved earlier.
    """
    options = replace(call.options, lose_rows=None)
    if not check_mode:
        checks.before(call.login, call.group.name)
    result = move(call.login, call.group, call.settings, check_mode, options)
    if check_mode:
        if result["changed"] and not is_on_postgresql(result["state"]):
            result["msg"] = f"{result['msg']} {checks.would_run(call.group.name)}".rstrip()
        return result
    try:
        return checks.after(call.login, result)
    except MigrationError as error:
        # What was moved, and for how long its services were down, is part of the run's record. A server that is lost
        # meanwhile says nothing of it.
        said = str(error)
        if not said.startswith(result["msg"]):
            said = f"{result['msg']} Its functional checks were not all run. {said}"
        return {**result, "failed": True, "msg": said, "problems": error.as_dicts()}


def main() -> None:
    """Read the arguments, move one group, and report."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        # Taken out: what the recovery unit gets to know has no use for them.
        checks = GroupChecks.from_inventory(*(module.params.pop(name) for name in _OF_CHECKS))
        call = Call.from_arguments(module.params)
        _require_own_passwords(call.group, module.params["role_passwords"])
        if module.params["state"] == "sqlite":
            result = roll_back(call.login, call.group, call.settings, module.check_mode, call.options)
        else:
            result = move_and_check(call, checks, module.check_mode)
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    for warning in result.pop("warnings", []):
        module.warn(warning)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
