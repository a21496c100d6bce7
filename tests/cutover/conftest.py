"""One host for all tests of the cutover that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .host import CUTOVER, REHEARSAL, ROLLBACK, play


@pytest.fixture(scope="session")
def dry_run_on_a_bare_host() -> Iterator[str]:
    """A host with the sample estate, PostgreSQL, the schema, and every group rehearsed.

    The value is what a dry run printed while there was nothing but the estate.
    """
    play("molecule/destroy.yml", "molecule/create.yml", "molecule/prepare.yml")
    output = play(CUTOVER, "--check", "--diff") + play(ROLLBACK, "--check", "--diff")
    play("playbooks/1_infrastructure.yml", "playbooks/2_shared_library.yml", REHEARSAL)
    yield output
    play("molecule/destroy.yml")
