"""Moves one cutover group to PostgreSQL in one window, or leaves it on SQLite, running.

Everything between the stop of the services and the proof of their health happens in this one
process, so that the window is short and whoever opened it also undoes it. The ledger's state says
what a later run has to do if this process is killed:

- ``frozen`` is committed before the services stop: whatever has happened since, PostgreSQL holds
  nothing that the file does not hold, so the window is simply gone through again, or undone.
- ``live`` is committed before the services start on PostgreSQL: from here on it may hold rows that
  exist nowhere else, so the services are brought to PostgreSQL, and never again the other way
  unless the fingerprint of the tables proves that nothing was written.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import dotenv_file, engine, fence, ledger, open_files, state
from .connection import Login, ServerUnreachable, connect, connected
from .cutover_checks import Checked, EnvFile, Settings, check_database, check_health, check_services, check_source
from .errors import MigrationError, Problem
from .estate import Group, Service
from .fingerprint import fingerprint
from .service_health import POSTGRESQL, SQLITE, Health, Watcher
from .snapshot import sha256_of

try:
    import psycopg2
except ImportError:  # reported by connection.connect()
    pass

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Keys in the ledger's detail of a group.
FINGERPRINT = "fingerprint"
FENCE = "fence"
STOPPED_AT = "stopped_at"
# Whether its services have been seen healthy on PostgreSQL since the cutover.
PROVEN = "proven"

KIND = "cutover"
# A run whose controller was killed may still be in its window, and then goes on to its end.
LOCK_SECONDS = 60.0
_RECONNECT_SECONDS = 10.0
# How long a service that should be healthy may take to show it.
_PATIENCE_SECONDS = 3.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SUMMARY = "Cutover group {} cannot be cut over; nothing was stopped."


class Interrupted(MigrationError):
    """Somebody asked this process to end."""


class Steps:
    """Measures the steps of a window, in seconds."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.name = "the start"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure one step, and remember its name for an error."""
        self.name = name
        start = time.monotonic()
        try:
            yield
        finally:
            self.steps.append({"name": name, "seconds": round(time.monotonic() - start, 3)})

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each step by its name."""
        return {entry["name"]: entry["seconds"] for entry in self.steps}


def cut_over(login: Login, group: Group, settings: Settings, check_mode: bool = False) -> dict[str, Any]:
    """Bring a group's services to PostgreSQL, or keep them there.

    :returns: ``changed``, ``state``, ``msg``, ``diff`` and, with services on PostgreSQL, ``report``.
    :raises MigrationError: with every problem found, and the group's services running.
    """
    try:
        with connected(login) as connection:
            if check_mode and not ledger.exists(connection):
                return _announce(group, settings, state.PENDING, check_services(group, settings))
            ledger.require(connection)
            connection.rollback()
            if check_mode:
                return _foretell(connection, group, settings)
            with server_errors(group), interruptible(), ledger.locked(connection, f"group {group.name}", LOCK_SECONDS):
                return _bring_to_postgresql(connection, login, group, settings)
    except ServerUnreachable:
        if not check_mode:
            raise
        return _announce(group, settings, state.PENDING, check_services(group, settings))


def _bring_to_postgresql(connection: Connection, login: Login, group: Group, settings: Settings) -> dict[str, Any]:
    """Do what the group's state asks for."""
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    if state.is_on_postgresql(record.state):
        result = _Ensure(connection, login, group, settings, record).run()
        if result is not None:
            return result
        record = ledger.read_group(connection, group.name, group.source_path)
        connection.rollback()
    # Refuses a group that has not been rehearsed.
    state.next_state(group.name, record.state, "freeze")
    interrupted = record.state == state.FROZEN
    checked = check_services(group, settings, may_be_missing=interrupted)
    try:
        if not interrupted:
            check_health(group, checked)
        check_source(group, checked)
        check_database(connection, group, settings, checked)
        checked.require(_SUMMARY.format(group.name))
    except MigrationError as error:
        if interrupted:
            # An earlier window has left the services stopped: they must not stay so.
            raise put_back(connection, login, group, settings, error, "the checks of an interrupted cutover") from None
        raise
    return _Window(connection, login, group, settings, checked, record).run()


