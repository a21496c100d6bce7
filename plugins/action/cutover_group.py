"""Shows how far a cutover is, as the action of ``sqlite_migrate`` does for a rehearsal."""

from __future__ import annotations

from .sqlite_migrate import ActionModule as WatchedAction


class ActionModule(WatchedAction):
    """The module's own action, watched; a cutover is behind the gate, a rollback never is."""

    def leads_back(self) -> bool:
        """Return whether the group goes back to SQLite."""
        return bool(self._task.args.get("state") == "sqlite")
