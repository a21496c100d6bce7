"""What stands on a host: its databases, the services that use each of them, and what only a person can tell."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from ..core.connection import Login, connected
from ..core.errors import MigrationError, Problem
from ..core.rights import rights_of
from ..draft.draft import Draft, with_refusals
from ..draft.existing import Existing, map_onto
from ..draft.names import Namer, schema_name
from ..host import open_files
from . import existing_tables, files, health, reader, scratch, services, settings
from .files import Database, Found, Inode, Limits, is_text, told
from .services import CONTAINER, NOBODY, PM2, SYSTEMD, Service

# Where a path in settings may begin, below the directory of the service: Prisma's begin beside its schema.
_BEGINNINGS = ("", "prisma")
_DELETED = " (deleted)"
# First parts of paths that containers watch, and do not keep their data in.
_OF_THE_SYSTEM = ("", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sys", "tmp", "usr")


@dataclass(frozen=True)
class Options:
    """What discovery was asked to do.

    :param directories: searched besides those of the services.
    :param work_directory: an existing directory in which private ones are made for snapshots.
    :param seconds: how long one file may be read.
    :param total_seconds: how long all files together may be read.
    :param unused_files: how many files that nobody uses are read.
    :param login: to the target database, None where nothing is asked of it.
    :param existing_schemas: schemas there whose tables applications have made; without any, the tables are drafted.
    :param tries: whether the drafts are tried in a scratch database of that server.
    :param check_mode: nothing is made on that server, so that a trial only asks whether it could be.
    :param moved_files: patterns of the paths of files that are to be moved although no service uses them.
    """

    limits: Limits = field(default_factory=Limits)
    directories: tuple[str, ...] = ()
    work_directory: str = "/var/tmp"  # noqa: S108 (private directories are made in it)
    seconds: float = 1800
    total_seconds: float = 14_400
    unused_files: int = 200
    login: Login | None = None
    existing_schemas: tuple[str, ...] = ()
    tries: bool = False
    check_mode: bool = False
    moved_files: tuple[str, ...] = ()

    def moves(self, database: Database) -> bool:
        """Return whether a file is to be moved although no service uses it."""
        return any(fnmatch.fnmatch(database.path, pattern) for pattern in self.moved_files)


@dataclass
class Use:
    """How a service uses a database.

    :param held: its processes have it open.
    :param keys: settings that name it.
    :param urls: key → its value up to the colon, of those that name it as a URL such as ``sqlite:///app.db``.
    """

    held: bool = False
    keys: set[str] = field(default_factory=set)
    urls: dict[str, str] = field(default_factory=dict)


# How each service uses each database.
_Users = dict[Inode, dict[Service, Use]]


@dataclass
class Source:
    """One database that services use, or that is to be moved all the same.

    :param group: name of its cutover group.
    :param users: each service that uses it, and how.
    :param draft: its draft, None if it could not be read.
    """

    database: Database
    group: str
    aliases: tuple[str, ...]
    users: dict[Service, Use]
    draft: Draft | None = None

    @property
    def held(self) -> bool:
        """Return whether a process has it open."""
        return any(use.held for use in self.users.values())


@dataclass
class Legacy:
    """One database that nobody uses.

    :param rows: table → rows; None if it could not be read.
    """

    database: Database
    aliases: tuple[str, ...]
    rows: dict[str, int] | None = None


@dataclass(frozen=True)
class Address:
    """What a service listens on.

    :param health_url: an address that was asked and answered 200, empty if none did.
    """

    ports: tuple[int, ...]
    health_url: str


@dataclass
class Discovery:
    """What was found.

    :param problems: what could not be told, without a place in the draft yet.
    :param unfinished: directory → which limit has ended the search there.
    :param existing_schemas: schemas whose tables applications have made, so that no SQL is drafted.
    :param unused_tables: tables there that no table of a file is mapped to.
    :param asked: the variables of the playbook with which this was found: a run without them finds something else.
    """

    sources: list[Source] = field(default_factory=list)
    legacy: list[Legacy] = field(default_factory=list)
    addresses: dict[Service, Address] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unfinished: dict[str, str] = field(default_factory=dict)
    existing_schemas: tuple[str, ...] = ()
    unused_tables: tuple[str, ...] = ()
    asked: dict[str, str] = field(default_factory=dict)


def discover(options: Options) -> Discovery:
    """Return what stands on this host. Nothing is changed but for private snapshots, which are removed again.

    :raises MigrationError: if the tables that are there cannot be looked at, or drafts cannot be tried as was asked.
    """
    result = Discovery()
    existing = None
    if options.tries:
        result.asked["discover_try"] = "true"
        _require_trial(options)
    if options.existing_schemas:
        # What the server says is asked for before hours are spent on reading files.
        existing = existing_tables.read(options.login, options.existing_schemas)
        result.asked["discover_existing_schemas"] = ",".join(options.existing_schemas)
        result.asked["discover_existing_database"] = options.login.database if options.login else ""
    if options.moved_files:
        result.asked["discover_move"] = ",".join(options.moved_files)
    held = open_files.find_databases()
    listed = services.find_services(held)
    result.problems += listed.problems
    found = Found()
    users: _Users = {}
    _add_open(result, options.limits, held, listed.found, found, users)
    for service in listed.found:
        _add_named(result, options.limits, service, found, users)
    _search(result, options, listed.found, found, users)
    _divide(result, options, found, users)
    _read(result, options)
    if existing is not None:
        _use_existing(result, existing)
    if options.tries and options.login is not None and not options.check_mode:
        _try_drafts(result, options, options.login)
    for service in dict.fromkeys(service for source in result.sources for service in source.users):
        ports = tuple(sorted(_ports_of(service)))
        result.addresses[service] = Address(ports, health.find_health(ports))
    return result


# --- where databases are found ------------------------------------------------------------------


def _add_open(
    result: Discovery,
    limits: Limits,
    held: Mapping[int, Mapping[Inode, str]],
    listed: list[Service],
    found: Found,
    users: _Users,
) -> None:
    """Add every database that a process has open."""
    services_of: dict[int, list[Service]] = {}
    for service in listed:
        for pid in service.pids:
            services_of.setdefault(pid, []).append(service)
    for pid, databases in sorted(held.items()):
        by = services_of.get(pid, [])
        if len(by) > 1:
            others = ", ".join(map(_said, by[1:]))
            what = f"process {pid} is said to be its own and that of {others}, so each of them stands in the draft"
            result.problems.append(Problem(_said(by[0]), what, "Find out whose it is, and take the others out"))
        for service in by:
            _add_open_of(result, limits, service, databases, found, users)


def _add_open_of(
    result: Discovery, limits: Limits, service: Service, databases: Mapping[Inode, str], found: Found, users: _Users
) -> None:
    """Add the databases that a process of a service has open."""
    for inode, path in databases.items():
        inside = path
        if service.compose:
            path = service.compose.on_this_host(path.removesuffix(_DELETED)) or path
        if limits.leaves_out(path):
            continue
        database = _at(path, service.uid)
        if database is not None and database.inode == inode:
            found.add(database)
        elif inode not in found.databases:
            what = f"{_said(service)} has it open, and this host has no such file at that name"
            fix = "Find out where it is: what is written to it may not outlast the process or container"
            if inside.endswith(_DELETED):
                what = f"{_said(service)} has it open, but its name was deleted"
            elif path != inside:
                what = f"{_said(service)} has it open as {told(inside)}, and that user of this host may not reach it"
                fix = f"Let it enter each directory on the way, as by setfacl -m u:{service.user}:x, or mount another"
            result.problems.append(Problem(told(path), what, fix))
        users.setdefault(inode, {}).setdefault(service, Use()).held = True


def _add_named(result: Discovery, limits: Limits, service: Service, found: Found, users: _Users) -> None:
    """Add every database that a service's settings name."""
    if service.manager == CONTAINER and not service.compose:
        # Its paths are those within the container, and nobody tells where these are on this host.
        return
    places = [(path, settings.read(path, service.uid)) for path in service.settings_files]
    environment: dict[str, str] = {}
    with suppress(MigrationError):
        for pid in sorted(service.pids)[:1]:
            environment = open_files.environment_of(pid)
    for where, values in [*places, ("its environment", environment)]:
        for key, path in settings.paths_in(values):
            for beginning in _BEGINNINGS:
                name = os.path.join(service.directory or "/", beginning, path)
                if service.compose:
                    inside = os.path.normpath(os.path.join(service.compose.inside, beginning, path))
                    name = service.compose.on_this_host(inside) or "/"
                    # Who is root in a container can make a link that leads root elsewhere on this host.
                    name = name if os.path.realpath(name) == name else "/"
                database = _at(name, service.uid)
                if database is not None and not limits.leaves_out(database.path):
                    found.add(database, _symlink(name, service.uid))
                    use = users.setdefault(database.inode, {}).setdefault(service, Use())
                    use.keys.add(told(f"{key} in {where}"))
                    if scheme := settings.scheme_of(values[key]):
                        use.urls[key] = scheme
                    break


