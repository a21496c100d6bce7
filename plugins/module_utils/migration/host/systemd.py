"""Services that are units of systemd: programs of any language, known by their control groups.

A unit is stopped together with what would start it again (sockets, timers and paths), and systemd itself stops what
requires it. Which of those ran is noted on the disk before the stop, so that they run again even if the run is killed.
"""

from __future__ import annotations

import json
import os
import pwd
import shlex
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..core.errors import MigrationError, Problem
from ..core.estate import Service, meant
from ..core.files import UNIT_SETTINGS
from . import dotenv_file, open_files, programs, unit_settings
from .manager import ONLINE, Checked, InNetworkOfHost, Process, problems_of_directory
from .recovery_unit import SYSTEMD, write_whole
from .safe_paths import private_directory

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
# How long a unit may take to stop, beyond what its own TimeoutStopSec usually allows.
_STOP_SECONDS = 600.0
# How long a process that is about to end may still be seen in the control group of a stopped unit.
_LEFTOVER_SECONDS = 10.0
_PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "ControlGroup", "User",
    "DynamicUser", "KillMode", "EnvironmentFiles", "Environment", "TriggeredBy", "RequiredBy", "BoundBy",
    "ConsistsOf", "WantedBy", "UnitFileState", "NeedDaemonReload", "RefuseManualStart", "RefuseManualStop",
    "DropInPaths", "FragmentPath", "RequisiteOf", "PropagatesStopTo", "UpheldBy",
)  # fmt: skip
# It runs, or waits for what it has to start.
_RUNNING = ("active", "activating", "reloading")
# systemd stops these together with a unit that is stopped. An older one does not know them all, and prints nothing.
_STOPPED_TOGETHER = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")
# Any of these may start a unit at boot.
_STARTED_BY = ("TriggeredBy", "WantedBy", "RequiredBy", "BoundBy", "ConsistsOf")
# With these a stop leaves processes of the unit running.
_LEAVING_PROCESSES = ("process", "none")
# Units of systemd-run, which are gone as soon as they stop.
_TRANSIENT_UNITS = "/run/systemd/transient/"
_UNITS_ADVICE = "Correct 'name' of the service in estate_cutover_groups"
# Services are started beside each other, and what comes before the first start is done once.
_BEFORE_STARTS = threading.Lock()


