"""What was found, as the files of a draft: the inventory, the SQL, and the page that explains them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..core.commands import playbook
from ..core.errors import Problem
from ..core.estate import COMPOSE, NONE, is_own_setting, problem_of_unit
from ..core.migration_tools import tool_of
from ..draft import mapping, page
from ..draft.mapping import scalar
from ..draft.names import printable, schema_name
from ..draft.page import cell
from ..host import open_files
from ..host.compose_services import Described
from .discover import Discovery, Legacy, Source, Use
from .services import CONTAINER, NOBODY, PM2, SYSTEMD, Service

ESTATE_FILE = "inventory/group_vars/all/estate.yml"
PAGE_FILE = "README.md"
# One line for each thing that was found, without anything that changes while services only write rows.
FACTS_FILE = "facts.txt"
# Stands in the draft where applications have made the tables themselves.
NO_SQL_FILE = "inventory/group_vars/all/sql.yml"
NO_SQL = (
    '---\n# The applications make their tables themselves: this project applies no SQL.\nschema_apply_directory: ""\n'
)
# The variables that the inventory of a draft has.
ESTATE_KEYS = ("estate_name", "estate_cutover_groups", "estate_legacy_files")
# What follows "sqlite" in a URL of SQLAlchemy → what follows "postgresql" for a program that is written alike.
_DRIVERS = {"": "", "pysqlite": "", "aiosqlite": "+asyncpg"}
_DEFAULT_ECOSYSTEM_FILE = "ecosystem.config.js"


def files(found: Discovery, host: str) -> dict[str, str]:
    """Return the text of each file of the draft by its name.

    :param host: its name in the inventory.
    """
    decisions = list(_decisions(found))
    written = {
        ESTATE_FILE: "\n".join(_estate_lines(found, host)) + "\n",
        PAGE_FILE: "\n".join(_page_lines(found, host, decisions)) + "\n",
        FACTS_FILE: "\n".join(sorted(_facts(found, decisions))) + "\n",
    }
    if found.existing_schemas:
        written[NO_SQL_FILE] = NO_SQL
        return written
    for source, name in _sql_files(found):
        if source.draft is not None:
            written[name] = source.draft.sql
    return written


def summary(found: Discovery) -> dict[str, Any]:
    """Return what was found as plain data."""
    group_of = _groups_of_services(found)
    return {
        "sources": [
            {
                "group": source.group,
                "path": source.database.path,
                "device": source.database.inode[0],
                "inode": source.database.inode[1],
                "aliases": list(source.aliases),
                "size_bytes": source.database.size,
                "log_bytes": source.database.log,
                "services": [service.name for service in source.users],
                "found_by": list(_evidence(source)),
                "rows": sum(table["rows"] for table in source.draft.tables) if source.draft else None,
            }
            for source in found.sources
        ],
        "legacy": [
            {
                "path": entry.database.path,
                "aliases": list(entry.aliases),
                "size_bytes": entry.database.size,
                "log_bytes": entry.database.log,
                "tables": entry.rows,
            }
            for entry in found.legacy
        ],
        "services": [
            {
                "manager": service.manager,
                "name": service.name,
                "user": service.user,
                "directory": service.directory,
                "settings_files": list(service.settings_files),
                "instances": service.instances,
                "ports": list(address.ports),
                "health_url": address.health_url,
                "group": group_of[service],
            }
            for service, address in found.addresses.items()
        ],
        "decisions": [{"where": entry.where, "what": entry.what, "fix": entry.fix} for entry in _decisions(found)],
    }


def _groups_of_services(found: Discovery) -> dict[Service, str]:
    """Return the cutover group in which each service stands: the first that it has a part in."""
    result: dict[Service, str] = {}
    for source in found.sources:
        for service in source.users:
            result.setdefault(service, source.group)
    return result


def _sql_files(found: Discovery) -> Iterator[tuple[Source, str]]:
    """Yield each source with the name of its SQL file."""
    for number, source in enumerate(found.sources, 1):
        yield source, f"sql/{number:03}_{source.group}.sql"


def _evidence(source: Source) -> Iterator[str]:
    """Yield how each service is known to use a source."""
    if not source.users:
        yield "discover_move names it"
    for service, use in source.users.items():
        if use.held:
            yield f"{service.name} has it open"
        yield from (f"{service.name} names it: {key}" for key in sorted(use.keys))


def _also_moved(found: Discovery, entry: Legacy) -> str:
    """Return the patterns of the files to be moved, with one that no service uses."""
    return ",".join(filter(None, (found.asked.get("discover_move", ""), entry.database.path)))


# --- decisions ----------------------------------------------------------------------------------


def _decisions(found: Discovery) -> Iterator[Problem]:
    """Yield everything that only a person can tell, each with its place in the draft."""
    for source, name in _sql_files(found):
        if source.draft is None:
            what = f"{source.database.path} could not be read, so nothing is drafted for it"
            yield Problem(_place(source.group), what, f"See why below, then run it again: {playbook('discover')}")
            continue
        place = f"{_place(source.group)}, tables" if found.existing_schemas else name
        yield from (Problem(f"{place}: {entry.where}", entry.what, entry.fix) for entry in source.draft.questions)
        for service in source.users:
            yield from _decisions_of(found, source, service)
    for entry in found.legacy:
        if entry.rows and any(entry.rows.values()):
            what = f"{entry.database.path} holds {_rows(entry)}, and no service that we know uses it"
            command = playbook("discover", **{**found.asked, "discover_move": _also_moved(found, entry)})
            fix = f"Leave it there to be archived by the cleanup; move it too: {command}; or take the line out"
            yield Problem(f"{ESTATE_FILE}: estate_legacy_files", what, fix)
    for directory, limit in sorted(found.unfinished.items()):
        what = f"the search of {directory} ended at its limit, {limit}: there may be more"
        yield Problem(ESTATE_FILE, what, "Raise discovery_search_depth or discovery_search_entries, and run it again")
    yield from (Problem(f"{ESTATE_FILE}: {problem.where}", problem.what, problem.fix) for problem in found.problems)


def _decisions_of(found: Discovery, source: Source, service: Service) -> Iterator[Problem]:
    """Yield what only a person can tell of a service."""
    place = _place(source.group, service)
    if _groups_of_services(found)[service] != source.group:
        group = _groups_of_services(found)[service]
        what = f"it uses this source too, and can only move with one group, which is {group}"
        yield Problem(place, what, "Move the tables of both sources in one window, or split the service")
        return
    if service.manager == SYSTEMD and not _is_moved(service):
        what = f"its unit {service.name} {problem_of_unit(service.name)[0]}, so it stands there as a comment"
        yield Problem(place, what, "Give the unit another name, or stop, switch and start it by hand")
    elif service.compose:
        yield from _decisions_of_compose(place, service, service.compose)
    elif service.manager == NOBODY:
        what = "no manager that we know runs it, so it stands there as a comment until its commands are named"
        fix = (
            "Name what starts and stops it as 'start_command' and 'stop_command', each as a list that begins with an "
            "absolute path, and take the comment signs away; or run it under pm2 or systemd; or leave it there, and "
            "stop and switch it by hand"
        )
        yield Problem(place, what, fix)
    elif not _is_moved(service):
        whose = {CONTAINER: "a container's engine"}.get(service.manager, service.manager)
        what = f"it runs under {whose}, and no such services are moved yet, so it stands as a comment"
        yield Problem(place, what, "Stop, switch and start it by hand, or run it under pm2 or systemd")
    address = found.addresses[service]
    if not address.health_url:
        tried = f"asked on port {', '.join(map(str, address.ports))}" if address.ports else "it listens on no port"
        what = f"no health address answered 200 ({tried})"
        yield Problem(f"{place}.health_url", what, "Name an address that answers 200 when the service works")
    elif urlsplit(address.health_url).path == "/":
        what = "only / answered 200, which may be a page that does not need the database"
        yield Problem(f"{place}.health_url", what, "Name an address that answers 200 when the service works")
    if not source.users[service].held:
        what = f"its settings name {source.database.path}, and none of its processes has that open"
        yield Problem(place, what, "Find out whether it still uses the file; if not, take the service out")
    if service.manager == PM2 and not service.ecosystem_file:
        what = f"{service.directory} holds no ecosystem file, without which pm2 cannot start it anew"
        yield Problem(f"{place}.ecosystem_file", what, "Name the file from which pm2 starts it, or write one")
    # A unit gets its settings beside its own files.
    if len(service.settings_files) > 1 and service.manager != SYSTEMD:
        what = f"it has several files of settings: {', '.join(service.settings_files)}"
        yield Problem(f"{place}.env_file", what, "Name the one that the connection is to be written to")


def _decisions_of_compose(place: str, service: Service, said: Described) -> Iterator[Problem]:
    """Yield what only a person can tell of a service of docker compose."""
    name = service.name
    if not service.settings_files:
        what = f"no env_file of it could be read from the files of the docker compose project {said.project}"
        fix = (
            "Name the file that its compose file names as env_file (add one there, even empty, if there is none, and "
            f"run docker compose up -d {name}) as 'env_file' of the service, and take the comment signs away"
        )
        yield Problem(place, what, fix)
    if service.user.isdecimal():
        what = f"its process has user id {service.user}, and this host has no user of that id"
        fix = f"Make one (useradd --system --uid {service.user} NAME), and discover the host again"
        yield Problem(f"{place}.user", what, fix)
    if said.fixed_keys:
        keys = ", ".join(said.fixed_keys)
        what = f"its compose file or its image sets {keys}, which would lead it elsewhere than its env_file"
        yield Problem(place, what, f"Move that to its env_file, and run docker compose up -d {name}")
    if not said.reaches_this_host:
        networks = ", ".join(said.networks) or "another container's"
        what = f"its network ({networks}) has no IPv4 gateway, by which its container would reach this host"
        fix = (
            "Name an address of the server that its container reaches as 'database_host' of the service, and the "
            "network that it connects from as its 'client_network'"
        )
        yield Problem(f"{place}.database_host", what, fix)


def _place(group: str, service: Service | None = None) -> str:
    """Return where a group or a service stands in the drafted inventory."""
    return f"{ESTATE_FILE}: {group}" + (f", services, {service.name}" if service else "")


# --- the inventory ------------------------------------------------------------------------------


def _estate_lines(found: Discovery, host: str) -> Iterator[str]:
    """Yield the lines of the estate's description."""
    yield "---"
    yield f"# Drafted from what stands on {printable(host)}. A person reads it before it is used:"
    yield mapping.ANSWERS_ARE_COMMENTS
    yield "# DECIDE marks what only a person can tell; the page beside the draft lists it all."
    yield f"estate_name: {scalar(schema_name(host))}"
    yield ""
    yield "estate_cutover_groups:" if any(source.draft for source in found.sources) else "estate_cutover_groups: []"
    for source in found.sources:
        if source.draft is None:
            yield f"  # DECIDE: {_comment(source.database.path)} could not be read."
            continue
        entry = dict(source.draft.mapping)
        entry["source"] = {**entry["source"], "aliases": list(source.aliases)}
        if not _services_of(found, source) and source.database.owner != os.geteuid():
            entry["source"]["owner"] = open_files.user_name(source.database.owner)
        yield from mapping.group_lines(entry, source.draft.choices, source.draft.notes)
        yield from _service_lines(found, source)
    yield ""
    yield "# Files that no service uses."
    yield "estate_legacy_files:" if found.legacy else "estate_legacy_files: []"
    for legacy in found.legacy:
        yield f"  # {_rows(legacy)}"
        yield f"  - {scalar(legacy.database.path)}"


