"""The role on a host with Node.js 18 and two services, and the library as the services use it, in Docker.

The tests build on each other: the first finds a host without the library. The first ones run the playbook; the others
run the role's one module on the host, as Ansible does there, with the arguments that the role gives it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connected
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import login_test
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres import schema
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.schema_files import (
    read_files,
)
from scripts.playbooks import ROOT, ThrowawayHost
from tests.library_container import url_of

from .row_types import TYPESCRIPT
from .tls_proxy import make_certificate, tls_in_front_of

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
    from tests.conftest import Server

# Two checkouts on one machine tell their hosts apart by TEST_HOST_PREFIX.
HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}shared-library-")
CONTAINER = HOST.container
NAMES = ("swarm-registry", "swarm-tickets")
SERVICES: list[dict[str, Any]] = [
    {"name": name, "user": "swarm", "directory": f"/opt/{name}", "shared_library": True} for name in NAMES
]
BUILT = "/opt/swarm-shared/db"
REGISTRY_COPY = "/opt/swarm-registry/node_modules/swarm-shared-db"
SOURCE = ROOT / "roles/shared_library/files/db"
PATTERNS = ("package*.json", "tsconfig.json", "src/*.ts", "src/schemas/*.ts", "src/migrations/*.ts")
# Where the host finds Ansible and the collection.
PYTHON_PATH = "/srv/python"
COLLECTION = "ansible_collections/swarm/sqlite_to_postgresql"
MODULE = f"""
import json, sys
from ansible.module_utils.testing import patch_module_args
from {COLLECTION.replace("/", ".")}.plugins.modules import shared_library
with patch_module_args(json.load(sys.stdin)):
    shared_library.main()
"""


def on_host(script: str, user: str = "root") -> str:
    """Run a shell script on the host and return what it prints."""
    command = ["docker", "exec", "--user", user, CONTAINER, "sh", "-euc", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    """A container with Node.js and two services that have their modules; it shares the machine's network."""
    build = [sys.executable, str(ROOT / "molecule/test_host/build.py")]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.split()[-1]
    subprocess.run(["docker", "rm", "--force", CONTAINER], check=False, capture_output=True)
    options = ["--detach", "--init", "--name", CONTAINER, "--network", "host"]
    for path, place in ((Path(ansible.__file__).parent, "ansible"), (ROOT / "plugins", f"{COLLECTION}/plugins")):
        options += ["--volume", f"{path}:{PYTHON_PATH}/{place}:ro"]
    subprocess.run(["docker", "run", *options, image, "sleep", "infinity"], check=True, capture_output=True)
    for name in NAMES:
        on_host(f"mkdir /opt/{name}; cp -r /opt/sample-estate/node_modules /opt/{name}; chown -R swarm: /opt/{name}")
    yield
    subprocess.run(["docker", "rm", "--force", CONTAINER], check=True, capture_output=True)


def playbook() -> list[str]:
    """Return the playbook and its variables, as arguments of ansible-playbook."""
    variables = json.dumps({"shared_library_services": SERVICES})
    return ["-i", "tests/shared_library/by_docker.yml", "playbooks/2_shared_library.yml", "--diff", "-e", variables]


def play(*arguments: str) -> tuple[int, str]:
    """Run the playbook; return how many tasks have changed something, and what it prints."""
    run = HOST.play(*playbook(), *arguments)
    assert run.succeeded, run.output
    assert "WARNING" not in run.output
    return run.changed, run.output


def start_module(
    check: bool = False, services: list[dict[str, Any]] | None = None, directory: str = BUILT
) -> subprocess.Popen[str]:
    """Start the module on the host as the role does, and do not wait."""
    paths = [path for pattern in PATTERNS for path in sorted(SOURCE.glob(pattern))]
    given = {str(path.relative_to(SOURCE)): path.read_text() for path in paths}
    given |= {f"migrations/{path.name}": path.read_text() for path in sorted((ROOT / "files/sql").glob("*.sql"))}
    keys = {"name": "name", "user": "user", "directory": "directory", "shared_library": "depends"}
    arguments = {
        "files": [{"path": path, "content": content} for path, content in given.items()],
        "directory": directory,
        "services": [{keys[key]: value for key, value in service.items()} for service in services or SERVICES],
        "_ansible_check_mode": check,
        "_ansible_diff": True,
    }
    command = [
        "docker",
        "exec",
        "--interactive",
        "--env",
        f"PYTHONPATH={PYTHON_PATH}",
        CONTAINER,
        "python3",
        "-c",
        MODULE,
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(arguments))
    process.stdin.close()
    process.stdin = None
    return process


