"""What is measured and recorded of a cutover or a rollback: its steps, its report, and its keys in the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from . import frozen_file, ledger, way_back
from .estate import Group
from .service_health import POSTGRESQL, Health

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Keys in the ledger's detail of a group.
FINGERPRINT = "fingerprint"
FENCE = "fence"
STOPPED_AT = "stopped_at"
# Whether its services have been seen healthy on PostgreSQL since the cutover.
PROVEN = "proven"

KIND = "cutover"


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
    group: Group, healths: Sequence[Health], downtime: float, steps: Steps, migration: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the report of a cutover.

    :param downtime: seconds from the stop of the first service until the last was healthy.
    """
    return {
        "group": group.name,
        "downtime_seconds": round(downtime, 3),
        "steps": steps.steps,
        "seconds": steps.seconds(),
        "services": [health.report(POSTGRESQL) for health in healths],
        "migration": dict(migration),
    }


def record_cutover(connection: Connection, group: Group, started_at: datetime, report: dict[str, Any]) -> None:
    """Write the cutover into the ledger; its final sync has an entry of its own."""
    connection.rollback()
    entry = {key: value for key, value in report.items() if key != "migration"}
    ledger.record_run(connection, group.name, KIND, started_at, entry)
    ledger.merge_detail(connection, group.name, {PROVEN: True})
    connection.commit()
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    frozen_file.forget_old(group.source_path, way_back.read(record))
