#!/usr/bin/env python3
"""Run ansible-lint with Ansible loaded once: it asks ``ansible-playbook --syntax-check`` for each playbook and role.

The arguments are those of ansible-lint. Each syntax check is still a run of Ansible's own, with the arguments, the
environment and the directory that ansible-lint gives it; only the start of Python and of Ansible, which takes most of
its processor time, is not done again for each.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.loaded_ansible import LoadedAnsible, loaded_ansible

_SYNTAX_CHECK = ("ansible-playbook", "--syntax-check")
_start_a_program = subprocess.run


class SyntaxChecks:
    """The syntax checks of one run of ansible-lint.

    :param processes: ends the processes that were loaded.
    """

    def __init__(self, processes: ExitStack) -> None:
        self._processes = processes
        self._loaded: list[LoadedAnsible] = []
        # ansible-lint checks in threads, and a loaded process has one run at a time.
        self._lock = threading.Lock()

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Do what :func:`subprocess.run` does, without starting Ansible anew if the command is a syntax check."""
        if tuple(command[:2]) != _SYNTAX_CHECK:
            return _start_a_program(command, **options)
        with self._lock:
            status, output, errors = self._suiting(options["env"]).run(
                command, options["env"], Path(options.get("cwd") or Path.cwd())
            )
        return subprocess.CompletedProcess(command, status, output, errors)

    def _suiting(self, environment: Mapping[str, str]) -> LoadedAnsible:
        """Return the process with the configuration of an environment, loaded the first time that it is needed."""
        for process in self._loaded:
            if process.suits(environment):
                return process
        self._loaded.append(
            self._processes.enter_context(loaded_ansible(Path.cwd(), environment, collections_are_final=True))
        )
        return self._loaded[-1]


def main() -> None:
    """Be ansible-lint, to its end."""
    from ansiblelint.__main__ import _run_cli_entrypoint

    with ExitStack() as processes, mock.patch("subprocess.run", SyntaxChecks(processes).run):
        _run_cli_entrypoint()


if __name__ == "__main__":
    main()