def _foretell(connection: Connection, group: Group, settings: Settings) -> dict[str, Any]:
    """Return what a run would do, after the same checks, and write nothing."""
    record = ledger.read_group(connection, group.name, group.source_path)
    connection.rollback()
    if state.is_on_postgresql(record.state):
        return _Ensure(connection, None, group, settings, record).foretell()
    interrupted = record.state == state.FROZEN
    checked = check_services(group, settings, may_be_missing=interrupted)
    if record.state in (state.REHEARSED, state.FROZEN):
        check_database(connection, group, settings, checked)
    return _announce(group, settings, record.state, checked)


def _announce(group: Group, settings: Settings, group_state: str, checked: Checked) -> dict[str, Any]:
    """Return what a dry run says of a group that would be cut over."""
    if group_state != state.FROZEN:
        check_health(group, checked)
    check_source(group, checked)
    checked.require(_SUMMARY.format(group.name))
    when = {
        state.REHEARSED: "would be cut over",
        state.FROZEN: "is frozen by an interrupted cutover, which would be finished",
    }.get(group_state, "would be cut over after its rehearsal")
    return {
        "changed": True,
        "state": group_state,
        "msg": f"{group.name} {when}: {', '.join(service.name for service in group.services)}.",
        "diff": diff(checked.env_files, to=POSTGRESQL),
    }


class _Window:
    """One window, from the stop of the services to their proven health on PostgreSQL."""

    def __init__(
        self,
        connection: Connection,
        login: Login,
        group: Group,
        settings: Settings,
        checked: Checked,
        record: ledger.GroupRecord,
    ) -> None:
        self.connection = connection
        self.login = login
        self.group = group
        self.settings = settings
        self.checked = checked
        self.record = record
        self.steps = Steps()

    def run(self) -> dict[str, Any]:
        """Go through the window; on any failure put the group back.

        :raises MigrationError: saying what failed and where the group is now.
        """
        started_at = datetime.now(UTC)
        watcher = watch(self.group, self.checked, self.settings)
        with ExitStack() as stack:
            stack.callback(watcher.close)
            try:
                began = time.monotonic()
                with self.steps.step("freeze"):
                    self._freeze(started_at)
                with self.steps.step("final sync"):
                    migration = engine.migrate(
                        self.connection, self.group, engine.FINAL, work_directory=self.settings.work_directory
                    )
                with self.steps.step("settings"):
                    write_env_files(self.checked.env_files, POSTGRESQL)
                with self.steps.step("go live"):
                    self._go_live()
                with self.steps.step("start"):
                    start(self.group.services, self.checked)
                    healths = watcher.wait(
                        self.group.services, POSTGRESQL, self.settings.health_timeout, self.checked.pids
                    )
                with self.steps.step("watch"):
                    watcher.watch(healths, self.settings.stable_seconds)
                downtime = max(health.healthy_at for health in healths) - began
                with self.steps.step("save"):
                    save(self.group, self.checked, self.settings)
            except BaseException as error:
                # Its sessions are of the services' roles too, and must not be taken for theirs.
                watcher.close()
                raise put_back(
                    self.connection, self.login, self.group, self.settings, error, f"the step '{self.steps.name}'"
                ) from None
        report = make_report(self.group, healths, downtime, self.steps, migration["report"])
        for entry, health in zip(report["services"], healths, strict=True):
            entry["downtime_seconds"] = round(health.healthy_at - began, 3)
        record_cutover(self.connection, self.group, started_at, report)
        return {
            "changed": True,
            "state": state.LIVE,
            "msg": f"{self.group.name} lives on PostgreSQL; its services were down for {downtime:.1f} seconds.",
            "diff": diff(self.checked.env_files, to=POSTGRESQL),
            "report": report,
        }

    def _freeze(self, started_at: datetime) -> None:
        """Stop the services, prove that nobody has the file open, complete it, and fence it."""
        path = Path(os.path.realpath(self.group.source_path))
        # A fence that is there already was put up by an earlier run, which recorded what was before it.
        known = self.record.detail.get(FENCE)
        described = known if known and fence.is_fenced(path) else fence.describe(path)
        since = self.record.detail.get(STOPPED_AT) if self.record.state == state.FROZEN else None
        detail = {FENCE: described, STOPPED_AT: since or started_at.isoformat(), PROVEN: False}
        self._step("freeze", detail=detail)
        stop(self.group.services, self.checked)
        wait_until_closed(self.group.source_path, self.settings.stop_timeout)
        fence.remove_fence(path, described)
        checkpoint(path)
        fence.raise_fence(path)
        self._step("freeze", frozen_sha256=sha256_of(path))

    def _go_live(self) -> None:
        """Commit that PostgreSQL is the store, before the first service can write to it."""
        self._step("go_live", detail={FINGERPRINT: fingerprint(self.connection, self.group)})

    def _step(self, step: str, frozen_sha256: str | None = None, detail: dict[str, Any] | None = None) -> None:
        """Take a step in the ledger and commit it."""
        ledger.take_step(
            self.connection, self.group.name, step, self.group.source_path, frozen_sha256=frozen_sha256, detail=detail
        )
        self.connection.commit()


