"""What must be right before a cutover or a rollback stops anything: every problem at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..core.commands import playbook
from ..core.connection import connected, first_row
from ..core.errors import MigrationError, Problem
from ..core.estate import Access, Group, Service
from ..host import dotenv_file, login_test, open_files
from ..host.manager import ONLINE, Manager, Process, family_of
from ..host.managers import each_with_services, key_of, managers_of, problems_of_files
from ..host.recovery_unit import RecoveryUnit
from ..host.safe_paths import open_owned
from ..host.service_health import POSTGRESQL, SQLITE, Listings, ServicesLogin, ask
from ..host.service_settings import Dotenv, settings_of
from ..sqlite.snapshot import resolve_source

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_INVENTORY = "Correct estate_cutover_groups"


@dataclass(frozen=True)
class Settings:
    """How a cutover is made.

    :param role_passwords: password of each service's role.
    :param stop_timeout: seconds until the stopped services must have closed the source.
    :param health_timeout: seconds until the started services must be healthy.
    :param stable_seconds: how long they then have to run without a restart.
    :param estate_connections: for each role of the estate the connections that the pools of its services open,
        those of other groups included.
    :param access: what the roles of the whole estate may do; None if the group's own services count alone.
    :param work_directory: private directory for snapshots.
    :param roll_back_on_failure: whether a group that fails after its services have written to PostgreSQL is rolled back
        with its rows, by whoever calls the cutover.
    :param recovery_unit: what ends a window whose run has died; None for nobody.
    :param is_locked: whether the caller holds the group's lock on this host, over more than one run.
    :param listings: shared by groups that are only looked at, one soon after the other; None to ask each manager anew.
    """

    services_login: ServicesLogin
    role_passwords: Mapping[str, str] = field(repr=False)
    stop_timeout: float = 30.0
    health_timeout: float = 30.0
    stable_seconds: float = 2.0
    estate_connections: Mapping[str, int] = field(default_factory=dict)
    access: Access | None = None
    work_directory: str | None = None
    roll_back_on_failure: bool = False
    recovery_unit: RecoveryUnit | None = None
    is_locked: bool = False
    listings: Listings | None = None


@dataclass(frozen=True)
class EnvFile:
    """The file with a service's settings. What has to stand in it is rendered when it is asked for, and kept nowhere.

    :param processes: how many processes of the service read it.
    """

    service: Service
    processes: int

    def read(self) -> str:
        """Return the file as it is."""
        return settings_of(self.service).read()

    def write(self, text: str) -> None:
        """Replace the file in one step, where it is not so already."""
        settings_of(self.service).write(text)

    def is_private(self) -> bool:
        """Return whether nobody but its owner may read the file."""
        return settings_of(self.service).is_private()

    def render(self, text: str, settings: Settings, store: str) -> str:
        """Return the file as it has to be on a store, made of what it is."""
        password = settings.role_passwords.get(self.service.database_role)
        if store == SQLITE or not password:
            return text if store == POSTGRESQL else settings_of(self.service).without_values(text)
        values = settings.services_login.values(self.service, password, self.processes)
        return settings_of(self.service).with_values(text, values)


@dataclass
class Findings:
    """What the checks have found to be wrong."""

    violations: list[Problem] = field(default_factory=list)

    def require_none(self, summary: str) -> None:
        """Raise with every violation found, if there is one."""
        if self.violations:
            raise MigrationError(summary, self.violations)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note the problems of an error instead of letting it end the checks."""
        try:
            yield
        except MigrationError as error:
            self.violations.extend(
                error.problems or [Problem("this host", error.summary, "Correct this, then run again")]
            )


@dataclass(frozen=True)
class Handles:
    """What a run takes hold of a group's services by, as the checks have found it.

    :param managers: the managers of the services by their keys.
    :param processes: the managers' processes by the service's name.
    :param instances: how many processes are started of each service, by its name, where a file tells.
    """

    managers: Mapping[str, Manager] = field(default_factory=dict)
    processes: Mapping[str, list[Process]] = field(default_factory=dict)
    instances: Mapping[str, int] = field(default_factory=dict)
    env_files: Sequence[EnvFile] = ()

    @property
    def pids(self) -> list[int]:
        """Return the processes of all services that run."""
        return [process.pid for processes in self.processes.values() for process in processes if process.pid]

    @property
    def family(self) -> set[int]:
        """Return all processes that belong to the services, as they are now."""
        return family_of(process for processes in self.processes.values() for process in processes)

    def processes_of(self, service: Service) -> int:
        """Return how many processes of a service are started: as a file says, else as many as run now."""
        return self.instances.get(service.name) or max(1, len(self.processes.get(service.name, ())))


