"""Ansible, loaded once for many runs: its start takes a third of the processor time of a run that is refused.

A process imports Ansible with a configuration, as ``ansible-playbook`` does before anything else, and waits. Each run
is a copy of it (``fork``), which gets its own arguments, environment and temporary directory, and goes on where
``ansible-playbook`` would: nothing that one run has read, set or kept is known to another.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any


class LoadedAnsible:
    """The process that waits, for runs in one directory with one configuration.

    :param directory: the working directory of each run that names none. It may be made anew later.
    :param environment: whole environment of the process, which names its configuration.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._configuration = _configuration(environment)
        self._process = subprocess.Popen(
            # Without this folder, whose packages have the names of others, among those where Python looks for modules.
            [sys.executable, "-P", __file__],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Return whether a run with this environment has the configuration that was loaded."""
        return _configuration(environment) == self._configuration

    def run(
        self, command: Sequence[str], environment: Mapping[str, str], directory: Path | None = None
    ) -> tuple[int, str, str]:
        """Run a program of Ansible's, and return its exit status, its output and its errors.

        :param environment: whole environment of the run, which must suit.
        :param directory: its working directory.
        """
        assert self.suits(environment), "another configuration was loaded"
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with tempfile.TemporaryDirectory() as name:
            order = {
                "command": list(command),
                "environment": dict(environment),
                "cwd": str(directory or self._directory),
                "to": name,
            }
            print(json.dumps(order), file=stdin, flush=True)
            answer = stdout.readline()
            assert answer, "the process that waits has ended"
            output, errors = (Path(name, stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
        return int(answer), output, errors

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _configuration(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment Ansible's configuration is made of."""
    return {name: value for name, value in environment.items() if name.startswith("ANSIBLE")}


@contextlib.contextmanager
def loaded_ansible(directory: Path, environment: Mapping[str, str]) -> Iterator[LoadedAnsible]:
    """Load Ansible for as long as it is needed."""
    loaded = LoadedAnsible(directory, environment)
    try:
        yield loaded
    finally:
        loaded.close()


def _wait_for_orders(orders: IO[str], answers: IO[str]) -> None:
    """Carry out one order a line, and answer each with the exit status of its run."""
    # What these import is loaded by every run.
    import ansible.cli.adhoc
    import ansible.cli.playbook
    import ansible.executor.playbook_executor
    import ansible.plugins.strategy.linear  # noqa: F401

    for line in orders:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _carry_out(order)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _carry_out(order: dict[str, Any]) -> None:
    """Be the run that was ordered, to its end."""
    from ansible import constants
    from ansible.cli import adhoc, playbook

    status: Any = 1
    own = Path(tempfile.mkdtemp(prefix="ansible-local-"))
    # What the process that waits has registered, such as removing its own directory, is not for a run to do.
    atexit._clear()
    try:
        for number, stream in enumerate(("stdout", "stderr"), 1):
            opened = os.open(Path(order["to"], stream), os.O_WRONLY | os.O_CREAT, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["environment"])
        # It holds the archives of modules: those of one run are not for the next.
        constants.DEFAULT_LOCAL_TMP = str(own)
        program, *arguments = order["command"]
        sys.argv = [str(Path(sys.executable).with_name(program)), *arguments]
        {"ansible": adhoc.main, "ansible-playbook": playbook.main}[program]()
    except SystemExit as end:
        status = end.code or 0
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        shutil.rmtree(own, ignore_errors=True)
        os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    # The terminal of answers is nobody else's: what Ansible prints when it is loaded goes to the errors.
    answering = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _wait_for_orders(sys.stdin, answering)
