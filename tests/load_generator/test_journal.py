"""The journal of the load generator: what the store must hold after each way in which a write can end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from molecule.load_generator import checker, journal
from molecule.load_generator.kinds import BY_NAME
from molecule.load_generator.requests import send

ANSWER = {"id": "1", "name": "a", "description": "old", "updated_at": "then"}
CHANGE = {"description": "new"}


def written(path: Path, *writes: tuple[str, dict[str, Any], str, Any]) -> journal.Row:
    """Return the row `a` of a journal with these writes: operation, body, outcome and answer; no outcome is a crash."""
    shared = journal.Journal(path)
    for number, (operation, body, outcome, answer) in enumerate(writes):
        shared.append(
            event="intent", number=str(number), at="now", kind="agent", operation=operation, key="a", body=body
        )
        if outcome:
            shared.append(event=outcome, number=str(number), at="now", status=404, answer=answer)
    return journal.replay(journal.read(path)).rows["agent", "a"]


CREATED = (journal.CREATE, {"name": "a"}, "acknowledged", ANSWER)
CHANGED = {**ANSWER, **CHANGE, "updated_at": "now"}


@pytest.mark.parametrize(
    ("writes", "possible"),
    [
        pytest.param([CREATED], [ANSWER], id="created"),
        pytest.param([CREATED, (journal.UPDATE, CHANGE, "acknowledged", CHANGED)], [CHANGED], id="changed"),
        pytest.param([CREATED, (journal.UPDATE, CHANGE, "unknown", "")], [ANSWER, CHANGED], id="perhaps changed"),
        pytest.param([CREATED, (journal.UPDATE, CHANGE, "", "")], [ANSWER, CHANGED], id="killed while changing"),
        pytest.param([CREATED, (journal.UPDATE, CHANGE, "refused", "")], [ANSWER], id="change not sent"),
        pytest.param([CREATED, (journal.DELETE, {}, "acknowledged", {})], [None], id="removed"),
        pytest.param([CREATED, (journal.DELETE, {}, "unknown", "")], [ANSWER, None], id="perhaps removed"),
        pytest.param([CREATED, (journal.DELETE, {}, "refused", "")], [ANSWER], id="removal not sent"),
        pytest.param([(journal.CREATE, {"name": "a"}, "refused", "")], [None], id="not sent"),
        pytest.param([(journal.CREATE, {"name": "a"}, "unknown", "")], [None, ANSWER, CHANGED], id="perhaps created"),
    ],
)
def test_the_store_may_hold_what_the_journal_allows_and_nothing_else(
    tmp_path: Path, writes: list[tuple[str, dict[str, Any], str, Any]], possible: list[dict[str, Any] | None]
) -> None:
    row = written(tmp_path / "journal", *writes)
    for seen in (None, ANSWER, CHANGED):
        found = [] if seen is None else [seen]
        assert (checker._compare_answers(BY_NAME["agent"], [row], found) == []) is (seen in possible), seen
    assert checker._compare_answers(BY_NAME["agent"], [row], [ANSWER, ANSWER]) != []


def test_a_rejected_write_is_a_problem(tmp_path: Path) -> None:
    written(tmp_path / "journal", CREATED, (journal.UPDATE, CHANGE, "rejected", {"error": "there is no such agent"}))
    (problem,) = journal.replay(journal.read(tmp_path / "journal")).rejected
    assert "update of agent a got status 404" in problem


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written(path, CREATED)
    with path.open("a") as file:
        file.write('{"event": "int')
    assert len(journal.read(path)) == 2


@contextmanager
def listener(answer: bytes | None) -> Iterator[int]:
    """A port whose listener reads a request and answers, or closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                if answer is not None:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}", "acknowledged"),
        (b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n{}", "unknown"),
        (b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}", "rejected"),
        (b"HTTP/1.1 500 Error\r\nContent-Length: 2\r\n\r\n{}", "unknown"),
        (b"", "unknown"),
        (None, "unknown"),
    ],
)
def test_only_a_whole_answer_is_an_acknowledgement(answer: bytes | None, outcome: str) -> None:
    with listener(answer) as port:
        assert send(port, "POST", "/agents", {}).outcome == outcome


def test_where_nobody_listens_nothing_is_written() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert send(port, "POST", "/agents", {}).outcome == "refused"
