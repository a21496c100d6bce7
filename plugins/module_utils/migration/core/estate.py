"""The estate as the inventory describes it: cutover groups, their tables and their services.

One parser for every module, so that a mistake in the inventory is told in the same words
everywhere, all mistakes at once, before anything is touched.

Nested ``options`` of the modules' arguments would say less: Ansible looks at them when a module gets them, on a host
and after other modules have run, knows an entry of a list by nothing, and names no nearest key. The controller asks
this parser before any host is asked, and it knows the place of each key by the names around it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from .errors import MigrationError, Problem
from .files import UNIT_SETTINGS

REFUSE = "refuse"
DURATION_UNITS = ("microseconds", "milliseconds", "seconds", "minutes", "hours", "days")
EPOCH_UNITS = (
    # Since 1970.
    "seconds", "milliseconds", "microseconds",
    "julian_days",
    # Cocoa, Windows (a tick is 100 ns) and browsers, Mac OS, .NET, and spreadsheets (since 1899-12-30).
    "seconds_since_2001", "nanoseconds_since_2001", "ticks_since_1601", "microseconds_since_1601",
    "seconds_since_1904", "ticks_since_0001", "days_since_1899",
)  # fmt: skip

# What messages, and options that mean no source column, put before the name of a computed column.
COMPUTED = "computed "

# For each policy of a column: the answers it may have. The first is the default.
POLICIES: dict[str, tuple[str, ...]] = {
    # A foreign key whose row is missing, or that only SQLite finds: its columns may tell 'usd' from 'USD' no more.
    "orphan": (REFUSE, "as_parent", "set_null", "reject"),
    # A unique key of the target that an earlier row holds already.
    "duplicate": (REFUSE, "reject"),
    # Text that is not JSON, in a json or jsonb column.
    "invalid_json": (REFUSE, "as_json_string", "set_null", "reject"),
    # A JSON object that names a key twice, of which jsonb keeps the last.
    "repeated_key": (REFUSE, "keep_last", "set_null", "reject"),
    # A value that its type, which the engine does not know, writes otherwise: the type may have lost something of it.
    "rewritten": (REFUSE, "keep", "set_null", "reject"),
    # A character that PostgreSQL cannot hold: U+0000 in text or in JSON.
    "nul_character": (REFUSE, "remove", "reject"),
    # Bytes that are not UTF-8 in a text value.
    "invalid_utf8": (REFUSE, "replace", "reject"),
    # '' in a column that is not text.
    "empty_string": (REFUSE, "set_null", "reject"),
    # 8.5 in an integer column.
    "fraction": (REFUSE, "round", "reject"),
    # NULL where the target column is NOT NULL.
    "null_value": (REFUSE, "reject"),
    # A number or a time outside the range of the target's type.
    "out_of_range": (REFUSE, "set_null", "reject"),
    # A time with more digits of a second than the target's type holds.
    "sub_microsecond": (REFUSE, "round", "truncate", "set_null", "reject"),
    # A value that the target's type cannot hold and that no other policy names.
    "unconvertible": (REFUSE, "set_null", "reject"),
    # A source column with data and without a column in the target: keep it in the ledger.
    "without_target": (REFUSE, "keep"),
}


# What starts a service; with none of them a person does, by commands of the inventory.
PM2, SYSTEMD, COMPOSE, NONE = "pm2", "systemd", "compose", "none"
MANAGERS = (PM2, SYSTEMD, COMPOSE, NONE)
# Keys of a service that one manager alone knows, and who that is in words.
_KEYS_OF = {
    PM2: (("ecosystem_file", "pm2_home", "pm2_path"), "services under pm2"),
    COMPOSE: (("compose_project", "database_host", "client_network"), "services of docker compose"),
    NONE: (("start_command", "stop_command", "status_command"), "services with 'manager: none'"),
}
# How a word of a command gives away a secret: as an assignment, or within an address.
_SECRET_WORD = re.compile(r"(?i)(passw|secret|token|api_?key)[a-z_]*[=:]\S|://[^/@\s]*:[^/@\s]+@")
_OTHER_UNITS = (".socket", ".timer", ".path", ".target", ".mount", ".slice", ".scope", ".device", ".automount", ".swap")
_COMPOSE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_UNIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9:_.-]*(@[A-Za-z0-9:_.-]+)?\Z")

# What a template of a service's own setting may name, each in braces.
PLACEHOLDERS = ("host", "port", "database", "user", "password", "password_in_url", "url", "pool_size")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]*)\}")
_WRITTEN_BY_ROLE = ("DATABASE_URL", "DATABASE_POOL_SIZE")
_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

# What a role may do with a table or column. "write" includes "read".
RIGHTS = ("write", "read", "none")


def meant(name: str, known: Collection[str]) -> str:
    """Return the question whether the nearest of the known names was meant, empty if none is near."""
    alike = get_close_matches(name, list(known), n=1)
    return f"Did you mean '{alike[0]}'? " if alike else ""


@dataclass(frozen=True)
class ColumnOptions:
    """What the inventory says about one source column.

    :param target: name of the target column; the source's own name if not given.
    :param secret: never print a value of this column.
    :param references: namespace of the ids in this column where the target has no foreign key,
        for example ``auth.users``, or a name of your own such as ``tenants``.
    :param epoch_unit: unit of numbers in a time column; decided from the profile if not given.
    :param duration_unit: unit of the numbers in an interval column.
    :param time_zone: IANA name of the zone of times without one.
    :param sequence: ``schema.name`` of the sequence that feeds the target column, where no column
        owns it.
    :param rewrite_ids_of: for texts and JSON: the namespaces whose ids, where they stand in a value, are rewritten
        to the UUIDs that they become.
    :param policies: answer for each policy in :data:`POLICIES`.
    """

    name: str
    target: str
    secret: bool = False
    references: str | None = None
    epoch_unit: str | None = None
    duration_unit: str | None = None
    time_zone: str = "UTC"
    sequence: str | None = None
    rewrite_ids_of: tuple[str, ...] = ()
    policies: Mapping[str, str] = field(default_factory=dict)

    def policy(self, name: str) -> str:
        """Return the answer to one policy: what the inventory says, or the default."""
        return self.policies.get(name, REFUSE)


@dataclass(frozen=True)
class TableMapping:
    """Which source table goes to which target table.

    :param target: ``schema.table``.
    :param columns: options by source column; for those in ``computed`` by target column, with or without
        :data:`COMPUTED` before it.
    :param row_filter: SQL condition over the source's columns: only rows for which it is true are moved.
    :param computed: target column → SQL expression over the source's columns.
    :param back: target column that is computed → source column → SQL expression over the target column's name, which
        gives the source column's value for a row that was written in PostgreSQL.
    """

    source: str
    target: str
    columns: Mapping[str, ColumnOptions] = field(default_factory=dict)
    row_filter: str | None = None
    computed: Mapping[str, str] = field(default_factory=dict)
    back: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def target_schema(self) -> str:
        """Return the schema of the target table."""
        return self.target.partition(".")[0]

    @property
    def target_table(self) -> str:
        """Return the name of the target table without its schema."""
        return self.target.partition(".")[2]

    def options(self, column: str) -> ColumnOptions:
        """Return the options of a source column, or the defaults."""
        return self.columns.get(column) or ColumnOptions(column, column)


@dataclass(frozen=True)
class Service:
    """One service.

    :param name: its name in pm2, or of its unit of systemd; with ``manager: none`` any name.
    :param user: the system user whose pm2 runs it, whom its unit names, or as whom its commands are run.
    :param manager: what starts it, one of :data:`MANAGERS`.
    :param directory: its working directory, absolute.
    :param ecosystem_file: pm2's file for it, relative to ``directory`` or absolute.
    :param env_file: its dotenv file, or one that its unit names as ``EnvironmentFile=``, relative to ``directory`` or
        absolute; empty for a unit that gets a file of our own.
    :param database_role: the PostgreSQL role it logs in as.
    :param schemas: the schemas whose tables it may read and write.
    :param rights: ``schema``, ``schema.table`` or ``schema.table.column`` → one of :data:`RIGHTS`, where that differs.
    :param migrates_itself: whether its role owns these schemas, which are its alone, from its cutover on.
    :param health_url: an address that answers 200 when the service works.
    :param query_url: an address that answers 200 and asks the database for it, where ``health_url`` does not; empty if
        it does.
    :param pool_size: most connections it opens.
    :param pm2_home: directory of the pm2 that runs it, its ``PM2_HOME``; found by itself if empty.
    :param pm2_path: directories with the programs pm2 and node, separated by colons; found by themselves if empty.
    :param shared_library: whether it depends on the library that we build; None if its ``package.json`` tells.
    :param settings: keys of its own beside ours → template of the value on PostgreSQL, see :data:`PLACEHOLDERS`.
    :param compose_project: name of the project of docker compose that it belongs to.
    :param database_host: address of the server as its container reaches it; empty if that is the other services' too.
    :param client_network: network of this host that its container connects from, which the server admits, or empty.
    :param start_command: program, by its absolute path, and arguments that start it, where no manager does.
    :param stop_command: those that stop it.
    :param status_command: those that print the ids of its processes; empty to take those that listen on its port.
    """

    name: str
    user: str
    directory: str
    database_role: str
    schemas: tuple[str, ...]
    health_url: str
    ecosystem_file: str = "ecosystem.config.js"
    env_file: str = ".env"
    pool_size: int = 5
    # A service is a key of mappings and a member of sets, which a mapping in it must not prevent.
    rights: Mapping[str, str] = field(default_factory=dict, hash=False)
    query_url: str = ""
    shared_library: bool | None = None
    pm2_home: str = ""
    pm2_path: str = ""
    manager: str = PM2
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    compose_project: str = ""
    database_host: str = ""
    client_network: str = ""
    start_command: tuple[str, ...] = ()
    stop_command: tuple[str, ...] = ()
    status_command: tuple[str, ...] = ()
    migrates_itself: bool = False

    @property
    def env_path(self) -> str:
        """Return the absolute path of the file that holds its settings."""
        if self.manager == SYSTEMD and not self.env_file:
            return str(PurePosixPath(UNIT_SETTINGS) / f"{self.unit}.env")
        return str(PurePosixPath(self.directory) / self.env_file)

    @property
    def unit(self) -> str:
        """Return the name of its unit of systemd."""
        return self.name if self.name.endswith(".service") else f"{self.name}.service"

    @property
    def ecosystem_path(self) -> str:
        """Return the absolute path of pm2's ecosystem file."""
        return str(PurePosixPath(self.directory) / self.ecosystem_file)