def _symlink(name: str, uid: int) -> str:
    """Return a name as an alias is written if a symlink stands there, else an empty text."""
    with suppress(OSError, ValueError), rights_of(uid):
        if os.path.islink(name) and ".." not in name.split("/"):
            return os.path.normpath(name)
    return ""


def _search(result: Discovery, options: Options, listed: list[Service], found: Found, users: _Users) -> None:
    """Add what stands in the directories of the services, of their databases, and in those that were named."""
    named = [settings.fixed_directory(pattern) for pattern in options.moved_files]
    places = {(directory, os.geteuid()) for directory in [*options.directories, *named]}
    for service in listed:
        of_databases = {
            os.path.dirname(found.databases[inode].path)
            for inode, by in users.items()
            if service in by and inode in found.databases
        }
        # A process that nobody manages says nothing by where it was started, and most units have nothing to do with us.
        is_ours = service.manager == PM2 or (service.manager == SYSTEMD and of_databases)
        # What is mounted into a container is what it works with, but for the system's own directories. Who is root in
        # it can make links there that root would follow.
        mounted = service.compose.mounts if service.compose and service.uid else ()
        of_databases |= {place for _, place in mounted if place.lstrip("/").partition("/")[0] not in _OF_THE_SYSTEM}
        places |= {(directory, service.uid) for directory in of_databases | ({service.directory} if is_ours else set())}
    searched = files.search((place for place in places if place[0] not in ("", "/")), options.limits)
    for inode, database in searched.databases.items():
        if not options.limits.leaves_out(database.path):
            found.add(database)
            for name in searched.aliases.get(inode, ()):
                found.add(database, name)
    result.unfinished = {told(directory): limit for directory, limit in searched.unfinished.items()}


