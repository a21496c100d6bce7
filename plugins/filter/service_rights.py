"""The filter that puts together what the role of several services may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..module_utils.migration.core.estate import widest_rights


class FilterModule:
    """Makes the functions above known as filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"widest_rights": widest_rights}