def synchronise(succeeds: bool = True, **given: Any) -> tuple[bool, str]:
    """Run the module on the host; return whether it has changed something, and what a person would read."""
    process = start_module(**given)
    output, _ = process.communicate()
    result = json.loads(output)
    assert result.get("failed", False) is not succeeds, output
    difference = result.get("diff", {"before": "", "after": ""})
    lines = difflib.unified_diff(difference["before"].splitlines(), difference["after"].splitlines(), lineterm="")
    return result.get("changed", False), "\n".join([result.get("msg", ""), *lines])


def files(*directories: str) -> str:
    """Return every file below these directories with owner, mode, size, time and what it links to."""
    return on_host(f"find {' '.join(directories)} -printf '%p %u:%g %m %s %T@ %l\\n' | sort")


def other_modules() -> str:
    """Return every file of the services' modules that is not the library's."""
    return "\n".join(line for line in files("/opt/*/node_modules/*").splitlines() if "swarm-shared-db" not in line)


def replace_in_copy(text: str) -> None:
    """Put a text into the library's copy in swarm-registry."""
    on_host(f"echo '{text}' >> {REGISTRY_COPY}/dist/pool.js")


def javascript(source: str, *options: str, **environment: str) -> Any:
    """Run a script as the service swarm-registry would, and return the JSON that it prints."""
    variables = [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
    command = ["docker", "exec", "--user", "swarm", "--workdir", "/opt/swarm-registry", *variables, CONTAINER, "node"]
    result = subprocess.run([*command, *options, "--eval", source], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


# ---------------------------------------------------------------- the role


def test_a_dry_run_on_a_host_without_it_says_everything_and_writes_nothing() -> None:
    before = files("/opt", "/root", "/home")
    changed, output = play("--check")
    assert changed == 1
    assert re.search(rf"-{BUILT}: to be built\n-swarm-registry: none\n-swarm-tickets: none\n", output)
    assert files("/opt", "/root", "/home") == before


@pytest.mark.promise("library-loaded-before-replaced")
def test_every_service_gets_its_copy_and_keeps_its_other_modules() -> None:
    before = other_modules()
    assert play()[0] == 1
    assert other_modules() == before
    for service in SERVICES:
        copy = f"{service['directory']}/node_modules/swarm-shared-db"
        assert on_host(f"find {copy} ! -user swarm") == ""
        assert on_host(f"diff -r {BUILT}/dist {copy}/dist; diff -r {BUILT}/migrations {copy}/migrations") == ""
    assert on_host(f"find /opt/swarm-shared ! -user root; ls -d {BUILT}/node_modules 2>/dev/null || true") == ""
    for path in (ROOT / "files/sql").glob("*.sql"):
        assert on_host(f"cat {BUILT}/migrations/{path.name}") == path.read_text()


def test_a_second_run_changes_nothing() -> None:
    before = files("/opt")
    assert play()[0] == 0
    # The module is given what the role gives it.
    for check in (True, False):
        assert synchronise(check=check)[0] is False
    assert files("/opt") == before


def test_an_edited_copy_is_put_right_and_no_other() -> None:
    replace_in_copy("edited")
    untouched = files("/opt/swarm-tickets", BUILT)
    for check in (True, False):
        changed, output = synchronise(check=check)
        assert changed
        assert "-swarm-registry: edited" in output
        assert "-swarm-tickets" not in output
    assert files("/opt/swarm-tickets", BUILT) == untouched
    assert not synchronise()[0]


def test_a_copy_that_root_has_installed_becomes_the_service_s() -> None:
    on_host(f"chown -R root: {REGISTRY_COPY}")
    assert synchronise()[0]
    assert (
        on_host(f"find {REGISTRY_COPY} ! -user swarm; ls -A /opt/swarm-registry/node_modules | grep '^.swarm' || true")
        == ""
    )


@pytest.mark.promise("library-loaded-before-replaced")
def test_all_that_is_missing_is_named_at_once_and_nothing_is_written() -> None:
    services = [
        *SERVICES,
        {"name": "without-user", "user": "nobody-there", "directory": "/opt/swarm-registry"},
        {"name": "without-directory", "user": "swarm", "directory": "/opt/not-there"},
    ]
    before = files("/opt")
    on_host("mv /opt/swarm-tickets/node_modules/pg /opt/pg; mv /usr/bin/node /usr/bin/node.hidden")
    try:
        for check in (True, False):
            output = synchronise(check=check, succeeds=False, services=services)[1]
            assert "this host: has no Node.js. Install Node.js 18 or later" in output
            assert "swarm-tickets: has no pg in /opt/swarm-tickets/node_modules" in output
            assert "npm install pg@8" in output
            assert "without-user: its user nobody-there does not exist" in output
            assert "without-directory: /opt/not-there is no directory" in output
    finally:
        on_host("mv /opt/pg /opt/swarm-tickets/node_modules/pg; mv /usr/bin/node.hidden /usr/bin/node")
    ignored = ("/opt ", "/opt/swarm-tickets/node_modules ")
    assert [line for line in files("/opt").splitlines() if not line.startswith(ignored)] == [
        line for line in before.splitlines() if not line.startswith(ignored)
    ]


@pytest.mark.promise("library-loaded-before-replaced")
def test_without_the_registry_the_old_copies_stay() -> None:
    """The next test builds what is missing here: a build takes six seconds of a processor."""
    on_host(f"rm {BUILT}/dist/pool.js")
    on_host("printf 'registry=http://127.0.0.1:9/\nfetch-retries=0\ncache=/srv/empty-cache\n' > /root/.npmrc")
    before = files("/opt")
    try:
        output = synchronise(succeeds=False)[1]
        assert re.search(r"npm ci: .*ECONNREFUSED.*Check that this host reaches the npm registry", output)
        ignored = "/opt/swarm-shared "
        assert [line for line in files("/opt").splitlines() if not line.startswith(ignored)] == [
            line for line in before.splitlines() if not line.startswith(ignored)
        ]
    finally:
        on_host("rm /root/.npmrc")


def test_a_build_that_was_killed_is_finished_by_the_next_run() -> None:
    """The one before it stands in its place, without a part, until the new one takes it."""
    on_host(f"rm -rf {BUILT}/dist {REGISTRY_COPY}")
    before = files(BUILT)
    run = start_module()
    deadline = time.monotonic() + 300
    while ".db-build-" not in on_host("ls -A /opt/swarm-shared"):
        assert time.monotonic() < deadline
    # Like pulling the plug: nobody on the host gets the chance to clean up.
    subprocess.run(["docker", "restart", "--time", "0", CONTAINER], check=True, capture_output=True)
    run.communicate(timeout=300)
    assert run.returncode != 0
    assert ".db-build-" in on_host("ls -A /opt/swarm-shared")
    assert files(BUILT) == before
    assert on_host(f"ls -d {REGISTRY_COPY} 2>/dev/null || true") == ""
    on_host("mkdir /opt/swarm-tickets/node_modules/.swarm-shared-db-copy-killed")
    assert synchronise(check=True)[0]
    assert play()[0] == 1
    assert not synchronise()[0]
    assert on_host("ls -A /opt/swarm-shared").split() == ["db"]
    assert on_host("ls -A /opt/swarm-tickets/node_modules | grep '^.swarm' || true") == ""


@pytest.mark.promise("library-loaded-before-replaced")
def test_no_service_is_changed_if_one_cannot_load_the_library() -> None:
    replace_in_copy("edited")
    on_host("echo edited >> /opt/swarm-tickets/node_modules/swarm-shared-db/dist/pool.js")
    on_host("mv /opt/swarm-tickets/node_modules/pg-protocol /opt/pg-protocol")
    before = files(REGISTRY_COPY, "/opt/swarm-tickets/node_modules/swarm-shared-db")
    try:
        output = synchronise(succeeds=False)[1]
        assert "swarm-tickets: cannot load it: Error: Cannot find module 'pg-protocol'" in output
        assert "swarm-registry:" not in output
        assert files(REGISTRY_COPY, "/opt/swarm-tickets/node_modules/swarm-shared-db") == before
    finally:
        on_host("mv /opt/pg-protocol /opt/swarm-tickets/node_modules/pg-protocol")
    assert on_host("ls -A /opt/*/node_modules | grep '^.swarm' || true") == ""
    assert synchronise()[0]


@pytest.mark.promise("library-leads-root-nowhere")
def test_a_directory_that_holds_something_else_is_not_replaced() -> None:
    before = files("/opt/swarm-registry")
    for check in (True, False):
        output = synchronise(check=check, succeeds=False, directory="/opt/swarm-registry")[1]
        assert "/opt/swarm-registry: holds something else than swarm-shared-db" in output
    assert files("/opt/swarm-registry") == before


@pytest.mark.promise("library-leads-root-nowhere")
def test_a_service_cannot_lead_root_into_another_directory() -> None:
    on_host("mkdir /srv/of-root; cp -r /opt/swarm-registry/node_modules/pg /srv/of-root; chown -R root: /srv/of-root")
    on_host("mkdir /opt/astray; chown swarm: /opt/astray; ln -s /srv/of-root /opt/astray/node_modules")
    before = files("/srv/of-root")
    services = [{"name": "astray", "user": "swarm", "directory": "/opt/astray", "shared_library": True}]
    output = synchronise(succeeds=False, services=services)[1]
    assert "astray: /opt/astray/node_modules: Permission denied" in output
    assert files("/srv/of-root") == before


# ---------------------------------------------------------------- the library


def test_services_of_both_kinds_query_postgresql_with_it(schema_database: Login) -> None:
    login = schema_database
    variables = {"PGHOST": login.host, "PGPORT": str(login.port), "PGDATABASE": login.database}
    variables |= {"PGUSER": login.user, "PGPASSWORD": str(login.password)}
    query = """
      const pool = createPool();
      pool.query("SELECT current_user AS role, current_setting('server_version_num')::integer AS version")
        .then(({ rows }) => { console.log(JSON.stringify(rows[0])); return pool.end(); });
    """
    common = javascript(f"const {{ createPool }} = require('swarm-shared-db'); {query}", **variables)
    module = f"import {{ createPool }} from 'swarm-shared-db'; {query}"
    for answer in (common, javascript(module, "--input-type=module", DATABASE_URL=url_of(login))):
        assert answer["role"] == login.user
        assert answer["version"] // 10000 == 16


def test_the_values_have_the_types_that_the_rows_say(schema_database: Login) -> None:
    samples = {
        "uuid": "gen_random_uuid()",
        "text": "'text'::text",
        "integer": "7",
        "boolean": "true",
        "timestamp with time zone": "now()",
        "bytea": "'\\x00'::bytea",
    }
    columns = ", ".join(f'{sample} AS "{name}"' for name, sample in samples.items())
    found = javascript(
        f"""const pool = require('swarm-shared-db').createPool();
        pool.query(`SELECT {columns.replace(chr(92), chr(92) * 2)}`).then(({{ rows }}) => {{
          const types = Object.entries(rows[0]).map(([name, value]) => [name, value.constructor.name]);
          console.log(JSON.stringify(Object.fromEntries(types))); return pool.end(); }});""",
        DATABASE_URL=url_of(schema_database),
    )
    built_in = {"String": "string", "Number": "number", "Boolean": "boolean"}
    assert {name: built_in.get(kind, kind) for name, kind in found.items()} == {
        name: TYPESCRIPT[name] for name in samples
    }


@pytest.mark.promise("library-pool-bounded")
@pytest.mark.parametrize(
    ("arguments", "environment", "most"),
    [("", {}, 5), ("", {"DATABASE_POOL_SIZE": "2"}, 2), ("{ size: 3 }", {"DATABASE_POOL_SIZE": "2"}, 3)],
)
def test_a_pool_opens_no_more_connections_than_it_may(
    schema_database: Login, arguments: str, environment: dict[str, str], most: int
) -> None:
    opened = javascript(
        f"""const pool = require('swarm-shared-db').createPool({arguments});
        Promise.all(Array.from({{ length: 12 }}, () => pool.query('SELECT pg_sleep(0.05)')))
          .then(() => {{ console.log(pool.totalCount); return pool.end(); }});""",
        DATABASE_URL=url_of(schema_database),
        **environment,
    )
    assert opened == most


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "PGPASSWORD"),
        ({"PGPASSWORD": "kept-secret", "PGPORT": "kept-secret"}, "PGPORT"),
        ({"PGPASSWORD": "kept-secret", "DATABASE_POOL_SIZE": "-kept-secret"}, "DATABASE_POOL_SIZE"),
        ({"DATABASE_URL": "kept-secret"}, "DATABASE_URL"),
        ({"PGPASSWORD": "kept-secret", "PGHOST": "elsewhere", "PGSSLROOTCERT": "/kept-secret"}, "PGSSLROOTCERT"),
    ],
)
def test_wrong_settings_are_named_without_their_values(environment: dict[str, str], named: str) -> None:
    source = "try { require('swarm-shared-db').createPool() } catch (e) { console.log(JSON.stringify(e.message)) }"
    message = javascript(source, **environment)
    assert named in message
    assert "kept-secret" not in message


