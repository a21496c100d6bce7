"""Whether a group's services work, and proof of the store that each process really uses.

A service is on PostgreSQL if a session of its role on the server comes from a socket of that very
process, and none of its processes has the SQLite file open. What a service says of itself, or what
its ``.env`` holds, proves nothing.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.connection import Login, connect, first_row
from ..core.errors import MigrationError, Problem
from ..core.estate import Group, Service
from . import dotenv_file, open_files
from .manager import ERRORED, ONLINE, Manager, Process, family_of
from .managers import each_with_services, key_of, managers_of
from .service_settings import settings_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from .pm2 import Pm2

POSTGRESQL = "postgresql"
SQLITE = "sqlite"
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 3.0
# pm2 is slow to answer: ask it again only this often while a service does not come up.
_ASK_PM2_SECONDS = 2.0
# And this often when a process of it has ended: then pm2 knows more.
_ASK_PM2_AGAIN_SECONDS = 0.5
# So long groups that are looked at together share one answer of it, or so many times as long as it took to answer: a
# host that is busy takes longer for all the rest too. Never longer than the last, however slow it is.
_LISTED_LATELY_SECONDS = 5.0
_TIMES_THE_ANSWER = 5.0
_MOST_SECONDS_SHARED = 30.0
# So many new starts of each process by pm2 are a loop, which waiting does not end. Fewer may be an accident, or a
# service that ends until another one, which it needs, has come up.
_RESTARTS_OF_A_LOOP = 4
# Other requests may reach the database while an address is asked; in one of so many pauses none does.
_QUIET_TRIES = 3


@dataclass(frozen=True)
class ServicesLogin:
    """How the services reach the server.

    :param ca_certificate: file on the service hosts.
    """

    host: str
    port: int
    database: str
    ssl_mode: str = "prefer"
    ca_certificate: str | None = None

    def values(self, service: Service, password: str, processes: int = 1) -> dict[str, str]:
        """Return the lines of a service's ``.env``.

        :param processes: how many of its processes read it; each of them opens a pool of its own.
        """
        values = dotenv_file.connection_values(
            service.database_host or self.host,
            self.port,
            self.database,
            service.database_role,
            password,
            self.ssl_mode,
            self.ca_certificate,
            max(1, service.pool_size // max(1, processes)),
        )
        return {**values, **dotenv_file.own_values(service, values)}

    def login(self, role: str, password: str) -> Login:
        """Return the login of a service's role, as the service makes it."""
        return Login(
            self.host, self.port, self.database, role, password, ssl_mode=self.ssl_mode, ca_cert=self.ca_certificate
        )


@dataclass
class Health:
    """What is known of one service.

    :param shortcoming: what is missing, empty if it is healthy on the wanted store.
    :param lacks_session: nothing else is missing than a session on the server: its pool may be empty for now.
    :param has_given_up: it ends again and again, or its manager does not start it any more: waiting is of no use.
    :param session_pid: process on the server that serves its session.
    :param healthy_at: :func:`time.monotonic` when it was first found healthy.
    """

    service: Service
    processes: tuple[Process, ...] = ()
    restarts: int = 0
    shortcoming: str = "it was not looked at"
    lacks_session: bool = False
    has_given_up: bool = False
    session_pid: int | None = None
    healthy_at: float = 0.0

    @property
    def pids(self) -> tuple[int, ...]:
        """Return the processes that its manager lists."""
        return tuple(process.pid for process in self.processes)

    def report(self, store: str) -> dict[str, Any]:
        """Return the service's part of the report."""
        return {
            "name": self.service.name,
            "pid": self.pids[0] if self.pids else None,
            "session_pid": self.session_pid,
            "store": store,
        }


