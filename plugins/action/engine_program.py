"""Copies the package ``migration`` to a host as one file that Python runs: a zip archive with a starter.

One file, because a timer may start the program at any moment: it is the old release or the new one,
never half of each, and one comparison of hashes tells whether anything changed. The copying is
``ansible.builtin.copy``'s own: comparison, check mode, owner and mode, atomic replacement.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# As module engine_program documents them.
ARGUMENTS = {
    "source": {"type": "path", "required": True},
    "dest": {"type": "path", "required": True},
    **{name: {"type": "str", "required": True} for name in ("owner", "group", "mode")},
}
PACKAGE = "migration"
# The archive depends on the sources alone: the same sources give the same bytes on every controller.
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16
_STARTER = f'''\
"""Runs one program of the package: python3 -I THIS_FILE PROGRAM [ARGUMENT ...]."""

import importlib
import sys


def _is_module(name):
    return all(part.isidentifier() for part in name.split("."))


def _main():
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        program = importlib.import_module("{PACKAGE}." + name) if _is_module(name) else None
    except ModuleNotFoundError as error:
        if not ("{PACKAGE}." + name + ".").startswith(error.name + "."):
            raise
        program = None
    if not hasattr(program, "main"):
        print(f"There is no program {{name!r}} in {{sys.argv[0]}}.", file=sys.stderr)
        return 2
    return program.main(sys.argv[2:])


sys.exit(_main())
'''


def build(package: Path) -> bytes:
    """Return the archive with every Python file of the package and the starter.

    :raises OSError: if a file cannot be read.
    """
    files = {"__main__.py": _STARTER.encode()}
    files |= {f"{PACKAGE}/{path.relative_to(package)}": path.read_bytes() for path in sorted(package.rglob("*.py"))}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = _MODE
            # Not compressed: what zlib makes of a file differs from version to version.
            writer.writestr(entry, content)
    return archive.getvalue()


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships without types
    """Builds the archive and lets ``ansible.builtin.copy`` install it."""

    # The look needs no temporary directory on the host; the action copy makes its own.
    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of the copy."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        source = Path(arguments.pop("source"))
        if not (source / "__init__.py").is_file():
            raise AnsibleActionFail(f"{source} is no Python package")
        content = build(source)
        # One look in place of the two calls that copy makes also where nothing differs.
        found = self._execute_remote_stat(arguments["dest"], all_vars=task_vars, follow=False)
        present = tuple(found.get(key) for key in ("isreg", "checksum", "pw_name", "gr_name", "mode"))
        sha1 = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        if present == (True, sha1, *(arguments[name] for name in ("owner", "group", "mode"))):
            return {"changed": False, "dest": arguments["dest"], "checksum": sha1}
        with tempfile.NamedTemporaryFile(suffix=".pyz") as archive:
            archive.write(content)
            archive.flush()
            task = self._task.copy()
            task.args = {**arguments, "src": archive.name}
            copy = self._shared_loader_obj.action_loader.get(
                "ansible.builtin.copy",
                task=task,
                connection=self._connection,
                play_context=self._play_context,
                loader=self._loader,
                templar=self._templar,
                shared_loader_obj=self._shared_loader_obj,
            )
            result = dict(copy.run(task_vars=task_vars))
        # The name of the temporary file says nothing and changes with every run.
        result.pop("diff", None)
        result.pop("src", None)
        return result