class Systemd(InNetworkOfHost):
    """systemd of this host, for some services.

    :param services: those of them that are its units.
    """

    called = "systemd"
    keeps_variables = False
    saving = "what an interrupted run had left stopped was started again"

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = {service.unit: service for service in services}
        # Stopped, and not yet being started again.
        self._stopped: set[str] = set()

    @property
    def identity(self) -> tuple[str, ...]:
        """Return what two of them have in common that list the same units."""
        return "systemd", *sorted(self._services)

    def problem(self) -> Problem | None:
        """Return why systemd cannot be used, or None."""
        if SYSTEMD.is_dir():
            return None
        fix = "Correct 'manager' of its services in estate_cutover_groups"
        return Problem("systemd", "it does not manage this host", fix)

    def processes(self) -> list[Process]:
        """Return an entry for each unit that systemd has loaded, whether it runs or not.

        :raises MigrationError: if systemd does not answer.
        """
        found = []
        for unit, shown in _show(self._services).items():
            if shown["LoadState"] != "loaded":
                continue
            group = shown["ControlGroup"]
            pid = int(shown["MainPID"] or 0)
            if not pid and group and shown["ActiveState"] == "active":
                pid = min(open_files.members_of([group]), default=0)
            found.append(
                Process(
                    name=self._services[unit].name,
                    pid=pid,
                    status=ONLINE if shown["ActiveState"] in ("active", "reloading") and pid else _words(shown),
                    restarts=int(shown["NRestarts"] or 0),
                    variables=frozenset(),
                    control_group=group,
                    given_up=shown["ActiveState"] == "failed",
                )
            )
        return found

    def check_known(self, service: Service, processes: Sequence[Process]) -> list[Problem]:
        """Return nothing: :meth:`check_service` says more of a unit that does not exist."""
        return []

    def not_listed(self, service: Service) -> str:
        """Return that a unit is gone."""
        return "systemd does not know it any more"

    def check_service(self, service: Service, usable: bool, again: bool) -> Checked:
        """Return why a service cannot be moved as the unit that it is; its settings may tell more."""
        problems = problems_of_directory(service)
        if not usable:
            return Checked(problems)
        try:
            shown = _show([service.unit])[service.unit]
            problems += _problems_of_unit(service, shown, again) or [
                *_problems_beside(service, shown, self._services),
                *_problems_of_settings(service, shown),
            ]
        except MigrationError as error:
            problems += error.problems
        # Whatever it starts shares one pool's size: systemd does not know how many processes open a pool.
        return Checked(problems, processes=1)

    def stop_services(self, services: Sequence[Service], listed: Mapping[str, Sequence[Process]] | None) -> None:
        """Stop units and what would start them again, those of a group with one call."""
        units = [service.unit for service in services]
        if not units:
            return
        shown = _show(units)
        triggers: set[str] = set()
        for unit in units:
            beside, its_triggers = _stopped_with(unit, shown)
            triggers |= its_triggers
            running = _active(sorted(beside - set(units)))
            _note(unit, [*running, *(name for name in _noted(unit) if name not in running)])
        if triggers:
            _systemctl("stop", *sorted(triggers), seconds=_STOP_SECONDS)
        _systemctl("stop", *units, seconds=_STOP_SECONDS)
        left = [unit for unit, now in _show(units).items() if now["ActiveState"] not in ("inactive", "failed")]
        if left:
            raise _failed("stop", f"these still run: {', '.join(left)}")
        _require_empty([group for unit in units if (group := shown[unit]["ControlGroup"])])
        self._stopped.update(units)

    def start_service(self, service: Service) -> None:
        """Start a unit with the settings that are on the disk now, and then what was stopped together with it."""
        unit = service.unit
        with _BEFORE_STARTS:
            self._prepare_starts(unit)
        with suppress(MigrationError):
            # It refuses this of a unit that never failed and is not loaded.
            _systemctl("reset-failed", unit)
        # A socket cannot be opened any more when its service runs.
        for trigger in (name for name in _noted_and_loaded(unit) if name.endswith(".socket")):
            _systemctl("start", trigger)
        # Whether it gets well is found out by whoever waits for that.
        _systemctl("start", "--no-block", unit)
        # The note stays until the service is known to be well: if it is stopped again before, some of these may not
        # have come up yet.
        _start_noted(unit)

    def _prepare_starts(self, unit: str) -> None:
        """Before the first of the stopped units is started: load their files, and stop what somebody else has started.

        Such a unit runs with the settings of before. Later, one of ours may have started it, which requires it.
        """
        stopped, self._stopped = self._stopped, set()
        if any(_is_outdated(name) for name in sorted({unit, *stopped})):
            _systemctl("daemon-reload")
        started = _active(sorted(stopped))
        if started:
            self.stop_services([self._services[name] for name in started], None)
            self._stopped = set()

    def save_services(self, services: Sequence[Service], secrets: Iterable[str], check_mode: bool) -> bool:
        """Do what :meth:`forget_stopped` does: a unit starts at boot as it did before."""
        return self.forget_stopped(services, check_mode)

    def forget_stopped(self, services: Sequence[Service], check_mode: bool) -> bool:
        """Forget what was stopped together with services that are well now, and start what of it does not run."""
        left = [service.unit for service in services if _noted(service.unit)]
        if not check_mode:
            for unit in left:
                _start_noted(unit)
                _note(unit, [])
        return bool(left)

    def boot_units(self) -> list[str]:
        """Return the names of the units."""
        return sorted(self._services)

    def boot_warnings(self) -> list[str]:
        """Return a sentence for each unit that nothing starts at boot."""
        with suppress(MigrationError):
            return [
                f"Nothing starts {unit} at boot: it is disabled, and no other unit starts it. A reboot would leave it "
                f"stopped. Run: systemctl enable {unit}"
                for unit, shown in _show(self._services).items()
                if shown["UnitFileState"] == "disabled" and not any(shown[key] for key in _STARTED_BY)
            ]
        return []

    def stop_warnings(self, services: Sequence[Service]) -> list[str]:
        """Return a sentence for each unit with which others stop for the window, naming those that run now."""
        units = [service.unit for service in services]
        shown = _show(units) if units else {}
        beside = {unit: _active(sorted(_stopped_with(unit, shown)[0] - set(units))) for unit in units}
        return [
            f"Together with {unit} these stop for the window, and are started again after it: {', '.join(names)}."
            for unit, names in beside.items()
            if names
        ]

    def log_advice(self, service: Service) -> str:
        """Return where a person finds what a service says."""
        return f"Look at its log: journalctl --unit {service.unit} --lines 50 --no-pager"