class _Ensure:
    """Keeps a group's services on PostgreSQL: right settings, online, proven; touches only what is not so."""

    def __init__(
        self,
        connection: Connection,
        login: Login | None,
        group: Group,
        settings: Settings,
        record: ledger.GroupRecord,
    ) -> None:
        self.connection = connection
        self.login = login
        self.group = group
        self.settings = settings
        self.record = record
        self.checked = check_services(group, settings, may_be_missing=True)
        check_database(connection, group, settings, self.checked, is_live=True)
        self.checked.require(f"Cutover group {group.name} lives on PostgreSQL, but cannot be looked after.")

    def foretell(self) -> dict[str, Any]:
        """Return what :meth:`run` would do."""
        with closing(watch(self.group, self.checked, self.settings)) as watcher:
            restart, healths = self._look(watcher)
            unsaved = not restart and save(self.group, self.checked, self.settings, check_mode=True)
        return self._result(restart, healths, unsaved, self._lacks_fence())

    def run(self) -> dict[str, Any] | None:
        """Do it, and return the result; None if the group turned out to be on SQLite and has to be cut over anew.

        :raises MigrationError: if a service does not come up, or both stores were written to.
        """
        started_at = datetime.now(UTC)
        steps = Steps()
        with closing(watch(self.group, self.checked, self.settings)) as watcher:
            with steps.step("look"):
                restart, healths = self._look(watcher)
            if restart and self._is_back_on_sqlite(restart):
                return None
            proven = bool(self.record.detail.get(PROVEN))
            began = time.monotonic()
            unfenced = self._lacks_fence()
            if unfenced:
                self._require_frozen_file()
                fence.raise_fence(self.group.source_path)
            try:
                if restart:
                    with steps.step("settings"):
                        write_env_files(self._env_files_of(restart), POSTGRESQL)
                    with steps.step("start"):
                        old = [entry.pid for service in restart for entry in self.checked.processes[service.name]]
                        start(restart, self.checked)
                        watcher.wait(restart, POSTGRESQL, self.settings.health_timeout, old)
                    with steps.step("watch"):
                        healths = watcher.wait(self.group.services, POSTGRESQL, _PATIENCE_SECONDS)
                        watcher.watch(healths, self.settings.stable_seconds)
                with steps.step("save"):
                    saved = save(self.group, self.checked, self.settings)
            except BaseException as error:
                if proven or self.login is None or self.record.state != state.LIVE:
                    raise _still_live(self.group, error) from None
                step = f"the step '{steps.name}' of an interrupted cutover"
                raise put_back(self.connection, self.login, self.group, self.settings, error, step) from None
        result = self._result(restart, healths, saved, unfenced)
        if not proven and self.record.state == state.LIVE:
            # The run that opened the window was killed before it could report.
            stopped_at = self.record.detail.get(STOPPED_AT)
            since = (datetime.now(UTC) - datetime.fromisoformat(stopped_at)).total_seconds() if stopped_at else 0.0
            downtime = max(since - self.settings.stable_seconds, time.monotonic() - began)
            migration = ledger.read_latest_run(self.connection, self.group.name, engine.FINAL) or {}
            report = make_report(self.group, healths, downtime, steps, migration)
            record_cutover(self.connection, self.group, started_at, report)
            result = {**result, "changed": True, "report": report}
            result["msg"] = f"{self.group.name}: an interrupted cutover was finished; it lives on PostgreSQL."
        return result

    def _look(self, watcher: Watcher) -> tuple[list[Service], list[Health]]:
        """Return the services that have to be started again, and the health of all."""
        stale = {
            entry.service.name
            for entry in self.checked.env_files
            if entry.text != entry.on_postgresql or dotenv_file.mode_of(entry.service.env_path) != 0o600
        }
        healths = watcher.look(self.group.services, POSTGRESQL, 0.0 if stale else _PATIENCE_SECONDS)
        restart = [health.service for health in healths if health.shortcoming or health.service.name in stale]
        return restart, healths

    def _is_back_on_sqlite(self, restart: Sequence[Service]) -> bool:
        """Return whether a cutover was undone without the ledger's knowledge, and correct the ledger if so.

        That happens if the server could not be reached while a failed cutover was undone.

        :raises MigrationError: if the services have written to SQLite, and rows to PostgreSQL were written too.
        """
        path = Path(self.group.source_path)
        if self.record.state != state.LIVE or not path.exists() or fence.is_fenced(path):
            return False
        untouched = _has_no_log(path) and sha256_of(path) == self.record.frozen_sha256
        if untouched and not open_files.find_holders(path):
            return False
        written = written_since(self.connection, self.group, self.record)
        if written:
            raise MigrationError(
                f"Cutover group {self.group.name} was written to in both stores.",
                [
                    Problem(
                        self.group.source_path,
                        "it is no longer the file that was frozen at the cutover, and "
                        f"{', '.join(service.name for service in restart)} may use it",
                        "Find out who took its fence away, and compare the rows written to it by hand",
                    ),
                    *written,
                ],
            )
        ledger.take_step(self.connection, self.group.name, "abandon", self.group.source_path)
        self.connection.commit()
        return True

    def _lacks_fence(self) -> bool:
        """Return whether the frozen file is there without its fence: an old program could write rows to it."""
        path = Path(self.group.source_path)
        return self.record.state == state.LIVE and path.exists() and not fence.is_fenced(path)

    def _require_frozen_file(self) -> None:
        """Refuse to call a file frozen that was written to after its fence was taken away.

        :raises MigrationError: if it is not the file that was frozen.
        """
        path = Path(self.group.source_path)
        if _has_no_log(path) and sha256_of(path) == self.record.frozen_sha256:
            return
        raise MigrationError(
            f"Cutover group {self.group.name} lives on PostgreSQL, and its SQLite file was written to since.",
            [
                Problem(
                    str(path),
                    "its fence is gone, and it is no longer the file that was frozen at the cutover",
                    "Find out who wrote to it, and take these rows over by hand; then put the frozen file back",
                )
            ],
        )

    def _env_files_of(self, services: Iterable[Service]) -> list[EnvFile]:
        """Return the dotenv files of some services."""
        names = {service.name for service in services}
        return [entry for entry in self.checked.env_files if entry.service.name in names]

    def _result(
        self, restart: Sequence[Service], healths: Sequence[Health], saved: bool, fenced: bool
    ) -> dict[str, Any]:
        """Return the module's result."""
        names = ", ".join(service.name for service in restart)
        if restart:
            msg = f"{self.group.name} lives on PostgreSQL; started again with the right settings: {names}."
        elif fenced:
            msg = f"{self.group.name} lives on PostgreSQL; the fence of its frozen SQLite file was put up again."
        elif saved:
            msg = f"{self.group.name} lives on PostgreSQL; pm2's list for the next boot was brought up to date."
        else:
            msg = f"{self.group.name} lives on PostgreSQL since {self.record.cutover_at:%Y-%m-%d %H:%M:%S} UTC."
        return {
            "changed": bool(restart) or saved or fenced,
            "state": self.record.state,
            "msg": msg,
            "diff": diff(self._env_files_of(restart), to=POSTGRESQL),
            "report": {
                "group": self.group.name,
                "downtime_seconds": 0.0,
                "steps": [],
                "services": [health.report(POSTGRESQL) for health in healths],
            },
        }


