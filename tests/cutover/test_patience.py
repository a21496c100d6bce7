"""How long the tests on a host wait: as long as it gets on, however slow the machine is."""

from __future__ import annotations

import itertools

import pytest

from tests.cutover import host


def test_a_host_that_gets_on_is_waited_for_and_one_that_does_not_is_given_up() -> None:
    reached = itertools.count()
    # It takes longer than the limit, three times over.
    host.until(lambda: next(reached) > 3, seconds=0.1, progress=lambda: next(reached))
    with pytest.raises(AssertionError, match="waited in vain"):
        host.until(lambda: False, seconds=0.1, progress=lambda: "the same")
    with pytest.raises(AssertionError, match="waited in vain"):
        host.until(lambda: False, seconds=0.1)
