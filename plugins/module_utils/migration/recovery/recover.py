"""What the recovery unit runs: waits until nobody is at work on a group, and brings its window to an end.

It decides nothing itself. The ledger says which store the group has, and the code of the next run does the rest:

- SQLite is the store (state ``frozen``): the window is undone, as ``playbooks/rollback.yml`` does it. Going on would be
  possible, but whoever has ordered the move is gone, and nothing was written to PostgreSQL.
- PostgreSQL is the store (state ``live``): the services are brought up there, as ``playbooks/4_service_cutover.yml``
  does it, which undoes the move itself if they do not come up and have written nothing.
- A rollback was interrupted: it is undone before its commit, and finished behind it, as every run does first.
- No window is open: the unit is left over, and goes without touching anything. Only one of a run that was starting the
  services of a group that is back on SQLite starts them.

It moves no group, in neither direction.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import commands, ledger
from ..core.connection import Login, ServerUnreachable, connected
from ..core.decide import Rollback, decide
from ..core.errors import Busy, MigrationError

# A release of the engine may replace the program's file while it waits: then nothing more can be imported from it.
from ..cutover import window as _cutover_window  # noqa: F401
from ..cutover.cutover import cut_over
from ..rollback import window as _rollback_window  # noqa: F401
from ..rollback.rollback import put_right, roll_back
from ..window.host_lock import locked_on_host
from ..window.signals import server_errors
from .call import Call

# How long to wait until a server that does not answer is asked again.
_SERVER_SECONDS = 5.0


def main(arguments: list[str]) -> int:
    """Bring the window of a group to an end, and return the exit code: 0 when nothing is left to do.

    :param arguments: the path of the private file that :class:`.host.recovery_unit.RecoveryUnit` has written.
    """
    path = Path(arguments[0])
    content = _read(path)
    if content is None:
        return 0
    os.environ[commands.LIMIT_VARIABLE] = content["run_limit"]
    try:
        call = Call.from_arguments(content["arguments"], of_recovery_unit=True)
    except (KeyError, TypeError) as other:
        what = (
            f"Another release of the engine, which reads its settings otherwise ({other}), has been installed on this "
            "host in the window."
        )
        _say(f"{what} Run: {commands.playbook('4_service_cutover')}")
        return 1
    name, said = call.group.name, ""
    while True:
        try:
            with server_errors(call.group), locked_on_host(name, call.settings.work_directory, math.inf):
                if not path.exists():
                    # The run has shut its window itself.
                    return 0
                _say(_bring_to_an_end(call, content.get("keeps_on_sqlite", False)))
            return 0
        except Busy as error:
            if str(error) != said:
                said = str(error)
                _say(f"{said}\nGroup {name} waits for it.")
        except MigrationError as error:
            if _server_answers(call.login):
                _say(str(error))
                return _end(path, name)
            if str(error) != said:
                said = str(error)
                _say(f"{said}\nGroup {name} waits until PostgreSQL answers, because only PostgreSQL knows its state.")
            time.sleep(_SERVER_SECONDS)


def _bring_to_an_end(call: Call, keeps_on_sqlite: bool) -> str:
    """Do what the group's state asks for, and return what was done, for a person.

    The caller holds the group's lock on this host.

    :param keeps_on_sqlite: whether the run was starting the services of a group that is back on SQLite.

    :raises MigrationError: saying what failed and where the group is now.
    """
    settings = replace(call.settings, is_locked=True)
    done = put_right(call.login, call.group, settings)
    with connected(call.login, read_only=True) as connection:
        action = decide(ledger.read_group(connection, call.group.name, call.group.source_path))
    if not action.window_is_open and not (keeps_on_sqlite and action.rollback is Rollback.KEEP_ON_SQLITE):
        if settings.recovery_unit is not None and settings.recovery_unit.is_there():
            settings.recovery_unit.remove()
        return done or f"{call.group.name}: no window is open; nothing was touched."
    if action.on_postgresql:
        result = cut_over(call.login, call.group, settings, may_move=False)
    else:
        result = roll_back(call.login, call.group, settings, may_leave=False)
    return " ".join(filter(None, [done, result["msg"], *result.get("warnings", [])]))


def _end(path: Path, name: str) -> int:
    """Return the exit code after a failure, and say what comes next if the window is still open."""
    if path.exists():
        again = commands.playbook("4_service_cutover")
        tries = "up to ten times, a minute apart, and at the next boot"
        _say(f"Group {name} is tried again {tries}. Or correct the problems above and run: {again}")
    return 1


def _server_answers(login: Login) -> bool:
    """Return whether there is a server to talk to."""
    try:
        with connected(login):
            return True
    except ServerUnreachable:
        return False
    except MigrationError:
        return True


def _read(path: Path) -> dict[str, Any] | None:
    """Return what the unit was told, None if the run has taken it away meanwhile."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def _say(text: str) -> None:
    """Write into the journal at once."""
    print(text, flush=True)
