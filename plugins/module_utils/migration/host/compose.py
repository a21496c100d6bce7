"""Services of docker compose projects, known by the labels of their containers and by their processes in ``/proc``.

The image and the compose files stay as they are. A service gets its settings through a file that its compose file names
as ``env_file``: they are read when the container is made, so a start makes it anew (``up``), from the same image.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.estate import Service, meant
from . import dotenv_file, open_files, programs
from .manager import ONLINE, Checked, Process, problems_of_directory
from .safe_paths import require_private

_STOP_SECONDS = 600.0
# A container that is made anew gets a copy of its whole image from some of Docker's storage drivers.
_START_SECONDS = 600.0
LABEL = "com.docker.compose"
_ADVICE = "in estate_cutover_groups"
# What compose says, to a terminal or to none, of a container that would not stay as it is.
_NOT_KEPT = re.compile(r"^.*Container \S+ +(?:Recreat|Creat|Remov)\w*\s*$", re.MULTILINE)
# A variable in a compose file; a dollar sign that stands for itself is written twice.
_VARIABLE = re.compile(r"(?<!\$)(?:\$\$)*\$\{?[A-Za-z_]")
# Logs in from the network of a container, with what the service will be told.
_LOGIN = "import psycopg2; psycopg2.connect('', connect_timeout=5).close()"
_LONGEST_TEXT = 200
# A few lines of YAML can stand for any amount of memory.
_READ_YAML = """
import itertools, json, resource, sys, yaml
resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
services = (yaml.safe_load(open(sys.argv[1])) or {}).get("services") or {}
found = {name: {"env_file": entry.get("env_file")} for name, entry in services.items() if isinstance(entry, dict)}
print("".join(itertools.islice(json.JSONEncoder().iterencode({"services": found}), 10_000)))
"""


class Compose:
    """Docker of this host, for some services.

    :param services: those of them that are services of compose projects.
    """

    called = "Docker"
    keeps_variables = False
    saving = ""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = {service.name: service for service in services}

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what two of them have in common that list the same containers."""
        return "compose", *sorted(f"{service.compose_project}/{name}" for name, service in self._services.items())

    def problem(self) -> Problem | None:
        """Return why Docker cannot be used, or None."""
        try:
            _docker("version", "--format", "{{.Server.Version}}")
        except MigrationError as error:
            return error.problems[0]
        if any(_programs()):
            return None
        fix = "Install the plugin docker-compose-plugin (docker compose), or docker-compose"
        return Problem("docker compose", f"neither of its programs is in {programs.PATH}", fix)

    def processes(self) -> list[Process]:
        """Return an entry for each container of the services, whether it runs or not.

        :raises MigrationError: if Docker does not answer.
        """
        return [
            _process(service, container)
            for service in self._services.values()
            for container in containers_of(service.compose_project, service.name)
        ]

    def check_known(self, service: Service, processes: Sequence[Process]) -> list[Problem]:
        """Return why Docker knows no container of a service."""
        if any(process.name == service.name for process in processes):
            return []
        known = [
            labels_of(container).get(f"{LABEL}.service", "") for container in containers_of(service.compose_project)
        ]
        projects = [] if known else sorted({labels_of(entry).get(f"{LABEL}.project", "") for entry in containers_of()})
        near = meant(service.name, known) or meant(service.compose_project, projects)
        what = f"Docker knows no container of service {service.name} in project {service.compose_project}"
        fix = f"{near}Correct 'name' or 'compose_project' {_ADVICE}, or start it: docker compose up -d {service.name}"
        return [Problem(f"service {service.name}", what, fix)]

    def not_listed(self, service: Service) -> str:
        """Return that a container is gone."""
        return f"Docker knows no container of it in project {service.compose_project} any more"

    def check_service(self, service: Service, usable: bool, again: bool) -> Checked:
        """Return why a service could not be stopped, and made anew with the settings of its file."""
        problems = problems_of_directory(service)
        containers = containers_of(service.compose_project, service.name) if usable else []
        if not containers:
            return Checked(problems)
        try:
            project = Project(service, containers[0])
            problems += project.problems()
            if not problems and not again:
                problems += _problems_of_containers(service, containers, project)
        except MigrationError as error:
            problems += error.problems
        return Checked(problems, processes=len(containers))

    def check_login(self, service: Service, values: Mapping[str, str]) -> list[Problem]:
        """Return why a service cannot log in from the network of its container, which is tried."""
        pids = [process.pid for process in self.processes() if process.name == service.name and process.pid]
        if not pids:
            return []
        command = ["nsenter", f"--net=/proc/{pids[0]}/ns/net", "--", sys.executable, "-I", "-c", _LOGIN]
        try:
            # The password is in the environment alone, which only root can read.
            told = {key: value for key, value in values.items() if key.startswith("PG")}
            answer = programs.call(command, {"PATH": programs.PATH, **told})
            said = "" if answer.status == 0 else answer.errors.strip()
            reason = said and said.splitlines()[-1].rpartition("OperationalError:")[2].strip()[:_LONGEST_TEXT]
        except programs.NoAnswer as error:
            reason = str(error)
        if not reason:
            return []
        networks = networks_of(containers_of(service.compose_project, service.name))
        where = ", ".join(f"{name} (gateway {gateway}, {subnet})" for name, gateway, subnet in networks) or "the host's"
        what = f"its container cannot log in to {values['PGHOST']}:{values['PGPORT']}: {reason}"
        fix = (
            f"Its network is {where}. Name an address of the server that is reached from there, as the gateway is, as "
            f"'database_host' of the service {_ADVICE}, and the network as its 'client_network': phase 1 lets the "
            "server listen there and admit it"
        )
        return [Problem(f"service {service.name}", what, fix)]

    def client_networks(self) -> tuple[list[str], set[int]]:
        """Return the networks that the services' sessions come from, and the ports that living containers hold there.

        Another service of a project may have the same role, and go on.
        """
        networks, held = set[str](), set[int]()
        for project in {service.compose_project for service in self._services.values()}:
            containers = containers_of(project)
            networks.update(subnet for _, _, subnet in networks_of(containers) if subnet)
            for pid in (int(container["State"]["Pid"] or 0) for container in containers):
                held |= open_files.held_ports(pid) if pid else set()
        return sorted(networks), held

    def stop_services(self, services: Sequence[Service], listed: Mapping[str, Sequence[Process]] | None) -> None:
        """Stop the containers of services, those of a project with one call."""
        for stopped, project in self._by_project(services):
            project.call("stop", *stopped, seconds=_STOP_SECONDS)
        names = {service.name for service in services}
        left = [process.name for process in self.processes() if process.pid and process.name in names]
        if left:
            raise _failed("stop", f"these still run: {', '.join(left)}", "Stop them, then run again")

    def start_service(self, service: Service) -> None:
        """Make the container of a service anew if its settings have changed, and start it."""
        containers = containers_of(service.compose_project, service.name)
        if not containers:
            raise _failed("up", self.not_listed(service), f"Start it: docker compose up -d {service.name}")
        Project(service, containers[0]).start(len(containers))

    def save_services(self, services: Sequence[Service], secrets: Iterable[str], check_mode: bool) -> bool:
        """Return False: the restart policy of a container is that of its compose file."""
        return False

    def forget_stopped(self, services: Sequence[Service], check_mode: bool) -> bool:
        """Return False: nothing is noted when containers are stopped."""
        return False

    def boot_units(self) -> list[str]:
        """Return the unit of Docker."""
        return ["docker.service"]

    def boot_warnings(self) -> list[str]:
        """Return a sentence for each service whose containers nothing starts at boot."""
        found = []
        with suppress(MigrationError):
            for service in self._services.values():
                containers = containers_of(service.compose_project, service.name)
                policies = {container["HostConfig"]["RestartPolicy"]["Name"] or "no" for container in containers}
                if policies & {"no", "on-failure"}:
                    found.append(
                        f"Docker does not start {service.name} at boot: its restart policy is "
                        f"'{', '.join(sorted(policies))}'. Write 'restart: unless-stopped' in its compose file."
                    )
        return found

    def stop_warnings(self, services: Sequence[Service]) -> list[str]:
        """Return nothing: what depends on a service goes on running."""
        return []

    def log_advice(self, service: Service) -> str:
        """Return where a person finds what a service says."""
        return f"Look at its log: {log_command(service)}"

    def _by_project(self, services: Sequence[Service]) -> Iterable[tuple[list[str], Project]]:
        """Yield each project with the names of its services that have containers."""
        found: dict[str, tuple[list[str], Project]] = {}
        for service in services:
            containers = containers_of(service.compose_project, service.name)
            if containers:
                names, _ = found.setdefault(service.compose_project, ([], Project(service, containers[0])))
                names.append(service.name)
        return found.values()


