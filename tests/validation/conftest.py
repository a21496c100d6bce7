"""What the tests of validation share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import fresh_database

from .support import Estate, Moved, make_estate, moved_estate

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server


@pytest.fixture(scope="session")
def moved(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """An estate that was cut over, to be copied."""
    with moved_estate(server, tmp_path_factory.mktemp("moved"), make_estate) as made:
        yield made


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database of the test's own: a copy of that of an estate that was cut over, or an empty one."""
    begins_live = "live_estate" in request.fixturenames
    template = request.getfixturevalue("moved").database if begins_live else "empty_template"
    with fresh_database(server, template) as name:
        yield name


@pytest.fixture
def live_estate(connection: Connection, tmp_path: Path, moved: Moved) -> Estate:
    """Return an estate that was cut over."""
    return moved.copied(connection, tmp_path)