def _problems_of_unit(service: Service, shown: Mapping[str, str], again: bool) -> list[Problem]:
    """Return why a unit cannot be stopped and started as a service of the estate.

    :param again: whether a run that was killed may have left it as it is.
    """
    unit, where = service.unit, f"service {service.name}"
    if shown["LoadState"] == "not-found":
        known = [line.split()[0] for line in _systemctl(*_LIST_UNIT_FILES).splitlines() if line.split()]
        fix = f"{meant(unit, known)}{_UNITS_ADVICE}"
        return [Problem(where, f"systemd of this host knows no unit {unit}", fix)]
    if shown["LoadState"] != "loaded":
        what = f"systemd reports its unit {unit} as {shown['LoadState']}"
        return [Problem(where, what, f"Repair it (systemctl status {unit}), then run again")]
    if shown["Id"] != unit:
        what = f"{unit} is another name of {shown['Id']}"
        return [Problem(where, what, f"Write 'name: {shown['Id'].removesuffix('.service')}' in estate_cutover_groups")]
    if _is_transient(shown):
        what = f"its unit {unit} is transient (systemd-run): a stop removes it, and nothing could start it again"
        return [Problem(where, what, "Write a unit file for it below /etc/systemd/system, and start that one")]
    problems = []
    user = shown["User"] or "root"
    if shown["DynamicUser"] == "yes":
        what = "its unit says DynamicUser=yes: it has another user at each start, to whom no file can be left"
        problems.append(Problem(where, what, "Give the unit a user of its own (User=, without DynamicUser=)"))
    elif user not in (service.user, _id_of(service.user)):
        what = f"its unit runs as user {user}, and the inventory says {service.user}"
        problems.append(Problem(where, what, "Correct 'user' of the service in estate_cutover_groups"))
    if shown["KillMode"] in _LEAVING_PROCESSES:
        what = f"its unit says KillMode={shown['KillMode']}: a stop leaves processes running, which may go on writing"
        problems.append(Problem(where, what, "Set KillMode=control-group or mixed in the unit"))
    for key, verb in (("RefuseManualStop", "stop"), ("RefuseManualStart", "start")):
        if shown[key] == "yes":
            what = f"its unit says {key}=yes, so nobody can {verb} it"
            problems.append(Problem(where, what, f"Take {key}= out of the unit"))
    if shown["UpheldBy"]:
        what = f"its unit is upheld by {shown['UpheldBy']} (Upholds=), which starts it again whenever it is stopped"
        problems.append(Problem(where, what, f"Take Upholds={unit} out of that unit; Wants= starts it as well"))
    if shown["NeedDaemonReload"] == "yes" and not again:
        what = f"the files of its unit have changed since systemd has loaded {unit}, so its next start may differ"
        problems.append(Problem(where, what, "Look at them (systemctl cat), and run: systemctl daemon-reload"))
    return problems


def _is_transient(shown: Mapping[str, str]) -> bool:
    """Return whether a unit is gone as soon as it stops."""
    return shown["UnitFileState"] == "transient" or shown["FragmentPath"].startswith(_TRANSIENT_UNITS)