@dataclass
class Watcher:
    """Looks at a group's services until they are healthy, all at the same time.

    :param managers: the managers of the services by their keys.
    :param values: for each service by name the values of its ``.env`` on PostgreSQL.
    """

    group: Group
    managers: Mapping[str, Manager]
    services_login: ServicesLogin
    role_passwords: Mapping[str, str] = field(repr=False)
    _connections: dict[str, Connection] = field(default_factory=dict, repr=False)

    def close(self) -> None:
        """Close our own sessions on the server."""
        for connection in self._connections.values():
            with suppress(Exception):
                connection.close()
        self._connections.clear()

    def processes(self) -> dict[str, list[Process]]:
        """Return the managers' processes of the group's services by their names."""
        found: dict[str, list[Process]] = {service.name: [] for service in self.group.services}
        for manager, services in each_with_services(self.managers, self.group.services):
            listed = manager.processes()
            for service in services:
                found[service.name] = [entry for entry in listed if entry.name == service.name]
        return found

    def wait(
        self, services: Sequence[Service], store: str, timeout: float, old_pids: Iterable[int] = ()
    ) -> list[Health]:
        """Wait until the services are healthy on a store, or one of them ends again and again on PostgreSQL.

        On SQLite, where a group goes back to, nothing is won by an early end.

        :param timeout: seconds until all have to be healthy.
        :param old_pids: processes that must be gone.
        :raises MigrationError: naming each service that is not healthy, and why.
        """
        results = self.look(services, store, timeout, frozenset(old_pids), ends_with_a_loop=store == POSTGRESQL)
        # The others were only not given the time.
        self._require([result for result in results if result.has_given_up] or results)
        return results

    def watch(self, results: Sequence[Health], stable_seconds: float) -> None:
        """Watch services that were found healthy for some seconds, counted from then.

        :raises MigrationError: naming each service that was restarted meanwhile.
        """
        end = max((result.healthy_at for result in results), default=0.0) + stable_seconds
        while time.monotonic() < end and all(_are_alive(result.pids) for result in results):
            time.sleep(_POLL_SECONDS)
        listed = self.processes()
        for result in results:
            now = listed[result.service.name]
            # Its manager may not have noticed yet that it has ended.
            is_same = tuple(entry.pid for entry in now) == result.pids and _are_alive(result.pids)
            if not is_same or _restarts(now) != result.restarts:
                result.shortcoming = "it came up, answered, and was restarted soon after"
        self._require(results)

    def look(
        self,
        services: Sequence[Service],
        store: str,
        timeout: float,
        old_pids: frozenset[int] = frozenset(),
        just_listed: Mapping[str, list[Process]] | None = None,
        ends_with_a_loop: bool = False,
    ) -> list[Health]:
        """Return the health of the services, once all are healthy or the time has passed.

        :param just_listed: what pm2 has listed a moment ago, as :meth:`processes` returns it: then it is not asked
            again, unless a service is not healthy by that.
        :param ends_with_a_loop: return as soon as one service has given up.
        """
        results = [Health(service) for service in services]
        first_restarts: dict[str, int] = {}
        deadline = time.monotonic() + timeout
        asked = time.monotonic() if just_listed else 0.0
        listed = just_listed or {}
        while True:
            has_ended = any(result.shortcoming and not _are_alive(result.pids) for result in results)
            if not asked or time.monotonic() - asked > (_ASK_PM2_AGAIN_SECONDS if has_ended else _ASK_PM2_SECONDS):
                listed = self.processes()
                asked = time.monotonic()
            for result in results:
                if result.shortcoming:
                    self._look_at(result, listed[result.service.name], store, old_pids)
                    before = first_restarts.setdefault(result.service.name, result.restarts)
                    _note_a_loop(result, self.managers[key_of(result.service)].called, result.restarts - before)
            if time.monotonic() >= deadline or not any(result.shortcoming for result in results):
                return results
            if ends_with_a_loop and any(result.has_given_up for result in results):
                return results
            time.sleep(_POLL_SECONDS)

    def wait_for_sessions(self, timeout: float) -> list[Problem]:
        """Wait until the server has ended every session of the stopped services, and name those that are left.

        The server goes on with what it was sent before a service stopped, and commits it: only when the session
        is gone does the content of the tables stand.

        :param timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            left = [
                (role, pid)
                for role in dict.fromkeys(service.database_role for service in self.group.services)
                for pid in self._abandoned_sessions(role)
            ]
            if not left or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        return [
            Problem(
                f"session {pid} of role {role}",
                f"the server still works for it {timeout:g} seconds after its service was stopped, and may commit rows",
                f"Wait until it has ended, or end it with SELECT pg_terminate_backend({pid}), then run again",
            )
            for role, pid in left
        ]

    def _abandoned_sessions(self, role: str) -> list[int]:
        """Return the server's processes for sessions of a role from this host whose client is gone."""
        held = open_files.held_ports()
        networks, held_there = list[str](), set[int]()
        for manager in self.managers.values():
            of_manager, ports = manager.client_networks()
            networks += of_manager
            held_there |= ports
        with self._session(role, self.role_passwords.get(role, "")).cursor() as cursor:
            # Through a Unix socket no port tells whose session it is: then only those at work count.
            cursor.execute(
                "SELECT pid, client_port, coalesce(client_addr <<= ANY(%s::inet[]), false) FROM pg_stat_activity "
                "WHERE usename = session_user "
                "AND datname = current_database() AND pid <> pg_backend_pid() AND client_port IS NOT NULL "
                "AND (client_addr IS NOT DISTINCT FROM inet_client_addr() OR client_addr <<= ANY(%s::inet[])) "
                "AND (client_port <> -1 OR state <> 'idle')",
                (networks, networks),
            )
            return [
                int(pid)
                for pid, port, is_theirs in cursor.fetchall()
                if port not in (held_there if is_theirs else held)
            ]

    def _look_at(self, result: Health, processes: list[Process], store: str, old_pids: frozenset[int]) -> None:
        """Bring one service's health up to date."""
        result.processes = tuple(processes)
        result.restarts = _restarts(processes)
        result.lacks_session = False
        result.shortcoming = self._shortcoming(result, processes, store, old_pids)
        if not result.shortcoming:
            result.healthy_at = time.monotonic()

    def _shortcoming(self, result: Health, processes: list[Process], store: str, old_pids: frozenset[int]) -> str:
        """Return the first thing that is wrong with a service, or an empty text."""
        service = result.service
        manager = self.managers[key_of(service)]
        if not processes:
            return manager.not_listed(service)
        for process in processes:
            if process.status != ONLINE:
                return f"{manager.called} reports it as {process.status}"
            if not _are_alive((process.pid,)):
                return "its process has ended"
            if process.pid in old_pids:
                return "its old process still runs"
        answer = ask(service.health_url)
        if answer:
            return answer
        family = family_of(result.processes)
        password = self.role_passwords.get(service.database_role, "")
        wanted = self.services_login.values(service, password, len(processes))
        if store == SQLITE:
            # Else there may be another connection than ours in the settings, which is handed over.
            keys = dotenv_file.MANAGED_KEYS
            return _stale_variables(family, {}, keys) if manager.keeps_variables else _our_variables(family, wanted)
        holding = [pid for pid in family if open_files.holds(pid, self.group.source_path)]
        if holding:
            return f"its process {holding[0]} has the SQLite file {self.group.source_path} open"
        stale = _stale_variables(family, wanted, dotenv_file.keys_of(service))
        if stale:
            return stale
        connection = self._session(service.database_role, password)
        answer = ask(service.query_url) if service.query_url else ""
        if answer:
            return answer
        sessions = find_sessions(connection, service, result.processes, self.services_login.host)
        result.session_pid, result.lacks_session = sessions.server_pid, bool(sessions.missing)
        return sessions.missing

    def silent_addresses(self, results: Iterable[Health]) -> list[str]:
        """Return one sentence for each service whose address answers without asking the database.

        :param results: services that were found healthy on PostgreSQL.
        """
        sentences = []
        for result in results:
            service = result.service
            key, url = ("query_url", service.query_url) if service.query_url else ("health_url", service.health_url)
            is_silent = False
            # Only said, so that whatever fails here ends no cutover.
            with suppress(Exception):
                is_silent = self._is_silent(result, url)
            if is_silent:
                sentences.append(
                    f"service {service.name}: its '{key}' {url} answers without asking PostgreSQL, so its answer "
                    "proves nothing of the database, and a later run may find no session of the service. Name an "
                    "address that asks the database as 'query_url' of the service in estate_cutover_groups."
                )
        return sentences

    def _is_silent(self, result: Health, url: str) -> bool:
        """Return whether an address answers well at a moment when no session of the service is used."""
        for _ in range(_QUIET_TRIES):
            before = self._uses_of_sessions(result)
            if before is None or ask(url):
                return False
            if self._uses_of_sessions(result) == before:
                return True
        return False

    def _uses_of_sessions(self, result: Health) -> list[tuple[int, str]] | None:
        """Return when each session of a service was used last; None if the server does not keep that."""
        service = result.service
        ports = set().union(*(open_files.local_ports(pid) for pid in family_of(result.processes)))
        password = self.role_passwords.get(service.database_role, "")
        with self._session(service.database_role, password).cursor() as cursor:
            cursor.execute(
                "SELECT pid, client_port, state_change::text FROM pg_stat_activity WHERE usename = session_user "
                "AND datname = current_database() AND pid <> pg_backend_pid() ORDER BY pid"
            )
            sessions = cursor.fetchall()
        if any(used is None for _, _, used in sessions):
            return None
        return [(int(pid), str(used)) for pid, port, used in sessions if port in ports or port == -1]

    def _session(self, role: str, password: str) -> Connection:
        """Return our own session as a role, which sees all that concerns its other sessions."""
        if role not in self._connections:
            self._connections[role] = connect(self.services_login.login(role, password))
            self._connections[role].rollback()
            self._connections[role].autocommit = True
        return self._connections[role]

    def _require(self, results: Iterable[Health]) -> None:
        """Raise if a service is not healthy."""
        problems = [
            Problem(
                f"service {result.service.name}",
                result.shortcoming,
                self.managers[key_of(result.service)].log_advice(result.service),
            )
            for result in results
            if result.shortcoming
        ]
        if problems:
            raise MigrationError("Not every service is healthy.", problems)