@dataclass(frozen=True)
class Group:
    """A cutover group: one source, and the services that open it. They move together.

    :param source_path: the SQLite file.
    :param aliases: the symlinks that lead to it.
    :param ignored_tables: source tables that are left behind on purpose.
    :param owner: the system user who owns the file, where no service tells; empty for the user who runs this.
    """

    name: str
    source_path: str
    tables: tuple[TableMapping, ...]
    services: tuple[Service, ...] = ()
    aliases: tuple[str, ...] = ()
    ignored_tables: tuple[str, ...] = ()
    owner: str = ""

    @property
    def users(self) -> tuple[str, ...]:
        """Return the system users of the services, or the owner that the inventory names; one owns the SQLite file."""
        return tuple(dict.fromkeys([*(service.user for service in self.services), *filter(None, [self.owner])]))


@dataclass(frozen=True)
class Access:
    """What the roles of the services may do with the tables of the estate, put together from all services.

    :param schemas: role → the schemas whose tables it may use.
    :param rights: role → ``schema``, ``schema.table`` or ``schema.table.column`` → one of :data:`RIGHTS`.
    :param tables: cutover group → its target tables: no service writes to them while SQLite is the group's store.
    :param roles: cutover group → the roles of its services.
    :param owners: role → the schemas that it owns from its cutover on, because its service migrates itself.
    """

    schemas: Mapping[str, Sequence[str]]
    rights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tables: Mapping[str, Sequence[str]] = field(default_factory=dict)
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    owners: Mapping[str, Sequence[str]] = field(default_factory=dict)


