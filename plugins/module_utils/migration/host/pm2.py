"""pm2 of one system user, called as that user with an environment built from scratch.

pm2 hands its caller's environment to what it starts and writes it into its dump, so nothing of
Ansible's or of the operator's shell may be in it.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import shutil
import stat
import time
from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.estate import PM2, Group, Service
from . import dotenv_file, open_files, programs
from .manager import Checked, InNetworkOfHost, Process, problems_of_directory
from .recovery_unit import SYSTEMD

# How pm2's daemon calls itself, with its PM2_HOME.
_DAEMON = re.compile(r"PM2 v\S+: God Daemon \((/[^\0-\x1f\x7f]*)\)")
_ANSWER_SECONDS = 60
# Of the daemon's list, before pm2's own program is asked for it.
_SECONDS_OF_THE_DAEMON = 20.0
# Several ecosystem files are read together only as long as each may still be waited for alone, and what was read is
# taken for so long.
_SECONDS_OF_ALL_ECOSYSTEMS = 10.0
_SECONDS_READ_AHEAD = 30.0
# What a file can do to its reading: nothing comes, or something else than a list of applications.
_UNREADABLE = (MigrationError, ValueError, TypeError, OverflowError, RecursionError)
# Of a file of pm2's.
_MOST_BYTES = 16 << 20
_MOST_BYTES_OF_ECOSYSTEM = 1 << 20
# A busy pm2 fails now and then without a word. What may be asked twice is asked again.
_TRIES = 4
_SECONDS_BETWEEN_TRIES = 0.5

# Prints of each application in some ecosystem files its name, the names of its variables, and its processes as pm2
# counts. Each file finds the directory, the arguments, the environment and the modules as if it were the only one. What
# it changes in node's own objects another file of the same user finds changed.
_READ_ECOSYSTEMS = """
const paths = process.argv.splice(1);
const variables = { ...process.env };
const cores = require('os').cpus().length;
const processes = (app) => {
  if (app.instances === undefined) return 1;
  const wanted = parseInt(app.instances, 10) || 0;
  return Math.max(1, wanted > 0 ? wanted : cores + wanted);
};
const read = (path) => {
  process.argv[1] = path;
  process.chdir(require('path').dirname(path));
  Object.keys(process.env).forEach((name) => delete process.env[name]);
  Object.assign(process.env, variables);
  Object.keys(require.cache).forEach((name) => delete require.cache[name]);
  const file = require(path);
  const apps = Array.isArray(file) ? file : file.apps || [file];
  return apps.map((app) => [app.name || '', Object.keys(app.env || {}), processes(app)]);
};
console.log(JSON.stringify(paths.map(read)));
"""
_READABLE_ECOSYSTEMS = (".js", ".cjs", ".json")
# Prints what `pm2 jlist` prints, for less than half of its processor time: of pm2 it loads only what speaks to the
# daemon, which must be running.
LIST = """
const [modules, socket] = process.argv.slice(1);
const connection = require(`${modules}/pm2-axon`).socket('req');
const client = new (require(`${modules}/pm2-axon-rpc`).Client)(connection);
const fail = () => process.exit(1);
connection.on('error', fail).on('reconnect attempt', fail).connect(socket);
client.call('getMonitorData', {}, (error, list) =>
  error ? fail() : process.stdout.write(JSON.stringify(list), () => process.exit()));
