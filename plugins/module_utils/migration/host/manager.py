"""What starts the services of a host, behind one small interface: list, check, stop, start, processes, start at boot.

Each manager has a file of its own. :mod:`.managers` tells which one a service has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..core.errors import Problem
from ..core.estate import Service
from . import open_files

ONLINE = "online"
# It ended so often that its manager does not start it any more.
ERRORED = "errored"


@dataclass(frozen=True)
class Process:
    """One process in a manager's list.

    :param pid: 0 while it is stopped.
    :param status: :data:`ONLINE`, :data:`ERRORED`, or what the manager says else.
    :param restarts: how often the manager has started it again.
    :param variables: names of the variables that the manager has cached for it; never their values.
    :param directory: its working directory.
    :param given_up: whether the manager does not start it any more.
    :param control_group: path of the control group that holds this service and nothing else; empty if it has none.
    """

    name: str
    pid: int
    status: str
    restarts: int
    variables: frozenset[str]
    directory: str = ""
    control_group: str = ""
    given_up: bool = False


def family_of(processes: Iterable[Process]) -> set[int]:
    """Return the processes, all their descendants, and whatever else is in a control group of their own."""
    processes = list(processes)
    pids = {process.pid for process in processes if process.pid}
    groups = {process.control_group for process in processes if process.control_group}
    if groups:
        pids |= open_files.members_of(groups)
    return open_files.family_of(pids)


def problems_of_directory(service: Service) -> list[Problem]:
    """Return that a service's directory is missing, which needs no manager to see."""
    if Path(service.directory).is_dir():
        return []
    return [Problem(service.directory, "the directory does not exist", "Correct estate_cutover_groups")]


class InNetworkOfHost:
    """What a manager says whose services are in the network of this host, as the checks themselves are."""

    def check_login(self, service: Service, values: Mapping[str, str]) -> list[Problem]:
        """Return nothing: whoever tries it from this host tries it from where the service runs."""
        return []

    def client_networks(self) -> tuple[list[str], set[int]]:
        """Return nothing, for the same reason."""
        return [], set()


@dataclass
class Checked:
    """What a manager says of one service, before anything is stopped.

    :param processes: how many processes it starts; None if only a running one tells.
    """

    problems: list[Problem] = field(default_factory=list)
    processes: int | None = None


class Manager(Protocol):
    """A manager that runs some services of one group.

    :param called: what it is called in a sentence.
    :param keeps_variables: whether it may hand a service variables of an earlier start, which beat its settings.
    :param saving: what has happened, in words, if :meth:`save_services` has changed something.
    """

    called: str
    keeps_variables: bool
    saving: str

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what two of them have in common that give the same list."""

    def problem(self) -> Problem | None:
        """Return why it cannot be used, or None. Starts nothing."""

    def processes(self) -> list[Process]:
        """Return what it knows; a service may have several entries.

        :raises MigrationError: if it does not answer.
        """

    def check_known(self, service: Service, processes: Sequence[Process]) -> list[Problem]:
        """Return why it does not know a service by its name.

        :param processes: what it has just listed.
        """

    def not_listed(self, service: Service) -> str:
        """Return what is wrong with a service that it was told to start, and of which it lists no process."""

    def check_service(self, service: Service, usable: bool, again: bool) -> Checked:
        """Return what is wrong with a service's description, and how many processes are started.

        :param usable: whether the manager answers; if not, only the files are looked at.
        :param again: whether an earlier run may have been killed in its window.
        """

    def check_login(self, service: Service, values: Mapping[str, str]) -> list[Problem]:
        """Return why a service cannot log in to the server from where it runs, if that is not this host's own network.

        :param values: its settings on PostgreSQL.
        """

    def client_networks(self) -> tuple[list[str], set[int]]:
        """Return the networks, as ``address/bits``, that the services' sessions come from, if none is this host's.

        :returns: beside them the local ports of connections that living processes in these networks hold.
        """

    def stop_services(self, services: Sequence[Service], listed: Mapping[str, Sequence[Process]] | None) -> None:
        """Stop services, so that nothing starts them again before :meth:`start_service`.

        :param listed: what was listed of each a moment ago, by its name; None if nobody has asked.
        :raises MigrationError: with what the manager said last, if it refuses.
        """

    def start_service(self, service: Service) -> None:
        """Start a stopped service with the settings that it has now.

        :raises MigrationError: if the manager refuses.
        """

    def save_services(self, services: Sequence[Service], secrets: Iterable[str], check_mode: bool) -> bool:
        """Let the next boot start what runs now, and return whether something was changed for it, or would be.

        :param secrets: values that must not be written for it.
        :raises MigrationError: if one of them was.
        """

    def forget_stopped(self, services: Sequence[Service], check_mode: bool) -> bool:
        """Forget what it has noted of the stop of services that are well now, and start what of that does not run.

        :returns: whether something was noted.
        :raises MigrationError: if the manager refuses.
        """

    def boot_units(self) -> list[str]:
        """Return the names of the units of systemd that bring the services up at boot."""

    def boot_warnings(self) -> list[str]:
        """Return a sentence for each service, or user, of which nothing is started again after a reboot."""

    def stop_warnings(self, services: Sequence[Service]) -> list[str]:
        """Return a sentence for each service with which others stop for the window."""

    def log_advice(self, service: Service) -> str:
        """Return where a person finds what a service says."""