class Project:
    """The project of a service, as the labels of its container tell of it."""

    def __init__(self, service: Service, container: Mapping[str, Any]) -> None:
        labels = labels_of(container)
        self._service = service
        self.name = service.compose_project
        self.directory = labels.get(f"{LABEL}.project.working_dir", service.directory)
        files = labels.get(f"{LABEL}.project.config_files", "").split(",")
        self.files = [os.path.join(self.directory, file) for file in files if file]
        # Those of --env-file, which fill the compose files. What is not named here is ".env" in the directory.
        named = labels.get(f"{LABEL}.project.environment_file", "").split(",")
        self.environment_files = [os.path.join(self.directory, file) for file in named if file]
        plugin, program = _programs()
        is_old = labels.get(f"{LABEL}.version", "").lstrip("v").startswith("1.")
        self._program = (program or plugin) if is_old else (plugin or program)
        self._is_plugin = self._program == plugin

    def problems(self) -> list[Problem]:
        """Return why we may not call compose with the project's files: somebody else could lead us by them."""
        return self._look()[0]

    def _look(self) -> tuple[list[Problem], int, list[str]]:
        """Return why we may not call compose, the id of the user to call it as, and the options that name its files.

        The files stand there without any links. Each is looked at once, and what was looked at is what compose is
        called with: a link could lead to a file of root's for the look, and to one of somebody else's for root's call.
        """
        where = f"compose project {self.name}"
        if not self.files:
            fix = "Start it anew with docker compose"
            return [Problem(where, "its containers do not tell which files they were made from", fix)], 0, []
        problems, owners = [], list[int]()
        resolved = [os.path.realpath(file) for file in self.files]
        for file in resolved:
            try:
                status = os.lstat(file)
                owners.append(status.st_uid)
                if not stat.S_ISREG(status.st_mode):
                    problems.append(Problem(file, "it is no regular file", "Put the compose file there"))
                elif status.st_uid == 0:
                    require_private(Path(file).parent, secret=False)
                    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                        what = "root would be led by it, and somebody else may change it"
                        problems.append(Problem(file, what, f"Run: chmod go-w {file}"))
                elif status.st_uid != _uid_of(self._service.user):
                    what = f"it belongs to user id {status.st_uid}, who is neither root nor user {self._service.user}"
                    problems.append(Problem(file, what, f"Run: chown {self._service.user} {file}"))
                if status.st_uid != owners[0]:
                    problems.append(Problem(file, "the files of its project have several owners", "Give them one"))
            except OSError as error:
                what = f"its project was started from it, and it cannot be used: {error.strerror}"
                problems.append(Problem(file, what, "Put it back, then run again"))
            except MigrationError as error:
                problems += error.problems
        owner = owners[0] if owners else 0
        of_environment = [os.path.realpath(file) for file in self.environment_files]
        if not problems and owner == 0:
            problems += self._problems_of_root(resolved, of_environment)
        options = [word for file in resolved for word in ("--file", file)]
        return problems, owner, options + [word for file in of_environment for word in ("--env-file", file)]

    def _problems_of_root(self, compose_files: Sequence[str], filling: Sequence[str]) -> list[Problem]:
        """Return what somebody else may change that compose would read with root's rights: directories, and values.

        :param compose_files: those of the project, without any links.
        :param filling: those with values for the compose files; empty for ".env" of the project.
        """
        problems = []
        filling = filling or [os.path.realpath(os.path.join(self.directory, ".env"))]
        # It reads ".env" of the one, which fills the compose file, and hands the container what the other's file says.
        directories = (self.directory, *map(os.path.dirname, (self._service.env_path, *filling)))
        for directory in dict.fromkeys(map(os.path.realpath, directories)):
            try:
                require_private(Path(directory), secret=False)
            except MigrationError as error:
                what = f"compose would read files from there as root, the owner of {self.files[0]}"
                problems += [Problem(entry.where, f"{what}: {entry.what}", entry.fix) for entry in error.problems]
        if problems or not any(_VARIABLE.search(Path(file).read_text("utf-8", "replace")) for file in compose_files):
            return problems
        # In a directory of root's a file can be the user's all the same, as the service's own settings are.
        for file in filling:
            with suppress(FileNotFoundError):
                status = os.stat(file)
                if status.st_uid != 0 or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    what = "its values fill in a compose file of root's, and somebody else may change them"
                    problems.append(Problem(file, what, f"Run: chown root {file}; chmod go-w {file}"))
        return problems

    def settings_files(self) -> list[str]:
        """Return the files that the project's files name as ``env_file`` of the service, without any variable in them.

        :raises MigrationError: if the project's files cannot be used, or compose does not read them.
        :raises ValueError: if they say more than such files do.
        """
        found: Any = {}
        if self._is_plugin:
            said = self.call("--profile", "*", "config", "--no-interpolate", "--format", "json")
            found = json.loads(said)["services"].get(self._service.name, {})
        entries = _env_files_in(found)
        if not entries and (program := _yaml_reader()):
            # The older program tells only what stands in the files, and so do some versions of the plugin.
            problems, owner, options = self._look()
            if problems:
                raise MigrationError("The files of a compose project cannot be used.", problems)
            for file in options[1 : 2 * len(self.files) : 2]:
                said = _run([*program, file], pwd.getpwuid(owner)).output
                entries += _env_files_in((json.loads(said).get("services") or {}).get(self._service.name))
        paths = [os.path.normpath(os.path.join(self.directory, entry)) for entry in entries if "$" not in entry]
        return list(dict.fromkeys(paths))

    def keeps(self, containers: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the files, the settings and the image are still those that the containers were made from.

        :raises MigrationError: if compose does not tell.
        """
        if self._is_plugin:
            # The hash that it computes for others leaves out what an env_file says, unlike that of its containers.
            try:
                said = self._call("--dry-run", *self._up(len(containers))).errors
                names = (str(container["Name"]).lstrip("/") for container in containers)
                return not _NOT_KEPT.search(said) and all(f"Container {name} " in said for name in names)
            except MigrationError as error:
                if "unknown flag: --dry-run" not in str(error):
                    raise
        now = (self.call("config", f"--hash={self._service.name}").split() or [""])[-1]
        return {labels_of(container).get(f"{LABEL}.config-hash", "") for container in containers} == {now}

    def start(self, number: int) -> None:
        """Start the containers of the service, after making those anew whose settings have changed.

        :param number: how many there are.
        :raises MigrationError: with what compose says, if it fails.
        """
        self.call(*self._up(number), seconds=_START_SECONDS)

    def _up(self, number: int) -> list[str]:
        """Return the words that start the service as it was, from the same image."""
        # Without a number, compose removes all that it was told of on a command line.
        scale = ["--scale", f"{self._service.name}={number}"] if number > 1 else []
        # The older program takes the image that is there, and has no such option.
        pull = ["--pull", "never"] if self._is_plugin else []
        return ["up", "-d", "--no-build", "--no-deps", *pull, *scale, self._service.name]

    def call(self, *arguments: str, seconds: float = programs.ANSWER_SECONDS) -> str:
        """Call compose as the owner of the project's files, and return what it prints.

        :raises MigrationError: with what it says, if it fails.
        """
        return self._call(*arguments, seconds=seconds).output

    def _call(self, *arguments: str, seconds: float = programs.ANSWER_SECONDS) -> programs.Answer:
        """Call compose as the owner of the project's files.

        :raises MigrationError: with what it says, if it fails.
        """
        problems, owner, files = self._look()
        if problems:
            raise MigrationError("The files of a compose project cannot be used.", problems)
        account = pwd.getpwuid(owner)
        command = [*self._program, "--project-name", self.name, "--project-directory", self.directory, *files]
        return _run([*command, *arguments], account, seconds)


def _env_files_in(described: Any) -> list[str]:
    """Return the paths that a service's description in a compose file names as ``env_file``, as they stand there."""
    named = described.get("env_file") if isinstance(described, Mapping) else None
    entries = named if isinstance(named, list) else [named]
    paths = [entry.get("path") if isinstance(entry, Mapping) else entry for entry in entries]
    return [path for path in paths if isinstance(path, str)]


@cache
def _yaml_reader() -> list[str]:
    """Return a command that prints the services of a compose file as JSON, empty where Python lacks PyYAML."""
    python = shutil.which("python3", path=programs.PATH)
    with suppress(MigrationError):
        if python:
            _run([python, "-I", "-c", "import yaml"])
            return [python, "-I", "-c", _READ_YAML]
    return []


def log_command(service: Service) -> str:
    """Return a command that shows what a service says."""
    label = f"label={LABEL}"
    filters = f"--filter {label}.project={service.compose_project} --filter {label}.service={service.name}"
    return f"docker ps --all --quiet {filters} | xargs -n 1 docker logs --tail 50"


def _problems_of_containers(
    service: Service, containers: Sequence[Mapping[str, Any]], project: Project
) -> list[Problem]:
    """Return why containers made anew would be others, or would not have our settings."""
    where = f"service {service.name}"
    if not project.keeps(containers):
        what = "its compose file, a file of its settings, or its image has changed since its container was made"
        fix = (
            f"Look at it, and run: docker compose up -d {service.name}. A variable that only the shell had in which it "
            "was started belongs in the project's .env"
        )
        return [Problem(where, what, fix)]
    container = containers[0]
    environment = dict(entry.split("=", 1) for entry in container["Config"]["Env"] or [] if "=" in entry)
    settings = dotenv_file.read_values(dotenv_file.read(service.env_path, service.user, or_root=True))
    # An empty file says nothing: then only the process's environment in the window tells.
    lost = sorted(key for key, value in settings.items() if environment.get(key) != value)
    problems = []
    if lost:
        what = f"the container does not have what it says of {', '.join(lost)}"
        fix = f"Name it as env_file of {service.name} in the compose file, and run: docker compose up -d {service.name}"
        problems.append(Problem(service.env_path, what, fix))
    for key in sorted(set(environment) & set(dotenv_file.keys_of(service)) - set(settings)):
        what = "its compose file or its image sets it, which would lead the service elsewhere"
        problems.append(Problem(f"{where}: environment {key}", what, f"Move it to {service.env_path}, or take it out"))
    pid = int(container["State"]["Pid"] or 0)
    uid = open_files.user_of(pid) if pid else None
    if uid is not None and uid != _uid_of(service.user):
        what = f"its container's process has user id {uid}, and user {service.user} of this host has another"
        problems.append(Problem(where, what, f"Name the user of this host with that id as 'user' {_ADVICE}"))
    return problems


def _uid_of(user: str) -> int | None:
    """Return the id of a user of this host, None if there is no such user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _process(service: Service, container: Mapping[str, Any]) -> Process:
    """Return a container as a manager's list has it."""
    state = container["State"]
    pid = int(state["Pid"] or 0)
    group = open_files.control_group_of(pid) if pid else ""
    status = str(state["Status"])
    return Process(
        name=service.name,
        pid=pid,
        status=ONLINE if status == "running" and pid else status,
        restarts=int(container["RestartCount"] or 0),
        variables=frozenset(),
        # A container without a control group of its own has that of others.
        control_group=group if str(container["Id"]) in group else "",
    )


def networks_of(containers: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return name, gateway and subnet of each network of some containers; none for one of the host itself."""
    names = {
        name: str(network["Gateway"])
        for container in containers
        for name, network in container["NetworkSettings"]["Networks"].items()
        if network["Gateway"] or network["IPAddress"] or name not in ("host", "none")
    }
    if not names:
        return []
    found = []
    for network in json.loads(_docker("network", "inspect", *sorted(names))):
        for entry in network["IPAM"]["Config"] or []:
            subnet = str(entry.get("Subnet", ""))
            # A network whose subnet a person has chosen tells none, unless that was chosen too.
            chosen = "" if ":" in subnet else names.get(str(network["Name"]), "")
            found.append((str(network["Name"]), str(entry.get("Gateway") or chosen), subnet))
    return found


def labels_of(container: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the labels of a container."""
    return container["Config"]["Labels"] or {}


def containers_of(project: str = "", service: str = "") -> list[Mapping[str, Any]]:
    """Return what Docker knows of the containers of a project, or of all projects, but of those for one command.

    :raises MigrationError: if Docker does not answer.
    """
    filters = [f"label={LABEL}.project{f'={project}' if project else ''}", f"label={LABEL}.oneoff=False"]
    filters += [f"label={LABEL}.service={service}"] if service else []
    words = [word for entry in filters for word in ("--filter", entry)]
    ids = _docker("ps", "--all", "--quiet", "--no-trunc", *words).split()
    found: list[Mapping[str, Any]] = json.loads(_docker("inspect", "--type=container", *ids)) if ids else []
    return sorted(found, key=lambda entry: str(entry["Name"]))


@cache
def _programs() -> tuple[list[str], list[str]]:
    """Return the command of Docker's plugin and that of the older program, each empty if it is not there."""
    docker, old = shutil.which("docker", path=programs.PATH), shutil.which("docker-compose", path=programs.PATH)
    plugin: list[str] = []
    with suppress(MigrationError):
        if docker:
            _run([docker, "compose", "version"])
            plugin = [docker, "compose"]
    return plugin, [old] if old else []


def _docker(*arguments: str) -> str:
    """Call docker and return what it prints.

    :raises MigrationError: with what it says, if it fails.
    """
    return _run([shutil.which("docker", path=programs.PATH) or "docker", *arguments]).output


def _run(
    command: Sequence[str], account: pwd.struct_passwd | None = None, seconds: float = programs.ANSWER_SECONDS
) -> programs.Answer:
    """Run a program that ends well, and return its answer.

    :param account: the user as whom it runs; None for the one that we are.
    :raises MigrationError: with what it says, if it fails.
    """
    called = " ".join([os.path.basename(command[0]), *command[1:2]])
    fix = "Repair Docker or the compose file, then run again"
    home, uid = (account.pw_dir, account.pw_uid) if account is not None else ("/root", None)
    try:
        environment = {"PATH": programs.PATH, "LC_ALL": "C.UTF-8", "HOME": home}
        answer = programs.call(command, environment, uid, seconds=seconds)
    except programs.NoAnswer as error:
        raise _failed(called, str(error), fix) from None
    if answer.status != 0:
        lines = [line for line in answer.errors.splitlines() if line.strip()]
        said = next((line for line in lines if re.search(r"(?i)error", line)), (lines or ["it said nothing"])[-1])
        raise _failed(called, f"{said.strip()[:_LONGEST_TEXT]} (status {answer.status})", fix)
    return answer


def _failed(command: str, what: str, fix: str) -> MigrationError:
    """Return the error for a call of Docker."""
    return MigrationError("Docker does not do what it was asked for.", [Problem(f"docker: {command}", what, fix)])
