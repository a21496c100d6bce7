"""What may come between: a request to end, a server that fails or goes away, and a host that fails."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..core.connection import next_step, psycopg2
from ..core.errors import MigrationError, Problem
from ..core.estate import Group

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody asked this process to end.

    No :class:`Exception`, so that nobody who goes on after a failure of a part goes on after this too.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"it received {signal.Signals(number).name}")

    @property
    def problem(self) -> Problem:
        """Return it as a problem."""
        return Problem("this run", str(self), "Run again when it suits you")


@contextmanager
def server_errors(group: Group) -> Iterator[None]:
    """Turn an error of the server, the loss of it, or an error of this host into one that a person can act on."""
    try:
        yield
    except psycopg2.Error as error:
        raise MigrationError(
            f"The server failed while cutover group {group.name} was looked after.",
            [
                Problem(
                    "PostgreSQL",
                    (str(error).strip().splitlines() or ["the connection was lost"])[0],
                    f"{next_step(error)}: what was interrupted is finished",
                )
            ],
        ) from None
    except (OSError, sqlite3.Error) as error:
        fix = "Correct this, then run again: what was interrupted is finished"
        raise MigrationError(
            f"This host failed while cutover group {group.name} was looked after.",
            [Problem("this host", f"{type(error).__name__}: {error}", fix)],
        ) from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn a request to end into an error, so that an open window is undone first.

    Only the first one counts: who asks often must not disturb what the first has set off.

    :raises MigrationError: if there was one, and nobody has turned it into another error.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    before = [signal.signal(number, interrupt) for number in _SIGNALS]
    try:
        yield
    except Interrupted as error:
        raise MigrationError("The run was interrupted.", [error.problem]) from None
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def uninterruptible() -> Iterator[None]:
    """Let nobody interrupt what brings the services back."""
    before = [signal.signal(number, signal.SIG_IGN) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
