"""What the tests of cleanup share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.validation.support import Estate, make_estate

from .support import release

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@pytest.fixture
def estate(connection: Connection, tmp_path: Path) -> Iterator[Estate]:
    """Return an estate that is still on SQLite, in a directory of its own."""
    # Its files are in a directory whose owner may be somebody else; the private ones beside it are root's.
    yield make_estate(connection, tmp_path)
    release(tmp_path)