def access_of(groups: Iterable[Group]) -> Access:
    """Return what the services of some groups may do."""
    groups = list(groups)
    services = [service for group in groups for service in group.services]
    schemas: dict[str, set[str]] = {}
    for service in services:
        schemas.setdefault(service.database_role, set()).update(service.schemas)
    return Access(
        schemas={role: sorted(names) for role, names in sorted(schemas.items())},
        rights=rights_by_role(services),
        tables={group.name: sorted({mapping.target for mapping in group.tables}) for group in groups},
        roles={group.name: sorted({service.database_role for service in group.services}) for group in groups},
        owners={service.database_role: sorted(service.schemas) for service in services if service.migrates_itself},
    )


class _Reader:
    """Reads keys out of one mapping and collects every problem instead of raising the first."""

    def __init__(self, where: str, data: Any, problems: list[Problem], known: tuple[str, ...]) -> None:
        self.where = where
        self.problems = problems
        self.data: Mapping[str, Any] = {}
        if not isinstance(data, Mapping):
            self.complain(f"is {type(data).__name__}, not a mapping", "See inventory/group_vars/all/estate.yml")
            return
        self.data = data
        for key in data:
            if key not in known:
                self.complain(f"has an unknown key '{key}'", f"{meant(str(key), known)}Known keys: {', '.join(known)}")

    def complain(self, what: str, fix: str) -> None:
        """Note one problem of this mapping."""
        self.problems.append(Problem(self.where, what, fix))

    def text(self, key: str, default: str | None = None, check: Callable[[str], bool] | None = None) -> str:
        """Return a string; note a problem if it is missing or does not pass ``check``."""
        value = self.data.get(key, default)
        if not isinstance(value, str) or not value or (check is not None and not check(value)):
            self.complain(f"'{key}' is missing or not valid: {value!r}", f"Set '{key}'")
            return ""
        return value

    def boolean(self, key: str, default: bool = False) -> bool:
        """Return a boolean; note a problem if it is anything else."""
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            self.complain(f"'{key}' is {value!r}", "Write true or false, without quotes")
            return default
        return value

    def integer(self, key: str, default: int) -> int:
        """Return a positive integer; note a problem if it is anything else."""
        value = self.data.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.complain(f"'{key}' is {value!r}", "Write a whole number above 0")
            return default
        return value

    def list(self, key: str) -> list[Any]:
        """Return a list, empty if the key is absent; note a problem if it is anything else."""
        value = self.data.get(key) or []
        if not isinstance(value, list):
            self.complain(f"'{key}' is {type(value).__name__}", "Write a list")
            return []
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """Return a mapping, empty if the key is absent; note a problem if it is anything else."""
        value = self.data.get(key) or {}
        if not isinstance(value, Mapping):
            self.complain(f"'{key}' is {type(value).__name__}", "Write a mapping")
            return {}
        return value

    def choice(self, key: str, choices: tuple[str, ...], default: str | None) -> str | None:
        """Return one of ``choices``, or ``default`` if the key is absent."""
        value = self.data.get(key, default)
        if value is not default and value not in choices:
            self.complain(f"'{key}' is {value!r}", f"Choose one of {', '.join(choices)}")
            return default
        return None if value is None else str(value)


