"""A service as a unit of systemd, without systemd: how it is described, and the files that its settings stand in."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import estate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    dotenv_file,
    open_files,
    pm2,
    systemd,
    unit_settings,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.managers import managers_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    Health,
    ServicesLogin,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_settings import (
    settings_of,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback, undo
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks import Options
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window import checks, services
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.context import WindowContext

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

PASSWORD = 'it\'s $1 \\ "#" `x` '
VALUES = dotenv_file.connection_values("127.0.0.1", 5432, "shop", "shop_web", PASSWORD, pool_size=5)


def described(**changes: Any) -> Service:
    """Return a service of an inventory."""
    service = {
        "name": "shop",
        "user": getpass.getuser(),
        "directory": "/opt/shop",
        "database_role": "shop_web",
        "schemas": ["shop"],
        "health_url": "http://127.0.0.1:3000/health",
        "manager": "systemd",
        **changes,
    }
    group = {"name": "shop", "source": {"path": "/opt/shop/shop.db"}, "services": [service]}
    return estate.parse_group(group).services[0]


# ---------------------------------------------------------------- the description


def test_a_service_runs_under_pm2_unless_the_inventory_says_otherwise() -> None:
    assert described(manager="pm2").env_path == "/opt/shop/.env"
    unit = described()
    assert (unit.unit, unit.env_path) == ("shop.service", "/var/lib/sqlite-to-postgresql/units/shop.service.env")
    assert described(name="shop@one.service").unit == "shop@one.service"
    assert described(env_file="/etc/default/shop").env_path == "/etc/default/shop"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"manager": "systemdd"}, "Did you mean 'systemd'? Choose one of pm2, systemd"),
        ({"manager": "launchd"}, "Choose one of pm2, systemd, compose, none"),
        ({"manager": None}, "'manager' is None"),
        ({"ecosystem_file": "a.js", "pm2_home": "/opt/pm2"}, "'ecosystem_file' is for services under pm2"),
        ({"name": "shop@"}, "a template of units, which nothing can start"),
        ({"name": "shop@.service"}, "a template of units, which nothing can start"),
        ({"name": "shop.socket"}, "'name' is 'shop.socket', which is no service"),
        ({"name": "../shop"}, "which is no unit of systemd"),
        ({"name": "shop other"}, "which is no unit of systemd"),
        ({"name": "--help"}, "which is no unit of systemd"),
    ],
)
def test_a_wrong_description_is_refused_on_the_controller(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MigrationError) as refused:
        described(**changes)
    assert said in str(refused.value)


def test_a_host_without_services_under_pm2_is_not_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pm2, "Pm2", None)
    (manager,) = managers_of([described(), described(name="other")]).values()
    assert manager.boot_units() == ["other.service", "shop.service"]


@pytest.mark.promise("checked-before-services-stop")
def test_missing_files_are_named_together_with_a_wrong_user(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    services = (
        described(name="a", manager="pm2", user="nobody-of-this-name", directory=str(tmp_path / "gone")),
        described(name="b", manager="pm2", directory=str(tmp_path / "here")),
        described(name="c", directory=str(tmp_path / "lost")),
    )
    findings = checks.Findings()
    group = estate.Group("shop", str(tmp_path / "shop.db"), (), services)
    checks.check_services(group, checks.Settings(ServicesLogin("127.0.0.1", 5432, "shop"), {}), findings)
    said = {(problem.where, problem.what) for problem in findings.violations}
    assert said >= {
        ("user nobody-of-this-name", "there is no such user on this host"),
        (str(tmp_path / "gone"), "the directory does not exist"),
        (str(tmp_path / "here/ecosystem.config.js"), "pm2's ecosystem file does not exist"),
        (str(tmp_path / "lost"), "the directory does not exist"),
    }


@pytest.mark.promise("checked-before-services-stop")
def test_a_host_without_systemd_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "SYSTEMD", tmp_path / "missing")
    (manager,) = managers_of([described()]).values()
    assert "it does not manage this host" in str(manager.problem())


# ---------------------------------------------------------------- the unit as systemd shows it

SHOWN = {
    "Id": "shop.service",
    "LoadState": "loaded",
    "User": getpass.getuser(),
    "DynamicUser": "no",
    "KillMode": "control-group",
    "RefuseManualStop": "no",
    "RefuseManualStart": "no",
    "NeedDaemonReload": "no",
    "DropInPaths": "",
    "EnvironmentFiles": "/etc/shop.env (ignore_errors=no)\n/etc/default/shop (ignore_errors=yes)",
    "Environment": 'PGHOST=old "NAME=two words"',
    "UnitFileState": "enabled",
    "UpheldBy": "",
    "FragmentPath": "/etc/systemd/system/shop.service",
}


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({}, []),
        ({"User": "", "DynamicUser": "yes"}, ["DynamicUser=yes: it has another user at each start"]),
        ({"User": "somebody"}, ["its unit runs as user somebody, and the inventory says"]),
        ({"KillMode": "process", "RefuseManualStop": "yes"}, ["KillMode=process", "so nobody can stop it"]),
        ({"LoadState": "masked"}, ["systemd reports its unit shop.service as masked"]),
        ({"Id": "web.service"}, ["shop.service is another name of web.service"]),
        ({"UpheldBy": "shop.target"}, ["its unit is upheld by shop.target (Upholds=)"]),
        ({"UnitFileState": "transient"}, ["shop.service is transient (systemd-run): a stop removes it"]),
        ({"FragmentPath": "/run/systemd/transient/shop.service"}, ["shop.service is transient (systemd-run)"]),
        ({"NeedDaemonReload": "yes"}, ["have changed since systemd has loaded shop.service"]),
    ],
)
def test_a_unit_that_cannot_be_moved_is_refused(shown: dict[str, str], said: list[str]) -> None:
    problems = systemd._problems_of_unit(described(), {**SHOWN, **shown}, again=False)
    assert len(problems) == len(said)
    assert all(text in problem.what for text, problem in zip(said, problems, strict=True))


@pytest.mark.promise("checked-before-services-stop")
def test_a_unit_that_systemd_does_not_know_is_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_systemctl", lambda *_: "shops.service static -\nweb.service enabled enabled\n")
    (problem,) = systemd._problems_of_unit(described(), {**SHOWN, "LoadState": "not-found"}, again=False)
    assert problem.what == "systemd of this host knows no unit shop.service"
    assert "Did you mean 'shops.service'?" in problem.fix


def test_a_run_after_a_crash_is_not_stopped_by_our_own_drop_in() -> None:
    assert systemd._problems_of_unit(described(), {**SHOWN, "NeedDaemonReload": "yes"}, again=True) == []


@pytest.mark.promise("checked-before-services-stop")
def test_settings_that_would_not_reach_the_service_are_refused() -> None:
    service = described(env_file="/etc/default/shop")
    assert systemd._problems_of_settings(service, SHOWN) == []
    elsewhere = systemd._problems_of_settings(service, {**SHOWN, "Environment": "PGSERVICE=old"})
    assert [(problem.where, problem.what) for problem in elsewhere] == [
        ("shop.service: Environment=PGSERVICE", "it would lead the service elsewhere")
    ]
    (unread,) = systemd._problems_of_settings(described(env_file=".env"), SHOWN)
    assert "its unit shop.service names /etc/shop.env, /etc/default/shop as EnvironmentFile=" in unread.what


@pytest.mark.promise("checked-before-services-stop")
def test_files_that_would_beat_our_settings_are_refused_by_the_names_in_them(tmp_path: Path) -> None:
    ours, before, later, fifo = (tmp_path / name for name in ("ours", "before", "later.env", "pipe"))
    ours.write_text("PORT=3000\n")
    before.write_text("PGHOST=old\n")
    later.write_text("# PGPORT=1\nNAME=x\n  PGPASSWORD = hunter2\nDATABASE_URL='secret'\n")
    os.mkfifo(fifo)

    def problems(*files: str) -> list[str]:
        shown = "\n".join(f"{path} (ignore_errors={'yes' if '-' in path[:1] else 'no'})".lstrip("-") for path in files)
        found = systemd._problems_of_settings(described(env_file=str(ours)), {**SHOWN, "EnvironmentFiles": shown})
        assert not any(secret in f"{problem}" for problem in found for secret in ("hunter2", "secret"))
        sentence = f"systemd reads this file after {ours}, so it would beat the value there"
        assert all(problem.what == sentence for problem in found if ": " in problem.where)
        return [problem.where for problem in found]

    beaten = [f"{later}: DATABASE_URL", f"{later}: PGPASSWORD"]
    assert problems(str(before), str(ours)) == []
    assert problems(str(later), str(ours), str(before)) == [f"{before}: PGHOST"]
    assert problems(str(ours), f"{tmp_path}/*.env") == beaten
    assert problems(str(ours), str(later), str(ours)) == []
    assert problems(str(ours), f"-{tmp_path}/missing") == []
    assert problems(str(ours), f"{tmp_path}/missing") == [f"{tmp_path}/missing"]
    assert problems(str(ours), str(fifo)) == [str(fifo)]


# ---------------------------------------------------------------- what runs beside a unit


class FakeSystemctl:
    """Units that systemctl is asked about; a start or stop changes their state, and those that a stop takes along."""

    stopped_together = ("RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo")

    def __init__(self, units: dict[str, dict[str, str]], does_not_start: str = "") -> None:
        self.units = {
            name: {**dict.fromkeys(systemd._PROPERTIES, ""), "Id": name, "NeedDaemonReload": "no", **properties}
            for name, properties in units.items()
        }
        self.does_not_start = does_not_start
        self.calls: list[str] = []

    def __call__(self, command: str, *arguments: str, seconds: float = 0.0) -> str:
        names = [argument for argument in arguments if not argument.startswith("--")]
        if command == "show":
            shown = [self.units[name] for name in names]
            return "\n".join("".join(f"{key}={value}\n" for key, value in unit.items()) for unit in shown)
        self.calls.append(" ".join((command, *names)))
        for name in names if command in ("start", "stop") else ():
            self.set_state(name, command)
        return ""

    def set_state(self, name: str, command: str) -> None:
        """Start or stop a unit, and stop what systemd stops with it."""
        is_up = command == "start" and name != self.does_not_start
        self.units[name]["ActiveState"] = "active" if is_up else "inactive"
        keys = self.stopped_together if command == "stop" else ()
        for beside in {beside for key in keys for beside in self.units[name].get(key, "").split()}:
            self.set_state(beside, command)

    def running(self) -> set[str]:
        """Return the units that run."""
        return {name for name, unit in self.units.items() if unit["ActiveState"] == "active"}


ACTIVE = {"ActiveState": "active", "LoadState": "loaded"}


@pytest.fixture
def notes(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the notes of what has to run again."""
    monkeypatch.setattr(systemd, "UNIT_SETTINGS", str(places[1]))
    return places[1]


