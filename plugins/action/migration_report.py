"""Writes the report of a run on the controller, if it says anything new."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ..module_utils.migration.report import build as report
from ..module_utils.promotion import gate
from ..plugin_utils import report_files
from ..plugin_utils.gated import ROOT

# As module migration_report documents them.
ARGUMENTS: dict[str, Any] = {
    "directory": {"type": "path", "required": True},
    "environment_name": {"type": "str", "required": True},
    "host": {"type": "str", "required": True},
    "groups": {"type": "list", "elements": "dict", "required": True},
    "checks": {"type": "list", "elements": "dict", "required": True},
    "database": {"type": "dict", "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships without types
    """Builds the report from what the modules of the validation have found."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return where the report is, what it says, and whether it is new."""
        result = dict(super().run(tmp, task_vars))
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        # The report prints commands, which name the hosts of the run as the play's environment says. A task runs in a
        # process of its own, so nobody else sees this.
        environment: dict[str, str] = {}
        self._compute_environment_string(environment)
        os.environ.update(environment)
        content = report.build(
            arguments["environment_name"],
            arguments["host"],
            arguments["groups"],
            arguments["checks"],
            arguments["database"],
            overrides=gate.read_overrides(ROOT, arguments["environment_name"]),
        )
        is_dry = bool(self._task.check_mode)
        try:
            written = report_files.write(Path(arguments["directory"]), content, is_dry)
        except OSError as error:
            message = (
                f"The report cannot be written below {arguments['directory']}: {error.strerror}. "
                "Correct validation_report_directory, or the directory's owner and mode."
            )
            return {**result, "failed": True, "msg": message}
        return {
            **result,
            **written,
            "status": content["status"],
            "findings": content["findings"],
            "lines": report.summary_lines(
                content, written["path"], not (is_dry and written["changed"]), written["changed"]
            ),
        }
