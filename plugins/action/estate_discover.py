"""Runs the module of the same name on the host, and writes the draft that it returns on the controller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action.normal import ActionModule as NormalAction

from ..module_utils.migration.core import commands
from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.migration.discovery import adopt, draft_directory
from ..module_utils.migration.discovery.draft_directory import Written
from ..module_utils.migration.discovery.render import PAGE_FILE

_ROOT = Path(__file__).resolve().parent.parent.parent
# What tells how Ansible reaches a host, and becomes root there. A password is not among it.
_CONNECTION = (
    "ansible_host",
    "ansible_port",
    "ansible_user",
    "ansible_connection",
    "ansible_ssh_private_key_file",
    "ansible_ssh_common_args",
    "ansible_ssh_extra_args",
    "ansible_become",
    "ansible_become_method",
    "ansible_become_user",
)


class ActionModule(NormalAction):  # type: ignore[misc]  # Ansible ships without types
    """The module's own action, and the files of the draft."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was found, and where the draft is."""
        result = dict(super().run(tmp, task_vars))
        files = result.pop("files", None)
        if files is None:
            return result
        check_mode = self._task.check_mode
        try:
            written = draft_directory.write(self._task.args["draft_directory"], files, check_mode)
        except MigrationError as error:
            result.update(failed=True, msg=str(error), problems=error.as_dicts())
            return result
        result.update(changed=written.changed, draft=written.directory, differences=list(written.differences))
        result["summary"] = list(summary(result["discovery"], written, check_mode))
        inventory = self._task.args.get("adopt_as")
        if inventory and not check_mode:
            try:
                login = self._task.args.get("login") or {}
                environment = self._adopt(written, Path(inventory), task_vars or {}, login)
            except MigrationError as error:
                result.update(failed=True, msg=str(error), problems=error.as_dicts())
            else:
                result["changed"] = True
                command = commands.site_on(environment, inventory, dry_run=True)
                result["summary"].append(f"An inventory of its own: {inventory}. Next: {command}")
        return result

    def _adopt(
        self, written: Written, inventory: Path, variables: Mapping[str, Any], login: Mapping[str, Any] | None = None
    ) -> str:
        """Make an inventory from the draft, and return the group of its host.

        :param login: to the target database, where applications have made their tables there.
        :raises MigrationError: if there is one, or something else stands on the host than an earlier draft says.
        """
        if written.differences:
            fix = "Take into the earlier draft what you need of it, or work on with this one; then adopt it"
            what = "it has been written beside an earlier draft, because something else stands on the host by now"
            raise MigrationError("The draft was not adopted.", [Problem(written.directory, what, fix)])
        host = str(variables["inventory_hostname"])
        environment = str(self._templar.template(variables.get("environment_name")) or "dev")
        connection = {
            name: str(self._templar.template(variables[name]))
            for name in _CONNECTION
            if variables.get(name) is not None
        }
        try:
            draft, model = Path(written.directory), _ROOT / "inventory"
            adopt.adopt(draft, inventory, model, host, environment, connection, names_of(login or {}))
        except (OSError, UnicodeError) as error:
            place = getattr(error, "filename", None) or written.directory
            fix = "Correct it, and adopt the draft again; nothing was made of it yet"
            problem = Problem(str(place), getattr(error, "strerror", None) or str(error), fix)
            raise MigrationError("The draft was not adopted.", [problem]) from None
        return environment


def names_of(login: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of database and roles that this run logs in with, nothing if it does not."""
    if not login:
        return {}
    return {
        "postgres_database": str(login["login_db"]),
        "postgres_owner_role": str(login.get("session_role") or login["login_user"]),
        "postgres_migrator_role": str(login["login_user"]),
    }


def summary(found: Mapping[str, Any], written: Written, check_mode: bool) -> Iterator[str]:
    """Yield what was found and written in a few sentences."""
    for source in found["sources"]:
        services = ", ".join(source["services"]) or "no service"
        rows = "not read" if source["rows"] is None else f"{source['rows']:,} rows"
        yield f"{source['path']}: {rows}, used by {services}"
    yield f"{len(found['legacy']):,} SQLite files that no service uses"
    if not written.changed:
        yield f"Nothing but rows has changed since {written.directory}"
    else:
        words = "A draft would be written to" if check_mode else "The draft:"
        yield f"{words} {written.directory}; begin with {PAGE_FILE}"
    yield from written.differences
    yield f"Decisions for a person: {len(found['decisions']):,}"
    yield from (f"{entry['where']}: {entry['what']}" for entry in found["decisions"])
