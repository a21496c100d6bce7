"""Runs the module of the same name on the host, and writes the draft that it returns on the controller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ansible.plugins.action.normal import ActionModule as NormalAction

from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.migration.discovery import draft_directory
from ..module_utils.migration.discovery.draft_directory import Written
from ..module_utils.migration.discovery.render import PAGE_FILE


class ActionModule(NormalAction):  # type: ignore[misc]  # Ansible ships without types
    """The module's own action, and the files of the draft."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was found, and where the draft is."""
        result = dict(super().run(tmp, task_vars))
        files = result.pop("files", None)
        if files is None:
            return result
        try:
            written = draft_directory.write(self._task.args["draft_directory"], files, self._task.check_mode)
        except MigrationError as error:
            result.update(failed=True, msg=str(error), problems=error.as_dicts())
            return result
        result.update(changed=written.changed, draft=written.directory, differences=list(written.differences))
        result["summary"] = list(summary(result["discovery"], written, self._task.check_mode))
        return result


def summary(found: Mapping[str, Any], written: Written, check_mode: bool) -> Iterator[str]:
    """Yield what was found and written in a few sentences."""
    for source in found["sources"]:
        services = ", ".join(source["services"])
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