@dataclass(frozen=True)
class Sessions:
    """What the server knows of a service's sessions.

    :param server_pid: the server's process for one of them.
    :param missing: what is missing, empty if nothing is.
    :param are_hidden: whether the login may not see them, so that they may be there all the same.
    """

    server_pid: int | None = None
    missing: str = ""
    are_hidden: bool = False


def find_sessions(connection: Connection, service: Service, processes: Iterable[Process], host: str) -> Sessions:
    """Return what the server knows of the sessions of a service.

    Every process of the service needs a session of the service's role that comes from a socket of its own, or of a
    descendant: in cluster mode pm2 hands the requests to one process after the other. A session of the role that
    somebody else has opened proves nothing.

    :param connection: of a login that may see the role's sessions; an open transaction of it is ended.
    :param host: the server's address as the service knows it. Through a Unix socket no port tells whose session it is.
    """
    with connection.cursor() as cursor:
        if not connection.autocommit:
            # The login may see who is connected; the role that it works as may not.
            cursor.execute("SET LOCAL ROLE NONE")
        cursor.execute(
            "SELECT pid, client_port FROM pg_stat_activity WHERE usename = %s AND datname = current_database() "
            "AND pid <> pg_backend_pid()",
            (service.database_role,),
        )
        sessions = cursor.fetchall()
        cursor.execute("SELECT session_user")
        login = str(first_row(cursor)[0])
    if not connection.autocommit:
        connection.rollback()
    found: int | None = None
    for process in processes:
        ports = set().union(*(open_files.local_ports(member) for member in family_of([process])))
        own = [
            int(server_pid) for server_pid, port in sessions if port in ports or (port == -1 and host.startswith("/"))
        ]
        if own:
            found = own[0]
            continue
        if any(port is None for _, port in sessions):
            return Sessions(
                missing=f"it answers, but {login} may not see where the sessions of role {service.database_role} "
                f'come from: GRANT pg_read_all_stats TO "{login}"',
                are_hidden=True,
            )
        return Sessions(
            missing=f"it answers, but no session of role {service.database_role} on the server comes from its process "
            f"{process.pid}: it uses another store"
            + ("" if service.query_url else ", or its address does not ask the database (see 'query_url')")
        )
    return Sessions(found)


