"""A host whose PostgreSQL others use: phase 1 refuses it untouched, or shares it and takes nothing away."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.playbooks import ThrowawayHost
from tests.conftest import PROJECT

HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}existing-")
PHASE = "playbooks/1_infrastructure.yml"
# Somebody's server: a database, a role that logs in over a line of its own, more connections, every address.
SOMEBODY = """
echo 'deb [trusted=yes] file:///srv/postgresql-repository bookworm-pgdg main' > /etc/apt/sources.list.d/shop.list
apt-get -qq update >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends postgresql-16 >/dev/null
systemctl start postgresql@16-main
cd /
as_postgres() { runuser -u postgres -- psql -qXd "$1" -c "$2"; }
as_postgres postgres "CREATE ROLE shop LOGIN PASSWORD 'shop-password'"
as_postgres postgres 'CREATE DATABASE shop OWNER shop'
as_postgres postgres 'ALTER SYSTEM SET max_connections = 300'
as_postgres postgres "ALTER SYSTEM SET listen_addresses = '*'"
sed -i '1i # The shop\\nhost shop shop 127.0.0.1/32 md5' /etc/postgresql/16/main/pg_hba.conf
echo 'host shop shop 10.0.0.0/8 scram-sha-256' >> /etc/postgresql/16/main/pg_hba.conf
systemctl restart postgresql@16-main
rm /etc/apt/sources.list.d/shop.list
"""
FILES = "find /etc/postgresql /etc/postgresql-common /etc/apt -type f -exec sha256sum {} + | sort -k 2"

# Without the dated copies, with their owners and modes.
SERVER_FILES = "find /etc/postgresql -type f ! -name '*~' -printf '%p %u %g %m ' -exec sha256sum {} ';' | sort"
NOTE = "/var/lib/sqlite-migration/unfinished_phase_1.json"
SETTINGS_IN_USE = "SELECT name, setting, sourcefile FROM pg_settings WHERE source <> 'session' ORDER BY name"


def shop(statement: str) -> str:
    """Ask as the shop's own user, over TCP."""
    address = "postgresql://shop:shop-password@127.0.0.1/shop"
    return HOST.run(["psql", "-XAtqc", statement, address], user="nobody").strip()


def kill_after(task: str, *arguments: str) -> None:
    """Run a playbook, and kill its process group once a task has ended."""
    process = HOST.start(*arguments)
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("TASK [") and any(f"TASK [{task}]" in before for before in lines[:-1]):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert "PLAY RECAP" not in "".join(lines), "".join(lines)


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    """Make a host with somebody's server."""
    HOST.begin("bare")
    HOST.run(["sh", "-e"], text=SOMEBODY)
    yield
    HOST.remove()


@pytest.mark.promise("foreign-cluster-refused")
@pytest.mark.parametrize("option", [("-e", "postgres_install_locale=de_DE.UTF-8"), ("--check", "--diff")])
def test_a_server_that_others_use_is_refused_untouched(option: tuple[str, ...]) -> None:
    before, started = HOST.run(["sh", "-c", FILES]), shop("SELECT pg_postmaster_start_time()")
    done = HOST.play(PHASE, *option)
    assert not done.succeeded
    assert "cluster 16/main is in use by others" in done.output
    for held in (
        "databases shop",
        "roles shop",
        "host shop shop 10.0.0.0",
        "listen_addresses=*",
        "max_connections=300",
    ):
        assert held in done.output, done.output
    assert "postgres_existing: adopt" in done.output
    # All at once.
    assert ("it has no locale de_DE.UTF-8" in done.output) is ("--check" not in option)
    assert (done.changed, HOST.run(["sh", "-c", FILES])) == (0, before)
    assert shop("SELECT pg_postmaster_start_time()") == started


@pytest.mark.promise("adopted-server-reverted")
def test_a_later_task_that_fails_leaves_the_files_of_a_shared_server_as_they_were(tmp_path: Path) -> None:
    """The last SQL file passes every check that needs no server, and fails in its second half."""
    files = tmp_path / "sql"
    shutil.copytree(PROJECT / "files" / "sql", files)
    (files / "999_fails.sql").write_text("CREATE TABLE half_done (id integer);\nSELECT 1 / 0;\n")
    before, started = HOST.run(["sh", "-c", SERVER_FILES]), shop("SELECT pg_postmaster_start_time()")
    used = shop(SETTINGS_IN_USE)
    done = HOST.play(PHASE, "-e", "postgres_existing=adopt", "-e", f"schema_apply_directory={files}")
    assert not done.succeeded and "999_fails.sql" in done.output, done.output
    # Both files were changed before that, and are again what they were; so is what the server has loaded.
    changed = {
        "settings | Write our settings, if the server can read them",
        "access | Add our rules to those of others",
    }
    assert {f"postgres_config : {task}" for task in changed} <= set(done.changed_tasks), done.output
    assert HOST.run(["sh", "-c", SERVER_FILES]) == before
    assert (shop(SETTINGS_IN_USE), shop("SELECT pg_postmaster_start_time()")) == (used, started)
    said = "the files of the server that others use are again as they were, and loaded"
    assert done.output.count(said) == 1, done.output
    # Nothing is left for a later run to finish.
    assert HOST.run(["find", NOTE.rpartition("/")[0], "-name", "unfinished*"]) == ""
    HOST.run(["sh", "-c", "rm /etc/postgresql/16/main/pg_hba.conf.*~"])


@pytest.mark.promise("adopted-server-keeps-all", "unfinished-phase-named")
def test_a_shared_server_keeps_what_others_have_also_after_a_run_that_was_killed() -> None:
    rules = HOST.run(["cat", "/etc/postgresql/16/main/pg_hba.conf"])
    started = shop("SELECT pg_postmaster_start_time()")
    adopting = ("-e", "postgres_existing=adopt")
    changed = "postgres_config : access | Add our rules to those of others"
    kill_after(changed, PHASE, *adopting, "--tags", "postgres_config")
    assert HOST.run(["cat", "/etc/postgresql/16/main/pg_hba.conf"]) != rules
    assert HOST.run(["stat", "-c", "%a %U", NOTE]).split() == ["600", "root"]
    done = HOST.play(PHASE, *adopting)
    assert done.succeeded, done.output
    finished = done.output
    # The one that was killed is named, and so is the way back; then it is finished.
    said = "has changed files of the server that others use and has neither ended nor reverted them"
    assert finished.count(said) == 1, done.output
    # The shop is served as before, without a restart.
    assert shop("SELECT pg_postmaster_start_time()") == started
    assert shop("SHOW max_connections") == "300"
    assert shop("SHOW listen_addresses") == "*"
    # Theirs stand as they stood, behind ours; a copy of the file from before is kept.
    assert HOST.run(["cat", "/etc/postgresql/16/main/pg_hba.conf"]).endswith(rules)
    copies = HOST.run(["sh", "-c", "cat /etc/postgresql/16/main/pg_hba.conf.*~"])
    assert copies == rules
    # A process of its own knows nothing of what the one before has found out.
    again = HOST.play(PHASE, *adopting)
    assert again.succeeded and again.changed == 0 and said not in again.output, again.output
    assert HOST.run(["find", NOTE.rpartition("/")[0], "-name", "unfinished*"]) == ""
