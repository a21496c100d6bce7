"""Ansible, loaded once for many runs: its start takes a third of the processor time of a run of ten tasks.

A process imports Ansible with a configuration, as ``ansible-playbook`` does before anything else, reads the plugins
that every run reads, and waits. Each run is a copy of it (``fork``), which gets its own arguments, environment and
temporary directory, and goes on where ``ansible-playbook`` would: nothing that one run has read, set or kept is known
to another.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast


class LoadedAnsible:
    """The process that waits, for runs in one directory with one configuration.

    :param directory: the working directory of each run that names none. It may be made anew later.
    :param environment: whole environment of the process, which names its configuration.
    :param collections_are_final: load the callbacks of the configuration too, and with them the plugins that they load.
        No file of their collections may change as long as this process waits.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str], *, collections_are_final: bool = False) -> None:
        self._directory = directory
        self._configuration = _configuration(environment)
        self._process = subprocess.Popen(
            # Without this folder, whose packages have the names of others, among those where Python looks for modules.
            [sys.executable, "-P", __file__, *(["callbacks"] if collections_are_final else [])],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._orders = cast(IO[str], self._process.stdin)
        self._answers = cast(IO[str], self._process.stdout)

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Return whether a run with this environment has the configuration that was loaded."""
        return _configuration(environment) == self._configuration

    def run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: Path | None = None,
        *,
        merges_errors: bool = False,
    ) -> tuple[int, str, str]:
        """Run a program of Ansible's, and return its exit status, its output and its errors.

        :param environment: whole environment of the run, which must suit.
        :param directory: its working directory.
        :param merges_errors: the errors stand in the output, where they came.
        :raises ValueError: if another configuration was loaded.
        :raises RuntimeError: if the process that waits has ended.
        """
        if not self.suits(environment):
            raise ValueError("another configuration was loaded")
        with tempfile.TemporaryDirectory() as name:
            order = {
                "command": list(command),
                "environment": dict(environment),
                "cwd": str(directory or self._directory),
                "to": [str(Path(name, stream)) for stream in ("stdout", "stdout" if merges_errors else "stderr")],
            }
            print(json.dumps(order), file=self._orders, flush=True)
            run = self._answer()
            try:
                status = self._answer()
            except KeyboardInterrupt:
                # What the tests do next must not find this run at work.
                os.kill(run, signal.SIGKILL)
                self._answer()
                raise
            output, errors = (
                path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
                for path in (Path(name, "stdout"), Path(name, "stderr"))
            )
        return status, output, errors

    def _answer(self) -> int:
        """Return the next number that the process says.

        :raises RuntimeError: if it has ended.
        """
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError("the process that waits has ended")
        return int(answer)

    def close(self) -> None:
        """End the process."""
        self._orders.close()
        self._answers.close()
        self._process.wait()


def _configuration(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment Ansible's configuration is made of."""
    return {name: value for name, value in environment.items() if name.startswith("ANSIBLE")}


@contextlib.contextmanager
def loaded_ansible(
    directory: Path, environment: Mapping[str, str], *, collections_are_final: bool = False
) -> Iterator[LoadedAnsible]:
    """Load Ansible for as long as it is needed."""
    loaded = LoadedAnsible(directory, environment, collections_are_final=collections_are_final)
    try:
        yield loaded
    finally:
        loaded.close()


def _wait_for_orders(orders: IO[str], answers: IO[str], has_final_callbacks: bool) -> None:
    """Carry out one order a line, and answer each with the id of its process, and with its exit status at the end."""
    _load(has_final_callbacks)
    # Who interrupts the tests at a terminal interrupts the run, and more runs put away what it has made.
    on_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in orders:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, on_interrupt)
            _carry_out(order)
        print(child, file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _load(has_final_callbacks: bool) -> None:
    """Load what every run loads: the programs, and the plugins whose documentation takes longest to read."""
    import ansible.cli.adhoc
    import ansible.cli.playbook
    import ansible.executor.playbook_executor  # noqa: F401
    from ansible import constants
    from ansible.plugins import loader
    from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder

    loader.init_plugin_loader()
    # A playbook reads the documentation of all of these, whatever it uses.
    for kind in (loader.callback_loader, loader.connection_loader, loader.shell_loader, loader.become_loader):
        list(kind.all(class_only=True))
    for kind, names in (
        (loader.callback_loader, (constants.DEFAULT_STDOUT_CALLBACK, *constants.CALLBACKS_ENABLED)),
        (loader.inventory_loader, constants.INVENTORY_ENABLED),
        (loader.strategy_loader, ("linear",)),
        (loader.action_loader, ("ansible.legacy.normal", "ansible.builtin.include_role")),
    ):
        for name in names:
            # The name of a plugin of a collection begins with that of the collection.
            if has_final_callbacks or not name.count(".") or name.startswith("ansible."):
                kind.get(name, class_only=True)
    for kind in (loader.filter_loader, loader.test_loader):
        list(kind.all())
    if has_final_callbacks:
        for name in constants.CALLBACKS_ENABLED:
            if name.endswith(".preload"):
                loader.callback_loader.get(name).load_plugins()
    # A run looks for collections itself, where its arguments say.
    _AnsibleCollectionFinder._remove()
    if not has_final_callbacks:
        for name in [name for name in sys.modules if name.partition(".")[0] == "ansible_collections"]:
            del sys.modules[name]
    # What is loaded stays: no run has to look through it for garbage.
    gc.collect()
    gc.freeze()


def _carry_out(order: dict[str, Any]) -> None:
    """Be the run that was ordered, to its end."""
    from ansible import constants
    from ansible.cli import adhoc, playbook
    from ansible.utils.display import Display

    status: Any = 1
    # Beside that of the process that waits, where Ansible itself makes it: an inventory below that place is a tool's.
    own = Path(tempfile.mkdtemp(prefix="ansible-local-", dir=Path(constants.DEFAULT_LOCAL_TMP).parent))
    # What the process that waits has registered, such as removing its own directory, is not for a run to do.
    atexit._clear()
    try:
        for number, path in enumerate(order["to"], 1):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        # The process that waits may write its errors to a terminal.
        display = Display()
        display._set_column_width()
        # What was warned of when it was loaded has not been said in this run yet.
        for said in (display._warns, display._deprecations, display._errors):
            said.clear()
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
    except BaseException:
        # As Python does at the end of a program, which a copy does not come to.
        traceback.print_exc()
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
    _wait_for_orders(sys.stdin, answering, sys.argv[1:] == ["callbacks"])
