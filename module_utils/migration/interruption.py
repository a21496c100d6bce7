"""What may come between: a request to end, and a server that fails or goes away."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .errors import MigrationError, Problem
from .estate import Group

try:
    import psycopg2
except ImportError:  # reported by connection.connect()
    pass

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(MigrationError):
    """Somebody asked this process to end."""


@contextmanager
def server_errors(group: Group) -> Iterator[None]:
    """Turn an error of the server, or the loss of it, into one that a person can act on."""
    try:
        yield
    except psycopg2.Error as error:
        raise MigrationError(
            f"The server failed while cutover group {group.name} was looked after.",
            [
                Problem(
                    "PostgreSQL",
                    (str(error).strip().splitlines() or ["the connection was lost"])[0],
                    "Look at the server's log, then run again: what was interrupted is finished",
                )
            ],
        ) from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn a request to end into an error, so that an open window is undone first."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(
            "The cutover was interrupted.",
            [Problem("this run", f"it received {signal.Signals(number).name}", "Run again when it suits you")],
        )

    before = [signal.signal(number, interrupt) for number in _SIGNALS]
    try:
        yield
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
