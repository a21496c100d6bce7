"""The client that measures a downtime: what it counts, and that nobody ever waits for it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import downtime
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.downtime import DowntimeClient


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def service(name: str, port: int) -> Service:
    """Return a service with a health address."""
    return Service(name, "user", "/opt", "role", ("app",), f"http://127.0.0.1:{port}/health?full=1")


@contextmanager
def answering(port: int, status: int = 200, seconds: float = 0.0) -> Iterator[list[str]]:
    """Answer on a port, and yield the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            asked.append(self.path)
            time.sleep(seconds)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        allow_reuse_address = True
        daemon_threads = True

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.promise("downtime-measured")
def test_the_time_between_two_answers_is_measured() -> None:
    ports = free_port(), free_port()
    client = DowntimeClient([service("one", ports[0]), service("two", ports[1])])
    with answering(ports[1]):
        with answering(ports[0]) as asked:
            client.wait_for_first_answers()
        assert "/health?full=1" in asked
        time.sleep(0.6)
    client.mark_start()
    time.sleep(0.2)
    with answering(ports[1]):
        time.sleep(0.3)
        with answering(ports[0]):
            client.wait_for_answers()
    client.close()
    one, two = client.of("one"), client.of("two")
    assert one["downtime_seconds"] == pytest.approx(1.1, abs=0.25)
    assert two["downtime_seconds"] == pytest.approx(0.2, abs=0.25)
    assert one["start_seconds"] == pytest.approx(0.5, abs=0.25)
    assert client.downtime() == pytest.approx(1.1, abs=0.25)
    assert 0 < one["requests_failed"] < one["requests"]


@pytest.mark.promise("downtime-measured")
def test_an_answer_of_the_old_process_is_no_answer_of_the_new_one() -> None:
    port = free_port()
    client = DowntimeClient([service("one", port)])
    with answering(port, seconds=0.4):
        client.wait_for_first_answers()
        # The answer to what was asked before comes after the mark.
        time.sleep(0.5)
        client.mark_start()
        time.sleep(0.3)
        assert client.of("one")["start_seconds"] is None
        client.wait_for_answers()
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


def test_an_address_that_takes_long_is_not_kept_busy() -> None:
    port = free_port()
    with answering(port, seconds=0.1) as asked:
        client = DowntimeClient([service("one", port)])
        time.sleep(1.0)
        client.close()
    assert 2 <= len(asked) <= 6