@dataclass
class Listings:
    """What each manager has listed, so that several groups that are looked at together ask it once.

    Each call of pm2 takes most of a second. What it said a while ago is asked anew, and so is what cannot be true any
    more, because a process of the list has ended: the service may run again in another one, on another store.

    :param pm2s: the pm2 of each user, for groups that share more of it than the list, as :func:`.pm2.by_user` keeps it.
    """

    pm2s: dict[tuple[str, ...], Pm2] = field(default_factory=dict)
    _listed: dict[object, tuple[float, float, list[Process]]] = field(default_factory=dict)

    def processes_of(self, manager: Manager) -> list[Process]:
        """Return what a manager knows, as :meth:`.Manager.processes` does.

        :raises MigrationError: if it does not answer.
        """
        key = manager.identity
        if key in self._listed:
            answered, took, listed = self._listed[key]
            shared = max(_LISTED_LATELY_SECONDS, min(_TIMES_THE_ANSWER * took, _MOST_SECONDS_SHARED))
            running = [process.pid for process in listed if process.pid and process.status == ONLINE]
            if time.monotonic() - answered <= shared and _are_alive(running):
                return listed
        began = time.monotonic()
        listed = manager.processes()
        answered = time.monotonic()
        self._listed[key] = answered, answered - began, listed
        return listed