def parse_group(data: Any) -> Group:
    """Return the cutover group that one entry of ``estate_cutover_groups`` describes.

    :raises MigrationError: listing every mistake in the entry.
    """
    problems: list[Problem] = []
    name = data.get("name") if isinstance(data, Mapping) else None
    where = f"estate_cutover_groups: {name or 'an entry without a name'}"
    reader = _Reader(where, data, problems, ("name", "source", "tables", "services", "ignored_tables"))
    group_name = reader.text("name")
    source = _Reader(f"{where}: source", reader.mapping("source"), problems, ("path", "aliases", "owner"))
    source_path = source.text("path", check=_is_absolute)
    aliases = tuple(str(alias) for alias in source.list("aliases"))
    tables = tuple(_parse_table(where, entry, problems) for entry in reader.list("tables"))
    services = tuple(_parse_service(where, entry, problems) for entry in reader.list("services"))
    ignored = tuple(str(table) for table in reader.list("ignored_tables"))
    owner = source.text("owner") if "owner" in source.data else ""
    if owner and services:
        source.complain("'owner' is for a group without services", "Take it out: a user of the services owns the file")
    for kind, names in (
        ("source table", [table.source for table in tables] + list(ignored)),
        ("target table", [table.target for table in tables]),
        ("service", [service.unit if service.manager == SYSTEMD else service.name for service in services]),
    ):
        for duplicate in sorted({entry for entry in names if entry and names.count(entry) > 1}):
            reader.complain(f"{kind} '{duplicate}' is named twice", "Name each once")
    if problems:
        raise MigrationError("The inventory's description of the estate is not valid.", problems)
    return Group(group_name, source_path, tables, services, aliases, ignored, owner)