def _service_lines(found: Discovery, source: Source) -> Iterator[str]:
    """Yield the lines of the services of a group."""
    ours = _services_of(found, source)
    yield "    services:" if ours else "    services: []"
    for service in source.users:
        decisions = list(_decisions_of(found, source, service))
        yield from (f"      # DECIDE: {_comment(entry.what)}." for entry in decisions)
        lines = list(_lines_of(found, source, service))
        yield from (f"      {line}" if service in ours else f"      # {line}" for line in lines)


def _services_of(found: Discovery, source: Source) -> list[Service]:
    """Return the services that move with a source."""
    groups = _groups_of_services(found)
    return [service for service in source.users if _is_moved(service) and groups[service] == source.group]


def _is_moved(service: Service) -> bool:
    """Return whether a service can be moved by the manager that it has."""
    if service.compose:
        return bool(service.settings_files and service.directory) and not service.user.isdecimal()
    return service.manager == PM2 or (service.manager == SYSTEMD and not problem_of_unit(service.name)[0])


def _lines_of(found: Discovery, source: Source, service: Service) -> Iterator[str]:
    """Yield the lines of one service."""
    address = found.addresses[service]
    entry: dict[str, str] = {"user": service.user, "directory": service.directory}
    if service.manager == SYSTEMD:
        entry = {"manager": SYSTEMD, **entry, "directory": service.directory or "/"}
    if service.manager == NOBODY:
        entry = {"manager": NONE, **entry}
    if service.compose:
        entry = {"manager": COMPOSE, "compose_project": service.compose.project, **entry, "env_file": ""}
    if service.ecosystem_file not in ("", _DEFAULT_ECOSYSTEM_FILE):
        entry["ecosystem_file"] = service.ecosystem_file
    named = service.settings_files[:1] if service.manager != SYSTEMD else ()
    if named and named[0] != f"{service.directory}/.env":
        entry["env_file"] = named[0]
    if service.compose:
        entry["env_file"] = (entry["env_file"] or ".env" * bool(named)).removeprefix(f"{service.directory}/")
        if service.compose.gateway:
            entry |= {"database_host": service.compose.gateway, "client_network": service.compose.network}
    if service.manager_home:
        entry["pm2_home"] = service.manager_home
    entry["database_role"] = schema_name(service.name)
    yield f"- name: {scalar(service.name)}"
    if service.manager == CONTAINER and not service.compose:
        yield f"  # under {service.manager}"
    if service.instances > 1:
        yield f"  # {service.instances} processes"
    yield from (f"  {key}: {scalar(value)}" for key, value in entry.items())
    if service.manager == NOBODY:
        yield from ("  start_command: []", "  stop_command: []")
    yield f"  schemas: [{', '.join(map(scalar, _schemas_of(found, source)))}]"
    templates = dict(settings_of(source.users[service]))
    if templates:
        yield "  # It names the file by a URL there, so it is told PostgreSQL's in the same place."
        yield "  settings:"
    yield from (f"    {scalar(key)}: {scalar(template)}" for key, template in templates.items())
    tool = _tool_of(source)
    # Its role and schema are to be its alone.
    if tool is not None and len(source.users) == 1 and "public" not in _schemas_of(found, source):
        yield f"  # migrates_itself: true  # {tool} may go on changing the tables; else switch it off first"
    if address.health_url:
        yield f"  health_url: {scalar(address.health_url)}"


