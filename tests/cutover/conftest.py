"""The host that the tests of the cutover and of the way back share: to make one takes longer than to test on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def dry_run_on_a_bare_host() -> Iterator[str]:
    """A host with the sample estate, PostgreSQL, the schema, and every group rehearsed.

    The value is what a dry run printed while there was nothing but the estate.
    """
    from .test_on_a_host import CUTOVER, REHEARSAL, ROLLBACK, play

    play("molecule/destroy.yml", "molecule/create.yml", "molecule/prepare.yml")
    output = play(CUTOVER, "--check", "--diff") + play(ROLLBACK, "--check", "--diff")
    play("playbooks/1_infrastructure.yml", "playbooks/2_shared_library.yml", REHEARSAL)
    yield output
    play("molecule/destroy.yml")