def _is_absolute(path: str) -> bool:
    """Return whether a path is absolute and free of ``..``."""
    return path.startswith("/") and ".." not in path.split("/")


def _is_network(text: str) -> bool:
    """Return whether a text is a network as pg_hba.conf takes it, and not all addresses."""
    try:
        return ipaddress.ip_network(text).prefixlen > 0 and "/" in text
    except ValueError:
        return False


def _are_absolute(paths: str) -> bool:
    """Return whether every path of a list that is separated by colons is absolute and free of ``..``."""
    return all(map(_is_absolute, paths.split(":")))


def _is_address(url: str) -> bool:
    """Return whether a text begins as the address of a service does."""
    return url.startswith(("http://", "https://"))


def _parse_table(where: str, data: Any, problems: list[Problem]) -> TableMapping:
    """Return one entry of a group's ``tables``."""
    source = data.get("source") if isinstance(data, Mapping) else None
    where = f"{where}: table {source or 'without a source'}"
    reader = _Reader(where, data, problems, ("source", "target", "columns", "row_filter", "computed"))
    computed = {
        str(column): _parse_computed(f"{where}: computed: {column}", entry, problems)
        for column, entry in reader.mapping("computed").items()
    }
    columns = {
        str(column): _parse_column(f"{where}.{column}", str(column), options, problems, computed)
        for column, options in reader.mapping("columns").items()
    }
    target = reader.text("target")
    if target and not (target.count(".") == 1 and all(target.split("."))):
        reader.complain(
            f"'target' is {target!r}",
            "Write schema.table with one dot; names that hold a dot themselves cannot be used",
        )
    return TableMapping(
        source=reader.text("source"),
        target=target,
        columns=columns,
        row_filter=reader.text("row_filter") if "row_filter" in reader.data else None,
        computed={column: _parse_expression(reader, column, entry["from"]) for column, entry in computed.items()},
        back={
            column: _parse_back(reader, column, entry["back"]) for column, entry in computed.items() if "back" in entry
        },
    )


def _parse_computed(where: str, entry: Any, problems: list[Problem]) -> dict[str, Any]:
    """Return an entry of ``computed`` as a mapping: its expression may have its inverse beside it, or stand alone."""
    if not isinstance(entry, Mapping):
        return {"from": entry}
    return {"from": None, **_Reader(where, entry, problems, ("from", "back")).data}


def _parse_back(reader: _Reader, column: str, back: Any) -> dict[str, str]:
    """Return source column → SQL: an expression alone is for the source column of the same name."""
    entries = back if isinstance(back, Mapping) else {column: back}
    return {
        str(source): _parse_expression(reader, f"{column}: back: {source}", expression)
        for source, expression in entries.items()
    }


