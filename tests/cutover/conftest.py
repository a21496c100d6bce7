"""One host for all tests of the cutover that need one, and a new one where a file finds it used up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.playbooks import ThrowawayHost

from .host import CUTOVER, GROUPS, HOST, ROLLBACK, SharedHost


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


@pytest.fixture(scope="module")
def rehearsed_host(shared_host: SharedHost) -> None:
    """A host with the sample estate, PostgreSQL, the schema, and every group rehearsed."""
    shared_host.take("rehearsed", *(group["name"] for group in GROUPS))