def check_services(
    group: Group,
    settings: Settings,
    findings: Findings,
    may_be_missing: bool = False,
    managers: Mapping[str, Manager] | None = None,
) -> Handles:
    """Check managers, files and passwords of a group's services, and return what they are taken hold of by.

    :param may_be_missing: an earlier run may have been killed between their stop and their start.
    :param managers: the managers by their keys, if they are known already.
    """
    if managers is None:
        managers = {}
        with findings.collecting():
            managers = managers_of(group.services, settings.listings.pm2s if settings.listings else None)
    usable = {}
    for key, manager in managers.items():
        problem = manager.problem()
        if problem:
            findings.violations.append(problem)
        else:
            usable[key] = manager
    processes: dict[str, list[Process]] = {}
    for manager, services in each_with_services(usable, group.services):
        with findings.collecting():
            listed = settings.listings.processes_of(manager) if settings.listings else manager.processes()
            for service in services:
                processes[service.name] = [process for process in listed if process.name == service.name]
                if not may_be_missing:
                    findings.violations += manager.check_known(service, listed)
    instances = {}
    for service in group.services:
        key = key_of(service)
        if key not in managers:
            # All mistakes are named at once, whatever is wrong with the managers.
            findings.violations += problems_of_files(service)
            continue
        checked = managers[key].check_service(service, key in usable, may_be_missing)
        findings.violations += checked.problems
        if checked.processes is not None:
            instances[service.name] = checked.processes
    handles = Handles(managers, processes, instances)
    env_files = [
        entry for service in group.services if (entry := _check_env_file(findings, handles, service, settings))
    ]
    paths = [os.path.realpath(service.env_path) for service in group.services]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        findings.violations.append(Problem(path, "several services name it as their env_file", "Give each its own"))
    return replace(handles, env_files=env_files)


def boot_warnings(handles: Handles) -> list[str]:
    """Return a sentence for each service, or user, of which nobody would start anything again after a reboot."""
    return [warning for manager in handles.managers.values() for warning in manager.boot_warnings()]


def stop_warnings(group: Group, handles: Handles) -> list[str]:
    """Return a sentence for each service with which others, that are no services of the group, stop for the window."""
    each = each_with_services(handles.managers, group.services)
    return [warning for manager, services in each for warning in manager.stop_warnings(services)]


def password_warnings(group: Group, role_passwords: Mapping[str, str]) -> list[str]:
    """Return a sentence for each service whose dotenv file holds a password that its reader may take for another."""
    return [
        f"{service.name}: the password of {service.database_role} may not arrive in {service.env_file}: {why}. "
        "DATABASE_URL has it in a form that all readers take alike; if the service reads PGPASSWORD with such a "
        "reader, give the role a password of letters and digits."
        for service in group.services
        if isinstance(settings_of(service), Dotenv)
        and (why := dotenv_file.changed_by(role_passwords.get(service.database_role) or ""))
    ]


def check_recovery_unit(settings: Settings, findings: Findings) -> None:
    """Check that the unit can be put there that looks after the services if the run dies."""
    if settings.recovery_unit is not None:
        with findings.collecting():
            settings.recovery_unit.require_possible()


def check_health(group: Group, handles: Handles, findings: Findings) -> None:
    """Check that the services are well now, on SQLite: else nobody could tell whether the move has hurt them."""
    for service in group.services:
        processes = handles.processes.get(service.name)
        if not processes:
            continue
        shortcoming = ask(service.health_url) or (ask(service.query_url) if service.query_url else "")
        if all(process.status != ONLINE for process in processes):
            shortcoming = f"{handles.managers[key_of(service)].called} reports it as {processes[0].status}"
        if shortcoming:
            fix = "Repair it while it is on SQLite, or correct 'health_url' or 'query_url' in estate_cutover_groups"
            findings.violations.append(Problem(f"service {service.name}", f"it is not well now: {shortcoming}", fix))


def check_source(group: Group, handles: Handles, findings: Findings) -> None:
    """Check the source, its aliases, and that nobody but the group's services has it open."""
    with findings.collecting():
        source = resolve_source(group.source_path)
        # Whoever may exchange it must not lead root to a file of somebody else's.
        with open_owned(source, group.users):
            pass
        inode = os.stat(source).st_dev, os.stat(source).st_ino
        for alias in group.aliases:
            try:
                info = os.stat(alias)
            except OSError:
                findings.violations.append(Problem(alias, f"this alias does not lead to {source}", _INVENTORY))
                continue
            if (info.st_dev, info.st_ino) != inode:
                findings.violations.append(
                    Problem(
                        alias,
                        f"it leads to {os.path.realpath(alias)}, another file than {source}",
                        "A copy needs a cutover group of its own; else make the symlink again",
                    )
                )
        findings.violations.extend(foreign_processes(str(source), handles.family))


