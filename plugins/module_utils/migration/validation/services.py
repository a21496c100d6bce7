"""Whether the services of a group answer, and leave the frozen file alone. Nothing is stopped or started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core import state
from ..core.commands import playbook
from ..core.errors import MigrationError, Problem
from ..host import open_files
from ..host.managers import log_command
from ..host.service_health import Listings, ask, look_once

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ..core.estate import Group

_RUN_VALIDATION = f"then run {playbook('5_validation')} again"


def look_at_services(group: Group, group_state: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Ask each service for its health; return what each says, and what is wrong.

    :param group_state: in state ``live`` nobody may have the frozen file open.
    """
    answers = []
    findings = []
    for service in group.services:
        shortcoming = ask(service.health_url)
        answers.append({"name": service.name, "health_url": service.health_url, "shortcoming": shortcoming})
        if shortcoming:
            fix = f"Look at its log ({log_command(service)}), correct it, {_RUN_VALIDATION}"
            findings.append(Problem(f"service {service.name}", f"it is not well: {shortcoming}", fix))
    if group_state == state.LIVE:
        findings.extend(_holders(group))
    return answers, findings


def find_strays(
    connection: Connection,
    group: Group,
    answers: list[dict[str, Any]],
    was_proven: bool,
    listings: Listings | None = None,
) -> tuple[list[Problem], list[str]]:
    """Return the services that answer and are on another store, and a warning for each of which nobody can tell.

    The health address uses the database, so right after it was asked a session is there. Where it does not, an idle
    pool has none: such a service is well as far as anybody can see if its cutover was proven, its settings are right
    and it leaves the SQLite file alone.

    :param answers: what :func:`look_at_services` returned.
    :param was_proven: whether the services have been seen healthy on PostgreSQL since the cutover.
    :param listings: shared by the groups that are validated together.
    """
    well = {answer["name"] for answer in answers if not answer["shortcoming"]}
    findings, warnings = [], []
    for name, health in look_once(connection, group, listings).items():
        if not health.shortcoming or name not in well:
            continue
        if health.lacks_session and was_proven and not health.service.query_url:
            warnings.append(
                f"service {name}: it was asked again, and {health.shortcoming}. Its settings are right and it does not "
                "have the SQLite file open, so its pool seems to be idle. Name an address that asks the database as "
                "'query_url' of the service in estate_cutover_groups"
            )
            continue
        fix = f"Run {playbook('4_service_cutover')}, which brings it to PostgreSQL again, {_RUN_VALIDATION}"
        findings.append(Problem(f"service {name}", health.shortcoming, fix))
    return findings, warnings


def _holders(group: Group) -> list[Problem]:
    """Return every process that has the frozen file open: what it writes or reads is not what the services use."""
    try:
        holders = open_files.find_holders(group.source_path)
    except FileNotFoundError:
        return []
    except MigrationError as error:
        return list(error.problems)
    return [
        Problem(
            str(holder.path),
            f"process {holder.pid} ({holder.command}) has the frozen SQLite file open",
            f"Stop it, or let its service use PostgreSQL, {_RUN_VALIDATION}",
        )
        for holder in holders
    ]