@pytest.mark.promise("library-verifies-server")
def test_tls_is_verified_when_the_address_says_so(schema_database: Login, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "server")
    stranger, _ = make_certificate(tmp_path, "stranger")
    for path in (certificate, stranger):
        subprocess.run(["docker", "cp", str(path), f"{CONTAINER}:/srv/{path.name}"], check=True, capture_output=True)
    on_host("chmod 0644 /srv/*.pem")
    source = """const pool = require('swarm-shared-db').createPool();
      pool.query('SELECT 1 AS one').then(({ rows }) => rows[0].one, (error) => error.code || error.message)
        .then((result) => { console.log(JSON.stringify(result)); return pool.end(); });"""

    def ask(port: int, authority: Path) -> Any:
        options = f"?sslmode=verify-full&sslrootcert=/srv/{authority.name}"
        return javascript(source, DATABASE_URL=url_of(schema_database, port, options))

    with tls_in_front_of(schema_database.port, certificate, key) as port:
        assert ask(port, certificate) == 1
        assert ask(port, stranger) == "DEPTH_ZERO_SELF_SIGNED_CERT"
    assert ask(schema_database.port, certificate) == "The server does not support SSL connections"


@pytest.mark.promise("library-verifies-server")
def test_the_certificate_of_a_server_on_another_host_is_verified_unless_told_otherwise(
    schema_database: Login, tmp_path: Path
) -> None:
    name = "database.example"
    certificate, key = make_certificate(tmp_path, "server", name)
    for path in (certificate, make_certificate(tmp_path, "stranger", name)[0]):
        subprocess.run(["docker", "cp", str(path), f"{CONTAINER}:/srv/{path.name}"], check=True, capture_output=True)
    on_host(f"chmod 0644 /srv/*.pem; grep -q {name} /etc/hosts || echo 127.0.0.1 {name} >> /etc/hosts")
    login = replace(schema_database, host=name)

    def ask(port: int, pool: str = "", **environment: str) -> Any:
        by_parts = {"PGHOST": name, "PGPORT": str(port), "PGDATABASE": login.database, "PGUSER": login.user}
        by_parts["PGPASSWORD"] = str(login.password)
        by_address, by_parts_too = javascript(
            f"""const ask = async (variables) => {{
              Object.assign(process.env, variables);
              const pool = require('swarm-shared-db').createPool({pool});
              const answer = await pool.query('SELECT 1 AS one')
                .then(({{ rows }}) => rows[0].one, (error) => error.code || error.message);
              await pool.end();
              for (const name of Object.keys(variables)) delete process.env[name];
              return answer;
            }};
            ask({json.dumps({"DATABASE_URL": url_of(login, port)})}).then(async (first) =>
              console.log(JSON.stringify([first, await ask({json.dumps(by_parts)})])));""",
            **environment,
        )
        assert by_address == by_parts_too
        return by_address

    with tls_in_front_of(schema_database.port, certificate, key) as port:
        assert ask(port) == "DEPTH_ZERO_SELF_SIGNED_CERT"
        assert ask(port, PGSSLROOTCERT="/srv/stranger.pem") == "DEPTH_ZERO_SELF_SIGNED_CERT"
        assert ask(port, PGSSLROOTCERT="/srv/server.pem") == 1
        assert ask(port, NODE_EXTRA_CA_CERTS="/srv/server.pem") == 1
        assert ask(port, PGSSLMODE="no-verify") == 1
    refused = "The server does not support SSL connections"
    assert ask(schema_database.port) == refused
    assert ask(schema_database.port, PGSSLROOTCERT="/srv/server.pem") == refused
    assert ask(schema_database.port, "{ verifyTls: false }") == 1
    assert ask(schema_database.port, PGSSLMODE="disable") == 1


