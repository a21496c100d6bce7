"""How long services are down, as a client sees it that asks each one's health address all the time.

What our own clock says of a window is no proof: it starts when we ask for the stop, and ends when we
have found everything that we look for. A client sees when the service gave its last answer and when it
gave the next one. It only looks: it never ends a run, and a service that stops never waits for it.
"""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..core.estate import Service

_INTERVAL_SECONDS = 0.025
# A request that is on its way must not keep a service from ending.
_TIMEOUT_SECONDS = 1.0
_PATIENCE_SECONDS = 2.0


@dataclass
class Answers:
    """What one client has seen of one service. Times are those of :func:`time.monotonic`.

    :param last_before: when the last good answer before the start mark came.
    :param first_after: when the first good answer after it came.
    """

    requests: int = 0
    failed: int = 0
    last_before: float | None = None
    first_after: float | None = None

    def note(self, good: bool, asked_at: float, answered_at: float, start_mark: float | None) -> None:
        """Take one request into account."""
        self.requests += 1
        if not good:
            self.failed += 1
        elif start_mark is None:
            self.last_before = answered_at
        elif self.first_after is None and asked_at >= start_mark:
            # One that was asked before the mark may still be an answer of the old process.
            self.first_after = answered_at

    @property
    def downtime(self) -> float | None:
        """Return the seconds between the two answers, None if one of them never came."""
        if self.last_before is None or self.first_after is None:
            return None
        return self.first_after - self.last_before


class DowntimeClient:
    """Asks the health address of each service all the time, each from a thread of its own.

    Open it before the stop, call :meth:`mark_start` when every old process is gone and just before the first new
    one is started, :meth:`close` it when the services are healthy, then read :meth:`downtime` and :meth:`of`.
    """

    def __init__(self, services: Iterable[Service]) -> None:
        services = list(services)
        self._answers = {service.name: Answers() for service in services}
        self._start_mark: float | None = None
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask_all_the_time, args=(service.name, service.health_url), daemon=True)
            for service in services
        ]
        for thread in self._threads:
            # Without a thread there is no measurement, which is no reason not to move.
            with suppress(RuntimeError):
                thread.start()

    def wait_for_first_answers(self, seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait until each service has given a good answer, so that there is a last one before the stop."""
        deadline = time.monotonic() + seconds
        while any(entry.last_before is None for entry in self._answers.values()) and time.monotonic() < deadline:
            time.sleep(_INTERVAL_SECONDS)

    def mark_start(self) -> None:
        """Note that the old processes are gone: a good answer to what is asked from now on is one of the new ones."""
        self._start_mark = time.monotonic()

    def wait_for_answers(self, seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait until each service has given a good answer since :meth:`mark_start`."""
        deadline = time.monotonic() + seconds
        while any(entry.first_after is None for entry in self._answers.values()) and time.monotonic() < deadline:
            time.sleep(_INTERVAL_SECONDS)

    def close(self) -> None:
        """Stop asking. May be called again."""
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_PATIENCE_SECONDS)

    def downtime(self) -> float | None:
        """Return the seconds from the first service's last answer until all answer again; None if that is not known."""
        before = [entry.last_before for entry in self._answers.values()]
        after = [entry.first_after for entry in self._answers.values()]
        known_before = [moment for moment in before if moment is not None]
        known_after = [moment for moment in after if moment is not None]
        if not before or len(known_before) < len(before) or len(known_after) < len(after):
            return None
        return max(known_after) - min(known_before)

    def of(self, name: str) -> dict[str, Any]:
        """Return what was seen of one service, for the report; what was not seen is null.

        ``downtime_seconds`` from the last answer of the old process to the first of the new one, ``start_seconds``
        from :meth:`mark_start` to that, ``requests`` made and ``requests_failed``.
        """
        entry = self._answers[name]
        start = None
        if entry.first_after is not None and self._start_mark is not None:
            start = round(entry.first_after - self._start_mark, 3)
        return {
            "downtime_seconds": None if entry.downtime is None else round(entry.downtime, 3),
            "start_seconds": start,
            "requests": entry.requests,
            "requests_failed": entry.failed,
        }

    def _ask_all_the_time(self, name: str, url: str) -> None:
        """Ask one service until the end."""
        answers = self._answers[name]
        address = urlsplit(url)
        pause = 0.0
        while not self._ended.wait(pause):
            start_mark, asked_at = self._start_mark, time.monotonic()
            good = _answers_well(address)
            answered_at = time.monotonic()
            answers.note(good, asked_at, answered_at, start_mark)
            # An address that takes long to answer is not kept busy.
            pause = max(_INTERVAL_SECONDS, answered_at - asked_at)


def _answers_well(address: SplitResult) -> bool:
    """Return whether an address answers with status 200. Leaves no connection open."""
    try:
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.hostname or "", address.port, timeout=_TIMEOUT_SECONDS)
        try:
            target = (address.path or "/") + (f"?{address.query}" if address.query else "")
            connection.request("GET", target, headers={"Connection": "close"})
            response = connection.getresponse()
            response.read()
            return response.status == http.client.OK
        finally:
            _close_at_once(connection)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _close_at_once(connection: http.client.HTTPConnection) -> None:
    """Close a connection so that neither side waits for the other's last word."""
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