def look_once(connection: Connection, group: Group, listings: Listings | None = None) -> dict[str, Health]:
    """Return for each service of a group by name why it is not well on PostgreSQL, if it is not.

    Nothing is stopped or started, and no password is needed.

    :param connection: of a login that may see every session.
    :param listings: shared by the groups that are looked at together.
    :raises MigrationError: if a service's user does not exist.
    """
    answers: dict[str, Health] = {}
    listings = listings or Listings()
    for manager, services in each_with_services(managers_of(group.services), group.services):
        problem = manager.problem()
        reason = f"{problem.where}: {problem.what}" if problem else ""
        listed: list[Process] = []
        try:
            listed = [] if problem else listings.processes_of(manager)
        except MigrationError as error:
            reason = "; ".join(f"{entry.where}: {entry.what}" for entry in error.problems) or error.summary
        for service in services:
            processes = [process for process in listed if process.name == service.name]
            health = Health(service, tuple(processes))
            health.shortcoming = reason or _answer(connection, group, health, manager.called)
            answers[service.name] = health
    return answers


def _answer(connection: Connection, group: Group, health: Health, manager: str) -> str:
    """Return why one service is not well on PostgreSQL, and note in its health if only a session is missing.

    :param manager: what its manager is called.
    """
    service = health.service
    statuses = [process.status for process in health.processes]
    if not statuses or any(status != ONLINE for status in statuses):
        return f"{manager} reports it as {', '.join(statuses) or 'unknown'}"
    shortcoming = ask(service.health_url) or (ask(service.query_url) if service.query_url else "")
    if shortcoming:
        return shortcoming
    try:
        own_settings = settings_of(service)
        settings = own_settings.values_of(own_settings.read())
    except (MigrationError, ValueError) as error:
        return f"{service.env_path} cannot be read: {error}"
    host = settings.get("PGHOST", "")
    sessions = find_sessions(connection, service, health.processes, host)
    if not sessions.missing or sessions.are_hidden:
        return sessions.missing
    # Without a session something else has to speak for the store.
    if not host:
        return f"{sessions.missing}; {service.env_path} sets no PGHOST"
    family = family_of(health.processes)
    stale = _stale_variables(family, settings, dotenv_file.keys_of(service))
    if stale:
        return f"{sessions.missing}; {stale}"
    health.lacks_session = not any(_holds_source(pid, group) for pid in family)
    return sessions.missing


def _holds_source(pid: int, group: Group) -> bool:
    """Return whether a process has the SQLite file of its group open, if there is one still."""
    return os.path.exists(group.source_path) and open_files.holds(pid, group.source_path)


def _stale_variables(family: Iterable[int], wanted: Mapping[str, str], keys: Iterable[str]) -> str:
    """Return which variables of a process, of some keys, would beat its ``.env`` with another value."""
    keys = tuple(keys)
    for pid in family:
        environment = open_files.environment_of(pid)
        stale = [key for key in keys if environment.get(key, wanted.get(key)) != wanted.get(key)]
        if stale:
            return f"its process was started with {', '.join(stale)}, which beats the value in .env"
    return ""


def _our_variables(family: Iterable[int], ours: Mapping[str, str]) -> str:
    """Return which variables of a process still lead it to PostgreSQL."""
    for pid in family:
        environment = open_files.environment_of(pid)
        left = [key for key in ("PGPASSWORD", "DATABASE_URL") if environment.get(key) == ours[key]]
        if left:
            return f"its process was started with {', '.join(left)}, which leads it to PostgreSQL"
    return ""


def _note_a_loop(result: Health, manager: str, restarts: int) -> None:
    """Note that a service ends again and again, or that its manager does not start it any more.

    :param manager: what that is called.
    :param restarts: how often its manager has started it again since it is looked at.
    """
    if not result.shortcoming:
        return
    if any(process.status == ERRORED or process.given_up for process in result.processes):
        result.has_given_up = True
        result.shortcoming = f"{manager} does not start it any more, because it ended soon after each start"
    elif restarts >= _RESTARTS_OF_A_LOOP * max(1, len(result.processes)):
        result.has_given_up = True
        result.shortcoming = f"it ends soon after each start: {manager} has already started it {restarts} times again"


def _restarts(processes: Iterable[Process]) -> int:
    """Return how often its manager has restarted a service."""
    return sum(process.restarts for process in processes)


def _are_alive(pids: Iterable[int]) -> bool:
    """Return whether all processes run."""
    return all(map(open_files.is_alive, pids))


def ask(url: str) -> str:
    """Return what is wrong with the answer of a health address, or an empty text."""
    # A proxy in our environment is not for addresses of the host itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=_ANSWER_SECONDS) as response:
            return "" if response.status == 200 else f"{url} answers with status {response.status}"
    except urllib.error.HTTPError as error:
        return f"{url} answers with status {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{url} does not answer: {getattr(error, 'reason', error)}"
