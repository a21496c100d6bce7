#!/usr/bin/python
"""Look at a host and draft the inventory and the SQL of the estate that it finds there."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: estate_discover
short_description: Draft the inventory and the SQL of an estate from what stands on a host
description:
  - Finds SQLite files by what every process has open or mapped, by settings that name a file, and by a search of the
    services' directories. Each file is one source, whatever its names are.
  - Finds the services that use each of them, as pm2, systemd and Docker tell of them, with the ports they listen on and
    a health address that was asked and answered 200.
  - Reads every value of each source, with the rights of the service's user alone, and drafts the target's tables and
    the mapping.
  - Changes nothing on the host. The draft is written on the controller. One that is there is never written to again; a
    later run writes beside it if it finds something else than rows changed.
  - No value of a row and no value of a setting is returned or written; counts and the names of tables, columns and
    settings are. Only with O(try_draft) some values that the engine refuses stand in the draft.
options:
  draft_directory:
    description: Directory on the controller for the draft of this host. What holds it must belong to who runs this.
    type: path
    required: true
  adopt_as:
    description: Directory on the controller for an inventory that is made from the draft, which must not exist. Without
      it none is made.
    type: path
  host:
    description: Name of the host in the inventory, for the texts of the draft.
    type: str
    required: true
  directories:
    description: Directories on the host that are searched besides those of the services.
    type: list
    elements: path
    default: []
  left_out:
    description: Patterns of paths, as those of a shell, of files that are no application's data.
    type: list
    elements: str
    default: []
  skipped_directories:
    description: Names of directories that a search does not enter.
    type: list
    elements: str
    default: [node_modules, .git, .venv]
  search_depth:
    description: How many directories deep a search goes below the one that it begins in.
    type: int
    default: 6
  search_entries:
    description: How many files and directories a search looks at below the one that it begins in.
    type: int
    default: 20000
  work_directory:
    description: An existing directory on the host, in which private ones are made for snapshots, and removed again.
    type: path
    default: /var/tmp
  file_seconds:
    description: How many seconds reading one file may take.
    type: int
    default: 1800
  total_seconds:
    description: How many seconds reading all files together may take. What was not read by then is named.
    type: int
    default: 14400
  unused_files:
    description: How many files that no service uses are read. How many others there are is said.
    type: int
    default: 200
  moved_files:
    description:
      - Files that are to be moved although no service uses them, as absolute paths or patterns of paths, as those of a
        shell. Each gets a cutover group without services.
      - The directory in which such a path or pattern begins is searched too.
    type: list
    elements: str
    default: []
  existing_schemas:
    description:
      - Schemas of the target database in which applications have made their tables themselves. The sources are mapped
        onto those tables, and no SQL is drafted.
      - Needs O(login). The tables are only read.
    type: list
    elements: str
    default: []
  try_draft:
    description:
      - Whether the drafted SQL is put into a scratch database of the server, where the engine says what it would
        refuse. The policies that these values need stand in the draft as comments, with examples of the values; those
        of columns that look like secrets are left out. The database is removed again, whatever happens.
      - Needs O(login) as a role that may create databases. Cannot be together with O(existing_schemas).
    type: bool
    default: false
  login:
    description: How to log in to the target database, where something is asked of it. Needs psycopg2 on the host.
    type: dict
    suboptions:
      login_host:
        description: Address of the PostgreSQL server, or the directory of its Unix socket.
        type: str
        default: 127.0.0.1
      login_port:
        description: Port of the server.
        type: int
        default: 5432
      login_db:
        description: The target database.
        type: str
        required: true
      login_user:
        description: Role to log in as.
        type: str
        required: true
      login_password:
        description: Password of that role.
        type: str
      session_role:
        description: Role to become after the login, the owner of the tables.
        type: str
      ssl_mode:
        description: How the connection is protected, as in libpq.
        type: str
        default: prefer
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
      ca_cert:
        description: File with the certificate authorities that may have signed the server's certificate.
        type: path
      connect_timeout:
        description: Seconds to wait for the server.
        type: int
        default: 10
attributes:
  check_mode:
    description: >-
      Looks at the host all the same, and writes no draft. With O(try_draft) no database is made: it only asks whether
      the role may create one, and what a trial would have found is missing.
    support: full
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Draft the estate of this host
  swarm.sqlite_to_postgresql.estate_discover:
    draft_directory: "{{ playbook_dir }}/../drafts/{{ inventory_hostname }}"
    host: "{{ inventory_hostname }}"
    directories: [/opt]

- name: Map what stands on this host onto tables that an application has made
  swarm.sqlite_to_postgresql.estate_discover:
    draft_directory: "{{ playbook_dir }}/../drafts/{{ inventory_hostname }}"
    host: "{{ inventory_hostname }}"
    existing_schemas: [public]
    login: "{{ postgres_migrator_login }}"
"""

