"""Services that a person stops and starts: programs of any language, by commands of the inventory.

The commands are run as the service's user, in its directory, with an environment built from scratch and without a
shell. They are never told a secret: the service reads its settings itself, from the file that the inventory names.
Which processes a service has is not theirs to say but the host's: those of its user that listen on the port of its
health address, or whatever a command of the inventory names, as far as it belongs to that user.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from ..core.errors import MigrationError, Problem
from ..core.estate import Service
from . import open_files, programs
from .manager import ONLINE, Checked, InNetworkOfHost, Process, problems_of_directory
from .safe_paths import require_private

# Changes the directory with the rights of the user, which Popen does with ours.
_ENV, _TEST = "/usr/bin/env", "/usr/bin/test"
# How long a stop may take, and how long the processes of a service may then go on.
_STOP_SECONDS = 120.0
# As long processes may go on after a stop command that has failed: it may have done its work all the same.
_REFUSED_SECONDS = 5.0
# How long a start command may run before its service is waited for elsewhere: it may be the service itself.
_START_SECONDS = 30.0
_POLL_SECONDS = 0.1
# Of what a command prints, for a person and for the ids of processes.
_MOST_BYTES = 1 << 16
_ADVICE = "in estate_cutover_groups"
# The id of a process, of which Linux has no larger ones than 2 ** 22.
_PID = re.compile(r"[0-9]{1,7}\Z")
# What was started and has not ended: our children, for which somebody has to wait when they end.
_CHILDREN: list[subprocess.Popen[bytes]] = []


class OwnCommands(InNetworkOfHost):
    """The commands of some services of this host.

    :param services: those of them that no manager runs.
    :raises MigrationError: naming the users that do not exist.
    """

    called = "the process list"
    keeps_variables = False
    saving = ""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = {service.name: service for service in services}
        self._accounts: dict[str, pwd.struct_passwd] = {}
        # What each start command has begun may not listen yet, or never: the sessions that they were given.
        self._sessions: dict[str, int] = {}
        problems = []
        for user in dict.fromkeys(service.user for service in self._services.values()):
            try:
                self._accounts[user] = pwd.getpwnam(user)
            except KeyError:
                fix = f"Correct 'user' {_ADVICE}"
                problems.append(Problem(f"user {user}", "there is no such user on this host", fix))
        if problems:
            raise MigrationError("The user of a service does not exist.", problems)

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what two of them have in common that list the same processes."""
        return "none", *sorted(f"{service.name} {hash(service)}" for service in self._services.values())

    def problem(self) -> Problem | None:
        """Return None: there is nothing that could be missing for all of them."""
        return None

    def processes(self) -> list[Process]:
        """Return the processes of each service that runs, without their children.

        :raises MigrationError: if a status command does not answer with ids of processes of the service's user.
        """
        return [
            Process(service.name, pid, ONLINE, 0, frozenset(), service.directory)
            for service in self._services.values()
            for pid in open_files.without_children(self._pids(service))
        ]

    def check_known(self, service: Service, processes: Sequence[Process]) -> list[Problem]:
        """Return why no process of a service is found, as it has to run before it is moved."""
        if any(process.name == service.name for process in processes):
            return []
        return [Problem(f"service {service.name}", self.not_listed(service), _fix_of_processes(service))]

    def not_listed(self, service: Service) -> str:
        """Return how a service's processes were looked for in vain."""
        if service.status_command:
            return "its status_command names no running process"
        port = _port_of(service)
        return f"no process of user {service.user} listens on port {port}, which its 'health_url' names"

    def check_service(self, service: Service, usable: bool, again: bool) -> Checked:
        """Return which of a service's commands could not be run as its user, in its directory."""
        problems = problems_of_directory(service)
        if problems:
            return Checked(problems)
        for key in ("start_command", "stop_command", "status_command"):
            words: tuple[str, ...] = getattr(service, key)
            if words:
                problems += self._problems_of_program(service, key, words)
        # Whatever it starts shares one pool's size: nobody knows how many processes open a pool.
        return Checked(problems, processes=1)

    def stop_services(self, services: Sequence[Service], listed: Mapping[str, Sequence[Process]] | None) -> None:
        """Stop services, all at the same time, and wait until their processes have ended.

        The command of a service that does not seem to run is run too: it may just be starting. Then it may fail.
        """
        with ThreadPoolExecutor(max_workers=max(len(services), 1)) as pool:
            for stopped in [pool.submit(self._stop, service) for service in services]:
                stopped.result()

    def start_service(self, service: Service) -> None:
        """Run the start command, and go on when it has ended or the service listens: it may be the service itself."""
        if self._pids(service):
            # Somebody has started it meanwhile, with the settings of before.
            self._stop(service)
        started = self._spawn(service, service.start_command, subprocess.DEVNULL)
        _CHILDREN.append(started)
        self._sessions[service.name] = started.pid
        deadline = time.monotonic() + _START_SECONDS
        # Whether it gets well is found out by whoever waits for that.
        while started.poll() is None and time.monotonic() < deadline and not self._pids(service):
            time.sleep(_POLL_SECONDS)
        if started.returncode:
            what = f"it ended with status {started.returncode}"
            fix = f"Run it yourself to see what it says: {command_of(service, service.start_command)}"
            raise _failed(service, "start_command", what, fix)

    def save_services(self, services: Sequence[Service], secrets: Iterable[str], check_mode: bool) -> bool:
        """Return False: nothing of ours starts them at boot."""
        return False

    def forget_stopped(self, services: Sequence[Service], check_mode: bool) -> bool:
        """Return False: nothing is noted when they are stopped."""
        return False

    def boot_units(self) -> list[str]:
        """Return nothing: what starts them at boot, if anything does, is not known."""
        return []

    def boot_warnings(self) -> list[str]:
        """Return a sentence for each service."""
        return [
            f"Whether anything starts {name} at boot is not known, because no manager runs it. After a reboot see to "
            "it yourself, or let systemd run it ('manager: systemd')."
            for name in self._services
        ]

    def stop_warnings(self, services: Sequence[Service]) -> list[str]:
        """Return nothing: nobody knows what else a command stops."""
        return []

    def log_advice(self, service: Service) -> str:
        """Return how a person sees what a service says."""
        return f"Look at its log, or start it yourself: {command_of(service, service.start_command)}"

    # ------------------------------------------------------------ one service

    def _pids(self, service: Service) -> set[int]:
        """Return the processes of a service that run.

        :raises MigrationError: as :meth:`processes`.
        """
        _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
        uid = self._accounts[service.user].pw_uid
        if not service.status_command:
            port = _port_of(service)
            return {pid for pid in open_files.listeners_on(port, uid) if open_files.is_alive(pid)} if port else set()
        status, said = self._call(service, "status_command", service.status_command)
        if status != 0:
            return set()
        words = said.split()
        if not all(_PID.match(word) for word in words):
            what = "it prints something else than the ids of processes"
            fix = f"Let it print their ids alone, and nothing or a status other than 0 if there are none, {_ADVICE}"
            raise _failed(service, "status_command", what, fix)
        pids = set()
        for pid in sorted(map(int, words)):
            owner = open_files.user_of(pid)
            # One that is being stopped may be gone by now, and then nobody knows whose it was.
            if owner is None or not open_files.is_alive(pid):
                continue
            # Whatever it names is taken for the service: it may open the SQLite file, and has to end.
            if pid <= 1 or owner != uid:
                what = f"it names process {pid}, which is none of user {service.user}"
                raise _failed(service, "status_command", what, f"Correct 'status_command' or 'user' {_ADVICE}")
            pids.add(pid)
        return pids

    def _stop(self, service: Service) -> None:
        """Stop a service.

        :raises MigrationError: if processes of it are left.
        """
        known = open_files.family_of(self._pids(service))
        if service.name in self._sessions:
            known |= open_files.members_of_session(self._sessions.pop(service.name))
        status, said = self._call(service, "stop_command", service.stop_command, _STOP_SECONDS)
        deadline = time.monotonic() + (_STOP_SECONDS if status == 0 else _REFUSED_SECONDS)
        while left := {pid for pid in known if open_files.is_alive(pid)} | self._pids(service):
            if time.monotonic() > deadline:
                ended = f"it ended with status {status}{f' ({said.splitlines()[-1][:200]})' if said.strip() else ''}"
                what = f"{ended}, and these processes are left: {', '.join(map(str, sorted(left)))}"
                fix = f"Try it yourself: {command_of(service, service.stop_command)}"
                raise _failed(service, "stop_command", what, fix)
            time.sleep(_POLL_SECONDS)

    def _problems_of_program(self, service: Service, key: str, words: Sequence[str]) -> list[Problem]:
        """Return why the program of a command cannot be run as a service's user, or may not as root."""
        program = words[0]
        status, _ = self._call(service, key, (_TEST, "-x", program))
        where = f"service {service.name}: {key}"
        if status != 0 or not Path(program).is_file():
            what = f"user {service.user} cannot run {program} in {service.directory}"
            return [Problem(where, what, f"Correct '{key}' {_ADVICE}, or the file's rights")]
        if self._accounts[service.user].pw_uid == 0:
            # A shell or an interpreter runs the file that it is told of.
            told = [os.path.join(service.directory, word) for word in words[1:]]
            files = [program, *(path for path in told if os.path.isfile(path))]
            return _problems_of_root(where, files, service.directory)
        return []

    def _call(
        self, service: Service, key: str, words: Sequence[str], seconds: float = programs.ANSWER_SECONDS
    ) -> tuple[int, str]:
        """Run a command of a service until it ends, and return its status and what it has printed.

        What it leaves running may hold the file that it prints to: so that is not read to its end, as a pipe would be.

        :raises MigrationError: if it does not end in time.
        """
        with tempfile.TemporaryFile() as printed:
            process = self._spawn(service, words, printed)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                fix = f"Try it yourself: {command_of(service, words)}"
                raise _failed(service, key, programs.not_ended(seconds), fix) from None
            finally:
                if process.poll() is None:
                    # What it has begun could otherwise stop the service long after we have started it again.
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            return process.returncode, os.pread(printed.fileno(), _MOST_BYTES, 0).decode("utf-8", "replace")

    def _spawn(self, service: Service, words: Sequence[str], output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a command as a service's user, in a session of its own.

        There it outlives ours, and cannot write into the terminal of the person who runs this.

        :raises MigrationError: if it cannot be started.
        """
        account = self._accounts[service.user]
        try:
            return subprocess.Popen(
                # While a window is undone we ignore requests to end, which what we start would do for good.
                [_ENV, "--default-signal", f"--chdir={service.directory}", *words],
                env={**programs.environment_of(account), "SHELL": account.pw_shell or "/bin/sh"},
                cwd="/",
                umask=0o022,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output if output == subprocess.DEVNULL else subprocess.STDOUT,
                start_new_session=True,
                **programs.identity_of(account.pw_uid),
            )
        except OSError as error:
            raise _failed(service, words[0], programs.not_run(error), "Correct this") from None


def command_of(service: Service, words: Sequence[str]) -> str:
    """Return how root runs a command of a service in a shell as we do."""
    return shlex.join(["runuser", "-u", service.user, "--", "env", f"--chdir={service.directory}", *words])


def _port_of(service: Service) -> int:
    """Return the port that a service's health address names, 0 if it is none."""
    try:
        address = urlsplit(service.health_url)
        return address.port or {"https": 443}.get(address.scheme, 80)
    except ValueError:
        return 0


def _fix_of_processes(service: Service) -> str:
    """Return what a person does about a service of which no process is found."""
    if service.status_command:
        return f"Start it, or correct 'status_command' {_ADVICE}"
    return (
        f"Start it; or correct 'user' or 'health_url' {_ADVICE}; or name a command that prints the ids of its "
        "processes as 'status_command'"
    )


def _problems_of_root(where: str, files: Sequence[str], directory: str) -> list[Problem]:
    """Return why root must not run files in a directory: somebody else could put another one there."""
    problems = []
    resolved = [Path(os.path.realpath(file)) for file in files]
    for file in resolved:
        status = file.stat()
        if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            what = f"root would run {file}, which somebody else may change"
            problems.append(Problem(where, what, f"Run: chown root {file}; chmod go-w {file}"))
    for path in dict.fromkeys([*(file.parent for file in resolved), Path(os.path.realpath(directory))]):
        try:
            require_private(path, secret=False)
        except MigrationError as error:
            problems += error.problems
    return problems


def _failed(service: Service, key: str, what: str, fix: str) -> MigrationError:
    """Return the error for a command that has failed."""
    where = f"service {service.name}: {key}"
    return MigrationError("A command of a service does not do what it should.", [Problem(where, what, fix)])