def _at(path: str, uid: int) -> Database | None:
    """Return the database at a path, as a user may see it."""
    # A name that no file can have is a ValueError.
    with suppress(OSError, ValueError), rights_of(uid):
        return files.look(path)
    return None


# --- what they are ------------------------------------------------------------------------------


def _divide(result: Discovery, options: Options, found: Found, users: _Users) -> None:
    """Tell the databases that are moved from those that nobody uses, and name the cutover groups."""
    namer = Namer()
    for inode, database in sorted(found.databases.items(), key=lambda entry: entry[1].path):
        names = sorted((database.path, *found.aliases.get(inode, ())))
        what = "its name is not UTF-8, so that no inventory can name it"
        fix = "Give it another name, and run it again; or move what it holds by hand"
        result.problems += [Problem(told(name), what, fix) for name in names if not is_text(name)]
        if not is_text(database.path):
            continue
        aliases = tuple(name for name in sorted(found.aliases.get(inode, ())) if is_text(name))
        by = users.get(inode, {})
        if (by or options.moves(database)) and (database.size or database.log):
            name = namer.name(schema_name(os.path.basename(database.path).partition(".")[0]), "app")
            ordered = dict(sorted(by.items(), key=lambda entry: entry[0].name))
            result.sources.append(Source(database, name, aliases, ordered))
        else:
            result.legacy.append(Legacy(database, aliases, None if database.size or database.log else {}))
    for pattern in options.moved_files:
        if not any(fnmatch.fnmatch(source.database.path, pattern) for source in result.sources):
            what = "no SQLite file with anything in it is there, in no directory that is left out or out of reach"
            fix = "Write the path of the file itself, with no symlink in it; * and ? stand for any characters"
            result.problems.append(Problem(f"discover_move: {told(pattern)}", what, fix))


