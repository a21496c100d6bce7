"""Ansible, loaded once for all runs that have one configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from scripts.loaded_ansible import LoadedAnsible, loaded_ansible
from tests.conftest import PROJECT

from .support import Load


@pytest.fixture(scope="session")
def load() -> Iterator[Load]:
    """Return a function that gives the Ansible that has loaded the configuration of an environment."""
    with ExitStack() as stack:
        processes: list[LoadedAnsible] = []

        def load(environment: Mapping[str, str]) -> LoadedAnsible:
            for process in processes:
                if process.suits(environment):
                    return process
            processes.append(stack.enter_context(loaded_ansible(PROJECT, environment, collections_are_final=True)))
            return processes[-1]

        yield load
