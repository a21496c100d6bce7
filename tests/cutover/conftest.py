"""One host for all tests of the cutover that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.playbooks import ThrowawayHost

from .host import CUTOVER, HOST, ROLLBACK


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
def rehearsed_host() -> Iterator[None]:
    """A host with the sample estate, PostgreSQL, the schema, and every group rehearsed."""
    HOST.begin("rehearsed")
    yield
    HOST.remove()