def _read(result: Discovery, options: Options) -> None:
    """Draft each source, and count what the others hold, as far as the limits allow."""
    work, deadline = options.work_directory, time.monotonic() + options.total_seconds
    for source in result.sources:
        uid = next((service.uid for service in source.users), source.database.owner)
        seconds = min(options.seconds, deadline - time.monotonic())
        if seconds <= 0:
            result.problems.append(_out_of_time(source.database.path, "it was not read", options))
            continue
        try:
            source.draft = reader.read_draft(source.database, uid, source.group, source.held, work, seconds)
        except MigrationError as error:
            result.problems += error.problems
    unused = [entry for entry in result.legacy if entry.rows is None]
    for number, entry in enumerate(unused):
        left = f"{len(unused) - number:,} of them were not read"
        if number == options.unused_files:
            what = f"{left}: the limit is {options.unused_files:,} files"
            fix = (
                "Raise discovery_unused_files, and run it again; or name what is no application's in discovery_left_out"
            )
            result.problems.append(Problem("files that nobody uses", what, fix))
            break
        seconds = min(options.seconds, deadline - time.monotonic())
        if seconds <= 0:
            result.problems.append(_out_of_time("files that nobody uses", left, options))
            break
        try:
            entry.rows = reader.read_counts(entry.database, entry.database.owner, work, seconds)
        except MigrationError as error:
            result.problems += error.problems


def _use_existing(result: Discovery, existing: Existing) -> None:
    """Map each source onto tables that are there."""
    mapped = map_onto({source.group: source.draft for source in result.sources if source.draft}, existing)
    for source in result.sources:
        source.draft = mapped.get(source.group)
    taken = {table["target"] for drafted in mapped.values() for table in drafted.tables}
    result.existing_schemas = existing.schemas
    result.unused_tables = tuple(name for name in existing.tables if name not in taken)


def _require_trial(options: Options) -> None:
    """Refuse to try what cannot be tried, before hours are spent on reading files.

    :raises MigrationError: if there is no server for it.
    """
    if options.login is None:
        fix = "Name how to log in as discovery_login"
        raise MigrationError("Nothing was discovered.", [Problem("discovery_login", "it is not given", fix)])
    if options.existing_schemas:
        what = "where applications have made the tables, there is no SQL to try"
        fix = "Leave it out; a dry run of the move compares with those tables"
        raise MigrationError("Nothing was discovered.", [Problem("discovery_try", what, fix)])
    if options.check_mode:
        scratch.require_right(options.login)
    else:
        scratch.require_place(options.login)


def _try_drafts(result: Discovery, options: Options, login: Login) -> None:
    """Let PostgreSQL make the drafted tables in a scratch database, and the engine say what it would refuse there."""
    drafted = [(source, source.draft) for source in result.sources if source.draft is not None]
    if not drafted:
        return
    with scratch.scratch_database(login) as place:
        with connected(place) as connection:
            refused = scratch.make_tables(connection, {source.group: draft.sql for source, draft in drafted})
        for source, draft in drafted:
            if source.group in refused:
                what = f"PostgreSQL does not take it: {refused[source.group]}"
                question = Problem("the file", what, "Correct it there")
                source.draft = replace(draft, questions=[*draft.questions, question])
                continue
            service = next(iter(source.users))
            work, seconds = options.work_directory, options.seconds
            try:
                with connected(place) as connection:
                    problems = reader.read_refusals(
                        source.database, service.uid, draft.mapping, source.held, connection, work, seconds
                    )
            except MigrationError as error:
                result.problems += error.problems
            else:
                source.draft = with_refusals(draft, problems)


def _out_of_time(where: str, what: str, options: Options) -> Problem:
    """Return the problem with what there was no time left for."""
    what = f"{what}: reading all files ended at its limit, {options.total_seconds:,.0f} seconds"
    return Problem(where, what, "Raise discovery_total_seconds, and run it again")


def _ports_of(service: Service) -> set[int]:
    """Return the ports that a service listens on; in pm2's cluster mode pm2 itself does so for it."""
    if service.manager == CONTAINER:
        return set(service.compose.ports) if service.compose else set()
    ports = set(_each(service.pids))
    if not ports and service.manager_pid:
        values: dict[str, str] = {}
        with suppress(MigrationError):
            values = open_files.environment_of(min(service.pids, default=0))
        for path in service.settings_files:
            values = {**settings.read(path, service.uid), **values}
        port = values.get("PORT", "")
        ports = {number for number in _each([service.manager_pid]) if str(number) == port}
    return ports


def _each(pids: frozenset[int] | list[int]) -> Iterator[int]:
    """Yield the ports of some processes."""
    for pid in pids:
        with suppress(MigrationError):
            yield from open_files.listening_ports(pid)


def _said(service: Service) -> str:
    """Return a service in words."""
    words = {PM2: "service", CONTAINER: "container", NOBODY: "process"}
    return f"{words.get(service.manager, 'unit')} {service.name} of user {service.user}"
