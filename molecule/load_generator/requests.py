"""Requests to one service on this host, with every way in which one can end."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

# The services give up on their store after 5 seconds, and say so.
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """How a request ended.

    :param status: the HTTP status; 0 if no answer came.
    :param sent: False if nobody listened, so that nothing can have been done.
    :param body: the answer's JSON, or what went wrong.
    """

    status: int
    sent: bool
    body: Any

    @property
    def outcome(self) -> str:
        """Return the word of the journal for it."""
        if not self.sent:
            return "refused"
        if 200 <= self.status < 300:
            return "acknowledged"
        # With a status 5xx the service may have failed before or after its commit.
        return "rejected" if 400 <= self.status < 500 else "unknown"


def send(port: int, method: str, path: str, body: Any = None) -> Answer:
    """Send a request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        try:
            connection.connect()
        except OSError as error:
            return Answer(0, False, str(error))
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", "Connection": "close"})
            response = connection.getresponse()
            return Answer(response.status, True, json.loads(response.read()))
        except (OSError, ValueError, http.client.HTTPException) as error:
            return Answer(0, True, f"{type(error).__name__}: {error}")
    finally:
        connection.close()
