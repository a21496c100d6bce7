"""What was in the stores before the first write: nothing of it may go, and nothing else may come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import stores
from .journal import Journal
from .kinds import GROUPS, PORTS, TABLES
from .requests import send

# What users see of the rows, for each service.
LISTS = {
    "swarm-registry": ("agents", "workflows"),
    "swarm-deploy": ("deployments",),
    "swarm-tickets": ("attempts",),
    "swarm-platform": ("users",),
}
MOST_LISTED = 1000


class Unreadable(Exception):
    """A service or a store does not tell what it holds; the message says which."""


def record(path: Path) -> None:
    """Begin a journal with what is there.

    :raises Unreadable: if a service does not answer.
    """
    lists = {name: [without_ids(row) for row in listed(service, name)] for service, name in every_list()}
    tables = stores.read_all({group: used_store(group) for group in GROUPS})
    counts = {group: {table: len(tables[group, table]) for table in TABLES[group]} for group in GROUPS}
    Journal(path).append(event="baseline", lists=lists, counts=counts)


def every_list() -> list[tuple[str, str]]:
    """Return each list of rows that a service shows, as the service and the name."""
    return [(service, name) for service, names in LISTS.items() for name in names]


def listed(service: str, name: str) -> list[dict[str, Any]]:
    """Return the rows that a service lists.

    :raises Unreadable: if it does not answer, or may have left some out.
    """
    answer = send(PORTS[service], "GET", f"/{name}")
    if answer.status != 200:
        raise Unreadable(f"{service} does not list its {name}: {answer.status} {answer.body}")
    rows: list[dict[str, Any]] = answer.body[name]
    if len(rows) >= MOST_LISTED:
        raise Unreadable(f"{service} has more {name} than it lists")
    return rows


def without_ids(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what differs between the stores, and without the time that a login sets."""
    return {
        key: value
        for key, value in row.items()
        if key not in ("id", "last_login") and not (key.endswith("_id") and key != "ticket_id")
    }


def canonical(value: Any) -> str:
    """Return a text that is the same for equal JSON values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def used_store(group: str) -> str:
    """Return the name of the store that all services of a group say they use.

    :raises Unreadable: if one does not answer, or two use different stores.
    """
    found = {}
    for service in GROUPS[group][0]:
        answer = send(PORTS[service], "GET", "/health")
        if answer.status != 200:
            raise Unreadable(f"{service} is not healthy: {answer.status} {answer.body}")
        found[service] = str(answer.body["store"])
    if len(set(found.values())) != 1:
        raise Unreadable(f"the services of group {group} use different stores: {found}")
    return next(iter(found.values()))
