"""One host for all tests of the cutover that need one, and a new one where a file finds it used up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
from scripts.playbooks import ThrowawayHost
from tests import estates
from tests.conftest import Server

from .host import CUTOVER, GROUPS, HOST, ROLLBACK, SharedHost

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@pytest.fixture(scope="session")
def dry_run_on_a_bare_host() -> Iterator[str]:
    """What dry runs of the cutover and of the rollback print while there is nothing but the estate."""
    bare = ThrowawayHost(f"{HOST.prefix}bare-")
    bare.begin("installed")
    runs = [bare.play(playbook, "--check", "--diff") for playbook in (CUTOVER, ROLLBACK)]
    assert all(run.succeeded for run in runs), [run.output for run in runs]
    yield "".join(run.output for run in runs)
    bare.remove()


@pytest.fixture(scope="session")
def shared_host() -> Iterator[SharedHost]:
    """The host, which is made when the first file asks for it."""
    host = SharedHost()
    yield host
    HOST.remove()


@pytest.fixture(scope="session")
def rehearsed_notes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database whose one group, of the table ``notes``, was rehearsed, to be copied."""

    def make(connection: Connection, login: Login) -> estates.Estate:
        place = tmp_path_factory.mktemp("rehearsed")
        return estates.Estate(connection, login, place, estates.make_notes(connection, place / "data.db"))

    with estates.rehearsed_database(server, "empty_template", make) as name:
        yield name


@pytest.fixture(scope="module")
def rehearsed_host(shared_host: SharedHost) -> None:
    """A host with the sample estate, PostgreSQL, the schema, and every group rehearsed."""
    shared_host.take("rehearsed", *(group["name"] for group in GROUPS))
