"""A service of a docker compose project, in a real container of this machine's Docker, on a real server.

The container is of the image of the test hosts. Its network is a bridge of its own, from which it reaches the server at
the gateway.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import estate as inventory
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login, connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import Group, Service
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import cutover
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.cutover import (
    window as cutover_window,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import render
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import (
    compose,
    open_files,
    service_health,
    write_protection,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.managers import managers_of
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.service_health import (
    ServicesLogin,
    Watcher,
    look_once,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback import rollback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.rollback.checks import Options
from scripts.throwaway_postgres import free_port
from tests import compose_programs, estates
from tests.conftest import PASSWORD, PROJECT, Server
from tests.discovery.support import look_at
from tests.engine.support import execute, make_group
from tests.estates import let_find_programs, make_notes

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

pytestmark = pytest.mark.usefixtures("no_older_processes")

needs_docker = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("docker") is None or sys.version_info[:2] != (3, 11),
    reason="needs root, Docker, and the Python of the test hosts, which loads our psycopg2",
)
SERVE = """
import http.server, os, sqlite3, sys
on_postgresql = "PGHOST" in os.environ
if on_postgresql:
    import psycopg2
    store = psycopg2.connect("")
    store.autocommit = True
else:
    store = sqlite3.connect("/data/data.db", check_same_thread=False, isolation_level=None)
if on_postgresql and os.path.exists("/data/crash"):
    sys.exit(1)
def query():
    cursor = store.cursor()
    cursor.execute("SELECT count(*) FROM " + ("app.notes" if on_postgresql else "notes"))
    cursor.fetchall()
query()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        query()
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
# Stands before several containers of a service, and passes on what it is asked.
FRONT = """
import http.server, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        urllib.request.urlopen("http://web:8080/").read()
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("", 8080), Handler).serve_forever()
"""
ENV = "# Settings of the shop.\nSHOP_NAME='a shop'\n"
LIBRARIES = Path(psycopg2.__file__).parent.parent


