"""Shows a person what a run does, instead of every task with its result."""

from __future__ import annotations

DOCUMENTATION = r"""
name: console
type: stdout
short_description: What a person wants to see of a run
description:
  - Shows each play with the time at which it began, what changed, the messages of C(debug) tasks, warnings and diffs,
    and at the end one line for each host.
  - A task that changed nothing takes no line, nor does a play whose tasks were all skipped, or whose name stands there
    already and that has nothing to tell.
  - A module of this collection that changed something shows its message at once, for example how long the services of a
    cutover group were down.
  - A failed task shows its message as text. Of results nothing else is shown, and nothing of those under C(no_log).
  - On a terminal the last line says what is being done and for how long. The progress of a long load is written over
    there in place. Elsewhere each progress is a line of its own, and there are no control characters.
  - With C(-v) and more it is Ansible's own callback P(ansible.builtin.default#callback).
extends_documentation_fragment:
  - default_callback
  - result_format_callback
options:
  show_unchanged:
    description: Whether a task that changed nothing takes a line too.
    type: bool
    default: false
    env:
      - name: SQLITE_TO_POSTGRESQL_SHOW_UNCHANGED
    ini:
      - section: callback_console
        key: show_unchanged
  in_place:
    description: Whether the last line of a terminal is written over in place.
    type: bool
    default: true
    env:
      - name: SQLITE_TO_POSTGRESQL_IN_PLACE
    ini:
      - section: callback_console
        key: in_place
requirements:
  - Set it as C(stdout_callback) in C(ansible.cfg), or as E(ANSIBLE_STDOUT_CALLBACK).
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
ansible.cfg: |
  [defaults]
  stdout_callback = swarm.sqlite_to_postgresql.console
"""

import atexit
import dataclasses
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any

from ansible import constants, context
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

from ..plugin_utils import messages
from ..plugin_utils.status_line import StatusLine

_NAME = "swarm.sqlite_to_postgresql.console"


