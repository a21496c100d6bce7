#!/usr/bin/python
"""Read the state of files, systemd units and packages of a host, all in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_state
short_description: Read the state of files, systemd units and packages, all in one call
description:
  - A role asks once what is there, compares it with what it wants (filters C(differing_files) and C(differing_units)),
    and calls the module for a file, unit or package only where something differs.
options:
  files:
    description: Absolute paths. A symbolic link is not followed.
    type: list
    elements: path
    default: []
  units:
    description: Names of systemd units. One that does not exist has the state C(inactive).
    type: list
    elements: str
    default: []
  packages:
    description: Names of Debian packages.
    type: list
    elements: str
    default: []
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
  swarm.sqlite_to_postgresql.host_state:
    files: [/etc/systemd/system/example.timer]
    units: [example.timer]
    packages: [postgresql-16]
  register: found
"""

RETURN = r"""
files:
  description: By path what is there; a path at which nothing is does not appear.
  returned: success
  type: dict
  contains:
    kind:
      description: One of file, directory, link, socket, other.
      type: str
    owner:
      description: Name of its owner, or the number of one that has no name.
      type: str
    group:
      description: Name of its group, or the number of one that has no name.
      type: str
    mode:
      description: Its permissions, such as V(0644).
      type: str
    sha256:
      description: The hash of a file's content.
      type: str
units:
  description: By name the properties C(ActiveState), C(UnitFileState) and C(NeedDaemonReload) of each unit.
  returned: success
  type: dict
packages:
  description: The packages among the given ones that are installed.
  returned: success
  type: list
  elements: str
"""

import grp
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.files import sha256_of_open

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFSOCK: "socket"}
_PROPERTIES = "Id,ActiveState,UnitFileState,NeedDaemonReload"


def file_state(path: str) -> dict[str, Any] | None:
    """Return what is at a path, None if nothing is.

    :raises OSError: if it cannot be looked at.
    """
    try:
        found = os.lstat(path)
        result = _attributes(found)
        if result["kind"] == "file":
            # Whatever has taken its place in the meantime: only a file is read, and only what was read is told.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                result = _attributes(os.fstat(descriptor))
                if result["kind"] == "file":
                    result["sha256"] = sha256_of_open(descriptor)
            finally:
                os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return result


def _attributes(found: os.stat_result) -> dict[str, Any]:
    """Return kind, owner, group and mode."""
    return {
        "kind": _KINDS.get(stat.S_IFMT(found.st_mode), "other"),
        "owner": _name(lambda: pwd.getpwuid(found.st_uid).pw_name, found.st_uid),
        "group": _name(lambda: grp.getgrgid(found.st_gid).gr_name, found.st_gid),
        "mode": f"{stat.S_IMODE(found.st_mode):04o}",
    }


def _name(look_up: Callable[[], str], number: int) -> str:
    """Return the name that is found for a number, or the number."""
    try:
        return look_up()
    except KeyError:
        return str(number)


def unit_states(shown: str) -> dict[str, dict[str, str]]:
    """Return each unit's properties by its name, from the text of ``systemctl show``."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    return {block.pop("Id"): block for block in blocks if "Id" in block}


def installed(listed: str) -> list[str]:
    """Return the packages that are installed, from lines of package and status."""
    lines = [line.split() for line in listed.splitlines()]
    return sorted({line[0] for line in lines if line[1:] == ["installed"]})


def look(module: AnsibleModule, paths: Sequence[str], units: Sequence[str], packages: Sequence[str]) -> dict[str, Any]:
    """Return the state of everything that was asked for; the module fails if a program does."""
    states = {path: file_state(path) for path in paths}
    result: dict[str, Any] = {
        "files": {path: state for path, state in states.items() if state is not None},
        "units": {},
        "packages": [],
    }
    if units:
        command = ["systemctl", "show", f"--property={_PROPERTIES}", "--", *units]
        result["units"] = unit_states(module.run_command(command, check_rc=True)[1])
    if packages:
        # It ends with 1 if it has never heard of one of them, and lists the others.
        command = ["dpkg-query", "--show", "--showformat", r"${Package} ${db:Status-Status}\n", "--", *packages]
        status, listed, error = module.run_command(command)
        if status not in (0, 1):
            module.fail_json(msg=f"dpkg-query: {error.strip()}")
        result["packages"] = installed(listed)
    return result


def main() -> None:
    """Read and report."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        result = look(module, module.params["files"], module.params["units"], module.params["packages"])
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
