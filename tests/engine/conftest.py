"""Databases for the engine's tests: each has the ledger, which takes as long to make as all else that a test makes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Server, fresh_database


@pytest.fixture
def database(server: Server, ledger_template: str) -> Iterator[str]:
    """The name of a fresh database of the owner's that holds the ledger, dropped afterwards."""
    with fresh_database(server, ledger_template) as name:
        yield name
