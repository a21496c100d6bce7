"""Shows how far a cutover is, as the action of ``sqlite_migrate`` does for a rehearsal."""

from __future__ import annotations

from .sqlite_migrate import ActionModule

__all__ = ["ActionModule"]
