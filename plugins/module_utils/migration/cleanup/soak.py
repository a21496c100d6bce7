"""How long a period of waiting has lasted, in a way that no jump of a clock can shorten.

A daily check (:mod:`.cleanup.soak_check`) writes what it found into ``migration.soak_check``, together with
every clock there is: the host's, the server's, and the kernel's count of seconds since the boot, which
nobody can set. Between two checks counts only what all of them agree on, and never more than
:data:`MOST_INTERVALS` intervals: so a host that was off, or a clock that was put forward, adds little.
:func:`measure` alone decides, from plain data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..core.clock import Clock
from ..core.connection import Json

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Between two checks no more than this counts, in intervals.
MOST_INTERVALS = 1.5
DAY_SECONDS = 86400.0
# Clocks of two machines may differ by this much without anybody having set them.
_TOLERANCE_SECONDS = 300.0
# The name under which the checks of legacy files are kept; no cutover group can have it.
LEGACY = "(legacy files)"


@dataclass(frozen=True)
class Check:
    """One check of a group, or the event that a period began with.

    :param number: their order; no clock decides it.
    :param period: what period it belongs to, such as the cutover at a certain time.
    """

    number: int
    passed: bool
    clock: Clock | None
    period: str
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measured:
    """What a period has come to.

    :param seconds: what counts of it.
    :param interruption: the last failed check's findings, if one has interrupted it.
    :param checks: passed checks since its start or last interruption.
    """

    seconds: float
    interruption: str = ""
    checks: int = 0

    @property
    def days(self) -> float:
        """Return what counts, in days."""
        return self.seconds / DAY_SECONDS


def measure(
    checks: Sequence[Check], period: str, now: Clock, start: Clock | None = None, interval: float = DAY_SECONDS
) -> Measured:
    """Return how long a period has lasted without interruption.

    :param checks: in any order; those of other periods count for nothing.
    :param now: the present, which has been checked as well.
    :param start: the moment of the event that began the period; without it, the first check begins it.
    :param interval: seconds between two checks as they are meant.
    """
    seconds = 0.0
    passed = 0
    interruption = ""
    # One in the future adds nothing: no clock can make a period longer than it was.
    last = start
    for check in sorted(checks, key=lambda entry: entry.number):
        if check.period != period:
            continue
        if not check.passed:
            seconds, passed, last = 0.0, 0, None
            interruption = "; ".join(check.failures) or "a check failed"
            continue
        if check.clock is None or _is_future(check.clock, now):
            continue
        if last is not None:
            seconds += credit(last, check.clock, interval)
        last = check.clock
        passed += 1
    if last is not None:
        seconds += credit(last, now, interval)
    return Measured(seconds, interruption, passed)


def credit(earlier: Clock, later: Clock, interval: float = DAY_SECONDS) -> float:
    """Return the seconds between two moments that all clocks agree on, at most 1.5 intervals and at least none."""
    differences = [later.host - earlier.host, later.server - earlier.server, MOST_INTERVALS * interval]
    if later.boot == earlier.boot:
        differences.append(later.uptime - earlier.uptime)
    return max(0.0, min(differences))


def _is_future(clock: Clock, now: Clock) -> bool:
    """Return whether a moment lies ahead: a clock was put forward when it was taken, or is put back now."""
    if max(clock.host - now.host, clock.server - now.server) > _TOLERANCE_SECONDS:
        return True
    return clock.boot == now.boot and clock.uptime > now.uptime


# ---------------------------------------------------------------- periods and the ledger


def cutover_period(cutover_at: datetime, restored_at: object = None) -> str:
    """Return the name of the period that a cutover begins, or the return of its file from quarantine."""
    period = f"cutover {cutover_at.astimezone(UTC).isoformat()}"
    return f"{period}, restored {restored_at}" if restored_at else period


def quarantine_period(plan_id: str) -> str:
    """Return the name of the period that the move of a file into quarantine begins."""
    return f"quarantine {plan_id}"


def read_checks(connection: Connection, group: str) -> list[Check]:
    """Return every check of a group that the ledger holds."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT passed, findings FROM migration.soak_check WHERE group_name = %s ORDER BY checked_at", (group,)
        )
        rows = cursor.fetchall()
    return [_parse(position, bool(passed), findings) for position, (passed, findings) in enumerate(rows)]


def _parse(position: int, passed: bool, findings: Any) -> Check:
    """Return a check as the ledger's row describes it; what cannot be read counts for nothing but an interruption."""
    data = findings if isinstance(findings, dict) else {}
    try:
        number = int(data["number"])
    except (KeyError, TypeError, ValueError):
        number = position
    failures = data.get("failures") or ()
    return Check(
        number, passed, Clock.from_dict(data.get("clock")), str(data.get("period", "")), tuple(map(str, failures))
    )


def read_last_stamp(connection: Connection, group: str, period: str) -> Any:
    """Return what the last check of a period noted of the file, None if there was none."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT findings -> 'file' FROM migration.soak_check WHERE group_name = %s AND findings ->> 'period' = %s "
            "AND findings ? 'file' ORDER BY (findings ->> 'number')::bigint DESC LIMIT 1",
            (group, period),
        )
        row = cursor.fetchone()
    return None if row is None else row[0]


def record_check(
    connection: Connection,
    group: str,
    period: str,
    clock: Clock,
    failures: Sequence[str],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write one check. The caller commits.

    Its number is one more than the highest there is, so that the order does not depend on any clock.

    :param extra: further findings.
    """
    findings = {**(extra or {}), "period": period, "clock": clock.as_dict(), "failures": list(failures)}
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO migration.soak_check (group_name, passed, findings) "
            "SELECT %(group)s, %(passed)s, %(findings)s::jsonb || jsonb_build_object('number', "
            "coalesce(max((findings ->> 'number')::bigint), 0) + 1) "
            "FROM migration.soak_check WHERE group_name = %(group)s",
            {"group": group, "passed": not failures, "findings": Json(findings)},
        )