"""
# Where an installed pm2 keeps these modules: newer versions among their own, older ones among those of others.
_PLACES_OF_MODULES = ("modules", "node_modules")
# What of a process makes its entry in the dump another one.
_DUMPED = ("pm_exec_path", "pm_cwd", "exec_mode", "args", "node_args", "status")


@dataclass(frozen=True)
class Application:
    """One application of an ecosystem file.

    :param variables: names of the variables that it hands to pm2.
    :param processes: how many processes pm2 starts.
    """

    variables: tuple[str, ...]
    processes: int


class _Refused(MigrationError):
    """pm2 has answered, and not as it should."""


class Pm2(InNetworkOfHost):
    """The pm2 of one user.

    Its daemon, which runs, tells where it is installed and where it keeps its files: nvm and a home directory are in no
    common PATH. What is found so is run with the rights of the user alone.

    :param user: name of the system user.
    :param home: its ``PM2_HOME``; empty to take ``~/.pm2``, or the one of the user's only daemon.
    :param path: directories of the programs pm2 and node, before the common ones; empty to find them.
    """

    called = "pm2"
    keeps_variables = True
    saving = "pm2's list for the next boot was brought up to date"

    def __init__(self, user: str, home: str = "", path: str = "") -> None:
        self.user = user
        account = pwd.getpwnam(user)
        self._uid, self._gid = account.pw_uid, account.pw_gid
        self._common_home = Path(account.pw_dir, ".pm2")
        self.home = Path(home) if home else self._common_home
        # Every daemon counts, not only that of the common directory: a single `pm2 list` of somebody starts one there.
        self._homes: list[str] = []
        if not home:
            running = {found for _, found in _daemons_of(self._uid)}
            running.update([str(self.home)] if self._is_running() else [])
            self._homes = sorted({os.path.realpath(found): found for found in sorted(running)}.values())
            if len(self._homes) == 1:
                self.home = Path(self._homes[0])
        if not path and shutil.which("pm2", path=programs.PATH) is None:
            path = next((_path_of(pid) for pid, found in _daemons_of(self._uid) if Path(found) == self.home), "")
        self._path = f"{path}:{programs.PATH}" if path else programs.PATH
        # What pm2 has listed last, if nothing was asked of it since: each call of it takes more than half a second.
        self._listed: list[dict[str, Any]] | None = None
        # Whose ecosystem files will be asked for, and what was read of each file for every service that it is of.
        self._expected: list[Service] = []
        self._read_ahead: dict[str, list[dict[str, Application]]] = {}
        self._read_at = 0.0
        self.environment = {**programs.environment_of(account, self._path), "PM2_HOME": str(self.home)}

    @property
    def command(self) -> str:
        """Return how a person calls this pm2 in a shell, as its user."""
        return "pm2" if self.home == self._common_home else f"PM2_HOME={shlex.quote(str(self.home))} pm2"

    def problem(self) -> Problem | None:
        """Return why this pm2 cannot be used, or None. Never starts a daemon."""
        if len(self._homes) > 1:
            what = f"it has several daemons: {', '.join(self._homes)}"
            fix = "Name the one of its services as 'pm2_home' of each in estate_cutover_groups"
            return Problem(f"pm2 of user {self.user}", what, fix)
        if shutil.which("pm2", path=self._path) is None:
            fix = (
                "Install it (npm install --global pm2), or name the directories of pm2 and node as 'pm2_path' of the "
                "service in estate_cutover_groups"
            )
            return Problem("pm2", f"the program is not in {self._path}", fix)
        if not self._is_running():
            fix = (
                f"Start it, with the services: systemctl start pm2-{self.user}; if it keeps its files elsewhere, name "
                "that directory as 'pm2_home' of the service in estate_cutover_groups"
            )
            return Problem(f"pm2 of user {self.user}", f"its daemon does not run with PM2_HOME={self.home}", fix)
        return None

    def processes(self) -> list[Process]:
        """Return what pm2 knows; a service in cluster mode has several entries.

        :raises MigrationError: if pm2 does not answer, or lists what is no process.
        """
        try:
            return [
                Process(
                    name=str(entry["name"]),
                    pid=int(entry.get("pid") or 0),
                    status=str(entry["pm2_env"].get("status")),
                    restarts=int(entry["pm2_env"].get("restart_time") or 0),
                    variables=frozenset(entry["pm2_env"].get("env") or {}),
                    directory=str(entry["pm2_env"].get("pm_cwd") or ""),
                )
                for entry in self._list()
            ]
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            raise self._failed("jlist", "an entry of its list is no process") from None

    def delete(self, names: Iterable[str], known: Sequence[str] = ()) -> None:
        """Stop services and remove them from pm2's list, with everything it has cached for them.

        :param known: those of them that pm2 has just listed; then it is not asked again, if all goes well.
        :raises MigrationError: with what pm2 said last, if it refuses again and again.
        """
        wanted = list(names)
        left = list(known) or self._known_of(wanted)
        for attempt in range(1, _TRIES + 1):
            if not left:
                return
            try:
                self._run("delete", *left)
                if set(left) == set(wanted):
                    return
            except _Refused:
                if attempt == _TRIES:
                    raise
                time.sleep(_SECONDS_BETWEEN_TRIES)
            left = self._known_of(wanted)
        if left:
            raise self._failed("delete", f"these are still in its list: {', '.join(left)}")

    def start(self, ecosystem_file: str, name: str) -> None:
        """Start one service of an ecosystem file."""
        self._run("start", ecosystem_file, "--only", name, directory=str(Path(ecosystem_file).parent))

    def expect(self, services: Iterable[Service]) -> None:
        """Read the ecosystem files of these services with the first one that is asked for: each start of node costs."""
        self._expected += services

    def read_ecosystem(self, path: str) -> dict[str, Application] | None:
        """Return a file's applications by their names; None if only pm2 can read it.

        :raises MigrationError: if node cannot load the file.
        """
        if not path.endswith(_READABLE_ECOSYSTEMS):
            return None
        self._read_expected(path)
        if self._read_ahead.get(path) and time.monotonic() - self._read_at < _SECONDS_READ_AHEAD:
            # Once for each service: who asks again wants to know what is in it now.
            return self._read_ahead[path].pop()
        try:
            return self._read_by_node([path])[path]
        except _UNREADABLE:
            what = f"node cannot load it as user {self.user}"
            raise MigrationError(
                f"The ecosystem file {path} cannot be used.",
                [Problem(path, what, f"Look at: {self._command_that_reads(path)}")],
            ) from None

    def _read_expected(self, path: str) -> None:
        """Read the expected files, if this is one of them; none where one is not as it should be.

        Each is read by itself then, and says what is wrong with it.
        """
        services = {service.ecosystem_path: service for service in self._expected}
        asked = Counter(service.ecosystem_path for service in self._expected)
        if path not in services:
            return
        self._expected = []
        readable = [name for name in services if name.endswith(_READABLE_ECOSYSTEMS)]
        found = [name for name in readable if not problems_of_files(services[name])]
        if sum(asked[name] for name in found) > 1:
            self._read_at = time.monotonic()
            with suppress(*_UNREADABLE):
                read = self._read_by_node(found, _SECONDS_OF_ALL_ECOSYSTEMS)
                self._read_ahead = {name: [applications] * asked[name] for name, applications in read.items()}

    def _read_by_node(self, paths: Sequence[str], seconds: float | None = None) -> dict[str, dict[str, Application]]:
        """Return the applications of each file by their names.

        :param seconds: to wait for the answer; as for each other question if not given.
        :raises MigrationError: if node does not answer.
        :raises ValueError, TypeError, OverflowError, RecursionError: if it answers with something else.
        """
        text = self._execute(["node", "-e", _READ_ECOSYSTEMS, *paths], str(Path(paths[0]).parent), seconds)
        return {
            path: {str(name): Application(tuple(variables), int(processes)) for name, variables, processes in apps}
            for path, apps in zip(paths, json.loads(text), strict=True)
        }

    def _command_that_reads(self, path: str) -> str:
        """Return the command with which a person sees what node says of a file: root must not run it as root."""
        program = f"require({json.dumps(path)})"
        return f"runuser -u {self.user} -- node -e {shlex.quote(program)}"

    def is_started_at_boot(self) -> bool | None:
        """Return whether an enabled unit of systemd brings this pm2's list back at boot; None without systemd."""
        return bool(self.boot_units()) if SYSTEMD.is_dir() else None

    def boot_units(self) -> list[str]:
        """Return the names of the enabled units of systemd that bring this pm2's list back at boot."""
        found = []
        for unit in Path("/etc/systemd/system").glob("*.wants/*.service"):
            with suppress(OSError):
                text = unit.read_text(encoding="utf-8", errors="replace")
                ours = [f"PM2_HOME={self.home}", *([f"User={self.user}"] if self.home == self._common_home else [])]
                if "resurrect" in text and any(re.search(rf"{re.escape(mark)}(?![\w./-])", text) for mark in ours):
                    found.append(unit.name)
        return found

    def save(self, names: Iterable[str], secrets: Iterable[str], check_mode: bool = False) -> bool:
        """Write pm2's list for the next boot if that would change an entry of ours; keep the dump private.

        :param secrets: values that must not be in the dump.
        :returns: whether anything was changed, or would be.
        :raises MigrationError: if the dump holds a secret.
        """
        wanted = list(names)
        listed = self._list() if self._listed is None else self._listed
        changed = self._dumped(listed, wanted) != self._dumped(self._read_dump(), wanted)
        if changed and not check_mode:
            self._run("save")
        for file in ("dump.pm2", "dump.pm2.bak"):
            changed |= self._make_private(self.home / file, check_mode)
        text = self._dump_text()
        if any(secret and json.dumps(secret)[1:-1] in text for secret in secrets):
            raise MigrationError(
                f"pm2 of user {self.user} has written a database password to its dump.",
                [
                    Problem(
                        str(self.home / "dump.pm2"),
                        "it holds the password of a role",
                        "The ecosystem file hands the content of .env to pm2: let the service read .env itself",
                    )
                ],
            )
        return changed

    # ------------------------------------------------------------ what every manager does

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what tells this pm2 from others: its user and its directory."""
        return "pm2", self.user, str(self.home)

    def check_known(self, service: Service, processes: Sequence[Process]) -> list[Problem]:
        """Return why pm2 does not know a service by its name."""
        known = sorted({process.name for process in processes})
        if service.name in known:
            return []
        what = f"pm2 of user {self.user} does not know this name; it knows {', '.join(known) or 'none'}"
        fix = "Correct 'name' or 'user' of the service in estate_cutover_groups"
        return [Problem(f"service {service.name}", what, fix)]

    def not_listed(self, service: Service) -> str:
        """Return that the ecosystem file does not start a service."""
        return f"pm2 of user {self.user} does not know it: its ecosystem file starts no application of this name"

    def check_service(self, service: Service, usable: bool, again: bool) -> Checked:
        """Return what is wrong with a service's directory and ecosystem file, and how many processes that starts."""
        path = service.ecosystem_path
        missing = problems_of_files(service)
        if missing or not usable:
            return Checked(missing)
        try:
            applications = self.read_ecosystem(path)
        except MigrationError as error:
            return Checked(list(error.problems))
        if applications is None:
            return Checked()
        if service.name not in applications:
            what = f"it starts {', '.join(sorted(applications)) or 'nothing'}, but not {service.name}"
            return Checked([Problem(path, what, "Give the application this name, or correct 'ecosystem_file'")])
        application = applications[service.name]
        problems = []
        if application.processes > service.pool_size:
            what = (
                f"it starts {application.processes} processes, and the service's pool_size is {service.pool_size}: "
                "each process needs a connection at least"
            )
            fix = "Raise 'pool_size' of the service in estate_cutover_groups, or start fewer processes"
            problems.append(Problem(f"{path}: instances", what, fix))
        for key in sorted(set(application.variables) & set(dotenv_file.keys_of(service))):
            what = "it would beat the value in .env"
            problems.append(Problem(f"{path}: env.{key}", what, "Remove it from the ecosystem file"))
        return Checked(problems, application.processes)

    def stop_services(self, services: Sequence[Service], listed: Mapping[str, Sequence[Process]] | None) -> None:
        """Stop services and remove them from pm2's list, with one call.

        Each call of pm2 costs a good part of a second, and before it starts a service pm2 has to forget it anyway: a
        variable that pm2 has cached would beat the ``.env``.
        """
        names = [service.name for service in services]
        self.delete(names, [name for name in names if listed and listed.get(name)])

    def start_service(self, service: Service) -> None:
        """Start a service anew from its ecosystem file."""
        self.start(service.ecosystem_path, service.name)

    def save_services(self, services: Sequence[Service], secrets: Iterable[str], check_mode: bool) -> bool:
        """Let pm2 write its list for the next boot where that would change it, and return whether it was changed."""
        return self.save([service.name for service in services], secrets, check_mode)

    def forget_stopped(self, services: Sequence[Service], check_mode: bool) -> bool:
        """Return False: nothing is noted when pm2 stops services."""
        return False

    def boot_warnings(self) -> list[str]:
        """Return a sentence if nobody would start the user's services again after a reboot."""
        if self.is_started_at_boot() is not False:
            return []
        return [
            f"Nothing starts the services of pm2's user {self.user} at boot: no enabled unit of systemd runs "
            f"'pm2 resurrect' for it. A reboot would leave them stopped. Run: {startup_command(self.user, self)}"
        ]

    def stop_warnings(self, services: Sequence[Service]) -> list[str]:
        """Return nothing: pm2 stops what it is told to stop."""
        return []

    def log_advice(self, service: Service) -> str:
        """Return where a person finds what a service says."""
        return f"Look at its log as user {self.user}: {self.command} logs {service.name} --nostream"

    # ------------------------------------------------------------ pm2 itself

    def _is_running(self) -> bool:
        """Return whether the daemon named in the pid file lives and is this user's."""
        try:
            pid = int(self._read("pm2.pid"))
            return os.stat(f"/proc/{pid}").st_uid == self._uid and (self.home / "rpc.sock").is_socket()
        except (OSError, ValueError):
            return False

    def _known_of(self, names: Iterable[str]) -> list[str]:
        """Return those of these names that pm2 knows; it is not asked about none."""
        wanted = list(names)
        known = {process.name for process in self.processes()} if wanted else set()
        return [name for name in wanted if name in known]

    def _list(self) -> list[dict[str, Any]]:
        """Return pm2's own description of its processes."""
        for _ in range(_TRIES - 1):
            try:
                return self._list_once()
            except _Refused:
                time.sleep(_SECONDS_BETWEEN_TRIES)
        return self._list_once()

    def _list_once(self) -> list[dict[str, Any]]:
        """Ask pm2 for its description of its processes once.

        :raises _Refused: if it fails, or answers with something else.
        """
        modules = self._modules()
        if modules:
            command = ["node", "-e", LIST, modules, str(self.home / "rpc.sock")]
            # Whatever fails here, pm2's own program may find what it needs, or speak as its daemon does.
            with suppress(MigrationError):
                return self._note_listed(self._execute(command, seconds=_SECONDS_OF_THE_DAEMON, called="jlist"))
        return self._note_listed(self._execute(["pm2", "--silent", "jlist"], called="jlist"))

    def _modules(self) -> str:
        """Return the directory of the modules with which pm2 speaks to its daemon; empty if it is not where we know."""
        program = shutil.which("pm2", path=self._path)
        if program is None or not self._is_running():
            return ""
        installed = Path(os.path.realpath(program)).parent.parent
        places = [installed / place for place in _PLACES_OF_MODULES]
        return next((str(place) for place in places if os.path.isdir(place / "pm2-axon-rpc")), "")

    def _note_listed(self, text: str) -> list[dict[str, Any]]:
        """Return the processes of a list that pm2 has printed, and keep them.

        :raises _Refused: if it is no list.
        """
        try:
            entries = json.loads(text[text.index("[") :])
        except (RecursionError, ValueError):
            raise self._failed("jlist", "it did not answer with a list", _Refused) from None
        self._listed = [entry for entry in entries if isinstance(entry, dict)]
        return self._listed

    def _run(self, *arguments: str, directory: str = "/") -> None:
        """Call pm2."""
        self._listed = None
        self._execute(["pm2", *arguments], directory)

    def _execute(self, command: list[str], directory: str = "/", seconds: float | None = None, called: str = "") -> str:
        """Run a program as the user and return what it prints.

        :param seconds: to wait for its end; as for each other program if not given.
        :param called: what an error calls it; its first argument if not given.
        :raises MigrationError: if it fails, does not end in time, or prints more than it may.
        """
        program = shutil.which(command[0], path=self._path)
        if program is None:
            raise self._failed(command[0], f"the program is not in {self._path}")
        words = [program, *command[1:]]
        try:
            answer = programs.call(
                words, self.environment, self._uid, directory, seconds or _ANSWER_SECONDS, umask=0o077
            )
        except programs.NoAnswer as error:
            raise self._failed(called or command[1], str(error)) from None
        if answer.status != 0:
            lines = (answer.errors + answer.output).splitlines()
            said = [line for line in lines if "ERROR" in line] or [f"status {answer.status}"]
            raise self._failed(called or command[1], said[0].strip()[:200], _Refused)
        return answer.output

    def _failed(self, command: str, what: str, kind: type[MigrationError] = MigrationError) -> MigrationError:
        """Return the error for a call that failed."""
        fix = f"Look at {self.home / 'pm2.log'}, and at: {self.command} list"
        return kind(f"pm2 of user {self.user} failed.", [Problem(f"pm2 {command} of user {self.user}", what, fix)])

    def _dump_text(self) -> str:
        """Return the dump's text, empty if there is none."""
        try:
            return self._read("dump.pm2")
        except OSError:
            return ""

    def _read(self, name: str) -> str:
        """Return a file of pm2's, whose directory is the user's: a link or a pipe in its place is not followed.

        :raises OSError: if it is not there, or no file of the user's, or larger than any that pm2 writes.
        """
        descriptor = os.open(self.home / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != self._uid or status.st_size > _MOST_BYTES:
                raise OSError(f"{self.home / name} is no file of pm2's")
            return file.read(_MOST_BYTES).decode("utf-8", "replace")

    def _read_dump(self) -> list[dict[str, Any]]:
        """Return the entries of the dump, each in the form that pm2's list has."""
        try:
            entries = json.loads(self._dump_text() or "[]")
        except ValueError:
            return []
        return [{"name": entry.get("name"), "pm2_env": entry} for entry in entries if isinstance(entry, dict)]

    def _dumped(self, entries: Iterable[Mapping[str, Any]], names: list[str]) -> list[str]:
        """Return what of our services' entries matters at the next boot."""
        found = []
        for entry in entries:
            if entry.get("name") in names:
                process = entry["pm2_env"]
                # The caller's own variables and pm2's differ from call to call and mean nothing.
                variables = {
                    name: value
                    for name, value in (process.get("env") or {}).items()
                    if name not in self.environment
                    and not name.startswith("PM2_")
                    and name not in ("PWD", "unique_id", "SHLVL", "_", entry["name"])
                }
                found.append(json.dumps([entry["name"], variables, *(process.get(key) for key in _DUMPED)]))
        return sorted(found)

    def _make_private(self, path: Path, check_mode: bool) -> bool:
        """Give a file of the user's the mode 0600 and return whether it had another."""
        with suppress(OSError):
            # The directory is the user's: a symlink there must not lead us to another file.
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                info = os.fstat(descriptor)
                mine = stat.S_ISREG(info.st_mode) and info.st_uid == self._uid
                if mine and stat.S_IMODE(info.st_mode) & 0o077:
                    if not check_mode:
                        os.fchmod(descriptor, 0o600)
                    return True
            finally:
                os.close(descriptor)
        return False


def problems_of_files(service: Service) -> list[Problem]:
    """Return which of a service's own files are missing, which needs no pm2."""
    if missing := problems_of_directory(service):
        return missing
    if not Path(service.ecosystem_path).is_file():
        fix = "Correct 'ecosystem_file', or write one for the service"
        return [Problem(service.ecosystem_path, "pm2's ecosystem file does not exist", fix)]
    # Node would read a huge one whole before it says what is wrong with it.
    if Path(service.ecosystem_path).stat().st_size > _MOST_BYTES_OF_ECOSYSTEM:
        what = f"pm2's ecosystem file is larger than {_MOST_BYTES_OF_ECOSYSTEM:,} bytes"
        return [Problem(service.ecosystem_path, what, "Find out who has put it there, and put the service's own back")]
    return []


def startup_command(user: str, pm2: Pm2) -> str:
    """Return the command that lets systemd start a user's services at boot."""
    # Its user has chosen the name of the directory, and root pastes the command.
    if pm2.home.name == ".pm2":
        return f"pm2 startup systemd -u {user} --hp {shlex.quote(str(pm2.home.parent))}"
    # From a home directory it makes a PM2_HOME of the common name.
    return f"PM2_HOME={shlex.quote(str(pm2.home))} pm2 startup systemd -u {user}"


def by_user(services: Iterable[Service], known: MutableMapping[tuple[str, ...], Pm2] | None = None) -> dict[str, Pm2]:
    """Return the pm2 of each user of these services once.

    :param known: those that were made before, by user, home and path: they are taken, and new ones are added.
    :raises MigrationError: naming the users that do not exist, or of whom several pm2 are named.
    """
    found: dict[str, Pm2] = {}
    problems = []
    wanted: dict[str, set[tuple[str, str]]] = {}
    for service in services:
        wanted.setdefault(service.user, set()).add((service.pm2_home, service.pm2_path))
    for user, places in wanted.items():
        if len(places) > 1:
            what = "the services of a cutover group name different 'pm2_home' or 'pm2_path' for it"
            problems.append(Problem(f"user {user}", what, "Say the same for each service of one user"))
            continue
        try:
            place = user, *places.pop()
            found[user] = (known or {}).get(place) or Pm2(*place)
            if known is not None:
                known[place] = found[user]
        except KeyError:
            problems.append(
                Problem(f"user {user}", "there is no such user on this host", "Correct 'user' in estate_cutover_groups")
            )
    if problems:
        raise MigrationError("The pm2 of a service's user cannot be told.", problems)
    return found


def share(groups: Iterable[Group], known: MutableMapping[tuple[str, ...], Pm2]) -> None:
    """Make the pm2 of each user once for groups that are looked at together, and let it read their files together.

    What is wrong with the pm2 of a group is said when the group is looked at.

    :param known: as :func:`by_user` keeps it.
    """
    for group in groups:
        services = [service for service in group.services if service.manager == PM2]
        with suppress(MigrationError):
            for user, pm2 in by_user(services, known).items():
                pm2.expect(service for service in services if service.user == user)


def find_daemons() -> list[tuple[int, str, int]]:
    """Return process, ``PM2_HOME`` and user id of each daemon of pm2, as each tells of itself."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            title = _DAEMON.match((directory / "cmdline").read_bytes().decode("utf-8", "replace"))
            if title:
                found.append((int(directory.name), title[1], directory.stat().st_uid))
    return sorted(found)


def _daemons_of(uid: int) -> list[tuple[int, str]]:
    """Return process and ``PM2_HOME`` of each daemon of pm2 that a user runs."""
    return [(pid, home) for pid, home, owner in find_daemons() if owner == uid]


def _path_of(pid: int) -> str:
    """Return where a daemon of pm2 finds programs: the directory of its own node, and its PATH."""
    directories = []
    with suppress(OSError):
        directories.append(os.path.dirname(os.readlink(f"/proc/{pid}/exe")))
    # Only a directory named from the root is the same for us.
    directories += [entry for entry in open_files.environment_of(pid).get("PATH", "").split(":") if entry[:1] == "/"]
    return ":".join(dict.fromkeys(directories))
