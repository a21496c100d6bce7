"""Puts a group that lives on PostgreSQL back on its SQLite file, if nothing was written to PostgreSQL since."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cutover, dotenv_file, fence, ledger, state
from .connection import Login, ServerUnreachable, connected
from .cutover_checks import Checked, Settings, check_services
from .errors import MigrationError, Problem
from .estate import Group
from .service_health import SQLITE
from .snapshot import sha256_of

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

KIND = "rollback"


def roll_back(login: Login, group: Group, settings: Settings, check_mode: bool = False) -> dict[str, Any]:
    """Bring a group's services to SQLite, or keep them there.

    :returns: ``changed``, ``state``, ``msg``, ``diff`` and, if services were moved, ``report``.
    :raises MigrationError: before anything is stopped, if rows would be lost or the file is not the frozen one.
    """
    try:
        with connected(login) as connection:
            if check_mode and not ledger.exists(connection):
                return _never_moved(group)
            ledger.require(connection)
            connection.rollback()
            if check_mode:
                return _bring_to_sqlite(connection, login, group, settings, check_mode)
            with (
                cutover.server_errors(group),
                cutover.interruptible(),
                ledger.locked(connection, f"group {group.name}", cutover.LOCK_SECONDS),
            ):
                return _bring_to_sqlite(connection, login, group, settings, check_mode)
    except ServerUnreachable:
        if not check_mode:
            raise
        return _never_moved(group)


def _bring_to_sqlite(
    connection: Connection, login: Login, group: Group, settings: Settings, check_mode: bool
) -> dict[str, Any]:
    """Do what the group's state asks for."""
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    if record.state in (state.PENDING, state.REHEARSED):
        return _unchanged(group, record.state)
    checked = check_services(group, settings, may_be_missing=True)
    if record.state == state.ROLLED_BACK:
        checked.require(f"Cutover group {group.name} is on SQLite, but cannot be looked after.")
        return _keep_on_sqlite(group, settings, checked, check_mode)
    if record.state == state.FROZEN:
        checked.require(f"Cutover group {group.name} is frozen and cannot be brought back to SQLite.")
        return _undo(connection, group, settings, checked, record, check_mode)
    # Refuses a group whose file is archived or gone.
    state.next_state(group.name, record.state, "roll_back")
    _require_frozen_file(group, record, checked)
    checked.problems.extend(cutover.written_since(connection, group, record))
    checked.require(f"Cutover group {group.name} cannot be rolled back; nothing was stopped.")
    if check_mode:
        return _moved(group, record.state, checked, f"{group.name} would be put back on SQLite.")
    return _flip(connection, login, group, settings, checked, record)


def _flip(
    connection: Connection,
    login: Login,
    group: Group,
    settings: Settings,
    checked: Checked,
    record: ledger.GroupRecord,
) -> dict[str, Any]:
    """Stop the services, look once more whether anything was written, and start them on SQLite."""
    started_at = datetime.now(UTC)
    began = time.monotonic()
    steps = cutover.Steps()
    try:
        with steps.step("stop"):
            cutover.stop(group.services, checked)
        with steps.step("compare"):
            checked.problems.extend(cutover.written_until_stopped(connection, group, checked, settings, record))
            checked.require("A service has written to PostgreSQL while it was being stopped.")
        with steps.step("settings"):
            cutover.write_env_files(checked.env_files, SQLITE)
            fence.remove_fence(group.source_path, record.detail.get(cutover.FENCE, {}))
            ledger.take_step(connection, group.name, "roll_back", group.source_path)
            connection.commit()
    except BaseException as error:
        raise _back_on_postgresql(login, group, settings, checked, error) from None
    try:
        with steps.step("start"):
            healths = cutover.to_sqlite(group, checked, settings, record.detail.get(cutover.FENCE, {}))
    except MigrationError as error:
        raise MigrationError(
            f"Cutover group {group.name} is rolled back, but its services are not all well on SQLite. "
            "Correct this, then run playbooks/rollback.yml again: it starts them.",
            error.problems or [Problem(f"cutover group {group.name}", error.summary, "Run again")],
        ) from None
    report = {
        "group": group.name,
        "downtime_seconds": round(max(health.healthy_at for health in healths) - began, 3),
        "steps": steps.steps,
        "seconds": steps.seconds(),
        "services": [health.report(SQLITE) for health in healths],
    }
    ledger.record_run(connection, group.name, KIND, started_at, report)
    connection.commit()
    msg = f"{group.name} runs on SQLite again; its services were down for {report['downtime_seconds']:.1f} seconds."
    return {**_moved(group, state.ROLLED_BACK, checked, msg), "report": report}