def test_what_was_stopped_along_is_known_until_the_service_is_well(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = {"shop.service": {**ACTIVE, "RequiredBy": "worker.service"}, "worker.service": ACTIVE}
    # The worker does not come up on PostgreSQL, so that the window ends on SQLite again.
    systemctl = FakeSystemctl(units, does_not_start="worker.service")
    monkeypatch.setattr(systemd, "_systemctl", systemctl)
    service = described()
    manager = systemd.Systemd([service])
    manager.stop_services([service], None)
    assert systemctl.running() == set()
    manager.start_service(service)
    assert systemctl.running() == {"shop.service"}
    manager.stop_services([service], None)
    systemctl.does_not_start = ""
    manager.start_service(service)
    assert systemctl.running() == {"shop.service", "worker.service"}
    assert manager.save_services([service], [], check_mode=True)
    assert manager.save_services([service], [], check_mode=False)
    assert not manager.save_services([service], [], check_mode=True)
    assert list(notes.iterdir()) == []


def test_whatever_a_stop_takes_along_runs_again(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = FakeSystemctl.stopped_together
    taken = {f"{kind.lower()}.service": ACTIVE for kind in kinds}
    properties = dict(zip(kinds, taken, strict=True))
    units = {"shop.service": {**ACTIVE, **properties}, **taken, "stopped.service": {}}
    units["requiredby.service"] = {**ACTIVE, "RequisiteOf": "stopped.service"}
    systemctl = FakeSystemctl(units)
    monkeypatch.setattr(systemd, "_systemctl", systemctl)
    service = described()
    manager = systemd.Systemd([service])
    manager.stop_services([service], None)
    assert systemctl.running() == set()
    manager.start_service(service)
    assert systemctl.running() == {"shop.service", *taken}


def test_nothing_is_left_that_would_start_a_stopped_service(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = {
        "shop.service": {**ACTIVE, "TriggeredBy": "shop.socket", "RequiredBy": "report.service"},
        "shop.socket": ACTIVE,
        # Whenever its timer elapses, it starts what it requires.
        "report.service": {"TriggeredBy": "report.timer"},
        "report.timer": {**ACTIVE, "RequiredBy": "watch.service"},
        "watch.service": ACTIVE,
    }
    systemctl = FakeSystemctl(units)
    monkeypatch.setattr(systemd, "_systemctl", systemctl)
    service = described()
    manager = systemd.Systemd([service])
    (said,) = checks.stop_warnings(
        estate.Group("shop", "/shop.db", (), (service,)), checks.Handles(managers={"systemd": manager})
    )
    assert said.startswith("Together with shop.service these stop for the window")
    assert said.endswith(": report.timer, shop.socket, watch.service.")
    manager.stop_services([service], None)
    assert systemctl.running() == set()
    assert systemctl.calls == ["stop report.timer shop.socket", "stop shop.service"]
    manager.start_service(service)
    assert systemctl.running() == set(units) - {"report.service"}


def test_a_service_that_somebody_has_started_meanwhile_gets_its_settings(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = {"shop.service": {**ACTIVE, "RequiredBy": "till.service"}, "till.service": ACTIVE, "other.service": ACTIVE}
    systemctl = FakeSystemctl(units)
    monkeypatch.setattr(systemd, "_systemctl", systemctl)
    services = [described(), described(name="till"), described(name="other")]
    manager = systemd.Systemd(services)
    manager.stop_services(services, None)
    systemctl("start", "other.service")
    systemctl.calls.clear()
    for service in services:
        manager.start_service(service)
        # As till starts what it requires: it has its settings already, and a stop would take till along.
        systemctl.set_state("shop.service", "start")
    assert [call for call in systemctl.calls if not call.startswith("reset-failed")] == [
        "stop other.service",
        "start shop.service",
        "start till.service",
        "start other.service",
    ]
    assert systemctl.running() == set(units)


@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"RefuseManualStart": "no"}, ""),
        ({"UnitFileState": "transient"}, "worker.service, which stops along with shop.service, is transient"),
        ({"FragmentPath": "/run/systemd/transient/worker.service"}, "worker.service, which stops along with shop"),
        ({"RefuseManualStart": "yes"}, "worker.service, which stops along with shop.service, says RefuseManualStart"),
        ({"RefuseManualStart": "yes", "ActiveState": "inactive"}, ""),
    ],
)
@pytest.mark.parametrize("key", ["RequiredBy", "TriggeredBy"])
def test_what_stops_along_and_cannot_be_started_again_is_refused(
    places: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    key: str,
    beside: dict[str, str],
    said: str,
) -> None:
    units = {"shop.service": {**SHOWN, **ACTIVE, key: "worker.service"}, "worker.service": {**ACTIVE, **beside}}
    monkeypatch.setattr(systemd, "_systemctl", FakeSystemctl(units))
    service = described(directory=str(tmp_path))
    problems = systemd.Systemd([service]).check_service(service, usable=True, again=False).problems
    assert [problem.where for problem in problems] == (["service shop"] if said else [])
    assert all(said in problem.what for problem in problems)
    # A unit of the same group is checked itself.
    both = systemd.Systemd([service, described(name="worker")])
    assert both.check_service(service, usable=True, again=False).problems == []