# ---------------------------------------------------------------- the way back to SQLite


def put_back(
    connection: Connection,
    login: Login,
    group: Group,
    settings: Settings,
    error: BaseException,
    step: str,
) -> MigrationError:
    """Bring a group back to SQLite after a failure, and return the error that tells both.

    :param connection: holds the group's lock, unless the server has gone away.
    :param error: what failed.
    :param step: where it failed, in words.
    """
    problems = _problems_of(error, group)
    with uninterruptible(), ExitStack() as stack:
        usable = _usable_connection(connection, login, stack)
        record = None if usable is None else ledger.read_group(usable, group.name, group.source_path)
        checked = check_services(group, settings, may_be_missing=True)
        try:
            if usable is not None and record is not None and record.state == state.LIVE:
                stop(group.services, checked)
                usable.rollback()
                written = written_until_stopped(usable, group, checked, settings, record)
                if written:
                    start(group.services, checked)
                    return MigrationError(
                        f"Cutover group {group.name} failed in {step}. Its services have already written to "
                        "PostgreSQL, so it stays there; they were started again.",
                        [*problems, *written],
                    )
                # In one commit, so that a kill leaves the group frozen: then the next run goes on here.
                ledger.take_step(usable, group.name, "abandon", group.source_path)
                ledger.take_step(usable, group.name, "freeze", group.source_path)
                usable.commit()
            described = {} if record is None else record.detail.get(FENCE, {})
            to_sqlite(group, checked, settings, described)
            if usable is not None:
                usable.rollback()
                ledger.take_step(usable, group.name, "thaw", group.source_path)
                usable.commit()
                noted = ""
            else:
                noted = " The server does not answer, so the ledger does not know yet; the next run corrects it."
            return MigrationError(
                f"Cutover group {group.name} failed in {step} and was undone: its services run on SQLite again.{noted}",
                problems,
            )
        except Exception as second:
            return MigrationError(
                f"Cutover group {group.name} failed in {step}, and putting it back on SQLite failed too.",
                [
                    *problems,
                    *_problems_of(second, group),
                    Problem(
                        f"cutover group {group.name}",
                        "its services may be stopped",
                        "Correct the problems above and run playbooks/4_service_cutover.yml again, or "
                        "playbooks/rollback.yml to return to SQLite",
                    ),
                ],
            )