def _problems_beside(service: Service, shown: Mapping[str, str], own: Iterable[str]) -> list[Problem]:
    """Return which units that run now would stop along with a service, and could not be started again as they were.

    The start of a target starts whatever it wants, also a service that a person has stopped.

    :param own: the units of the services, each of which is checked itself.
    """
    unit, where = service.unit, f"service {service.name}"
    beside = sorted(_stopped_with(unit, {unit: shown})[0] - {unit, *own})
    found_beside = _show(beside) if beside else {}
    running = {name: found for name, found in found_beside.items() if found["ActiveState"] in _RUNNING}
    problems = []
    targets = [name for name in running if name.endswith(".target")]
    if targets:
        names = ", ".join(targets)
        what = f"{names} would stop along with {unit}, and starting that again starts what a person has stopped"
        fix = f"Write WantedBy= in place of RequiredBy= in its [Install] section, then run: systemctl reenable {unit}"
        problems.append(Problem(where, what, fix))
    for name, found in running.items():
        if _is_transient(found):
            what = f"{name}, which stops along with {unit}, is transient (systemd-run): nothing could start it again"
            fix = f"Stop {name} yourself, or write a unit file for it below /etc/systemd/system, and start that one"
            problems.append(Problem(where, what, fix))
        elif found["RefuseManualStart"] == "yes":
            what = f"{name}, which stops along with {unit}, says RefuseManualStart=yes, so nobody can start it again"
            problems.append(Problem(where, what, f"Take RefuseManualStart= out of {name}"))
    return problems


_LIST_UNIT_FILES = ("list-unit-files", "--type=service", "--no-legend", "--no-pager", "--plain")


def _problems_of_settings(service: Service, shown: Mapping[str, str]) -> list[Problem]:
    """Return why a unit would not start with the settings that we write."""
    if not service.env_file:
        later = unit_settings.problems_of_later_drop_ins(service.unit, shown["DropInPaths"].split())
        return [*unit_settings.problems_of_place(service.unit), *later]
    files = [
        (path, optional == "yes)")
        for path, _, optional in (line.rpartition(" (ignore_errors=") for line in shown["EnvironmentFiles"].split("\n"))
        if path
    ]
    if os.path.realpath(service.env_path) not in [os.path.realpath(path) for path, _ in files]:
        names = ", ".join(path for path, _ in files) or "no file"
        what = f"its unit {service.unit} names {names} as EnvironmentFile="
        fix = "Correct 'env_file', or take it out: then the settings get a drop-in of the unit and a file of their own"
        return [Problem(service.env_path, what, fix)]
    # What we write into the file beats these; the others would lead the service elsewhere.
    beaten = set(dotenv_file.WRITTEN_KEYS) - {"PGSSLMODE"}
    try:
        own = {entry.partition("=")[0] for entry in shlex.split(shown["Environment"])}
    except ValueError:
        own = set()
    later = unit_settings.problems_of_later_files(files, service.env_path, dotenv_file.keys_of(service))
    return later + [
        Problem(f"{service.unit}: Environment={key}", "it would lead the service elsewhere", "Take it out of the unit")
        for key in sorted(own & set(dotenv_file.MANAGED_KEYS) - beaten)
    ]


def _id_of(user: str) -> str:
    """Return the id of a user as a unit may name it, empty if there is no such user."""
    try:
        return str(pwd.getpwnam(user).pw_uid)
    except KeyError:
        return ""


# ---------------------------------------------------------------- what runs beside a unit


def _stopped_with(unit: str, shown: Mapping[str, Mapping[str, str]]) -> tuple[set[str], set[str]]:
    """Return the units that have to stop together with one, as long as they run, and those of them that trigger others.

    systemd itself stops what requires it. A trigger has to be stopped by us, also that of a unit that does not run now:
    started in the window, it would start the unit that it requires.
    """
    known, found, triggers = dict(shown), {unit}, set()
    waiting = [unit]
    while waiting:
        missing = [name for name in waiting if name not in known]
        known.update(_show(missing) if missing else {})
        triggers |= {trigger for name in waiting for trigger in known[name]["TriggeredBy"].split()}
        new = {beside for name in waiting for key in _STOPPED_TOGETHER for beside in known[name][key].split()}
        waiting = sorted((new | triggers) - found)
        found.update(waiting)
    return found, triggers