TRIAL = """
import json, sys
from migration.core.estate import Service
from migration.host import login_test
from migration.host.service_health import ServicesLogin
given = json.load(sys.stdin)
service = Service("swarm-registry", "swarm", "/opt/swarm-registry", given["role"], ("registry",), "http://127.0.0.1:1")
found = []
for login in (ServicesLogin(**values) for values in given["logins"]):
    values = login.values(service, given["password"])
    found.append("\\n".join(map(str, login_test.problems(login, {service: values}, {}))))
print(json.dumps(found))
"""


@pytest.mark.promise("untrusted-server-named-early")
def test_a_cutover_finds_beforehand_that_the_services_will_not_trust_the_server(
    schema_database: Login, tmp_path: Path
) -> None:
    name = "database.example"
    certificate, key = make_certificate(tmp_path, "server", name)
    subprocess.run(["docker", "cp", str(certificate), f"{CONTAINER}:/srv/server.pem"], check=True, capture_output=True)
    on_host(f"chmod 0644 /srv/*.pem; grep -q {name} /etc/hosts || echo 127.0.0.1 {name} >> /etc/hosts")
    on_host("mkdir -p /srv/engine")
    engine = str(ROOT / "plugins" / "module_utils" / "migration")
    subprocess.run(["docker", "cp", engine, f"{CONTAINER}:/srv/engine"], check=True, capture_output=True)

    def login(port: int, ssl_mode: str, ca_certificate: str | None = None, host: str = name) -> dict[str, Any]:
        database = schema_database.database
        return {
            **{"host": host, "port": port, "database": database},
            **{"ssl_mode": ssl_mode, "ca_certificate": ca_certificate},
        }

    def problems_of(*logins: dict[str, Any]) -> list[str]:
        given = {"logins": logins, "role": schema_database.user, "password": schema_database.password}
        command = ["docker", "exec", "--interactive", "--env", "PYTHONPATH=/srv/engine", CONTAINER, "python3"]
        result = subprocess.run(
            [*command, "-c", TRIAL], input=json.dumps(given), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert str(schema_database.password) not in result.stdout
        found: list[str] = json.loads(result.stdout)
        return found

    refused = f"swarm-registry cannot log in to {name}"
    with tls_in_front_of(schema_database.port, certificate, key) as port:
        # An authority without a demand of TLS is written nowhere.
        *not_demanded, unknown, trusted = problems_of(
            login(port, "prefer"),
            login(port, "prefer", "/srv/server.pem"),
            login(port, "require"),
            login(port, "verify-full", "/srv/server.pem"),
        )
    for found in not_demanded:
        assert f"postgres_ssl_mode: it is prefer, and with it {refused}:{port}: " in found
        assert "(DEPTH_ZERO_SELF_SIGNED_CERT)" in found
        assert "postgres_ca_certificate" in found
    assert len(not_demanded) == 2
    assert "postgres_ssl_mode: it is require" in unknown
    assert trusted == ""
    without_tls, disabled, nobody, own_host = problems_of(
        login(schema_database.port, "prefer"),
        login(schema_database.port, "disable"),
        login(1, "disable"),
        # On its own host there is no certificate to look at.
        login(1, "prefer", host="127.0.0.1"),
    )
    assert "postgres_ssl_mode: it is prefer" in without_tls
    assert disabled == ""
    assert re.match(rf"postgres_host: {refused}:1: .*ECONNREFUSED", nobody)
    assert own_host == ""


def test_the_cutover_tells_its_own_host_from_others_as_the_library_does() -> None:
    library = (ROOT / "roles/shared_library/files/db/src/pool.ts").read_text()
    assert login_test.THIS_HOST.replace("/", r"\/") in library
    names = ("", "localhost", "/run/postgresql", "127.0.0.1", "127.1.2.3", "::1", "[::1]")
    assert all(map(login_test.is_this_host, names))
    assert not any(map(login_test.is_this_host, ("10.0.0.1", "database.example", "::2", "localhost.example")))


def test_modules_of_both_kinds_see_everything_that_the_library_exports() -> None:
    show = "console.log(JSON.stringify(Object.keys(library).filter((name) => name !== 'default').sort()))"
    common = javascript(f"const library = require('swarm-shared-db'); {show}")
    module = javascript(f"import * as library from 'swarm-shared-db'; {show}", "--input-type=module")
    assert [name for name in module if name not in ("__esModule", "module.exports")] == common
    assert {"applyMigrations", "createPool", "poolConfiguration", "schemaStatus"} <= set(common)


STATUS = """
const library = require('swarm-shared-db');
const pool = library.createPool();
(async () => {
  const status = await library.schemaStatus(pool, await library.readMigrationFiles());
  const refusal = await library.assertSchemaIsCurrent(pool).then(() => null, (error) => error.message);
  console.log(JSON.stringify({ ...status, refusal }));
  await pool.end();
})();
"""


@pytest.fixture
def applied(login: Login, server: Server) -> Callable[..., dict[str, Any]]:
    """Return a function that changes the ledger of a database with the schema, then asks the library about it."""
    paths = sorted((ROOT / "files/sql").glob("*.sql"))
    with connected(login) as connection:
        schema.apply(connection, read_files([{"name": path.name, "content": path.read_text()} for path in paths]))

    def ask(*statements: str) -> dict[str, Any]:
        server.execute(*statements, database=login.database)
        options = f"?options=-c%20role%3D{login.session_role}"
        answer: dict[str, Any] = javascript(STATUS, DATABASE_URL=url_of(login, options=options))
        return answer

    return ask


def test_the_schema_that_schema_apply_has_applied_is_current(applied: Callable[..., dict[str, Any]]) -> None:
    names = sorted(path.name for path in (ROOT / "files/sql").glob("*.sql"))
    assert applied() == {"applied": names, "pending": [], "problems": [], "refusal": None}


def test_whatever_schema_apply_would_refuse_is_refused(applied: Callable[..., dict[str, Any]]) -> None:
    answer = applied(
        "DELETE FROM migration.applied_file WHERE number = 1",
        "UPDATE migration.applied_file SET sha256 = repeat('0', 64) WHERE number = 2",
        "UPDATE migration.applied_file SET name = '003_other.sql' WHERE number = 3",
        "INSERT INTO migration.applied_file (number, name, sha256, duration_ms, catalog) "
        "VALUES (9, '009_x.sql', '', 1, '[]')",
    )
    assert answer["applied"] == ["004_verification_schema.sql"]
    assert answer["pending"] == ["001_auth_schema.sql"]
    assert sorted(answer["problems"]) == [
        "001_auth_schema.sql is new, but 009_x.sql with a higher number is applied already",
        "002_registry_schema.sql was edited after it was applied",
        "003_deploy_schema.sql was applied under the name 003_other.sql",
        "009_x.sql was applied and is missing now",
    ]
    assert all(problem in answer["refusal"] for problem in answer["problems"])


def test_without_a_ledger_every_file_is_pending(applied: Callable[..., dict[str, Any]]) -> None:
    answer = applied("DROP SCHEMA migration CASCADE")
    assert len(answer["pending"]) == 4
    assert answer["problems"] == []
    assert "001_auth_schema.sql is not applied yet" in answer["refusal"]