def to_sqlite(group: Group, checked: Checked, settings: Settings, described: Mapping[str, Any]) -> list[Health]:
    """Put the services' settings back, take the fence away, and start the services on SQLite.

    :param described: what was recorded of the file before it was fenced.
    :raises MigrationError: if a service does not come up.
    """
    stop(group.services, checked)
    write_env_files(checked.env_files, SQLITE)
    if Path(group.source_path).exists():
        fence.remove_fence(group.source_path, dict(described))
    start(group.services, checked)
    with closing(watch(group, checked, settings)) as watcher:
        healths = watcher.wait(group.services, SQLITE, settings.health_timeout, checked.pids)
        watcher.watch(healths, settings.stable_seconds)
    save(group, checked, settings)
    return healths


def written_until_stopped(
    connection: Connection, group: Group, checked: Checked, settings: Settings, record: ledger.GroupRecord
) -> list[Problem]:
    """Return what :func:`written_since` does for stopped services, once nothing of theirs can be committed any more.

    A session that does not end counts as written: nobody knows what it will commit.
    """
    with closing(watch(group, checked, settings)) as watcher:
        try:
            left = watcher.wait_for_sessions(settings.stop_timeout)
        except (Interrupted, ServerUnreachable):
            raise
        except MigrationError:
            # A role cannot log in any more, so only its name tells its sessions, and those before that still work.
            watcher.close()
            left = _sessions_of_roles(connection, group, settings.stop_timeout)
    return left or written_since(connection, group, record)