class Estate(estates.Estate):
    """One rehearsed group with one service, whose container runs on SQLite.

    :param has_everything: two containers of the service, which root runs, of a profile, with a named volume and a
        subnet of their own, from two compose files that are filled from a file of values.
    """

    def __init__(
        self, connection: Connection, login: Login, place: Path, image: str, has_everything: bool = False
    ) -> None:
        self.project, self.port = place.name, free_port()
        self.place = place
        self.words: list[str] = []
        # Docker lets nobody but root enter the directory of its volumes.
        self.user = "root" if has_everything else "nobody"
        uid = pwd.getpwnam(self.user).pw_uid
        self.data = place / "data"
        if has_everything:
            volume = _docker("volume", "create", f"{self.project}_data")
            self.data = Path(_docker("volume", "inspect", "--format={{.Mountpoint}}", volume))
        else:
            self.data.mkdir()
        source = make_notes(connection, self.data / "data.db", "PRAGMA journal_mode = WAL; ")
        for path in (self.data, source):
            os.chown(path, uid, uid)
        (place / "serve.py").write_text(SERVE)
        (place / "serve.py").chmod(0o644)
        (place / "app.env").write_text(ENV)
        (place / "app.env").chmod(0o600)
        self.compose_file = place / "docker-compose.yml"
        libraries = [f"{path}:/opt/lib/{path.name}:ro" for path in LIBRARIES.glob("psycopg2*") if path.is_dir()]
        web = {
            "image": image,
            "user": str(uid),
            "entrypoint": ["python3", "/app/serve.py"],
            "env_file": "app.env",
            "environment": {"PYTHONPATH": "/opt/lib"},
            "volumes": ["./data:/data", "./serve.py:/app/serve.py:ro", *libraries],
            "ports": [f"127.0.0.1:{self.port}:8080"],
            "restart": "unless-stopped",
            "stop_grace_period": "1s",
        }
        content = {"version": "3.8", "services": {"web": web}}
        if has_everything:
            content = self.with_everything(web)
        self.write_compose_file(content)
        self.compose("up", "-d", *(["--scale", "web=2"] if has_everything else []))
        super().__init__(connection, login, place, source)
        self.rehearse()
        self.wait_for(lambda: not service_health.ask(f"http://127.0.0.1:{self.port}/") and self.store() == "sqlite")

    def wait_for(self, is_up: Callable[[], bool]) -> None:
        """Wait until the service is up."""
        deadline = time.monotonic() + 60
        while not is_up():
            assert time.monotonic() < deadline, "it does not come up"
            time.sleep(0.1)

    def with_everything(self, web: dict[str, Any]) -> dict[str, Any]:
        """Write the other files of the project, and return what its first file says."""
        web["volumes"][0] = "data:/data"
        front = {"image": web["image"], "entrypoint": ["python3", "-c", FRONT], "ports": web.pop("ports")}
        web |= {"profiles": ["shop"], "restart": "always"}
        override = {"version": "3.8", "services": {"web": {"environment": {"SHOP_TITLE": "${TITLE:?}"}}}}
        (self.place / "override.yml").write_text(json.dumps(override))
        (self.place / "values.env").write_text("TITLE=of the shop\n")
        files = ("--file", str(self.place / "override.yml"), "--env-file", str(self.place / "values.env"))
        self.words = [*files, "--profile", "shop"]
        volumes = {"data": {"external": True, "name": f"{self.project}_data"}}
        # Runs beside this one have others.
        networks = {"default": {"ipam": {"config": [{"subnet": f"192.168.{200 + os.getpid() % 50}.0/24"}]}}}
        services = {"web": web, "front": front}
        return {"version": "3.8", "services": services, "volumes": volumes, "networks": networks}

    def write_compose_file(self, content: dict[str, Any]) -> None:
        """Write the compose file; JSON is YAML."""
        self.content = content
        self.compose_file.write_text(json.dumps(content))

    def compose(self, *arguments: str) -> None:
        """Call compose as a person does."""
        plugin, program = compose._programs()
        command = [*(plugin or program), "--project-name", self.project, "--file", str(self.compose_file)]
        subprocess.run([*command, *self.words, *arguments], cwd=self.place, check=True, capture_output=True)

    @property
    def gateway(self) -> str:
        """Return the address of this machine in the network of the container."""
        ((_, gateway, _),) = compose.networks_of(compose.containers_of(self.project))
        return str(gateway)

    def described(self, **changes: Any) -> Group:
        """Return the group, its service as the inventory describes it; keys with the value ... are left out."""
        service = {
            "name": "web",
            "manager": "compose",
            "compose_project": self.project,
            "user": self.user,
            "directory": str(self.place),
            "env_file": "app.env",
            "database_host": self.gateway,
            "database_role": "swarm_registry",
            "schemas": ["app"],
            "health_url": f"http://127.0.0.1:{self.port}/",
            **changes,
        }
        service = {key: value for key, value in service.items() if value is not ...}
        return make_group(self.source, {"source": "notes"}, services=[service])

    def pids(self) -> list[int]:
        """Return the processes of the containers that run."""
        (manager,) = managers_of(self.group.services).values()
        return [process.pid for process in manager.processes() if process.pid]

    def store(self) -> str:
        """Return which store the service's containers have open, as its processes and their environments say."""
        found = {
            (open_files.holds(pid, self.source), "PGPASSWORD" in open_files.environment_of(pid)) for pid in self.pids()
        }
        return "sqlite" if found == {(True, False)} else "postgresql" if found == {(False, True)} else "both"


def _docker(*arguments: str) -> str:
    """Call docker and return what it prints."""
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def image() -> str:
    """The image of the test hosts, which has Python."""
    command = [sys.executable, str(PROJECT / "molecule/test_host/build.py")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def open_server(server: Server) -> Iterator[Server]:
    """The server, listening in the networks of containers too, and admitting them."""
    rules = server.data / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"{before}\nhost all all 172.16.0.0/12 scram-sha-256\nhost all all 192.168.0.0/16 scram-sha-256\n")
    server.execute("ALTER SYSTEM SET listen_addresses = '*'")
    server.crash()
    yield server
    rules.write_text(before)
    server.execute("ALTER SYSTEM RESET listen_addresses")
    server.crash()


