"""Small playbooks on this machine, run as a person runs them: with the project's ansible.cfg, in a pipe or terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PROJECT

Load = Callable[[Mapping[str, str]], LoadedAnsible]
CONSOLE = "swarm.sqlite_to_postgresql.console"
SECRET = "Secret-that-is-nowhere-0815"
COLUMNS = 60

# A module that tells what it is told to.
MODULE = """
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"warning": {}, "error": {}, "other": {}}, supports_check_mode=True)
if module.params["warning"]:
    module.warn(module.params["warning"])
if module.params["error"]:
    module.fail_json(msg=module.params["error"], other=module.params["other"])
module.exit_json(changed=False, msg="nobody reads this", other=module.params["other"])
"""
# An action that answers as that module does, in a quarter of its time: it starts no process on the host.
ANSWER = """
from ansible.plugins.action import ActionBase
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        result = {name: self._task.args[name] for name in ("changed", "diff", "other") if name in self._task.args}
        error = self._task.args.get("error")
        told = {"failed": True, "msg": error} if error else {"msg": "nobody reads this"}
        return {"changed": False, "invocation": {"module_args": self._task.args}, **result, **told}
"""
# An action that shows progress as the one of sqlite_migrate does.
ACTION = """
import time
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.messages import progress_message
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        for number in (1, 2):
            text = f"app.items: {number} of 2 rows, 1 rows/s, {'a very long text ' * 5}left"
            Display().display(progress_message(task_vars["inventory_hostname"], text), stderr=True)
            time.sleep(1.3)
        return {"changed": False}
"""


@dataclass(frozen=True)
class Outcome:
    """What a run of ansible-playbook has printed, with the errors, and left in the directory of reports."""

    status: int
    output: str
    reports: Path

    @property
    def lines(self) -> list[str]:
        """Return the lines without times of day."""
        return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in self.output.splitlines()]


class Bench:
    """A directory with playbooks, modules, and what the runs there leave.

    :param load: gives the Ansible that has loaded a configuration. Without it, each run loads what it needs.
    """

    def __init__(self, directory: Path, load: Load | None = None) -> None:
        self.directory = directory
        self._load = load
        self._runs = 0
        library, actions = directory / "library", directory / "action_plugins"
        for folder in (library, actions):
            folder.mkdir()
        for name in ("tell", "answer", "slow"):
            (library / f"{name}.py").write_text(MODULE)
        (actions / "answer.py").write_text(ANSWER)
        (actions / "slow.py").write_text(ACTION)

    def prepare(self, plays: list[dict[str, Any]], **environment: str) -> tuple[list[str], dict[str, str], Path]:
        """Return command, environment and directory of reports of a run; each has a directory of its own."""
        self._runs += 1
        playbook = self.directory / f"play_{self._runs}.yml"
        playbook.write_text(json.dumps(plays))
        reports = self.directory / f"reports_{self._runs}"
        without = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "SQLITE_TO_"))}
        variables = {
            **without,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "SQLITE_TO_POSTGRESQL_REPORTS": str(reports),
            **environment,
        }
        interpreter = f"ansible_python_interpreter={sys.executable}"
        command = ["ansible-playbook", "-i", "one,two,", "-c", "local", "-e", interpreter, str(playbook)]
        return command, variables, reports

    def run(self, plays: list[dict[str, Any]], *options: str, **environment: str) -> Outcome:
        """Run plays with their output in a pipe, or in a file."""
        command, variables, reports = self.prepare(plays, **environment)
        if self._load is not None:
            status, *streams = self._load(variables).run([*command, *options], variables, self.directory)
            return Outcome(status, "".join(streams), reports)
        done = subprocess.run(
            [*command, *options], cwd=self.directory, env=variables, capture_output=True, text=True, check=False
        )
        return Outcome(done.returncode, done.stdout + done.stderr, reports)

    def run_in_terminal(self, plays: list[dict[str, Any]], *options: str, **environment: str) -> Outcome:
        """Run plays with their output on a terminal."""
        command, variables, reports = self.prepare(plays, TERM="xterm", COLUMNS=str(COLUMNS), **environment)
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [*command, *options], cwd=self.directory, env=variables, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        output = b""
        with closing(os.fdopen(ours, "rb", buffering=0)) as terminal:
            while select.select([terminal], [], [], 600)[0]:
                try:
                    output += terminal.read(4096)
                except OSError:  # the other side is closed
                    break
        return Outcome(process.wait(), output.decode(), reports)

    def interrupt(self, plays: list[dict[str, Any]], signal_number: int, begun: Path) -> Outcome:
        """Run plays, and send a signal as soon as one of their tasks has written its process id into a file.

        Not before: while Ansible forks a worker, Python loses the exception that an interrupt raises, and the run goes
        on as if nothing had been sent.
        """
        command, variables, reports = self.prepare(plays)
        process = subprocess.Popen(
            command, cwd=self.directory, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        while not begun.exists() or not begun.read_text().endswith("\n"):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(signal_number)
        process.wait(300)
        # What it has started may hold the output open, and outlives a run that is killed.
        for kill, number in ((os.killpg, process.pid), (os.kill, int(begun.read_text()))):
            with suppress(ProcessLookupError):
                kill(number, signal.SIGKILL)
        return Outcome(process.returncode, process.communicate()[0], reports)


def rendered(output: str) -> list[str]:
    """Return the lines that are on a terminal in the end, which knows a return to the line's start and its erasure."""
    lines = []
    for line in re.sub(r"\x1b\[[\d;]*m", "", output).split("\n"):
        screen: list[str] = []
        for part in line.split("\r"):
            if part.startswith("\x1b[K"):
                screen, part = [], part.removeprefix("\x1b[K")
            screen[: len(part)] = part
        lines.append("".join(screen))
    return lines