def _parse_expression(reader: _Reader, column: str, expression: Any) -> str:
    """Return the SQL of one entry of ``computed``: an expression, or a constant that YAML has read as such."""
    if isinstance(expression, str) and expression.strip():
        return expression
    if isinstance(expression, (bool, int, float)):
        return repr(int(expression) if isinstance(expression, bool) else expression)
    reader.complain(
        f"'computed: {column}' is {expression!r}",
        'Write an expression of SQLite over the source\'s columns, for example "lower(mail)", "\'web\'" or "NULL"',
    )
    return "NULL"


def _parse_column(
    where: str, name: str, data: Any, problems: list[Problem], computed: Collection[str]
) -> ColumnOptions:
    """Return the options of one source column, or of one that the table's ``computed`` make."""
    own = name.removeprefix(COMPUTED)
    known = (
        "target", "secret", "references", "epoch_unit", "duration_unit", "time_zone", "sequence", "rewrite_ids_of",
        *POLICIES,
    )  # fmt: skip
    reader = _Reader(where, data, problems, known)
    policies = {}
    for policy, answers in POLICIES.items():
        answer = reader.choice(policy, answers, None)
        if answer is not None:
            policies[policy] = answer
    return ColumnOptions(
        name=name,
        target=reader.text("target", default=own if own in computed else name),
        secret=reader.boolean("secret"),
        references=reader.text("references") if "references" in reader.data else None,
        epoch_unit=reader.choice("epoch_unit", EPOCH_UNITS, None),
        duration_unit=reader.choice("duration_unit", DURATION_UNITS, None),
        time_zone=_parse_time_zone(reader),
        sequence=reader.text("sequence") if "sequence" in reader.data else None,
        rewrite_ids_of=_parse_names(reader, "rewrite_ids_of"),
        policies=policies,
    )


def _parse_names(reader: _Reader, key: str) -> tuple[str, ...]:
    """Return a list of names, each once."""
    entries = reader.list(key)
    if not all(isinstance(entry, str) and entry for entry in entries):
        reader.complain(f"'{key}' is {entries!r}", "Write a list of names, for example [auth.agents]")
        return ()
    return tuple(dict.fromkeys(entries))


def _parse_time_zone(reader: _Reader) -> str:
    """Return the name of a time zone that this host knows."""
    name = reader.text("time_zone", default="UTC")
    if name not in ("", "UTC"):
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            reader.complain(f"'time_zone' is {name!r}, which is not known here", "Write a name such as Europe/Berlin")
    return name


def _parse_service(where: str, data: Any, problems: list[Problem]) -> Service:
    """Return one entry of a group's ``services``."""
    name = data.get("name") if isinstance(data, Mapping) else None
    known = (
        "name",
        "user",
        "directory",
        "ecosystem_file",
        "env_file",
        "database_role",
        "schemas",
        "rights",
        "migrates_itself",
        "health_url",
        "query_url",
        "pool_size",
        "shared_library",
        "manager",
        "pm2_home",
        "pm2_path",
        "settings",
        "compose_project",
        "database_host",
        "client_network",
        "start_command",
        "stop_command",
        "status_command",
    )
    reader = _Reader(f"{where}: service {name or 'without a name'}", data, problems, known)
    schemas = tuple(str(schema) for schema in reader.list("schemas"))
    if not schemas:
        reader.complain("'schemas' is empty", "List the schemas whose tables this service may use")
    manager = _parse_manager(reader)
    return Service(
        name=reader.text("name"),
        user=reader.text("user"),
        directory=reader.text("directory", check=_is_absolute),
        database_role=reader.text("database_role"),
        schemas=schemas,
        rights=_parse_rights(reader, schemas),
        migrates_itself=reader.boolean("migrates_itself"),
        health_url=reader.text("health_url", check=_is_address),
        query_url=reader.text("query_url", check=_is_address) if "query_url" in reader.data else "",
        ecosystem_file=reader.text("ecosystem_file", default="ecosystem.config.js"),
        env_file=_parse_env_file(reader, manager),
        manager=manager,
        pool_size=reader.integer("pool_size", 5),
        pm2_home=reader.text("pm2_home", check=_is_absolute) if "pm2_home" in reader.data else "",
        pm2_path=reader.text("pm2_path", check=_are_absolute) if "pm2_path" in reader.data else "",
        shared_library=reader.boolean("shared_library") if "shared_library" in reader.data else None,
        settings=_parse_settings(reader),
        compose_project=reader.text("compose_project", check=_is_compose_name) if manager == COMPOSE else "",
        database_host=reader.text("database_host") if "database_host" in reader.data else "",
        client_network=reader.text("client_network", check=_is_network) if "client_network" in reader.data else "",
        start_command=_parse_command(reader, "start_command", manager == NONE),
        stop_command=_parse_command(reader, "stop_command", manager == NONE),
        status_command=_parse_command(reader, "status_command", "status_command" in reader.data),
    )