def settings_of(use: Use) -> Iterator[tuple[str, str]]:
    """Yield the settings by which a service names its file as a URL that another database can take the place of."""
    for key, scheme in sorted(use.urls.items()):
        driver = _DRIVERS.get(scheme.partition("+")[2])
        if driver is not None and is_own_setting(key):
            yield key, f"postgresql{driver}://{{user}}:{{password_in_url}}@{{host}}:{{port}}/{{database}}"


def _tool_of(source: Source) -> str | None:
    """Return the tool that changes the tables of a source, by its bookkeeping there; None if none is known."""
    mapping = source.draft.mapping if source.draft else {}
    names = [*(table["source"] for table in mapping.get("tables", ())), *mapping.get("ignored_tables", ())]
    return next((tool for name in names if (tool := tool_of(name)) is not None), None)


def _schemas_of(found: Discovery, source: Source) -> list[str]:
    """Return the schemas that the tables of a source go to."""
    tables = source.draft.mapping["tables"] if source.draft and found.existing_schemas else ()
    used = {table["target"].partition(".")[0] for table in tables}
    return sorted(used) or list(found.existing_schemas) or [source.group]


def _comment(text: str) -> str:
    """Return a text for one line of a comment."""
    return printable(text).replace("\n", " ")


def _rows(legacy: Legacy) -> str:
    """Return in words what an unused database holds."""
    if legacy.rows is None:
        return "what it holds could not be read"
    if not (legacy.database.size or legacy.database.log):
        return "it is empty: 0 bytes"
    held = [f"{rows:,} in {_comment(table)}" for table, rows in legacy.rows.items() if rows]
    return f"rows: {', '.join(held)}" if held else f"no row in any table ({len(legacy.rows)})"