def _sessions_of_roles(connection: Connection, group: Group, timeout: float) -> list[Problem]:
    """Wait until no session of the services' roles is left, whosever it is, and name those that are."""
    deadline = time.monotonic() + timeout
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid, usename FROM pg_stat_activity WHERE usename = ANY (%s) AND datname = current_database()",
                ([service.database_role for service in group.services],),
            )
            left = cursor.fetchall()
        connection.rollback()
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return [
        Problem(
            f"session {pid} of role {role}",
            "it may belong to a service that was stopped, and may commit rows",
            "Wait until it has ended, then run again",
        )
        for pid, role in left
    ]


def written_since(connection: Connection, group: Group, record: ledger.GroupRecord) -> list[Problem]:
    """Return one problem for each table that was written to since the cutover."""
    then = record.detail.get(FINGERPRINT, {})
    problems = []
    for table, now in fingerprint(connection, group).items():
        before = then.get(table)
        if before is None or before["hash"] != now["hash"] or before["rows"] != now["rows"]:
            rows = "an unknown number of" if before is None else f"{before['rows']:,}"
            problems.append(
                Problem(
                    f"{group.name}: {table}",
                    f"it was written to since the cutover: {rows} rows then, {now['rows']:,} rows now",
                    "These rows are in PostgreSQL alone: stay there, or take them over by hand before going back",
                )
            )
    connection.rollback()
    return problems


def _still_live(group: Group, error: BaseException) -> MigrationError:
    """Return the error for services that live on PostgreSQL and do not come up."""
    return MigrationError(
        f"Cutover group {group.name} lives on PostgreSQL, and its services could not be brought up with the "
        "settings they should have.",
        _problems_of(error, group),
    )


def _problems_of(error: BaseException, group: Group) -> list[Problem]:
    """Return what went wrong as problems, whatever kind of error it was."""
    if isinstance(error, MigrationError):
        return error.problems or [Problem(f"cutover group {group.name}", error.summary, "Run again")]
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0] if lines else 'no more is known'}"
    return [Problem(f"cutover group {group.name}", what, "Correct this, then run again")]


def _usable_connection(connection: Connection, login: Login, stack: ExitStack) -> Connection | None:
    """Return the connection, or a new one if the server has closed it; None if it does not answer for a while."""
    deadline = time.monotonic() + _RECONNECT_SECONDS
    candidate: Connection | None = connection
    while True:
        try:
            if candidate is None:
                candidate = connect(login)
                stack.callback(candidate.close)
            candidate.rollback()
            with candidate.cursor() as cursor:
                cursor.execute("SELECT 1")
            candidate.rollback()
            return candidate
        except Exception:
            candidate = None
            if time.monotonic() > deadline:
                return None
            time.sleep(0.5)


# ---------------------------------------------------------------- services and their file


def watch(group: Group, checked: Checked, settings: Settings) -> Watcher:
    """Return a watcher of a group's services."""
    return Watcher(group, checked.daemons, settings.services_login, settings.role_passwords)


def stop(services: Iterable[Service], checked: Checked) -> None:
    """Stop services, those of one user with one call."""
    for user, pm2 in checked.daemons.items():
        pm2.stop(service.name for service in services if service.user == user)


def start(services: Iterable[Service], checked: Checked) -> None:
    """Delete services from pm2's list and start them from their ecosystem files, all at the same time.

    A variable that pm2 has cached would beat the ``.env``, and only ``delete`` makes it forget.
    """
    services = list(services)
    for user, pm2 in checked.daemons.items():
        pm2.delete(service.name for service in services if service.user == user)
    with ThreadPoolExecutor(max_workers=max(len(services), 1)) as pool:
        for started in [
            pool.submit(checked.daemons[service.user].start, service.ecosystem_path, service.name)
            for service in services
        ]:
            started.result()


def save(group: Group, checked: Checked, settings: Settings, check_mode: bool = False) -> bool:
    """Let pm2 write its list for the next boot where that would change it, and return whether it was changed."""
    changed = False
    for user, pm2 in checked.daemons.items():
        services = [service for service in group.services if service.user == user]
        secrets = [settings.role_passwords.get(service.database_role, "") for service in services]
        changed |= pm2.save([service.name for service in services], secrets, check_mode)
    return changed


