"""Databases for the engine's tests: each has the ledger, which takes as long to make as all else that a test makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from tests.conftest import Server

from .kept_database import KeptDatabase

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@pytest.fixture(scope="session")
def kept_database(server: Server, ledger_template: str) -> Iterator[KeptDatabase]:
    """The database that tests take one after the other."""
    kept = KeptDatabase(server, ledger_template)
    yield kept
    kept.drop()


@pytest.fixture
def database(kept_database: KeptDatabase) -> Iterator[str]:
    """The name of a database of the owner's that holds the ledger and nothing else."""
    yield kept_database.take()
    kept_database.give_back()


@pytest.fixture
def connection(kept_database: KeptDatabase, database: str, login: Login) -> Iterator[Connection]:
    """A connection to the test's database as the migrator, acting as the owner."""
    if database == kept_database.name:
        yield kept_database.session
        return
    # A file with a database of its own.
    with closing(connect(login)) as own:
        yield own
