"""The load: one thread for each service, which writes one request after the other until it is told to end."""

from __future__ import annotations

import random
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import baseline, journal
from .kinds import BY_NAME, KINDS, LOGIN, LOGIN_BODY, LOGIN_SERVICE, PORTS, Kind
from .requests import Answer, send

RETRY_SECONDS = 0.1
# The services list at most 1000 rows, and the sample brings some.
MOST_ROWS = 150
FEWEST_ROWS = 5
# A login takes as long as twenty other requests, which is what its hash is for.
LOGIN_PAUSE_SECONDS = 1.0


def write_until(path: Path, ended: threading.Event, requests_per_second: float, seed: str) -> None:
    """Write to all services until ``ended`` is set; a journal that is there already is gone on with.

    :param requests_per_second: to each service.
    """
    if not path.exists():
        baseline.record(path)
    state = journal.replay(journal.read(path))
    shared = journal.Journal(path)
    writers = [Writer(service, shared, state, requests_per_second, seed) for service in PORTS]
    threads = [threading.Thread(target=writer.run, args=(ended,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Writer:
    """Writes to one service, and knows its rows."""

    def __init__(
        self, service: str, shared: journal.Journal, state: journal.State, requests_per_second: float, seed: str
    ) -> None:
        self.service = service
        self.journal = shared
        self.chance = random.Random(f"{seed} {service}")  # noqa: S311
        self.pause = max(LOGIN_PAUSE_SECONDS if service == LOGIN_SERVICE else 0.0, 1 / requests_per_second)
        # Names are never given twice, also by the next process that goes on with this journal.
        self.mark = uuid.uuid4().hex[:8]
        self.count = 0
        self.kinds = [kind for kind in KINDS if kind.service == service]
        # What is not certain is left alone: a request that timed out may still be carried out.
        self.rows = {
            kind.name: {row.key: row for row in state.of_kind(kind.name) if row.certain and row.present is not None}
            for kind in self.kinds
        }
        self.last_answer = time.time()
        self.failed = 0

    def run(self, ended: threading.Event) -> None:
        """Write until ``ended`` is set."""
        while not ended.is_set():
            good = self._log_in() if self.service == LOGIN_SERVICE else self._write(self.chance.choice(self.kinds))
            ended.wait(self.pause if good else RETRY_SECONDS)
        if self.failed:
            self._note_outage(None)

    def _log_in(self) -> bool:
        return self._ask(LOGIN, journal.UPDATE, LOGIN_BODY["email"], "POST", "/login", LOGIN_BODY, {}) is not None

    def _write(self, kind: Kind) -> bool:
        """Create, change or remove one row; return whether the service answered well."""
        rows = self.rows[kind.name]
        operations = [journal.CREATE] * 5 + [journal.UPDATE] * 3 * (kind.change is not None) + [journal.DELETE] * 2
        operation = self.chance.choice(operations)
        if len(rows) < FEWEST_ROWS or (len(rows) >= MOST_ROWS and operation == journal.CREATE):
            operation = journal.CREATE if len(rows) < FEWEST_ROWS else journal.DELETE
        if operation == journal.CREATE:
            key = f"load-{self.mark}-{self.count}"
            body = kind.create(self.chance, key)
            answer = self._ask(kind.name, operation, key, "POST", kind.collection, body, body)
            if answer is not None:
                rows[key] = journal.Row(kind.name, key, answer, answer["id"])
            return answer is not None
        row = rows[self.chance.choice(list(rows))]
        path = f"{kind.item}/{row.identifier}"
        if operation == journal.DELETE:
            answer = self._ask(kind.name, operation, row.key, "DELETE", path, None, {})
            if answer is not None:
                del rows[row.key]
            return answer is not None
        assert kind.change is not None  # noqa: S101
        change = kind.change(self.chance)
        return self._ask(kind.name, operation, row.key, "PATCH", path, change, change) is not None

    def _ask(
        self, kind: str, operation: str, key: str, method: str, path: str, body: Any, noted: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Send one request between its two lines of the journal; return the answer if it is acknowledged."""
        self.count += 1
        number = f"{self.mark} {self.service} {self.count}"
        self.journal.append(
            event="intent", number=number, at=_now(), kind=kind, operation=operation, key=key, body=noted
        )
        answer = send(PORTS[self.service], method, path, body)
        outcome = answer.outcome
        self.journal.append(event=outcome, number=number, at=_now(), status=answer.status, answer=answer.body)
        self._watch(answer)
        if outcome in ("unknown", "rejected") and kind in BY_NAME:
            self.rows[kind].pop(key, None)
        return answer.body if outcome == "acknowledged" else None

    def _watch(self, answer: Answer) -> None:
        """Take a request into account for the downtime that a client sees."""
        if answer.sent and 200 <= answer.status < 500:
            if self.failed:
                self._note_outage(time.time())
            self.last_answer, self.failed = time.time(), 0
        else:
            self.failed += 1

    def _note_outage(self, until: float | None) -> None:
        self.journal.append(
            event="outage",
            service=self.service,
            **{"from": _text(self.last_answer), "until": None if until is None else _text(until)},
            seconds=round((time.time() if until is None else until) - self.last_answer, 3),
            failed=self.failed,
        )


def _now() -> str:
    return _text(time.time())


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