# --- the page -----------------------------------------------------------------------------------


def _page_lines(found: Discovery, host: str, decisions: list[Problem]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield f"# A draft for {cell(host)}"
    yield ""
    yield f"- `{ESTATE_FILE}` describes the databases, the services that use each, and the files that no"
    yield "  service uses."
    if found.existing_schemas:
        yield f"- `{NO_SQL_FILE}` says that this project applies no SQL: the applications have made the"
        yield f"  tables of {cell(', '.join(found.existing_schemas))} themselves."
    else:
        yield "- `sql/` holds the target's tables. Each choice that the declared type alone does not explain has its"
        yield "  reason above it."
    yield f"- `{FACTS_FILE}` is what a later discovery compares with. Do not edit it."
    yield ""
    yield "Nothing on the host was changed. Correct the inventory and the SQL, copy them into your own (or run"
    yield f"`{playbook('discover', **found.asked, discover_adopt='true')}`), and begin with a dry run."
    yield from ("", "## Decisions for a person", "")
    yield from (f"- {cell(str(decision))}" for decision in decisions)
    if not decisions:
        yield "None was found."
    yield from ("", "## Databases", "", "| file | also named | bytes | in its log | used by | how we know |")
    yield "|---|---|---|---|---|---|"
    for source in found.sources:
        yield _row(
            source.database.path,
            ", ".join(source.aliases),
            f"{source.database.size:,}",
            f"{source.database.log:,}",
            ", ".join(service.name for service in source.users) or "no service",
            "; ".join(_evidence(source)),
        )
    yield from ("", "## Services", "", "| service | under | user | directory | processes | ports | health address |")
    yield "|---|---|---|---|---|---|---|"
    for service, address in found.addresses.items():
        yield _row(
            service.name,
            service.manager,
            service.user,
            service.directory,
            str(service.instances),
            ", ".join(map(str, address.ports)),
            address.health_url or "none answered",
        )
    yield from ("", "## Files that nobody uses", "")
    for entry in found.legacy:
        also = f" (also {', '.join(map(cell, entry.aliases))})" if entry.aliases else ""
        yield f"- {cell(entry.database.path)}{also}: {cell(_rows(entry))}"
    if not found.legacy:
        yield "None was found."
    for source, name in _sql_files(found):
        if source.draft is not None:
            where = f"in `{name}`" if not found.existing_schemas else "and what they are mapped to"
            yield from ("", f"## Tables of {cell(source.database.path)}, {where}", "")
            yield from page.table_lines(source.draft)
    if found.unused_tables:
        yield from ("", "## Tables of PostgreSQL that nothing is moved to", "")
        yield from (f"- {cell(name)}" for name in found.unused_tables)


def _row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(cell, cells))} |"


