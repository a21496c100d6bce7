"""What the tests of cleanup share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import fresh_database
from tests.validation.support import Estate, Moved, make_estate, moved_estate

from .support import release

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from tests.conftest import Server


@pytest.fixture(autouse=True)
def alone(no_older_processes: None) -> None:
    """Let every test here look into its own processes alone."""


@pytest.fixture(scope="session")
def moved(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moved]:
    """An estate that was cut over, to be copied."""
    with moved_estate(server, tmp_path_factory.mktemp("moved"), make_estate) as made:
        yield made


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database of the test's own: a copy of that of ``estate``, or an empty one without it."""
    template = request.getfixturevalue("moved").database if "estate" in request.fixturenames else "empty_template"
    with fresh_database(server, template) as name:
        yield name


@pytest.fixture
def estate(connection: Connection, tmp_path: Path, moved: Moved) -> Iterator[Estate]:
    """Return an estate that was cut over, in a directory of its own."""
    # Its files are in a directory whose owner may be somebody else; the private ones beside it are root's.
    yield moved.copied(connection, tmp_path)
    release(tmp_path)