@pytest.fixture(params=["docker-compose", pytest.param("plugin", marks=pytest.mark.long_search)])
def programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of one kind of compose, which is the only one that the product then finds."""
    is_plugin = request.param == "plugin"
    try:
        if is_plugin:
            command = compose_programs.plugin(fetches=bool(os.environ.get("LONG_SEARCHES")))
        else:
            command = compose_programs.program()
    except compose_programs.NoComposeError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(compose, "_programs", lambda: (command, []) if is_plugin else ([], command))
    return command


@contextmanager
def made_estate(connection: Connection, login: Login, image: str, has_everything: bool = False) -> Iterator[Estate]:
    """Make an estate, and remove all of it."""
    # A bind mount and its files have to be reached by the user of the container.
    place = Path(tempfile.mkdtemp(prefix="compose-"))
    place.chmod(0o755)
    # Compose takes no capitals and no other signs for the name of a project.
    place = place.rename(place.with_name(place.name.lower().replace("_", "x")))
    try:
        yield Estate(connection, login, place, image, has_everything)
    finally:
        ids = _docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={place.name}").split()
        if ids:
            _docker("rm", "--force", *ids)
        subprocess.run(["docker", "network", "rm", f"{place.name}_default"], check=False, capture_output=True)
        volume = f"{place.name}_data"
        if has_everything:
            directory = Path(_docker("volume", "inspect", "--format={{.Mountpoint}}", volume))
        else:
            directory = place / "data"
        with suppress(FileNotFoundError):
            write_protection.unprotect(directory / "data.db", {"mode": "0644"})
        if has_everything:
            _docker("volume", "rm", volume)
        shutil.rmtree(place)


@pytest.fixture
def with_programs(open_server: Server, programs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that containers reach, and one kind of compose."""
    let_find_programs(monkeypatch)


@pytest.fixture
def estate(with_programs: None, connection: Connection, login: Login, image: str) -> Iterator[Estate]:
    with made_estate(connection, login, image) as made:
        yield made


@needs_docker
@pytest.mark.promise("compose-service-moves")
def test_a_container_moves_stays_and_goes_back(estate: Estate, server: Server) -> None:
    before = estate.compose_file.read_bytes()
    assert estate.store() == "sqlite"
    running = estate.pids()
    dry = cutover.cut_over(estate.login, estate.group, estate.settings, check_mode=True)
    assert (dry["changed"], dry["warnings"], estate.pids()) == (True, [], running)
    assert PASSWORD not in str(dry)

    estate.move()
    assert (estate.state(), estate.store()) == ("live", "postgresql")
    assert open_files.environment_of(estate.pids()[0])["PGHOST"] == estate.gateway
    assert set(estate.pids()).isdisjoint(running)
    with closing(connect(replace(server.superuser, database=estate.login.database))) as administrator:
        assert look_once(administrator, estate.group)["web"].shortcoming == ""
    running = estate.pids()
    kept = estate.move()
    assert (kept["changed"], kept["warnings"], estate.pids()) == (False, [], running)
    # As a person or the next deployment does it: the settings stay.
    estate.compose("up", "-d", "--force-recreate")
    assert estate.store() == "postgresql"

    execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
    rollback.roll_back(estate.login, estate.group, estate.settings, options=Options(str(estate.place / "dumps")))
    assert (estate.state(), estate.store()) == ("rolled_back", "sqlite")
    assert (estate.place / "app.env").read_text() == ENV
    assert estate.compose_file.read_bytes() == before
    with closing(sqlite3.connect(estate.source)) as opened:
        assert opened.execute("SELECT count(*) FROM notes").fetchone() == (2,)


@needs_docker
@pytest.mark.long_search
@pytest.mark.promise("compose-service-moves")
def test_a_project_with_everything_moves_and_goes_back_as_it_was(
    with_programs: None, connection: Connection, login: Login, image: str
) -> None:
    with made_estate(connection, login, image, has_everything=True) as estate:
        assert (estate.store(), len(estate.pids())) == ("sqlite", 2)
        estate.move()
        assert (estate.state(), estate.store(), len(estate.pids())) == ("live", "postgresql", 2)
        assert {open_files.environment_of(pid)["SHOP_TITLE"] for pid in estate.pids()} == {"of the shop"}
        assert not estate.move()["changed"]
        execute(estate.connection, "INSERT INTO app.notes VALUES ('on postgresql')")
        rollback.roll_back(estate.login, estate.group, estate.settings, options=Options(str(estate.place / "dumps")))
        assert (estate.state(), estate.store(), len(estate.pids())) == ("rolled_back", "sqlite", 2)