# --- what a later run compares ------------------------------------------------------------------


def _facts(found: Discovery, decisions: list[Problem]) -> Iterator[str]:
    """Yield a line for each thing that was found."""
    for source in found.sources:
        yield f"group {source.group}: {_comment(source.database.path)}"
        yield from (f"group {source.group}: also named {_comment(alias)}" for alias in source.aliases)
        yield from (f"group {source.group}: used by {_comment(service.name)}" for service in source.users)
        for table in source.draft.tables if source.draft else ():
            yield f"table {_comment(table['target'])}: from {_comment(table['source'])}"
            yield from (_fact_of(table, column) for column in table["columns"])
    for service, address in found.addresses.items():
        words = f"under {service.manager}, user {service.user}, {service.directory}, ports {list(address.ports)}"
        yield _comment(f"service {service.name}: {words}, {address.health_url or 'no health address'}")
    yield from (f"unused file: {_comment(entry.database.path)}" for entry in found.legacy)
    yield from {f"decision: {_comment(decision.where)}" for decision in decisions}


def _fact_of(table: Mapping[str, Any], column: Mapping[str, Any]) -> str:
    """Return the line of a column."""
    words = f"{column['type']} from {column['declared'] or 'no type'}" + (", secret" if column["secret"] else "")
    return _comment(f"column {table['target']}.{column['target']}: {words}")
