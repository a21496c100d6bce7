#!/usr/bin/python
"""Read what PostgreSQL a host has already, and whose it is."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: existing_server
short_description: Read what PostgreSQL a host has already, and whose it is
description:
  - Lists the clusters of a Debian or Ubuntu host, and who listens on a port.
  - Of the cluster C(main) of O(version) it reads which databases, roles and access rules are not the distribution's and
    not named in O(database) and O(roles). It asks as the system user V(postgres), over the socket.
  - It needs neither PostgreSQL nor psycopg2, so that it works on a bare host.
options:
  port:
    description: The port that our server has, or is to have.
    type: int
    required: true
  version:
    description: Major version of our server.
    type: int
    required: true
  database:
    description: Name of our database.
    type: str
    required: true
  roles:
    description: Names of our roles.
    type: list
    elements: str
    required: true
  settings_file:
    description: Name of the file that tells our own cluster, in its directory C(conf.d).
    type: str
    required: true
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Read what is there
  swarm.sqlite_to_postgresql.existing_server:
    port: 5432
    version: 16
    database: swarm
    roles: [swarm_owner, swarm_migrator]
    settings_file: 90-sqlite-to-postgresql.conf
  register: found
"""

RETURN = r"""
clusters:
  description: Every cluster of the host.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: Major version.
      type: str
    name:
      description: Its name, such as V(main).
      type: str
    port:
      description: Its port.
      type: int
    online:
      description: Whether it runs.
      type: bool
    ours:
      description: Whether this project has configured it.
      type: bool
listener:
  description: The program that listens on the port; empty if none does, or if it is PostgreSQL.
  returned: success
  type: str
foreign:
  description: What the cluster C(main) of the version holds that is neither the distribution's nor ours, by kind.
  returned: success
  type: dict
  contains:
    databases:
      description: Names of databases.
      type: list
      elements: str
    roles:
      description: Names of roles that log in.
      type: list
      elements: str
    rules:
      description: Lines of pg_hba.conf.
      type: list
      elements: str
    settings:
      description: Settings of files other than the distribution's postgresql.conf, as name=value.
      type: list
      elements: str
unanswered:
  description: Why the cluster could not be asked; empty if it could, or if none runs there.
  returned: success
  type: str
locales:
  description: The locales of the host, as C(locale -a) lists them.
  returned: success
  type: list
  elements: str
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

_CLUSTERS = "/usr/bin/pg_lsclusters"
_LISTENING = "0A"
_SOCKETS = "/var/run/postgresql"
_QUESTION = """
SELECT json_build_object(
  'databases', (SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
                 WHERE NOT datistemplate AND datname NOT IN ('postgres', :'database')),
  'roles', (SELECT coalesce(json_agg(rolname ORDER BY rolname), '[]') FROM pg_roles
             WHERE rolcanlogin AND rolname <> 'postgres' AND NOT rolname = ANY (string_to_array(:'roles', ','))),
  'rules', (SELECT coalesce(json_agg(concat_ws(' ', type, array_to_string(database, ','),
                                               array_to_string(user_name, ','), address, netmask, auth_method)
                                     ORDER BY line_number), '[]')
              FROM pg_hba_file_rules WHERE error IS NULL AND NOT (
                -- What Debian's package writes.
                (type, database, user_name, coalesce(address, '')) IN (
                  ('local', '{all}'::text[], '{postgres}'::text[], ''), ('local', '{all}', '{all}', ''),
                  ('host', '{all}', '{all}', '127.0.0.1'), ('host', '{all}', '{all}', '::1'),
                  ('local', '{replication}', '{all}', ''), ('host', '{replication}', '{all}', '127.0.0.1'),
                  ('host', '{replication}', '{all}', '::1'))
                AND auth_method IN ('peer', 'md5', 'scram-sha-256'))),
  'settings', (SELECT coalesce(json_agg(name || '=' || setting ORDER BY name), '[]') FROM pg_file_settings
                WHERE applied AND sourcefile <> current_setting('config_file')))
"""


def read_clusters(listing: str, settings_file: str, root: str = "/") -> list[dict[str, Any]]:
    """Return the clusters in the output of ``pg_lsclusters --no-header``.

    :param settings_file: tells that a cluster is ours.
    :param root: where the file system begins.
    """
    clusters = []
    for line in listing.splitlines():
        version, name, port, status = line.split()[:4]
        ours = Path(root, "etc/postgresql", version, name, "conf.d", settings_file).exists()
        online = status.startswith("online")
        clusters.append({"version": version, "name": name, "port": int(port), "online": online, "ours": ours})
    return clusters


def listening_sockets(tables: Iterable[str], port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a TCP port.

    :param tables: the content of ``/proc/net/tcp`` and ``tcp6``; see proc_pid_net(5).
    """
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    return {row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port}


def find_listener(inodes: set[str]) -> str:
    """Return the name of a process that holds one of the sockets; a text that says so if none can be found."""
    if not inodes:
        return ""
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(entry) in links for entry in (process / "fd").iterdir()):
                return (process / "comm").read_text().strip()
        except OSError:
            continue  # it has ended, or is not ours to look at
    return "another program"


def main() -> None:
    """Read and report."""
    module = AnsibleModule(
        argument_spec={
            "port": {"type": "int", "required": True},
            "version": {"type": "int", "required": True},
            "database": {"type": "str", "required": True},
            "roles": {"type": "list", "elements": "str", "required": True},
            "settings_file": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    clusters: list[dict[str, Any]] = []
    if os.path.exists(_CLUSTERS):
        _, listing, _ = module.run_command([_CLUSTERS, "--no-header"], check_rc=True)
        clusters = read_clusters(listing, parameters["settings_file"])
    tables = [path.read_text() for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    listener = find_listener(listening_sockets(tables, parameters["port"]))
    foreign: dict[str, list[str]] = {"databases": [], "roles": [], "rules": [], "settings": []}
    unanswered = ""
    own = (str(parameters["version"]), "main")
    asked = [entry for entry in clusters if (entry["version"], entry["name"]) == own and entry["online"]]
    if asked:
        names = ("-v", f"database={parameters['database']}", "-v", f"roles={','.join(parameters['roles'])}")
        server = ("-h", _SOCKETS, "-p", str(asked[0]["port"]), "-d", "postgres")
        psql = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *names, *server, "-f", "-"]
        status, answer, complaint = module.run_command(psql, data=_QUESTION, cwd="/")
        if status == 0:
            foreign = json.loads(answer)
        else:
            unanswered = complaint.strip().splitlines()[-1] if complaint.strip() else f"psql ended with {status}"
    _, locales, _ = module.run_command(["locale", "-a"])
    module.exit_json(
        changed=False,
        clusters=clusters,
        listener="" if listener == "postgres" else listener,
        foreign=foreign,
        unanswered=unanswered,
        locales=locales.split(),
    )


if __name__ == "__main__":
    main()