def _parse_manager(reader: _Reader) -> str:
    """Return what starts a service, and note what does not belong to that."""
    manager = reader.data.get("manager", PM2)
    if manager not in MANAGERS:
        fix = f"{meant(str(manager), MANAGERS)}Choose one of {', '.join(MANAGERS)}; no others are supported yet"
        if manager is None:
            fix = f"{fix}. YAML reads null and ~ as nothing: write the word none"
        reader.complain(f"'manager' is {manager!r}", fix)
        return PM2
    for other, (keys, whose) in _KEYS_OF.items():
        for key in keys if other != manager else ():
            if key in reader.data:
                reader.complain(f"'{key}' is for {whose}, and its manager is {manager}", "Take it out")
    if manager == COMPOSE and not _is_compose_name(str(reader.data.get("name", "x"))):
        reader.complain(f"'name' is {reader.data['name']!r}", "Write the service's name in the compose file")
    if manager == SYSTEMD:
        name = str(reader.data.get("name", ""))
        what, fix = problem_of_unit(name) if name else ("", "")
        if what:
            reader.complain(f"'name' is {name!r}, {what}", fix)
    return str(manager)


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """Return a template of a service's own setting with its placeholders filled; all other braces stay."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), template)


def is_own_setting(key: str) -> bool:
    """Return whether a key can be one of a service's own ``settings``: the role does not write it itself."""
    return bool(_SETTING.match(key)) and not key.startswith("PG") and key not in _WRITTEN_BY_ROLE


def _parse_settings(reader: _Reader) -> dict[str, str]:
    """Return a service's own keys with the templates of their values, which may hold a secret and are not told."""
    settings = {}
    for key, template in reader.mapping("settings").items():
        if not isinstance(key, str) or not _SETTING.match(key):
            reader.complain(f"'settings: {key}' is no name of a variable", "Write letters, digits and underscores")
        elif key.startswith("PG") or key in _WRITTEN_BY_ROLE:
            fix = "Take it out, or give the service a role, a pool_size or a database_host that makes it so"
            reader.complain(f"'settings: {key}' is written by the role itself", fix)
        elif not isinstance(template, str):
            reader.complain(f"'settings: {key}' is no text", "Write it in quotes")
        else:
            for name in _PLACEHOLDER.findall(template):
                if name not in PLACEHOLDERS:
                    fix = f"{meant(name, PLACEHOLDERS)}Known: {', '.join(f'{{{entry}}}' for entry in PLACEHOLDERS)}"
                    reader.complain(f"'settings: {key}' names {{{name}}}", fix)
            settings[key] = template
    return settings


def _is_compose_name(name: str) -> bool:
    """Return whether a text can name a project or a service of docker compose."""
    return _COMPOSE_NAME.match(name) is not None


def _parse_env_file(reader: _Reader, manager: str) -> str:
    """Return the file that holds a service's settings; only a unit of systemd gets one of ours if none is named."""
    if "env_file" in reader.data or manager not in (SYSTEMD, COMPOSE):
        return reader.text("env_file", default=".env")
    if manager == COMPOSE:
        fix = "Name the file that its compose file names as env_file; add one there, even empty, if there is none"
        reader.complain("'env_file' is missing", fix)
    return ""


