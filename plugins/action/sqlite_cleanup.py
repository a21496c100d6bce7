"""Runs the module of the same name, in a protected environment only if the gate lets it or files come back."""

from __future__ import annotations

from ..plugin_utils.gated import GatedAction


class ActionModule(GatedAction):
    """The module's own action behind the gate."""

    # Cleanup has a plan of its own, which it names itself.
    NEEDS_PLAN = False

    def leads_back(self) -> bool:
        """Return whether files are brought back from quarantine, and nothing else is done."""
        return bool(self._task.args.get("restore_groups")) and not self._task.args.get("confirm")
