"""What a run would find on a host and do there, for the plan of a run. Reads only, and takes no copy of a source.

What decides is apart from the figures that change by themselves while the services write.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.connection import Login, LoginRefused, ServerUnreachable, connected, explained, first_row
from ..core.decide import Rehearsal, decide
from ..core.errors import MigrationError
from ..core.estate import parse_group
from ..core.ledger import GroupRecord
from ..core.rights import rights_of
from ..host import safe_paths
from ..sqlite.snapshot import DISK_FACTOR, read_structure, size_of_source

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What libpq says of a server that answers, and does not let us in.
_OF_A_SERVER = re.compile(r"FATAL:|SSL|certificate", re.IGNORECASE)
_ADDRESSES = ("health_url", "query_url")


def find(
    described: Sequence[Mapping[str, Any]], login: Login, files: Mapping[str, str], work_directory: str
) -> dict[str, Any]:
    """Return what decides about a run on this host, and what is shown beside it.

    :param described: the cutover groups of the host, as the inventory describes them.
    :param files: the SQL files of the schema, each with its SHA-256.
    :param work_directory: where snapshots will be made; it need not exist yet.
    :returns: ``decides`` and ``shown``, as :mod:`promotion.plan` compares and shows them.
    :raises MigrationError: if the inventory is not right, or a source cannot be read.
    """
    silent, refused, since = "", "", ""
    with ExitStack() as stack:
        connection, version, applied = None, 0, set[str]()
        try:
            connection = stack.enter_context(connected(login, read_only=True))
        except (ServerUnreachable, LoginRefused) as error:
            silent = error.problems[0].what
            # A server that starts, or whose certificate is not trusted, is there all the same.
            if isinstance(error, LoginRefused) or _OF_A_SERVER.search(silent):
                silent, refused = "", silent
            else:
                silent = f"{error.problems[0].where}: {silent}"
        if connection is not None:
            stack.enter_context(explained("reading the ledger"))
            version = connection.server_version // 10000
            if ledger.exists(connection):
                applied = _read_applied(connection)
                since = _begin_of_ledger(connection)
            else:
                connection = None
        found = _found(described, connection, version, files, applied, work_directory)
    found["decides"].update(refused=refused, ledger_since=since)
    found["shown"]["silent"] = silent
    found["decides"]["login"] = f"{login}, as {login.session_role}" if login.session_role else str(login)
    return found


def _found(
    described: Sequence[Mapping[str, Any]],
    connection: Connection | None,
    version: int,
    files: Mapping[str, str],
    applied: set[str],
    work_directory: str,
) -> dict[str, Any]:
    """Return both halves of what was found.

    :param connection: to the ledger, None if there is none.
    :param version: major version of the server, 0 if none answers.
    """
    groups: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    for description in described:
        group = parse_group(description)
        record = ledger.unknown_group(group.name, group.source_path)
        if connection is not None:
            record = ledger.read_group(connection, group.name, group.source_path)
        groups[group.name] = entry = _decides(description, record, work_directory, is_certain=bool(version))
        rehearsal = record.detail.rehearsal
        shown[group.name] = {
            "bytes": None if entry["columns"] is None else size_of_source(group.source_path),
            "downtime_seconds": rehearsal.get("expected_downtime_seconds"),
            "tables": {mapping.source: mapping.target for mapping in group.tables},
            "services": [service.name for service in group.services],
            "files": sorted({service.env_path for service in group.services}),
        }
    sizes = [entry["bytes"] for entry in shown.values() if entry["bytes"] is not None]
    work = Path(work_directory)
    existing = next(place for place in (work, *work.absolute().parents) if place.exists())
    return {
        "decides": {
            "server": version,
            "files": dict(sorted(files.items())),
            "pending": sorted(set(files) - applied),
            "groups": groups,
        },
        "shown": {
            "groups": shown,
            "directory": work_directory,
            "bytes_needed": DISK_FACTOR * max(sizes, default=0),
            "bytes_free": shutil.disk_usage(existing).free,
        },
    }


def _decides(
    description: Mapping[str, Any], record: GroupRecord, work_directory: str, is_certain: bool
) -> dict[str, Any]:
    """Return what decides about one group: the ledger, the inventory, and the columns that its source has.

    :param is_certain: whether the server has answered; else nobody knows whether the group still needs its source.
    """
    action = decide(record)
    group = parse_group(description)
    columns = None
    # What the services left behind does not decide any more, and may be in quarantine.
    if not action.on_postgresql:
        try:
            _require_right_to_read(group.source_path)
            rights = _rights_of_owner(group.source_path)
            frozen = action.rehearsal is Rehearsal.LEAVE_TO_CUTOVER
            columns = read_structure(group.source_path, work_directory, frozen, rights)
        except MigrationError:
            if is_certain:
                raise
    return {
        "state": record.state,
        "interrupted": action.interrupted.value,
        "rehearsal": action.rehearsal.value,
        "cutover": action.cutover.value,
        "source": group.source_path,
        "columns": columns,
        "tables": {str(entry["source"]): _digest(entry) for entry in description["tables"]},
        "services": {
            # Addresses may hold a secret; the inventory's own texts of them are compared as settings.
            str(entry["name"]): _digest({key: value for key, value in entry.items() if key not in _ADDRESSES})
            for entry in description.get("services") or ()
        },
        "rest": _digest({name: value for name, value in description.items() if name not in ("tables", "services")}),
    }


def _rights_of_owner(path: str) -> AbstractContextManager[None]:
    """Return with whose rights a source is opened: its owner's symlink then leads only where that user may look."""
    if os.geteuid() != 0 or not os.path.lexists(path):
        return nullcontext()
    return rights_of(os.lstat(path).st_uid)


def _require_right_to_read(path: str) -> None:
    """Refuse a source that its owner may not read: the owner could have put a link to somebody else's file there.

    :raises MigrationError: if so.
    """
    try:
        with _rights_of_owner(path), safe_paths.regular_file(path):
            pass
    except PermissionError:
        fix = "Let 'path' in estate_cutover_groups name the service's own file"
        raise safe_paths.refused(path, "its owner may not read what it leads to", fix) from None
    except OSError:
        # The snapshot says what is wrong with it.
        pass


def _digest(value: Any) -> str:
    """Return what stands for a part of the inventory."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _begin_of_ledger(connection: Connection) -> str:
    """Return when the first SQL file was applied, as ISO 8601 in UTC; empty if nothing has happened yet.

    Where applications make their tables themselves no file is applied, and the end of the first rehearsal is the begin.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT least((SELECT min(applied_at) FROM migration.applied_file), "
            "(SELECT min(finished_at) FROM migration.run))"
        )
        (begin,) = first_row(cursor)
    return "" if begin is None else str(begin.astimezone(UTC).isoformat())


def _read_applied(connection: Connection) -> set[str]:
    """Return the names of the SQL files that the ledger knows."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM migration.applied_file")
        return {str(name) for (name,) in cursor}