class CallbackModule(DefaultCallback):  # type: ignore[misc]  # Ansible ships without types
    """Prints less than the class that it is derived from, unless the run is verbose."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = _NAME

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()
        self._heading = ""
        # Names of the plays that have a heading. One of the same name needs none before it has something to say.
        self._headed: set[str] = set()
        self._play_name = ""
        self._task = ""
        self._task_began = time.monotonic()
        # By host: when its task began, and how far a long task is.
        self._started: dict[str, float] = {}
        self._progress: dict[str, str] = {}
        # The diffs of a task come before its result.
        self._diffs: dict[tuple[str, str], str] = {}
        # What modules told in this play, by host and line: a summary does not repeat what was shown as it happened.
        self._told: set[tuple[str, str]] = set()
        # By host, the tasks that had changed something before they failed: Ansible counts them as failed alone.
        self._changed_and_failed: Counter[str] = Counter()
        self._status: StatusLine | None = None
        self._process = os.getpid()
        self._is_running = False
        # An interrupted run has no event for its end.
        atexit.register(self._stop)

    @property
    def _is_verbose(self) -> bool:
        return bool(self._display.verbosity)

    # ---------------------------------------------------------------- the run, its plays and tasks

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin the line at the bottom of a terminal."""
        if self._is_verbose:
            super().v2_playbook_on_start(playbook)
            return
        self._is_running = True
        # A program that wraps this callback, such as ansible-runner, reads lines.
        is_wrapped = self.CALLBACK_NAME != _NAME
        is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        if self._status is None and is_terminal and not is_wrapped and self.get_option("in_place"):
            self._status = StatusLine(self._display, sys.stdout, self._doing, self._progress.__setitem__)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Remember the heading, which is printed as soon as a task was not skipped."""
        self._play = play
        if self._is_verbose:
            super().v2_playbook_on_play_start(play)
            return
        note = " (dry run)" if play.check_mode else ""
        self._play_name = messages.printable(play.get_name().strip())
        self._heading = f"{time.strftime('%H:%M:%S')}  {self._play_name}{note}"
        self._task = ""
        self._told.clear()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Remember what is being done."""
        if self._is_verbose:
            super().v2_playbook_on_task_start(task, is_conditional)
        else:
            self._begin(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Remember what is being done."""
        if self._is_verbose:
            super().v2_playbook_on_handler_task_start(task)
        else:
            self._begin(task)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Remember when a host began its task."""
        if self._is_verbose:
            super().v2_runner_on_start(host, task)
            return
        self._started[host.get_name()] = time.monotonic()

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Print nothing for a file of tasks."""
        if self._is_verbose:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Print nothing for a play without hosts: Ansible warns of a limit that matches none."""
        if self._is_verbose:
            super().v2_playbook_on_no_hosts_matched()

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        """Print nothing: the failures stand above."""
        if self._is_verbose:
            super().v2_playbook_on_no_hosts_remaining()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print one line for each host."""
        if self._is_verbose:
            super().v2_playbook_on_stats(stats)
            return
        self._is_running = False
        self._heading = ""
        self._close_status()
        for host in sorted(stats.processed):
            self._summary(host, stats.summarize(host))

    # ---------------------------------------------------------------- results

    def v2_runner_on_ok(self, result: Any) -> None:
        """Print what a task changed or tells."""
        if self._is_verbose:
            super().v2_runner_on_ok(result)
            return
        if self._play_name not in self._headed:
            self._open_heading()
        self._handle_warnings(result.result)
        self._tell(result)
        is_changed = bool(result.result.get("changed"))
        # What a debug task would change in a dry run is its message.
        if (is_changed and not messages.is_debug(result.task.action)) or self.get_option("show_unchanged"):
            verb = ("would change" if result.task.check_mode else "changed") if is_changed else "unchanged"
            color = constants.COLOR_CHANGED if is_changed else constants.COLOR_OK
            self._line(self._about(result, verb), color)
        self._show_diff(result)
        self._end(result)

    def _handle_warnings(self, res: MutableMapping[str, Any]) -> None:
        """Print warnings and deprecations, which may quote what a host says, without control characters."""
        shown = (("warnings", self._display._warning), ("deprecations", self._display._deprecated))
        for kind, show in shown:
            if res.pop(kind, None) and self._current_task_result:
                for entry in getattr(self._current_task_result, kind) or ():
                    show(_without_control_characters(entry))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Print why a task failed."""
        if self._is_verbose:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        self._handle_warnings(result.result)
        # The items of a loop that failed stand above.
        if not isinstance(result.result.get("results"), list):
            self._failure(result, "failed, and ignored" if ignore_errors else "FAILED")
        # One that is ignored is counted by Ansible.
        if result.result.get("changed") and not ignore_errors:
            self._changed_and_failed[result.host.get_name()] += 1
        self._show_diff(result)
        self._end(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Print why a host does not answer."""
        if self._is_verbose:
            super().v2_runner_on_unreachable(result)
            return
        self._failure(result, "UNREACHABLE")
        self._end(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Print the warnings of a skipped task only."""
        if self._is_verbose:
            super().v2_runner_on_skipped(result)
            return
        self._handle_warnings(result.result)
        self._end(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Print what an item of a loop tells."""
        if self._is_verbose:
            super().v2_runner_item_on_ok(result)
            return
        self._handle_warnings(result.result)
        self._tell(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Print why an item of a loop failed."""
        if self._is_verbose:
            super().v2_runner_item_on_failed(result)
            return
        self._handle_warnings(result.result)
        self._failure(result, "FAILED", messages.item_label(result.result))

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Print the warnings of a skipped item only."""
        if self._is_verbose:
            super().v2_runner_item_on_skipped(result)
        else:
            self._handle_warnings(result.result)

    def v2_runner_retry(self, result: Any) -> None:
        """Print nothing for another try: the line at the bottom says for how long."""
        if self._is_verbose:
            super().v2_runner_retry(result)

    def v2_on_file_diff(self, result: Any) -> None:
        """Keep the differences until the result says what they belong to."""
        if self._is_verbose:
            super().v2_on_file_diff(result)
            return
        found = result.result
        entries = found["results"] if result.task.loop and isinstance(found.get("results"), list) else [found]
        texts = [
            self._get_diff(_without_control_characters(entry["diff"]))
            for entry in entries
            if entry.get("diff") and entry.get("changed") and not messages.is_hidden(entry)
        ]
        if any(texts) and not messages.is_hidden(found):
            self._diffs[_key(result)] = "".join(texts)

    # ---------------------------------------------------------------- the pieces

    def _close_status(self) -> None:
        if self._status is not None:
            self._status.close()
            self._status = None

    def _stop(self) -> None:
        """Say where a run has stopped that did not come to its end; a worker is a copy of this process, and silent."""
        if os.getpid() != self._process or not self._is_running:
            return
        self._close_status()
        if self._task:
            self._line(f"Stopped in: {self._task}. The next run finishes what this one began.", constants.COLOR_ERROR)

    def _begin(self, task: Any) -> None:
        self._task = _sentence(task)[0]
        self._task_began = time.monotonic()
        self._progress.clear()

    def _end(self, result: Any) -> None:
        self._progress.pop(result.host.get_name(), None)

    def _doing(self) -> str:
        """Return what the line at the bottom says."""
        if not self._task:
            return ""
        told = [f"{host}: {text}" for host, text in sorted(self._progress.items())]
        # The heading is not printed before the first result.
        play = f"{self._heading}: " if self._heading else ""
        return "  ".join([f"  … {play}{self._task}, {_duration(time.monotonic() - self._task_began)}", *told])

    def _open_heading(self) -> None:
        if self._heading:
            heading, self._heading = self._heading, ""
            self._headed.add(self._play_name)
            self._display.display(heading)

    def _line(self, text: str, color: str | None = None, stderr: bool = False) -> None:
        self._open_heading()
        self._display.display(text, color=color, stderr=stderr)
        # Whoever reads it through a pipe sees it as it happens.
        (sys.stderr if stderr else sys.stdout).flush()

    def _about(self, result: Any, verb: str, label: str = "") -> str:
        """Return a line about a task on a host, with its role and the time that it took."""
        host = result.host.get_name()
        sentence, role = _sentence(result.task)
        item = f" [{label}]" if label else ""
        seconds = time.monotonic() - self._started.get(host, self._task_began)
        more = [part for part in (role, _duration(seconds) if seconds >= 1 else "") if part]
        return f"  {host}: {verb}: {sentence}{item}{' (' + ', '.join(more) + ')' if more else ''}"

    def _tell(self, result: Any) -> None:
        """Print the lines that a result tells a person."""
        host = result.host.get_name()
        is_summary = messages.is_debug(result.task.action)
        for line in messages.told_to_a_person(result.task.action, result.result):
            if not is_summary:
                self._told.add((host, line))
            elif (host, line) in self._told:
                continue
            self._line(f"  {host}: {line}")

    def _failure(self, result: Any, verb: str, label: str = "") -> None:
        color = constants.COLOR_UNREACHABLE if verb == "UNREACHABLE" else constants.COLOR_ERROR
        stderr = bool(self.get_option("display_failed_stderr"))
        self._line(self._about(result, verb, label), color, stderr)
        for line in messages.failure_lines(result.result):
            self._line(f"    {line}", color, stderr)

    def _show_diff(self, result: Any) -> None:
        if (text := self._diffs.pop(_key(result), None)) is not None:
            self._line(text.rstrip("\n"))

    def _summary(self, host: str, counts: Mapping[str, int]) -> None:
        """Print how a host has ended."""
        color = constants.COLOR_OK
        parts = []
        if counts["unreachable"] or counts["failures"]:
            color = constants.COLOR_ERROR
            parts.append("UNREACHABLE" if counts["unreachable"] else "FAILED")
        is_dry = context.CLIARGS.get("check")
        what = "would change" if is_dry else "changed"
        changed = counts["changed"] + self._changed_and_failed[host]
        # What a failed task has changed may be more than it says.
        nothing = "nothing else" if parts else "nothing"
        parts.append(f"{changed} {what}" if changed else f"{nothing} {what}")
        parts += [f"{counts[name]} {name}" for name in ("rescued", "ignored") if counts[name]]
        tasks = counts["ok"] + counts["failures"] + counts["rescued"]
        done = "1 task" if tasks == 1 else f"{tasks} tasks"
        text = f"{host}: {', '.join(parts)}; {done} in {_duration(time.monotonic() - self._began)}"
        self._display.display(text, color=color)


def _key(result: Any) -> tuple[str, str]:
    """Return what tells one result from another: host and task."""
    return result.host.get_name(), str(result.task._uuid)


def _sentence(task: Any) -> tuple[str, str]:
    """Return what a task does, and its role; ``cut_over | Move it`` of a file of tasks is ``Move it``."""
    name = messages.printable(task.get_name().strip()).replace("\n", " ")
    role, found, rest = name.partition(" : ")
    sentence = rest if found else name
    return sentence.partition(" | ")[2] or sentence, role if found else ""


def _duration(seconds: float) -> str:
    """Return a time as a person says it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _without_control_characters(value: Any) -> Any:
    """Return the same data with printable texts only."""
    if isinstance(value, str):
        return messages.printable(value)
    if isinstance(value, list | tuple):
        entries = [_without_control_characters(entry) for entry in value]
        return tuple(entries) if isinstance(value, tuple) else entries
    if isinstance(value, dict):
        return {key: _without_control_characters(entry) for key, entry in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return dataclasses.replace(value, **{name: _without_control_characters(getattr(value, name)) for name in names})
    return value
