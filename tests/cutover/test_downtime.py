"""The client that measures a downtime: what it counts, and that nobody ever waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import downtime
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.downtime import DowntimeClient
from scripts.throwaway_postgres import free_port


def service(name: str, port: int) -> Service:
    """Return a service with a health address."""
    return Service(name, "user", "/opt", "role", ("app",), f"http://127.0.0.1:{port}/health?full=1")


@dataclass
class Address:
    """A health address. Times are those of :func:`time.monotonic`.

    :param asked: the path of each request, and when it came.
    :param answered: when each was answered.
    :param allowed: how many requests are answered at most; the next one waits.
    """

    asked: list[tuple[str, float]] = field(default_factory=list)
    answered: list[float] = field(default_factory=list)
    allowed: float = math.inf


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline, "it never held"
        time.sleep(0.01)


@contextmanager
def answering(port: int, status: int = 200, seconds: float = 0.0) -> Iterator[Address]:
    """Answer on a port."""
    address = Address()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            number = len(address.asked)
            address.asked.append((self.path, time.monotonic()))
            time.sleep(seconds)
            until(lambda: number < address.allowed)
            address.answered.append(time.monotonic())
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        allow_reuse_address = True
        daemon_threads = False

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield address
    finally:
        address.allowed = math.inf
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def patient_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request wait longer than the busiest machine takes to answer it."""
    monkeypatch.setattr(downtime, "_TIMEOUT_SECONDS", 60.0)


@pytest.mark.promise("downtime-measured")
@pytest.mark.usefixtures("patient_requests")
def test_the_time_between_two_answers_is_measured() -> None:
    ports = free_port(), free_port()
    client = DowntimeClient([service("one", ports[0]), service("two", ports[1])])

    def failed(name: str) -> bool:
        return bool(client.of(name)["requests_failed"])

    with answering(ports[1]) as two_before:
        with answering(ports[0]) as one_before:
            client.wait_for_first_answers(120)
        until(lambda: failed("one"))
        one_down = time.monotonic()
        time.sleep(0.4)
    until(lambda: failed("two"))
    two_down = time.monotonic()
    client.mark_start()
    marked = time.monotonic()
    time.sleep(0.2)
    two_up = time.monotonic()
    with answering(ports[1]):
        time.sleep(0.2)
        one_up = time.monotonic()
        with answering(ports[0]):
            client.wait_for_answers(120)
            end = time.monotonic()
    client.close()
    one, two = client.of("one"), client.of("two")
    assert one_before.asked[0][0] == "/health?full=1"
    # The last answer came after the last question and before the first failure, the next one after the new start.
    one_asked, two_asked = one_before.asked[-1][1], two_before.asked[-1][1]
    rounding = 0.001
    assert one_up - one_down - rounding <= one["downtime_seconds"] <= end - one_asked + rounding
    assert two_up - two_down - rounding <= two["downtime_seconds"] <= end - two_asked + rounding
    assert one_up - marked - rounding <= one["start_seconds"] <= end - two_down + rounding
    # From the first that is down to the last that is up again.
    down = client.downtime()
    assert down is not None
    assert max(one["downtime_seconds"], two["downtime_seconds"]) - rounding <= down <= end - one_asked + rounding
    assert 0 < one["requests_failed"] < one["requests"]


@pytest.mark.promise("downtime-measured")
@pytest.mark.usefixtures("patient_requests")
def test_an_answer_of_the_old_process_is_no_answer_of_the_new_one() -> None:
    port = free_port()
    client = DowntimeClient([service("one", port)])
    with answering(port) as address:
        client.wait_for_first_answers(120)
        address.allowed = len(address.asked)
        until(lambda: len(address.asked) > address.allowed)
        client.mark_start()
        # The answer to what was asked before comes after the mark; what is asked next waits.
        requests = client.of("one")["requests"]
        address.allowed += 1
        until(lambda: client.of("one")["requests"] > requests)
        assert client.of("one")["start_seconds"] is None
        address.allowed = math.inf
        client.wait_for_answers(120)
    client.close()
    assert client.of("one")["start_seconds"] is not None


@pytest.mark.promise("downtime-measured")
def test_what_was_never_seen_is_not_guessed() -> None:
    port = free_port()
    client = DowntimeClient([service("one", port)])
    with answering(port, status=503):
        client.wait_for_first_answers(0.2)
        client.mark_start()
        client.wait_for_answers(0.2)
        until(lambda: client.of("one")["requests"] > 0)
    client.close()
    seen = client.of("one")
    assert client.downtime() is None
    assert (seen["downtime_seconds"], seen["start_seconds"]) == (None, None)
    assert seen["requests_failed"] == seen["requests"] > 0
    assert DowntimeClient([]).downtime() is None


def test_a_service_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, let_go = threading.Event(), threading.Event()

    def answers_well(_: object) -> bool:
        asked.set()
        return let_go.wait(60)

    monkeypatch.setattr(downtime, "_answers_well", answers_well)
    monkeypatch.setattr(downtime, "_PATIENCE_SECONDS", 0.1)
    client = DowntimeClient([service("one", 1)])
    assert asked.wait(30)
    client.close()
    assert client.of("one")["requests"] == 0
    # It still waits for its answer.
    assert client._threads[0].is_alive()
    let_go.set()


@pytest.mark.usefixtures("patient_requests")
def test_an_address_that_takes_long_is_not_kept_busy() -> None:
    port = free_port()
    with answering(port, seconds=0.1) as address:
        client = DowntimeClient([service("one", port)])
        until(lambda: len(address.answered) > 3)
        client.close()
    took = [answered - asked for (_, asked), answered in zip(address.asked, address.answered, strict=True)]
    rested = [asked - answered for (_, asked), answered in zip(address.asked[1:], address.answered, strict=False)]
    assert [(rest, seconds) for rest, seconds in zip(rested, took, strict=False) if not rest >= seconds >= 0.1] == []
