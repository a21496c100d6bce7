#!/usr/bin/python
"""Build the library that the services share, once for each source, and put a copy of it into each service."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: shared_library
short_description: Build a Node.js package from source and put a copy of it into each service
description:
  - Compiles and packs the source in a directory of its own, unless this very source is built already. The new build
    takes the place of the old one whole, or not at all.
  - Puts a copy of the package into C(node_modules) of each service that depends on it, acting as the service's user.
    Each copy is loaded with the service's own modules first; if one cannot be loaded, no service gets a new copy.
  - If no service depends on it, nothing is built.
  - Nothing else in C(node_modules) is touched, and no service is restarted.
options:
  files:
    description:
      - The source. C(package.json) names the package, its version, and what it needs.
      - Below C(ledger/) come the statements that its runner shares with M(swarm.sqlite_to_postgresql.schema_apply).
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path in the package, for example C(src/index.ts).
        type: str
        required: true
      content:
        description: Text of the file.
        type: str
        required: true
  directory:
    description: Where the package is built. What an earlier build has left there is replaced whole.
    type: path
    required: true
  services:
    description: The services. Those that depend on the package get a copy.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      user:
        description: User that the service runs as, and that owns its modules.
        type: str
        required: true
      directory:
        description: Directory of the service.
        type: path
        required: true
      depends:
        description: Whether it depends on the package. Its C(package.json) tells if this is not given.
        type: bool
attributes:
  check_mode:
    description: Says whether the package would be built and which services would get a copy, and writes nothing.
    support: full
  diff_mode:
    description: Lists the build and each copy, with version and source, before and after.
    support: full
requirements:
  - Node.js on the host; for a build also npm and a registry that it reaches
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Build the library and put it into a service
  swarm.sqlite_to_postgresql.shared_library:
    files:
      - path: package.json
        content: "{{ lookup('ansible.builtin.file', 'db/package.json') }}"
      - path: src/index.ts
        content: "{{ lookup('ansible.builtin.file', 'db/src/index.ts') }}"
    directory: /opt/swarm-shared/db
    services:
      - name: swarm-registry
        user: swarm
        directory: /opt/swarm-registry
        depends: true
"""

RETURN = r"""
package:
  description: Name and version of the package.
  returned: success
  type: str
  sample: swarm-shared-db@1.0.0
built:
  description: Whether it was built, or in check mode would be.
  returned: success
  type: bool
installed:
  description: The services that got a copy, or in check mode would get one.
  returned: success
  type: list
  elements: str
problems:
  description: Every violation, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.node_package.shared_statements import SHARED_STATEMENTS
from ..module_utils.node_package.source import Source
from ..module_utils.node_package.synchronise import Programs, synchronise


def main() -> None:
    """Read the arguments, bring build and copies up to date, and report."""
    text = {"type": "str", "required": True}
    path = {"type": "path", "required": True}
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": {"path": text, "content": text}},
            "directory": path,
            "services": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": text, "user": text, "directory": path, "depends": {"type": "bool"}},
            },
        },
        supports_check_mode=True,
    )
    parameters = module.params
    given = {file["path"]: file["content"] for file in parameters["files"]}
    places = ["/usr/local/bin"]
    programs = Programs(module.get_bin_path("node", opt_dirs=places), module.get_bin_path("npm", opt_dirs=places))
    os.umask(0o022)
    try:
        result = synchronise(
            Source({path: content.encode() for path, content in {**given, **SHARED_STATEMENTS}.items()}),
            Path(parameters["directory"]),
            parameters["services"],
            programs,
            module.check_mode,
        )
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    except OSError as error:
        # Of a file that could not be put in its place, the place.
        where = str(error.filename2 or error.filename or "this host")
        problem = Problem(where, str(error.strerror), "Put that right, then run again")
        failure = MigrationError("The library could not be written.", [problem])
        module.fail_json(msg=str(failure), problems=failure.as_dicts())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
