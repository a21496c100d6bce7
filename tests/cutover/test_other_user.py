"""A group whose services run under the pm2 of two users: both move, and both go back, together."""

from __future__ import annotations

import json

import pytest

from .host import (
    CUTOVER,
    ROLLBACK,
    SharedHost,
    group_of,
    is_protected,
    on_host,
    original_env_of,
    play,
    pm2,
    sql,
    state_of,
    stores,
    variables,
)

GROUP = group_of("platform")
GROUP["services"][0]["user"] = "tickets"
DIRECTORY, DATA = "/opt/swarm-tickets", "/opt/swarm-platform/data"
ECOSYSTEM = f"{DIRECTORY}/ecosystem.config.js"
NAMES = ("swarm-tickets", "swarm-platform")


def other_pm2(*arguments: str) -> str:
    """Call pm2 of the other user."""
    return pm2(*arguments, user="tickets")


def record_attempt(branch: str) -> str:
    """Let the service of the other user write a row, and return its id."""
    code = (
        "import json, sys, urllib.request as r; body = json.dumps({'ticket_id': 'T-1', 'branch_name': sys.argv[1]}); "
        "print(r.urlopen(r.Request('http://127.0.0.1:4003/attempts', body.encode(), "
        "{'Content-Type': 'application/json'})).read().decode())"
    )
    return str(json.loads(on_host("python3", "-c", code, branch))["id"])


def in_file(identifier: str) -> bool:
    """Return whether the file holds an attempt."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True); "
        "print(c.execute('SELECT count(*) FROM verification_attempts WHERE id = ?', sys.argv[2:]).fetchone()[0])"
    )
    return on_host("python3", "-c", code, GROUP["source"]["path"], identifier).strip() == "1"


@pytest.fixture(scope="module", autouse=True)
def two_users(shared_host: SharedHost) -> None:
    """The tickets' service under a user of its own, who may write to the file through the group's rights."""
    shared_host.take("rehearsed", "platform")
    shared_host.use_up("platform")
    for name in NAMES:
        pm2("delete", name)
    on_host("sh", "-ec", f"useradd --create-home --groups swarm tickets; chown -R tickets {DIRECTORY}")
    # What either of them makes there belongs to the group.
    on_host("sh", "-ec", f"chmod 2775 {DATA}; chmod 664 {DATA}/swarm.db*")
    pm2("start", "/opt/swarm-platform/ecosystem.config.js")
    other_pm2("start", ECOSYSTEM)
    pm2("save")


# test_services_gone_wrong.py has it without a host.
@pytest.mark.long_search
def test_a_pm2_of_one_user_that_does_not_run_stops_neither() -> None:
    before = sql("SELECT count(*) FROM migration.run")
    other_pm2("kill")
    try:
        output = play(CUTOVER, *variables(groups=[GROUP]), succeeds=False)
    finally:
        other_pm2("start", ECOSYSTEM)
    assert "pm2 of user tickets: its daemon does not run" in output
    assert sql("SELECT count(*) FROM migration.run") == before
    assert state_of("platform") == "rehearsed"


@pytest.mark.promise("every-process-moves")
def test_both_move_and_go_back_with_what_they_wrote() -> None:
    output = play(CUTOVER, *variables(groups=[GROUP]))
    assert set(stores(*NAMES).values()) == {"postgresql"}
    assert is_protected(GROUP)
    assert on_host("stat", "-c", "%a %U", f"{DIRECTORY}/.env").split() == ["600", "tickets"]
    assert on_host("stat", "-c", "%a %U", "/home/tickets/.pm2/dump.pm2").split() == ["600", "tickets"]
    assert "Nothing starts the services of pm2's user tickets at boot" in " ".join(output.split())
    written = record_attempt("on postgresql")
    play(ROLLBACK, *variables(rollback_groups="platform", groups=[GROUP]))
    assert (set(stores(*NAMES).values()), state_of("platform")) == ({"sqlite"}, "rolled_back")
    assert in_file(written)
    assert on_host("cat", f"{DIRECTORY}/.env") == original_env_of("swarm-tickets")
    assert on_host("stat", "-c", "%a %U %G", GROUP["source"]["path"]).split() == ["664", "swarm", "swarm"]
    # The other user may write to the file that was put in the place.
    assert in_file(record_attempt("on sqlite again"))
