"""An address of a service that answers 200."""

from __future__ import annotations

import http.client
from collections.abc import Iterable

# Each is asked in this order; the last one is often only a page.
PATHS = ("/health", "/healthz", "/api/health", "/")
_ANSWER_SECONDS = 3.0


def find_health(ports: Iterable[int]) -> str:
    """Return the first address that answers 200, empty if there is none. A redirection is no answer, and not followed.

    :param ports: of the service's own processes.
    """
    for port in sorted(ports):
        for path in PATHS:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == http.client.OK:
                    return f"http://127.0.0.1:{port}{path}"
            except TimeoutError:
                # It does not speak HTTP, or hangs: it would with each path.
                break
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
    return ""