@needs_docker
@pytest.mark.long_search
@pytest.mark.promise("checked-before-services-stop")
def test_an_image_that_has_moved_is_told_before_anything_stops(estate: Estate, image: str) -> None:
    running, moving = estate.pids(), f"{estate.project}:latest"
    _docker("tag", image, moving)
    try:
        web = {**estate.content["services"]["web"], "image": moving}
        estate.write_compose_file({**estate.content, "services": {"web": web}})
        estate.compose("up", "-d")
        running = estate.pids()
        _docker("rmi", moving)
        subprocess.run(
            ["docker", "build", "--tag", moving, "-"],
            input=f"FROM {image}\nLABEL moved=yes\n",
            text=True,
            check=True,
            capture_output=True,
        )
        with pytest.raises(MigrationError, match="its image has changed since its container was made"):
            estate.move()
        assert (estate.state(), estate.pids()) == ("rehearsed", running)
    finally:
        estate.compose("down", "--timeout", "1")
        _docker("rmi", moving)


@needs_docker
@pytest.mark.promise("discover-names-every-manager")
def test_a_container_is_drafted_as_the_service_that_it_is(estate: Estate) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(estate.place / "work")
    found = look_at(estate.place, asks_docker=True)
    (source,) = found.sources
    assert (source.database.path, source.held, render.summary(found)["decisions"]) == (str(estate.source), True, [])
    drafted = yaml.safe_load(render.files(found, "shop")[render.ESTATE_FILE])
    (service,) = drafted["estate_cutover_groups"][0]["services"]
    ((_, gateway, network),) = compose.networks_of(compose.containers_of(estate.project))
    assert service == {
        "name": "web",
        "manager": "compose",
        "compose_project": estate.project,
        "user": "nobody",
        "directory": str(estate.place),
        "env_file": "app.env",
        "database_host": gateway,
        "client_network": network,
        "database_role": "web",
        "schemas": ["data"],
        "health_url": f"http://127.0.0.1:{estate.port}/health",
    }
    # Nothing has to be added to it: only the role and the schema of these tests differ.
    estate.group = estate.described(**{**service, "database_role": "swarm_registry", "schemas": ["app"]})
    assert cutover.cut_over(estate.login, estate.group, estate.settings, check_mode=True)["changed"]

    web = estate.content["services"]["web"]
    environment = {**web["environment"], "DATABASE_URL": "sqlite:////data/data.db"}
    plain = {key: value for key, value in web.items() if key != "env_file"}
    estate.write_compose_file({**estate.content, "services": {"web": {**plain, "environment": environment}}})
    estate.compose("up", "-d")
    (source,) = (found := look_at(estate.place, asks_docker=True)).sources
    assert [use.keys for use in source.users.values()] == [{"DATABASE_URL in its environment"}]
    said = [entry["what"] for entry in render.summary(found)["decisions"]]
    assert [any(word in what for what in said) for word in ("no env_file", "sets DATABASE_URL")] == [True, True]
    assert yaml.safe_load(render.files(found, "shop")[render.ESTATE_FILE])["estate_cutover_groups"][0]["services"] == []

    alone = {key: value for key, value in web.items() if key != "ports"}
    estate.write_compose_file({**estate.content, "services": {"web": {**alone, "network_mode": "none"}}})
    estate.compose("up", "-d")
    estate.wait_for(lambda: estate.store() == "sqlite")
    (source,) = (found := look_at(estate.place, asks_docker=True)).sources
    asked = [entry for entry in render.summary(found)["decisions"] if entry["where"].endswith("web.database_host")]
    assert ["(none) has no IPv4 gateway" in entry["what"] for entry in asked] == [True]
    (described,) = [service.compose for service in source.users]
    assert described is not None
    assert [replace(described, networks=networks).reaches_this_host for networks in (("host",), ())] == [True, False]