def _require_empty(control_groups: Sequence[str]) -> None:
    """Refuse to go on if a unit has left processes when it stopped, as one with SendSIGKILL=no may: they may write.

    :raises MigrationError: naming them, if they do not end soon.
    """
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    while left := open_files.members_of(control_groups):
        if time.monotonic() > deadline:
            raise _failed("stop", f"these processes are left: {', '.join(map(str, sorted(left)))}")
        time.sleep(0.1)


def _active(units: Sequence[str]) -> list[str]:
    """Return those of some units that run, or wait for what they start."""
    shown = _show(units) if units else {}
    return [unit for unit in dict.fromkeys(units) if shown[unit]["ActiveState"] in _RUNNING]


def _notes(unit: str) -> Path:
    """Return the file that says what has to run again together with a unit."""
    return Path(UNIT_SETTINGS) / f"{unit}.beside.json"


def _noted(unit: str) -> list[str]:
    """Return what has to run again together with a unit."""
    try:
        return [str(name) for name in json.loads(_notes(unit).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def _note(unit: str, names: Sequence[str]) -> None:
    """Write down what has to run again together with a unit; nothing is left if nothing has."""
    path = _notes(unit)
    if names:
        with private_directory(path.parent):
            write_whole(path, json.dumps(list(names)), 0o600)
    else:
        path.unlink(missing_ok=True)


def _noted_and_loaded(unit: str) -> list[str]:
    """Return what of the noted units can be started: somebody may have removed or masked one since."""
    noted = _noted(unit)
    return [name for name, shown in _show(noted).items() if shown["LoadState"] == "loaded"] if noted else []


def _start_noted(unit: str) -> None:
    """Start what ran before a unit was stopped."""
    noted = _noted_and_loaded(unit)
    if noted:
        _systemctl("start", "--no-block", *noted)


# ---------------------------------------------------------------- systemctl


def _is_outdated(unit: str) -> bool:
    """Return whether a unit would not start as its files on the disk say now."""
    shown = _show([unit])[unit]
    # Of a directory for drop-ins that is new systemd knows nothing before its next reload.
    drop_in = unit_settings.drop_in_of(unit)
    return shown["NeedDaemonReload"] == "yes" or drop_in.exists() != (str(drop_in) in shown["DropInPaths"].split())


def _words(shown: Mapping[str, str]) -> str:
    """Return the state of a unit that does not run, in systemd's words."""
    more = shown["Result"] if shown["ActiveState"] == "failed" else shown["SubState"]
    return f"{shown['ActiveState']} ({more})"


def _show(units: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the properties of some units by the names that they were asked for.

    :raises MigrationError: if systemd does not answer.
    """
    names = list(dict.fromkeys(units))
    text = _systemctl("show", "--no-pager", f"--property={','.join(_PROPERTIES)}", "--", *names)
    blocks = text.rstrip("\n").split("\n\n")
    if len(blocks) != len(names):
        raise _failed("show", f"it told of {len(blocks)} units in place of {len(names)}")
    found = {}
    for name, block in zip(names, blocks, strict=True):
        properties = dict.fromkeys(_PROPERTIES, "")
        for line in block.splitlines():
            key, _, value = line.partition("=")
            # A unit may name several files.
            properties[key] = f"{properties[key]}\n{value}" if properties.get(key) else value
        found[name] = properties
    return found


def _systemctl(*arguments: str, seconds: float = programs.ANSWER_SECONDS) -> str:
    """Call systemctl and return what it prints.

    :raises MigrationError: with what it says, if it fails.
    """
    try:
        answer = programs.call(["systemctl", *arguments], _ENVIRONMENT, seconds=seconds)
    except programs.NoAnswer as error:
        raise _failed(arguments[0], str(error)) from None
    if answer.status != 0:
        said = (answer.errors.strip() or f"it ended with status {answer.status}").splitlines()[0]
        raise _failed(" ".join(arguments), said)
    return answer.output


def _failed(command: str, what: str) -> MigrationError:
    """Return the error for a call of systemctl."""
    fix = "Repair the unit or systemd, then run again"
    return MigrationError("systemd does not do what it was asked for.", [Problem(f"systemctl {command}", what, fix)])
