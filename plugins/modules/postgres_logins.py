#!/usr/bin/python
"""Log in to PostgreSQL as each of several roles, all in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: postgres_logins
short_description: Log in to PostgreSQL as each of several roles
description:
  - Opens a connection as each role, with its password, and closes it. Fails with every role that the server refuses.
options:
  login_host:
    description: Address of the server.
    type: str
    default: 127.0.0.1
  login_port:
    description: Its port.
    type: int
    default: 5432
  login_db:
    description: The database.
    type: str
    required: true
  passwords:
    description: The password of each role by the role's name.
    type: dict
    required: true
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Log in as each role
  swarm.sqlite_to_postgresql.postgres_logins:
    login_db: swarm
    passwords: "{{ postgres_role_passwords }}"
"""

RETURN = r"""
problems:
  description: Every role that was refused, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from collections.abc import Mapping

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.connection import Login, connect
from ..module_utils.migration.core.errors import MigrationError


def log_in(host: str, port: int, database: str, passwords: Mapping[str, str]) -> None:
    """Log in as each role.

    :param passwords: by the role's name.
    :raises MigrationError: with every role that the server refuses.
    """
    problems = []
    for role, password in passwords.items():
        try:
            connect(Login(host, port, database, role, password)).close()
        except MigrationError as error:
            problems.extend(error.problems)
    if problems:
        raise MigrationError(f"Not every role can log in to {host}:{port}/{database}.", problems)


def main() -> None:
    """Log in and report."""
    module = AnsibleModule(
        argument_spec={
            "login_host": {"type": "str", "default": "127.0.0.1"},
            "login_port": {"type": "int", "default": 5432},
            "login_db": {"type": "str", "required": True},
            "passwords": {"type": "dict", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        log_in(parameters["login_host"], parameters["login_port"], parameters["login_db"], parameters["passwords"])
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