def foreign_processes(path: str, pids: Iterable[int]) -> list[Problem]:
    """Return one problem for each process that has a source open and is no service of its group.

    :param pids: the processes of the group's services; their descendants belong to them.
    :raises MigrationError: if a process that may write to the file does not let us see what it has open.
    """
    family = open_files.family_of(pids)
    return [
        Problem(
            path,
            f"process {holder.pid} ({holder.command}) has {holder.path} open and is no service of the group",
            "Stop it, or add its service to this cutover group",
        )
        for holder in open_files.find_holders(path)
        if holder.pid not in family
    ]


def check_database(connection: Connection, group: Group, settings: Settings, findings: Findings) -> None:
    """Check that each service's role can log in and see its schemas, and that all pools together fit the server."""
    for role in dict.fromkeys(service.database_role for service in group.services):
        password = settings.role_passwords.get(role)
        if not password:
            continue
        schemas = sorted(
            {name for service in group.services if service.database_role == role for name in service.schemas}
        )
        with (
            findings.collecting(),
            connected(settings.services_login.login(role, password)) as session,
            session.cursor() as cursor,
        ):
            cursor.execute(
                "SELECT wanted FROM unnest(%s) AS wanted LEFT JOIN pg_namespace ON nspname = wanted "
                "WHERE oid IS NULL OR NOT has_schema_privilege(oid, 'USAGE')",
                (schemas,),
            )
            for (schema,) in cursor.fetchall():
                fix = f"Run {playbook('1_infrastructure')}: schema_apply grants it"
                findings.violations.append(Problem(f"role {role}", f"it may not use schema {schema}", fix))
    _check_connections(connection, group, settings, findings)


def check_services_login(group: Group, settings: Settings, handles: Handles, findings: Findings) -> None:
    """Check that the services themselves reach a server on another host, whose certificate their library verifies."""
    values = {
        service: settings.services_login.values(service, password, handles.processes_of(service))
        for service in group.services
        if (password := settings.role_passwords.get(service.database_role))
    }
    pids = {name: [entry.pid for entry in found if entry.pid] for name, found in handles.processes.items()}
    findings.violations.extend(login_test.problems(settings.services_login, values, pids))
    for service, own in values.items():
        manager = handles.managers.get(key_of(service))
        if manager is not None:
            findings.violations.extend(manager.check_login(service, own))


def _check_connections(connection: Connection, group: Group, settings: Settings, findings: Findings) -> None:
    """Check that the pools of the whole estate fit what the server has left, when each is as full as it may be."""
    pools = dict(settings.estate_connections)
    for role in {service.database_role for service in group.services}:
        own = sum(service.pool_size for service in group.services if service.database_role == role)
        pools[role] = max(own, pools.get(role, 0))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int "
            "- coalesce(current_setting('reserved_connections', true)::int, 0)"
        )
        usable = int(first_row(cursor)[0])
        cursor.execute(
            "SELECT usename, count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usename IS NOT NULL "
            "GROUP BY usename"
        )
        sessions = {str(role): int(count) for role, count in cursor.fetchall()}
    connection.rollback()
    # A role's sessions are those of its pools; what goes beyond belongs to somebody else.
    taken = sum(max(0, count - pools.get(role, 0)) for role, count in sessions.items())
    wanted = sum(pools.values())
    if taken + wanted > usable:
        each = ", ".join(f"{role} {count}" for role, count in sorted(pools.items()))
        findings.violations.append(
            Problem(
                "max_connections",
                f"{usable} connections are usable, others have taken {taken}, and the pools of the services together "
                f"may open {wanted} ({each})",
                "Lower the services' pool_size, or raise max_connections (role postgres_config)",
            )
        )


def _check_env_file(findings: Findings, handles: Handles, service: Service, settings: Settings) -> EnvFile | None:
    """Check a service's dotenv file and what has to be written to it; None if it cannot be read."""
    password = settings.role_passwords.get(service.database_role)
    processes = handles.processes_of(service)
    if not password:
        findings.violations.append(
            Problem(
                f"role {service.database_role}",
                "its password is not known",
                "Put it into postgres_role_passwords (Ansible Vault)",
            )
        )
    else:
        values = settings.services_login.values(service, password, processes)
        findings.violations += settings_of(service).problems_of_values(f"service {service.name}", values)
    entry = EnvFile(service, processes)
    with findings.collecting():
        settings_of(service).without_values(entry.read())
        return entry
    return None
