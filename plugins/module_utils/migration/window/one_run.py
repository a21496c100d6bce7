"""What every run over a group holds while it is at work, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from ..core import ledger
from ..core.connection import Login, connected, psycopg2
from ..core.decide import Interrupted, decide
from ..core.errors import MigrationError
from ..core.estate import Group
from .back_on_sqlite import StaysOnPostgresql
from .checks import Settings
from .host_lock import locked_on_host
from .signals import interruptible, server_errors, uninterruptible

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@contextmanager
def one_run(
    connection: Connection, login: Login, group: Group, settings: Settings, wait_seconds: float
) -> Iterator[None]:
    """Hold the group's locks, turn errors into those that a person can act on, and take the recovery unit away.

    :param wait_seconds: how long to wait for another run.
    :raises MigrationError: naming the run that is at work, or saying what failed.
    """
    with (
        server_errors(group),
        interruptible(),
        nullcontext() if settings.is_locked else locked_on_host(group.name, settings.work_directory, wait_seconds),
        ledger.locked(connection, f"group {group.name}", wait_seconds),
    ):
        is_for_a_person = False
        try:
            yield
        except StaysOnPostgresql:
            is_for_a_person = True
            raise
        finally:
            _remove_recovery_unit(login, group, settings, is_for_a_person)


def leave_to_a_person(login: Login, group: Group, settings: Settings) -> None:
    """Take the recovery unit away after a rollback was refused: it could only start the services once more.

    It stays while a rollback has begun and is neither finished nor undone, or where nobody can ask the ledger.
    """
    unit = settings.recovery_unit
    if unit is not None and unit.is_there():
        with uninterruptible(), suppress(MigrationError, psycopg2.Error, OSError):
            with connected(login, read_only=True) as connection:
                record = ledger.read_group(connection, group.name, group.source_path)
            if decide(record).interrupted is Interrupted.NOTHING:
                unit.remove()


def _remove_recovery_unit(login: Login, group: Group, settings: Settings, is_for_a_person: bool) -> None:
    """Take the recovery unit away if the group's window is shut.

    Where the ledger says that it is open, or nobody can ask it, the unit goes on when this run has ended.

    :param is_for_a_person: whatever the ledger says, only a person can go on.
    """
    unit = settings.recovery_unit
    if unit is None or not unit.is_there():
        return
    # What the run itself says must not be lost for this: a unit that stays finds nothing to do, and goes then.
    with uninterruptible(), suppress(MigrationError, psycopg2.Error, OSError):
        # The run's own session may have been ended.
        with connected(login, read_only=True) as connection:
            record = ledger.read_group(connection, group.name, group.source_path)
        if is_for_a_person or not decide(record).window_is_open:
            unit.remove()