@needs_docker
@pytest.mark.long_search
@pytest.mark.promise("compose-service-moves")
def test_a_container_that_ends_again_and_again_goes_back_by_itself(estate: Estate) -> None:
    (estate.place / "data" / "crash").touch()
    with pytest.raises(MigrationError) as failed:
        estate.move()
    assert "Docker" in str(failed.value)
    assert PASSWORD not in str(failed.value)
    assert (estate.state(), estate.store()) == ("rehearsed", "sqlite")
    assert (estate.place / "app.env").read_text() == ENV


@needs_docker
@pytest.mark.long_search
@pytest.mark.promise("compose-service-moves")
def test_the_recovery_unit_ends_the_window_of_a_run_that_has_died(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(cutover_window, "checkpoint", lambda *_: os._exit(9))
        with suppress(BaseException):
            estate.move()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert (estate.state(), estate.pids()) == ("frozen", [])
    (manager,) = managers_of(estate.group.services).values()
    assert manager.boot_units() == ["docker.service"]
    # As the unit calls it, see recovery/recover.py.
    rollback.roll_back(estate.login, estate.group, estate.settings, may_leave=False)
    assert (estate.state(), estate.store()) == ("rehearsed", "sqlite")


@needs_docker
@pytest.mark.promise("checked-before-services-stop")
def test_what_would_go_wrong_is_refused_before_anything_stops(estate: Estate) -> None:
    running = estate.pids()

    def said(**changes: Any) -> str:
        right, estate.group = estate.group, estate.described(**changes)
        with pytest.raises(MigrationError, match="nothing was stopped") as refused:
            estate.move()
        estate.group = right
        assert PASSWORD not in str(refused.value)
        return str(refused.value)

    unreached = said(database_host=...)
    assert "its container cannot log in to 127.0.0.1" in unreached
    assert f"{estate.project}_default (gateway {estate.gateway}, " in unreached
    assert "Did you mean 'web'?" in said(name="wib")
    assert f"Did you mean '{estate.project}'?" in said(compose_project=f"{estate.project}x")
    assert "user daemon of this host has another" in said(user="daemon")
    (estate.place / "other.env").write_text("SHOP_NAME=other\n")
    assert "the container does not have what it says of SHOP_NAME" in said(env_file="other.env")
    web = estate.content["services"]["web"]
    estate.write_compose_file({**estate.content, "services": {"web": {**web, "hostname": "new"}}})
    assert "or its image has changed since its container was made" in said()
    estate.write_compose_file({**estate.content, "services": {"web": web}})
    os.chown(estate.compose_file, 2, -1)
    assert "it belongs to user id 2, who is neither root nor user nobody" in said()
    os.chown(estate.compose_file, 0, -1)
    estate.place.chmod(0o777)
    assert "may be changed by somebody else" in said()
    estate.place.chmod(0o755)
    assert (estate.state(), estate.pids()) == ("rehearsed", running)

    # What beats the settings of the file.
    environment = {**web["environment"], "PGSERVICE": "old"}
    estate.write_compose_file({**estate.content, "services": {"web": {**web, "environment": environment}}})
    estate.compose("up", "-d")
    running = estate.pids()
    assert "environment PGSERVICE: its compose file or its image sets it" in said()
    assert (estate.state(), estate.pids()) == ("rehearsed", running)


@pytest.mark.parametrize(("held", "left"), [(False, 1), (True, 0)])
def test_the_server_may_still_work_for_a_container_that_is_gone(
    connection: Connection, login: Login, monkeypatch: pytest.MonkeyPatch, held: bool, left: int
) -> None:
    with closing(connect(replace(login, user="swarm_registry", password=PASSWORD, session_role=None))) as session:
        with session.cursor() as cursor:
            cursor.execute("SELECT inet_client_port()")
            ((port,),) = cursor.fetchall()
        # Our own session stands for one of a container; in our network it counts as alive.
        manager = compose.Compose([])
        monkeypatch.setattr(manager, "client_networks", lambda: (["127.0.0.0/8"], {port} if held else set()))
        group = Group("test", "/nowhere.db", (), (parsed(database_role="swarm_registry"),))
        services_login = ServicesLogin(login.host, login.port, login.database)
        with closing(Watcher(group, {"compose": manager}, services_login, {"swarm_registry": PASSWORD})) as watcher:
            problems = watcher.wait_for_sessions(0.2)
    assert [problem.where.split()[0] for problem in problems] == ["session"] * left


# ---------------------------------------------------------------- what root may be led by


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in which only root may change anything, with a compose file and a directory of the service's user."""
    path = Path(tempfile.mkdtemp(prefix="compose-"))
    path.chmod(0o755)
    (path / "docker-compose.yml").write_text("{}")
    (path / "docker-compose.yml").chmod(0o644)
    (path / "theirs").mkdir()
    os.chown(path / "theirs", 65534, -1)
    yield path
    shutil.rmtree(path)


def project_of(place: Path, monkeypatch: pytest.MonkeyPatch, file: str = "docker-compose.yml", **changes: Any) -> Any:
    """Return the project of a container that tells of a file, with a program in place of compose that echoes."""
    monkeypatch.setattr(compose, "_programs", lambda: (["/bin/echo"], []))
    labels = {"project.working_dir": changes.pop("working_directory", str(place)), "project.config_files": file}
    service = parsed(**{"user": "nobody", "directory": str(place), **changes})
    return compose.Project(
        service, {"Config": {"Labels": {f"com.docker.compose.{key}": labels[key] for key in labels}}}
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root could be led by somebody else's files")


@needs_root
@pytest.mark.promise("checked-before-services-stop")
def test_root_calls_compose_with_files_that_nobody_else_can_exchange(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The user may let the name lead elsewhere at any moment.
    (place / "theirs" / "link.yml").symlink_to(place / "docker-compose.yml")
    project = project_of(place, monkeypatch, "theirs/link.yml")
    assert project.problems() == []
    assert "do not tell which files they were made from" in str(project_of(place, monkeypatch, "").problems())
    words = project.call("config").split()
    assert f"{place}/docker-compose.yml" in words
    assert "theirs" not in " ".join(words)

    (place / "docker-compose.yml").chmod(0o646)
    assert "somebody else may change it" in str(project.problems())
    with pytest.raises(MigrationError, match="somebody else may change it"):
        project.call("config")


@needs_root
@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize("changes", [{"working_directory": "{}/theirs"}, {"env_file": "theirs/app.env"}])
def test_root_lets_compose_read_nothing_in_a_directory_of_somebody_else(
    place: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    changes = {key: value.format(place) for key, value in changes.items()}
    (problem,) = project_of(place, monkeypatch, str(place / "docker-compose.yml"), **changes).problems()
    assert (problem.where, "as root" in problem.what) == (f"{place}/theirs", True)
    # It is called as the user if that owns the files: what it then reads is what the user may read.
    os.chown(place / "docker-compose.yml", 65534, -1)
    project = project_of(place, monkeypatch, str(place / "docker-compose.yml"), **changes)
    project._program = ["/bin/sh", "-c", "id -un"]
    assert (project.problems(), project.call("config")) == ([], "nobody\n")


@needs_root
@pytest.mark.promise("checked-before-services-stop")
@pytest.mark.parametrize(
    "text", ["{services: {web: {image: 'web:${TAG}'}}}", "{services: {web: {image: 'cost: $$5'}}}"]
)
def test_nobody_else_fills_in_a_compose_file_that_root_hands_to_docker(
    place: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """In a directory of root's a file may be the service user's, as its settings are; a value may name any path."""
    (place / "docker-compose.yml").write_text(text)
    project = project_of(place, monkeypatch)
    assert project.problems() == []
    (place / ".env").write_text("TAG=1")
    os.chown(place / ".env", 65534, -1)
    filled = "${" in text
    assert [problem.where for problem in project.problems()] == [f"{place}/.env"] * filled
    for problem in project.problems():
        subprocess.run(["sh", "-c", problem.fix.removeprefix("Run: ")], check=True)
    assert project.problems() == []
    # Compose reads a file that it is told of in its place.
    (place / ".env").chmod(0o666)
    (place / "other.env").write_text("TAG=1")
    (place / "other.env").chmod(0o644)
    project.environment_files = [str(place / "other.env")]
    assert project.problems() == []


@needs_root
def test_a_compose_that_says_nothing_keeps_no_container(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = project_of(place, monkeypatch)
    project._program = ["/bin/true"]
    made = {"Name": "/shop-web-1", "Config": {"Labels": {"com.docker.compose.config-hash": "made"}}}
    for project._is_plugin in (False, True):
        assert not project.keeps([made])


@needs_root
def test_a_container_has_a_time_of_its_own_to_be_made_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = project_of(place, monkeypatch)
    project._program = ["/bin/sh", "-c", "sleep 20"]
    monkeypatch.setattr(compose, "_START_SECONDS", 0.1)
    with pytest.raises(MigrationError, match=r"did not end within 0\.1 seconds"):
        project.start(1)


@pytest.mark.skipif(not compose._yaml_reader(), reason="the Python of this machine has no PyYAML")
def test_a_compose_file_of_few_lines_takes_no_memory_without_end(place: Path) -> None:
    file, levels = place / "docker-compose.yml", range(1, 12)
    file.write_text("services: {web: {env_file: [app.env, {path: other.env}]}, front: {}, odd: text}")
    said = compose._run([*compose._yaml_reader(), str(file)]).output
    services = json.loads(said)["services"]
    assert [compose._env_files_in(services[name]) for name in ("web", "front")] == [["app.env", "other.env"], []]
    aliases = "\n".join(f"x{level}: &x{level} [{', '.join(10 * [f'*x{level - 1}'])}]" for level in levels)
    file.write_text(f"x0: &x0 [again, again]\n{aliases}\nservices: {{web: {{env_file: *x{levels[-1]}}}}}")
    said = compose._run([*compose._yaml_reader(), str(file)]).output
    assert len(said) < 1 << 20
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(said)


# ---------------------------------------------------------------- the description

DESCRIBED = {
    "name": "web",
    "manager": "compose",
    "compose_project": "shop",
    "user": "shop",
    "directory": "/opt/shop",
    "env_file": "app.env",
    "database_role": "shop_web",
    "schemas": ["shop"],
    "health_url": "http://127.0.0.1:3000/health",
}


def parsed(**changes: Any) -> Service:
    """Return the service of an inventory, keys with the value ... left out."""
    entry = {key: value for key, value in {**DESCRIBED, **changes}.items() if value is not ...}
    return inventory.parse_group({"name": "g", "source": {"path": "/g.db"}, "services": [entry]}).services[0]


def test_a_service_is_told_the_address_that_its_container_reaches() -> None:
    login = ServicesLogin("127.0.0.1", 5432, "shop")
    values = login.values(parsed(database_host="172.18.0.1"), "secret")
    assert (values["PGHOST"], values["DATABASE_URL"]) == (
        "172.18.0.1",
        "postgresql://shop_web:secret@172.18.0.1:5432/shop",
    )
    assert login.values(parsed(), "secret")["PGHOST"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"manager": "compos"}, "Did you mean 'compose'? Choose one of"),
        ({"compose_project": ...}, "'compose_project' is missing"),
        ({"compose_project": "--help"}, "'compose_project' is missing or not valid"),
        ({"compose_projekt": "shop"}, "Did you mean 'compose_project'?"),
        ({"name": "-web"}, "'name' is '-web'"),
        *(
            ({"client_network": network}, "'client_network' is missing or not valid")
            for network in ("172.18.0.1", "0.0.0.0/0", "172.18.0.1/16", "all")
        ),
        ({"env_file": ...}, "'env_file' is missing"),
        ({"manager": "pm2"}, "'compose_project' is for services of docker compose, and its manager is pm2"),
        ({"start_command": ["/x"]}, "'start_command' is for services with 'manager: none', and its manager is compose"),
    ],
)
def test_a_wrong_description_is_refused_on_the_controller(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MigrationError) as refused:
        parsed(**changes)
    assert said in str(refused.value)
