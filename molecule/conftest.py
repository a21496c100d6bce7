"""Leaves the long searches among the tests of the scenarios to `make test-all`, as tests/conftest.py does."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long searches, unless LONG_SEARCHES is set."""
    if os.environ.get("LONG_SEARCHES"):
        return
    others = [item for item in items if item.get_closest_marker("long_search")]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