RETURN = r"""
discovery:
  description: What was found.
  returned: success
  type: dict
  contains:
    sources:
      description: The SQLite files that services use, with their aliases, their services, and how each is known.
      type: list
      elements: dict
    legacy:
      description: The SQLite files that no service uses, with the rows of their tables.
      type: list
      elements: dict
    services:
      description: The services with manager, user, directory, processes, ports and health address.
      type: list
      elements: dict
    decisions:
      description: What only a person can tell, as where (its place in the draft), what and fix.
      type: list
      elements: dict
draft:
  description: The directory of the draft on the controller.
  returned: success
  type: str
differences:
  description: What is new (C(+)) or gone (C(-)) since the draft before it.
  returned: success
  type: list
  elements: str
summary:
  description: All this in a few sentences.
  returned: success
  type: list
  elements: str
problems:
  description: Why nothing could be found, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.connection import LOGIN_ARGUMENTS, Login
from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.discovery import discover, render
from ..module_utils.migration.discovery.files import Limits
from ..module_utils.migration.window.signals import interruptible


def main() -> None:
    """Look at the host. The action plugin of the same name writes the draft."""
    module = AnsibleModule(
        argument_spec={
            "draft_directory": {"type": "path", "required": True},
            "adopt_as": {"type": "path"},
            "host": {"type": "str", "required": True},
            "directories": {"type": "list", "elements": "path", "default": []},
            "left_out": {"type": "list", "elements": "str", "default": []},
            "skipped_directories": {"type": "list", "elements": "str", "default": ["node_modules", ".git", ".venv"]},
            "search_depth": {"type": "int", "default": 6},
            "search_entries": {"type": "int", "default": 20000},
            "work_directory": {"type": "path", "default": "/var/tmp"},  # noqa: S108 (private ones are made in it)
            "file_seconds": {"type": "int", "default": 1800},
            "total_seconds": {"type": "int", "default": 14400},
            "unused_files": {"type": "int", "default": 200},
            "moved_files": {"type": "list", "elements": "str", "default": []},
            "existing_schemas": {"type": "list", "elements": "str", "default": []},
            "try_draft": {"type": "bool", "default": False},
            "login": {"type": "dict", "options": LOGIN_ARGUMENTS},
        },
        supports_check_mode=True,
    )
    asked = module.params
    limits = Limits(
        asked["search_depth"],
        asked["search_entries"],
        frozenset(asked["skipped_directories"]),
        tuple(asked["left_out"]),
    )
    options = discover.Options(
        limits,
        tuple(asked["directories"]),
        asked["work_directory"],
        asked["file_seconds"],
        asked["total_seconds"],
        asked["unused_files"],
        Login.from_arguments(asked["login"]) if asked["login"] else None,
        tuple(asked["existing_schemas"]),
        asked["try_draft"],
        module.check_mode,
        tuple(asked["moved_files"]),
    )
    try:
        with interruptible():
            found = discover.discover(options)
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    module.exit_json(changed=False, discovery=render.summary(found), files=render.files(found, asked["host"]))


if __name__ == "__main__":
    main()
