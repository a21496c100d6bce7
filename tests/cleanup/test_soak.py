"""How long a period has lasted: tables of cases for the one function that decides, and the checks in the ledger."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup import soak
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cleanup.soak import (
    Check,
    credit,
    measure,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.clock import Clock, read_clock

from .support import DAY

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

PERIOD = "cutover 2026-01-01"
START = Clock(host=1e9, server=1e9, boot="one", uptime=1000.0)


def at(days: float, **changes: Any) -> Clock:
    """Return the moment some days after the start, with clocks that somebody has changed."""
    moment = Clock(START.host + days * DAY, START.server + days * DAY, "one", START.uptime + days * DAY)
    return replace(moment, **changes)


def passed(*days: float) -> list[Check]:
    """Return a passed check for each day."""
    return [Check(number, True, at(day), PERIOD) for number, day in enumerate(days, 1)]


def days_of(checks: list[Check], now: Clock, start: Clock | None = START) -> float:
    """Return the days that count."""
    result: float = measure(checks, PERIOD, now, start).days
    return result


@pytest.mark.parametrize(
    ("earlier", "later", "days"),
    [
        pytest.param(at(0), at(1), 1.0, id="all clocks agree"),
        pytest.param(at(0), at(1, host=at(30).host), 1.0, id="the host's clock jumped forward"),
        pytest.param(at(0), at(1, server=at(30).server), 1.0, id="the server's clock jumped forward"),
        pytest.param(at(0), at(1, host=at(30).host, server=at(30).server), 1.0, id="both jumped: the kernel knows"),
        pytest.param(
            at(0), at(1, host=at(30).host, server=at(30).server, boot="two", uptime=60.0), 1.5, id="both, and a boot"
        ),
        pytest.param(at(0), at(1, boot="two", uptime=60.0), 1.0, id="an honest boot"),
        pytest.param(at(0), at(1, host=at(30).host, boot="two", uptime=60.0), 1.0, id="a boot, and the host's clock"),
        pytest.param(at(0), at(1, server=at(30).server, boot="two", uptime=60.0), 1.0, id="a boot, and the server's"),
        pytest.param(at(0), at(1, server=at(-5).server), 0.0, id="the server's clock was put back"),
        pytest.param(at(0), at(20), 1.5, id="the host was off, or the timer was"),
        pytest.param(at(0), at(1, host=at(-5).host), 0.0, id="the host's clock was put back"),
        pytest.param(at(0), at(1, uptime=0.0), 0.0, id="the same boot cannot begin again"),
    ],
)
def test_between_two_moments_counts_what_all_clocks_agree_on(earlier: Clock, later: Clock, days: float) -> None:
    assert credit(earlier, later) / DAY == pytest.approx(days)


def test_daily_checks_add_up_from_the_cutover() -> None:
    assert days_of(passed(0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5), at(7)) == pytest.approx(7)


def test_without_a_clock_of_the_cutover_the_first_check_begins_it() -> None:
    assert days_of(passed(1, 2, 3), at(3.5), start=None) == pytest.approx(2.5)


@pytest.mark.promise("soak-not-shortened")
def test_waiting_without_checks_is_no_soak() -> None:
    assert days_of([], at(30)) == pytest.approx(soak.MOST_INTERVALS)


@pytest.mark.promise("soak-not-shortened")
def test_a_failed_check_begins_it_anew_with_the_next_passed_one() -> None:
    checks = passed(1, 2, 3, 4, 5, 6)
    checks[3] = replace(checks[3], passed=False, failures=("the file is open",))
    measured = measure(checks, PERIOD, at(6), START)
    assert measured.days == pytest.approx(1)
    assert (measured.interruption, measured.checks) == ("the file is open", 2)


def test_a_failed_check_without_a_later_one_leaves_nothing() -> None:
    checks = passed(1, 2)
    checks[1] = replace(checks[1], passed=False)
    assert days_of(checks, at(2.5)) == 0


def test_a_failed_check_counts_even_if_its_clock_is_wrong_or_missing() -> None:
    for clock in (at(900), at(-900), None):
        checks = [*passed(1, 2), Check(3, False, clock, PERIOD)]
        assert days_of(checks, at(3)) == 0


def test_rows_of_the_future_never_count() -> None:
    checks = [*passed(1), Check(2, True, at(40), PERIOD), Check(3, True, at(41), PERIOD)]
    assert days_of(checks, at(1.25)) == pytest.approx(1.25)


def test_a_start_in_the_future_does_not_count() -> None:
    assert days_of([], at(0), start=at(5)) == 0


def test_rows_of_another_period_never_count() -> None:
    others = [replace(check, period="cutover 2025-01-01") for check in passed(1, 2, 3, 4)]
    assert days_of(others, at(0.25)) == pytest.approx(0.25)
    failed = [replace(check, passed=False) for check in others]
    assert days_of([*failed, Check(9, True, at(1), PERIOD)], at(1)) == pytest.approx(1)


def test_the_order_is_that_of_the_numbers() -> None:
    checks = passed(1, 2, 3, 4, 5)
    assert days_of(list(reversed(checks)), at(5)) == pytest.approx(5)


@pytest.mark.promise("soak-not-shortened")
def test_no_jumps_ever_make_it_longer_than_the_truth() -> None:
    for seed in range(300):
        randomness = random.Random(seed)  # noqa: S311 (no secret)
        checks = []
        host = server = 0.0
        day = 0.0
        for number in range(1, 12):
            day += randomness.uniform(0.1, 3)
            host += randomness.choice((0, 0, 0, 30, -10)) * DAY
            server += randomness.choice((0, 0, 0, 30, -10)) * DAY
            true = at(day)
            moment = replace(true, host=true.host + host, server=true.server + server)
            checks.append(Check(number, randomness.random() > 0.1, moment, PERIOD))
        now = checks[-1].clock
        assert now is not None
        assert measure(checks, PERIOD, now, START).days <= day + 1e-6


def test_checks_are_numbered_in_the_ledger_whatever_the_clock_says(connection: Connection) -> None:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger

    with connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
    clock = read_clock(connection)
    soak.record_check(connection, "zoo", PERIOD, clock, [])
    soak.record_check(connection, "zoo", PERIOD, replace(clock, host=0.0), ["it is open"], {"file": {"size": 1}})
    soak.record_check(connection, "ark", PERIOD, clock, [])
    connection.commit()
    checks = soak.read_checks(connection, "zoo")
    assert [(check.number, check.passed, check.failures) for check in checks] == [
        (1, True, ()),
        (2, False, ("it is open",)),
    ]
    assert soak.read_last_stamp(connection, "zoo", PERIOD) == {"size": 1}
    assert checks[0].clock == clock


def test_a_row_that_cannot_be_read_is_no_credit(connection: Connection) -> None:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger

    with connection.cursor() as cursor:
        cursor.execute(ledger.CREATE_LEDGER)
        cursor.execute(
            "INSERT INTO migration.soak_check VALUES ('zoo', now(), true, '[1]'), ('zoo', '2000-01-01', true, '{}')"
        )
    checks = soak.read_checks(connection, "zoo")
    assert measure(checks, "", read_clock(connection)).seconds == 0
