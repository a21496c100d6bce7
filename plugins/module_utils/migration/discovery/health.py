"""An address of a service that answers 200."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

# Each is asked in this order; the last one is often only a page.
PATHS = ("/health", "/healthz", "/api/health", "/")
_ANSWER_SECONDS = 3.0
_STATUS_200 = re.compile(rb"HTTP/1\.[01] 200\b")
_BYTES_OF_STATUS = 16
# A service may listen on any number of ports, and each may hang.
_MOST_PORTS = 16


def find_health(ports: Iterable[int]) -> str:
    """Return the first address that answers 200, empty if there is none. A redirection is no answer, and not followed.

    :param ports: of the service's own processes; only the first few are asked.
    """
    for port in sorted(ports)[:_MOST_PORTS]:
        for path in PATHS:
            try:
                if _STATUS_200.match(_beginning_of_answer(port, path)):
                    return f"http://127.0.0.1:{port}{path}"
            except TimeoutError:
                # It does not speak HTTP, or hangs: it would with each path.
                break
    return ""


def _beginning_of_answer(port: int, path: str) -> bytes:
    """Return the beginning of an answer's first line. No more is read: a service could send it for ever.

    :raises TimeoutError: if it is not there in time.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    answer = b""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), _ANSWER_SECONDS) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        while len(answer) < _BYTES_OF_STATUS:
            # Zero would mean not to wait at all.
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            received = connection.recv(_BYTES_OF_STATUS)
            if not received:
                break
            answer += received
    return answer