def _parse_command(reader: _Reader, key: str, wanted: bool) -> tuple[str, ...]:
    """Return the words of a service's command, empty if it has none; a word may be a secret, so none is told."""
    words = reader.data.get(key)
    if not wanted:
        return ()
    advice = (
        "Write its program by its absolute path and each argument as a list, for example [/opt/shop/bin/control, up]"
    )
    what, fix = "", advice
    if words is None:
        what = "is missing"
    elif isinstance(words, str):
        what, fix = "is one text, and no shell divides it into words", advice
    elif not isinstance(words, list) or not words or not all(isinstance(word, str) and word for word in words):
        what, fix = "is no list of words", f"{advice}; write a number in quotes"
    elif not _is_absolute(words[0]):
        what = "does not begin with the absolute path of a program"
    elif any("\0" in word for word in words):
        what, fix = "holds a NUL character", "Take it out"
    elif any(_SECRET_WORD.search(word) for word in words):
        what = "seems to hold a secret, and everybody on the host may read a command line"
        fix = "Put the secret into 'env_file', or into a file that the program reads, and take it out here"
    if what:
        reader.complain(f"'{key}' {what}", fix)
        return ()
    return tuple(words or ())


def problem_of_unit(name: str) -> tuple[str, str]:
    """Return why a name cannot be that of a service's unit of systemd, and how to correct it; else two empty texts."""
    unit = name.removesuffix(".service")
    if unit.endswith("@"):
        fix = f"Name an instance of it, for example {unit}one, each as a service of its own"
        return "a template of units, which nothing can start", fix
    if not _UNIT.match(unit):
        return "which is no unit of systemd that can be moved", "Write its name without a path, or rename the unit"
    if unit.endswith(_OTHER_UNITS):
        return "which is no service", "Name the service itself; what starts it is stopped and started with it"
    return "", ""


def _parse_rights(reader: _Reader, schemas: Collection[str]) -> dict[str, str]:
    """Return the rights of one service that differ from reading and writing all tables of its schemas."""
    rights = {}
    for name, word in reader.mapping("rights").items():
        parts = str(name).split(".")
        if not all(parts) or len(parts) > 3:
            reader.complain(f"'rights: {name}' names no table", "Write schema, schema.table or schema.table.column")
        elif parts[0] not in schemas:
            fix = f"{meant(parts[0], schemas)}It may use: {', '.join(schemas)}"
            reader.complain(f"'rights: {name}' is in a schema that is not among its 'schemas'", fix)
        if word not in RIGHTS:
            fix = f"{meant(str(word), RIGHTS)}Choose one of {', '.join(RIGHTS)}"
            reader.complain(f"'rights: {name}' is {word!r}", fix)
        rights[str(name)] = str(word)
    return rights


def rights_by_role(services: Iterable[Service]) -> dict[str, dict[str, str]]:
    """Return role → rights of the services that log in as it; see :func:`widest_rights`."""
    return widest_rights(
        {"database_role": service.database_role, "schemas": service.schemas, "rights": service.rights}
        for service in services
    )


def widest_rights(services: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Return role → rights of the services that log in as it, where they differ from writing everything.

    A role that services share may do what any of them needs: a service that says nothing of a table may write to it.

    :param services: for each its ``database_role``, ``schemas`` and ``rights``.
    """
    by_role: dict[str, list[Mapping[str, Any]]] = {}
    for service in services:
        by_role.setdefault(service["database_role"], []).append(service)
    result: dict[str, dict[str, str]] = {}
    for role, own in by_role.items():
        names = dict.fromkeys(name for service in own for name in service.get("rights") or {})
        result[role] = {}
        for name in names:
            words = [_word_on(service, name) for service in own if name.split(".")[0] in service["schemas"]]
            # RIGHTS begins with the widest.
            result[role][name] = min(words, key=RIGHTS.index)
    return result


def _word_on(service: Mapping[str, Any], name: str) -> str:
    """Return the word that holds for a service on a schema, table or column: its own, or that of what it lies in."""
    rights = service.get("rights") or {}
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in rights:
            return str(rights[".".join(parts[:length])])
    return RIGHTS[0]
