"""Whether the services of a group answer, and leave the frozen file alone. Nothing is stopped or started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import open_files, state
from .errors import MigrationError, Problem
from .service_health import ask

if TYPE_CHECKING:
    from .estate import Group

_RUN_VALIDATION = "then run playbooks/5_validation.yml again"


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
            fix = f"Look at its log (pm2 logs {service.name}), correct it, {_RUN_VALIDATION}"
            findings.append(Problem(f"service {service.name}", f"it is not well: {shortcoming}", fix))
    if group_state == state.LIVE:
        findings.extend(_holders(group))
    return answers, findings


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
