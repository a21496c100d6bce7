"""Runs the module of the same name as Ansible always does, and shows how far it is if it takes long.

The module writes one line about its progress into a private file, once a second (see
plugins/module_utils/migration/engine/transfer/progress.py). A thread reads it through a second connection to the host,
with the same become, and shows it. The module itself runs in the foreground exactly as without
this plugin: arguments, results, check mode, time limits and interruptions stay Ansible's own.

Why not asynchronously: Ansible then writes the module with its arguments, among them a password,
and later its result to the host's disk, and a module outlives the playbook that was interrupted.
Why a file and not the ledger: reading it costs one `cat`, needs no password, and also works while
the server is too busy to answer.
"""

from __future__ import annotations

import copy
import os
import shlex
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from ansible import constants
from ansible.utils.display import Display

from ..module_utils.migration.core.files import progress_file
from ..plugin_utils import messages
from ..plugin_utils.gated import GatedAction

FIRST_LOOK_SECONDS = 5.0
INTERVAL_SECONDS = 5.0

_PATIENCE_SECONDS = 2.0
_LONGEST_LINE = 200


class ActionModule(GatedAction):
    """The module's own action, behind the gate and watched."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module and return its result, whatever the watching finds."""
        path = watched_file(self._task.args)
        if path is None or self._task.async_val or self._task.no_log:
            result = dict(super().run(tmp, task_vars))
        else:
            with self._watched(path, (task_vars or {}).get("inventory_hostname", "?")):
                result = dict(super().run(tmp, task_vars))
        return self._with_lines(result, task_vars or {})

    def _with_lines(self, result: dict[str, Any], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return a result that says of each refused column where its type stands in the SQL files."""
        directory = str(self._templar.template(variables.get("schema_apply_directory")) or "")
        group = self._task.args.get("group")
        if not (result.get("failed") and result.get("problems") and directory and isinstance(group, Mapping)):
            return result
        from ..plugin_utils.sql_lines import with_lines

        # A refusal is told, whatever may be wrong with the files.
        with suppress(OSError):
            return with_lines(result, group, Path(directory))
        return result

    @contextmanager
    def _watched(self, path: str, host: str) -> Iterator[None]:
        """Show lines while the block runs."""
        ended = threading.Event()
        showing = threading.Lock()
        thread = threading.Thread(target=self._watch, args=(path, host, ended, showing), daemon=True)
        with signals_wait_for(showing):
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join(_PATIENCE_SECONDS)

    def _watch(self, path: str, host: str, ended: threading.Event, showing: threading.Lock) -> None:
        """Read the file now and then, and show each new line."""
        display = Display()
        command = f"cat {shlex.quote(path)}"
        shown = ""
        wait = FIRST_LOOK_SECONDS
        while not ended.wait(wait):
            wait = INTERVAL_SECONDS
            try:
                answer = self._with_own_connection()._low_level_execute_command(command)
            except Exception:  # noqa: S112 (the module's own result says what is wrong with the host)
                continue
            line = printable(answer["stdout"]) if answer["rc"] == 0 else ""
            with showing:
                if line not in ("", shown) and not ended.is_set():
                    # To stderr: what reads stdout may expect YAML or JSON there, and stderr is never held back.
                    display.display(messages.progress_message(host, line), color=constants.COLOR_VERBOSE, stderr=True)
                    shown = line

    def _with_own_connection(self) -> ActionModule:
        """Return a copy that shares nothing which changes from command to command with the running module."""
        other = copy.copy(self)
        other._connection = copy.copy(self._connection)
        other._connection._shell = copy.copy(self._connection._shell)
        other._connection.become = copy.copy(self._connection.become)
        return other


@contextmanager
def signals_wait_for(lock: threading.Lock) -> Iterator[None]:
    """Let a signal that ends this process first wait for a lock, so that nobody who holds it is cut off.

    A line reaches the terminal through a queue that all processes of ansible-playbook share. A worker that ends while
    one of its threads holds the queue's own lock takes that lock with it, and the interrupted playbook then waits for
    it without end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number: int, frame: FrameType | None) -> None:
        # Kept from then on: nothing more is to be shown.
        lock.acquire(timeout=_PATIENCE_SECONDS)
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, handler or signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in handlers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


def watched_file(arguments: Mapping[str, Any]) -> str | None:
    """Return where the module writes its progress, None if its arguments do not say."""
    group = arguments.get("group")
    name = group.get("name") if isinstance(group, Mapping) else None
    return str(progress_file(name, arguments.get("work_directory"))) if isinstance(name, str) else None


def printable(text: str) -> str:
    """Return the first line of a text without anything that a terminal obeys."""
    return messages.printable(text.strip().partition("\n")[0][:_LONGEST_LINE]).replace("\t", "?")
