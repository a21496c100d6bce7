"""What is measured and recorded of a cutover or a rollback: its steps and its report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.estate import Group
from ..core.group_detail import changes
from ..host.downtime import DowntimeClient
from ..host.service_health import POSTGRESQL, Health
from . import frozen_file

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

KIND = "cutover"
# Who has measured a downtime.
MEASURED_BY_CLIENT = "client"
MEASURED_BY_STEPS = "steps"
# In these steps of a window the managers and the services are at work; the others are our own.
_STEPS_OF_SERVICES = ("stop", "start")


class Steps:
    """Measures the steps of a window, in seconds."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.name = "the start"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure one step, and remember its name for an error."""
        self.name = name
        start = time.monotonic()
        try:
            yield
        finally:
            self.steps.append({"name": name, "seconds": round(time.monotonic() - start, 3)})

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each step by its name."""
        return {entry["name"]: entry["seconds"] for entry in self.steps}


def make_report(
    group: Group,
    healths: Sequence[Health],
    window: float,
    steps: Steps,
    client: DowntimeClient | None,
    migration: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the report of a cutover.

    :param window: seconds from our call for the stop until we had proven every service healthy.
    :param client: has asked the services all the while; None if nobody could.
    """
    seen = None if client is None else client.downtime()
    by_services = sum(entry["seconds"] for entry in steps.steps if entry["name"] in _STEPS_OF_SERVICES)
    return {
        "group": group.name,
        "downtime_seconds": round(window if seen is None else seen, 3),
        "measured_by": MEASURED_BY_STEPS if seen is None else MEASURED_BY_CLIENT,
        "window_seconds": round(window, 3),
        "services_seconds": round(by_services, 3),
        "own_seconds": round(max(window - by_services, 0.0), 3),
        "steps": steps.steps,
        "seconds": steps.seconds(),
        "services": [
            {**health.report(POSTGRESQL), **({} if client is None else client.of(health.service.name))}
            for health in healths
        ],
        "migration": dict(migration),
    }


def downtime_sentence(report: Mapping[str, Any]) -> str:
    """Return how long the services were down, and what took the time."""
    if not report["services"]:
        # A person stops and starts what uses it, and knows how long.
        return f"its file was frozen and proven within {report['window_seconds']:.1f} seconds; it has no services."
    text = f"its services were down for {report['downtime_seconds']:.1f} seconds"
    if report["measured_by"] == MEASURED_BY_STEPS:
        return f"{text}, from their stop until they were found healthy."
    return (
        f"{text}, as seen by a client that polled them throughout. "
        f"The window took {report['window_seconds']:.1f} s: {report['services_seconds']:.1f} s for their own stop and "
        f"start, {report['own_seconds']:.1f} s for our steps."
    )


def record_cutover(
    connection: Connection,
    group: Group,
    started_at: datetime,
    report: dict[str, Any],
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Write the cutover into the ledger; its final sync has an entry of its own.

    :param detail: more for the ledger, from :func:`.core.group_detail.changes`.
    """
    connection.rollback()
    entry = {key: value for key, value in report.items() if key != "migration"}
    ledger.record_run(connection, group.name, KIND, started_at, entry)
    ledger.merge_detail(connection, group.name, {**changes(proven=True), **(detail or {})})
    connection.commit()
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    frozen_file.forget_old(group.source_path, record.detail.rollback)