def write_env_files(env_files: Iterable[EnvFile], store: str) -> None:
    """Write the dotenv files for a store, where they are not already so."""
    for entry in env_files:
        text = entry.on_postgresql if store == POSTGRESQL else entry.on_sqlite
        path, user = entry.service.env_path, entry.service.user
        if dotenv_file.read(path, user) != text or dotenv_file.mode_of(path) != 0o600:
            dotenv_file.write(path, text, user)


def diff(env_files: Iterable[EnvFile], to: str) -> list[dict[str, str]]:
    """Return each dotenv file before and after, for ``--diff``, with every secret masked."""
    return [
        {
            "before_header": entry.service.env_path,
            "after_header": entry.service.env_path,
            "before": dotenv_file.masked(entry.text),
            "after": dotenv_file.masked(entry.on_postgresql if to == POSTGRESQL else entry.on_sqlite),
        }
        for entry in env_files
    ]


def wait_until_closed(path: str, timeout: float) -> None:
    """Wait until no process has the file open any more.

    :raises MigrationError: naming the processes that still have it open after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        holders = open_files.find_holders(path)
        if not holders:
            return
        if time.monotonic() > deadline:
            raise MigrationError(
                f"{path} is still open {timeout:g} seconds after its services were stopped.",
                [
                    Problem(
                        holder.path,
                        f"process {holder.pid} ({holder.command}) has it open",
                        "End this process, or raise service_env_stop_timeout",
                    )
                    for holder in holders
                ],
            )
        time.sleep(0.1)


def checkpoint(path: Path) -> None:
    """Bring every row of the write-ahead log or a hot journal into the file, so that it is complete by itself.

    :raises MigrationError: if rows are left in the log.
    """
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=10)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if not _has_no_log(path):
        raise MigrationError(
            f"The write-ahead log of {path} cannot be emptied.",
            [Problem(f"{path}-wal", "rows are left in it", "Find out who has the file open (fuser), then run again")],
        )


def _has_no_log(path: Path) -> bool:
    """Return whether no row is kept beside the file."""
    log = Path(f"{os.path.realpath(path)}-wal")
    return not log.exists() or log.stat().st_size == 0


# ---------------------------------------------------------------- the report


def make_report(
    group: Group, healths: Sequence[Health], downtime: float, steps: Steps, migration: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the report of a cutover.

    :param downtime: seconds from the stop of the first service until the last was healthy.
    """
    return {
        "group": group.name,
        "downtime_seconds": round(downtime, 3),
        "steps": steps.steps,
        "seconds": steps.seconds(),
        "services": [health.report(POSTGRESQL) for health in healths],
        "migration": dict(migration),
    }


def record_cutover(connection: Connection, group: Group, started_at: datetime, report: dict[str, Any]) -> None:
    """Write the cutover into the ledger; its final sync has an entry of its own."""
    connection.rollback()
    entry = {key: value for key, value in report.items() if key != "migration"}
    ledger.record_run(connection, group.name, KIND, started_at, entry)
    ledger.merge_detail(connection, group.name, {PROVEN: True})
    connection.commit()


# ---------------------------------------------------------------- signals and the server's errors


@contextmanager
def server_errors(group: Group) -> Iterator[None]:
    """Turn an error of the server, or the loss of it, into one that a person can act on."""
    try:
        yield
    except psycopg2.Error as error:
        raise MigrationError(
            f"The server failed while cutover group {group.name} was looked after.",
            [
                Problem(
                    "PostgreSQL",
                    (str(error).strip().splitlines() or ["the connection was lost"])[0],
                    "Look at the server's log, then run again: what was interrupted is finished",
                )
            ],
        ) from None


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn a request to end into an error, so that an open window is undone first."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(
            "The cutover was interrupted.",
            [Problem("this run", f"it received {signal.Signals(number).name}", "Run again when it suits you")],
        )

    before = [signal.signal(number, interrupt) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def uninterruptible() -> Iterator[None]:
    """Let nobody interrupt what brings the services back."""
    before = [signal.signal(number, signal.SIG_IGN) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