def _back_on_postgresql(
    login: Login, group: Group, settings: Settings, checked: Checked, error: BaseException
) -> MigrationError:
    """Start the services on PostgreSQL again after a rollback that did not come about, and return the error."""
    problems = error.problems if isinstance(error, MigrationError) else []
    problems = list(problems) or [Problem(f"cutover group {group.name}", str(error), "Correct this, then run again")]
    with cutover.uninterruptible():
        try:
            with connected(login) as connection:
                now = ledger.read_group(connection, group.name, group.source_path).state
        except MigrationError:
            now = state.LIVE
        if now == state.ROLLED_BACK:
            return MigrationError(
                f"Cutover group {group.name} is rolled back, and its services are still to be started. Run again.",
                problems,
            )
        try:
            fence.raise_fence(group.source_path)
            for entry in checked.env_files:
                # What stood there before, byte for byte.
                dotenv_file.write(entry.service.env_path, entry.text, entry.service.user)
            cutover.start(group.services, checked)
        except Exception as second:
            problems.append(
                Problem(
                    f"cutover group {group.name}",
                    f"its services could not be started again: {second}",
                    "Run playbooks/4_service_cutover.yml, which brings them up on PostgreSQL",
                )
            )
    return MigrationError(
        f"Cutover group {group.name} was not rolled back: it stays on PostgreSQL, and its services were started again.",
        problems,
    )


def _undo(
    connection: Connection,
    group: Group,
    settings: Settings,
    checked: Checked,
    record: ledger.GroupRecord,
    check_mode: bool,
) -> dict[str, Any]:
    """Bring back the services of an interrupted cutover."""
    if not check_mode:
        cutover.to_sqlite(group, checked, settings, record.detail.get(cutover.FENCE, {}))
        ledger.take_step(connection, group.name, "thaw", group.source_path)
        connection.commit()
    msg = f"{group.name}: an interrupted cutover {'would be' if check_mode else 'was'} undone; it runs on SQLite."
    return _moved(group, state.REHEARSED, checked, msg)


def _keep_on_sqlite(group: Group, settings: Settings, checked: Checked, check_mode: bool) -> dict[str, Any]:
    """Start the services of a group whose rollback was interrupted; leave alone what is right."""
    right = all(entry.text == entry.on_sqlite for entry in checked.env_files)
    if right:
        with closing(cutover.watch(group, checked, settings)) as watcher:
            right = not any(health.shortcoming for health in watcher.look(group.services, SQLITE, 3.0))
    if right:
        return _unchanged(group, state.ROLLED_BACK)
    if not check_mode:
        cutover.to_sqlite(group, checked, settings, {})
    msg = f"{group.name}: an interrupted rollback {'would be' if check_mode else 'was'} finished; it runs on SQLite."
    return _moved(group, state.ROLLED_BACK, checked, msg)


def _require_frozen_file(group: Group, record: ledger.GroupRecord, checked: Checked) -> None:
    """Note a problem if the file is not the one that was frozen."""
    path = Path(group.source_path)
    fix = "Put the frozen file back from a backup; without it there is nothing to go back to"
    if not path.exists():
        checked.problems.append(Problem(str(path), "the frozen SQLite file is gone", fix))
    elif sha256_of(path) != record.frozen_sha256:
        what = "it is not the file that was frozen at the cutover: its hash is another"
        checked.problems.append(Problem(str(path), what, fix))


def _moved(group: Group, new_state: str, checked: Checked, msg: str) -> dict[str, Any]:
    """Return the result of a change."""
    return {"changed": True, "state": new_state, "msg": msg, "diff": cutover.diff(checked.env_files, to=SQLITE)}


def _unchanged(group: Group, group_state: str) -> dict[str, Any]:
    """Return the result for a group that is on SQLite."""
    return {"changed": False, "state": group_state, "msg": f"{group.name} is on SQLite.", "diff": []}


def _never_moved(group: Group) -> dict[str, Any]:
    """Return the result of a dry run on a host without a server or a ledger."""
    return _unchanged(group, state.PENDING)