@pytest.mark.promise("checked-before-services-stop")
def test_a_target_that_stops_along_is_refused(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    units = {
        "shop.service": {**SHOWN, **ACTIVE, "RequiredBy": "multi-user.target rescue.target"},
        "multi-user.target": {**ACTIVE, "RequiredBy": "graphical.target"},
        "graphical.target": ACTIVE,
        "rescue.target": {"LoadState": "loaded", "ActiveState": "inactive"},
    }
    monkeypatch.setattr(systemd, "_systemctl", FakeSystemctl(units))
    service = described(directory=str(tmp_path))
    (problem,) = systemd.Systemd([service]).check_service(service, usable=True, again=False).problems
    assert problem.what.startswith("graphical.target, multi-user.target would stop along with shop.service")
    assert "run: systemctl reenable shop.service" in problem.fix


@pytest.fixture
def left_over(notes: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[WindowContext, FakeSystemctl]:
    """A group whose service was stopped in a window that has failed; its worker has stopped along."""
    units = {"shop.service": {**ACTIVE, "RequiredBy": "worker.service"}, "worker.service": ACTIVE}
    systemctl = FakeSystemctl(units)
    monkeypatch.setattr(systemd, "_systemctl", systemctl)
    service = described()
    handles = checks.Handles(managers={"systemd": systemd.Systemd([service])})
    settings = checks.Settings(ServicesLogin("127.0.0.1", 5432, "shop"), {})
    # Neither is used: no server is asked.
    connection, login = cast("Connection", None), cast("Login", None)
    context = WindowContext(connection, login, estate.Group("shop", "/shop.db", (), (service,)), settings, handles)
    services.stop(context)
    assert len(list(notes.iterdir())) == 1
    return context, systemctl


@pytest.mark.parametrize("is_well", [True, False])
def test_a_rollback_that_was_undone_keeps_no_notes_of_services_that_are_well(
    left_over: tuple[WindowContext, FakeSystemctl], notes: Path, monkeypatch: pytest.MonkeyPatch, is_well: bool
) -> None:
    def look(*_: Any) -> None:
        if not is_well:
            raise MigrationError("Not every service is healthy.")

    context, systemctl = left_over
    monkeypatch.setattr(undo, "require_healthy", look)
    monkeypatch.setattr(undo, "_close", lambda *_: None)
    left, unwell = undo.bring_up_on_postgresql(context, lambda: None)
    assert (left, bool(unwell)) == ([], not is_well)
    assert systemctl.running() == {"shop.service", "worker.service"}
    # What a person stops from now on is not started again by a later window.
    assert (list(notes.iterdir()) == []) is is_well


def test_a_rollback_again_forgets_what_an_earlier_one_has_noted(
    left_over: tuple[WindowContext, FakeSystemctl], notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Well:
        """Finds every service well."""

        def look(self, *_: Any) -> list[Health]:
            return []

        def close(self) -> None:
            pass

    context, systemctl = left_over
    monkeypatch.setattr(rollback, "watch", lambda _: Well())
    systemctl("start", "shop.service")

    def run(check_mode: bool) -> tuple[bool, str]:
        again = rollback._Run(context.connection, context.login, context.group, context.settings, Options(), check_mode)
        result = again._keep_on_sqlite(context)
        return result["changed"], result["msg"]

    said = "shop is on SQLite; what had stopped along with its services {} started again."
    assert run(check_mode=True) == (True, said.format("would be"))
    assert systemctl.running() == {"shop.service"}
    assert run(check_mode=False) == (True, said.format("was"))
    assert systemctl.running() == {"shop.service", "worker.service"}
    assert list(notes.iterdir()) == []
    assert run(check_mode=False) == (False, "shop is on SQLite.")


def test_a_noted_unit_that_is_gone_keeps_nothing_from_starting(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("gone.service", "gone.socket", "worker.service")
    units = {"shop.service": {**ACTIVE, "RequiredBy": " ".join(names)}, **dict.fromkeys(names, ACTIVE)}
    systemctl = FakeSystemctl(units)
    monkeypatch.setattr(systemd, "_systemctl", systemctl)
    manager = systemd.Systemd([described()])
    manager.stop_services([described()], None)
    for name in ("gone.service", "gone.socket"):
        systemctl.units[name]["LoadState"] = "not-found"
    manager.start_service(described())
    assert manager.save_services([described()], [], check_mode=False)
    assert systemctl.running() == {"shop.service", "worker.service"}
    assert list(notes.iterdir()) == []


def test_processes_that_a_stop_has_left_are_named(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Our own group stands for one that is not empty, which a unit with SendSIGKILL=no may leave.
    group = open_files.control_group_of(os.getpid())
    monkeypatch.setattr(systemd, "_systemctl", FakeSystemctl({"shop.service": {**ACTIVE, "ControlGroup": group}}))
    monkeypatch.setattr(systemd, "_LEFTOVER_SECONDS", 0.0)
    manager = systemd.Systemd([described()])
    with pytest.raises(MigrationError) as refused:
        manager.stop_services([described()], None)
    assert "these processes are left: " in str(refused.value)
    assert str(os.getpid()) in str(refused.value)


# ---------------------------------------------------------------- a file that the unit names


def test_our_lines_come_out_as_they_went_in(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    before = "; a comment\nPORT=3000\nDATABASE_URL=sqlite:////opt/shop/shop.db\nNAME='two words'\n"
    path.write_text(before)
    settings = settings_of(described(env_file=str(path)))
    text = settings.with_values(settings.read(), VALUES)
    settings.write(text)
    assert {key: settings.values_of(settings.read()).get(key) for key in VALUES} == VALUES
    assert settings.is_private()
    settings.write(settings.without_values(settings.read()))
    assert path.read_text() == before


def test_a_line_that_goes_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    for text, refused in (("A=1\\\nPGHOST=x\n", True), ("# a comment \\\nA=1\n", True), ("A=b\\\\\n", False)):
        path.write_text(text)
        if refused:
            with pytest.raises(MigrationError, match="ends in a backslash"):
                settings_of(described(env_file=str(path))).read()
        else:
            assert settings_of(described(env_file=str(path))).read() == text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of its own in directories of others")
def test_a_file_of_roots_in_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("A=1\n")
    service = described(env_file=str(path), user="nobody")
    assert settings_of(service).read() == "A=1\n"
    tmp_path.chmod(0o777)
    with pytest.raises(MigrationError):
        settings_of(service).read()
    tmp_path.chmod(0o755)
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(MigrationError, match="may be changed by somebody else"):
        settings_of(service).read()
    path.unlink()
    (tmp_path / "other").write_text("A=1\n")
    path.symlink_to(tmp_path / "other")
    with pytest.raises(MigrationError):
        settings_of(service).read()


# ---------------------------------------------------------------- a drop-in of our own


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The directories of the units and of their settings."""
    units, values = tmp_path / "units", tmp_path / "values"
    units.mkdir()
    monkeypatch.setattr(unit_settings, "UNITS", units)
    monkeypatch.setattr(estate, "UNIT_SETTINGS", str(values))
    return units / "shop.service.d", values


def test_a_drop_in_gives_the_settings_and_goes_again(places: tuple[Path, Path]) -> None:
    drop_ins, values = places
    settings = settings_of(described())
    assert settings.read() == ""
    text = settings.with_values("", VALUES)
    settings.write(text)
    (drop_in,) = drop_ins.iterdir()
    assert f"EnvironmentFile={values / 'shop.service.env'}\n" in drop_in.read_text()
    assert "UnsetEnvironment=PGSSLMODE PGHOSTADDR PGSERVICE" in drop_in.read_text()
    assert VALUES["PGPASSWORD"] not in drop_in.read_text()
    assert (values.stat().st_mode & 0o777, settings.is_private()) == (0o700, True)
    assert settings.values_of(settings.read()) == VALUES
    stamp = drop_in.stat().st_mtime_ns
    settings.write(text)
    assert drop_in.stat().st_mtime_ns == stamp
    # Without the drop-in nothing leads to the file.
    drop_in.unlink()
    assert settings.read() == ""
    settings.write(text)
    settings.write(settings.without_values(settings.read()))
    assert (drop_ins.exists(), list(values.iterdir())) == (False, [])


def test_an_empty_directory_for_drop_ins_stays_unless_it_is_ours(places: tuple[Path, Path]) -> None:
    drop_ins, values = places
    settings = settings_of(described())
    drop_ins.mkdir()
    settings.write("")
    assert drop_ins.is_dir()
    settings.write(settings.with_values("", VALUES))
    settings.write("")
    assert (list(drop_ins.iterdir()), list(values.iterdir())) == ([], [])
    drop_ins.rmdir()
    settings.write(settings.with_values("", VALUES))
    settings.write("")
    assert (drop_ins.exists(), list(values.iterdir())) == (False, [])


@pytest.mark.promise("checked-before-services-stop")
def test_a_drop_in_that_would_beat_ours_is_refused(places: tuple[Path, Path]) -> None:
    drop_ins, _ = places
    earlier, later = "/run/systemd/system/service.d/10-all.conf", "/run/systemd/system/service.d/zzz.conf"
    ours = str(drop_ins / "zz-sqlite-to-postgresql.conf")
    shown = {**SHOWN, "DropInPaths": f"{earlier} {ours}"}
    assert systemd._problems_of_settings(described(), shown) == []
    drop_ins.mkdir()
    # systemd loads it together with ours.
    (drop_ins / "zz-z.conf").touch()
    (drop_ins / "zz-z.txt").touch()
    found = systemd._problems_of_settings(described(), {**SHOWN, "DropInPaths": f"{earlier} {ours} {later}"})
    assert {problem.where for problem in found} == {later, str(drop_ins / "zz-z.conf")}


def test_a_drop_in_of_somebody_else_is_left_alone(places: tuple[Path, Path]) -> None:
    drop_ins, values = places
    drop_ins.mkdir()
    theirs = drop_ins / "zz-sqlite-to-postgresql.conf"
    theirs.write_text("[Service]\nNice=5\n")
    settings = settings_of(described())
    for attempt in (settings.read, lambda: settings.write("A=1\n"), lambda: settings.write("")):
        with pytest.raises(MigrationError, match="not written by the role service_env"):
            attempt()
    assert theirs.read_text() == "[Service]\nNice=5\n"
    assert not values.exists()
    theirs.rename(drop_ins / "nice.conf")
    settings.write("A=1\n")
    settings.write("")
    assert [path.name for path in drop_ins.iterdir()] == ["nice.conf"]
