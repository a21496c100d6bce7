"""A managed server: somebody else's cluster, where the migrating login is no superuser, and asks for its rights.

Its backups are copied into a repository of restic on a disk of the host, which goes away.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from molecule.backup.tests.conftest import Backups

PORT = 5433
ARGUMENTS = (
    *("-e", "postgres_provider=managed", "-e", f"postgres_port={PORT}"),
    *("-e", "postgres_backup_directory=/var/backups/managed"),
)
MIGRATOR = "swarm_migrator"
SETTINGS = "/etc/sqlite-to-postgresql-backup"
REPOSITORY = "/srv/repository"


def make_repository(managed: Backups) -> None:
    """Make the repository of the copies, with nothing in it."""
    managed.shell(f"install -d -o {managed.user} -m 700 {REPOSITORY}")
    managed.restic(REPOSITORY, "init")


@pytest.fixture(scope="module")
def managed(backups: Backups, tmp_path_factory: pytest.TempPathFactory) -> Backups:
    """A second cluster of the host, with what its administrator has made there: roles and an empty database."""
    backups.shell(f"pg_createcluster 16 managed --port {PORT} --start")
    there = replace(backups, directory="/var/backups/managed", user="postgres-backup", port=PORT)
    there.psql("CREATE ROLE keeper LOGIN CREATEDB CREATEROLE PASSWORD 'of-this-test'", "postgres")
    status, _, output = there.playbook("1_infrastructure.yml", *ARGUMENTS, "--tags", "postgres_install")
    assert status != 0
    assert f"role {MIGRATOR} cannot log in to database swarm" in output, output
    named = re.search(r" -U ADMINISTRATOR -f (\S+managed_server\.sql)", output)
    assert named is not None, output
    script = Path(named[1])
    assert script.stat().st_mode & 0o777 == 0o600
    assert "SCRAM-SHA-256$" in script.read_text() and "SCRAM-SHA-256$" not in output
    # From top to bottom, and again.
    for _ in range(2):
        program = f"PGPASSWORD=of-this-test psql -qX -h 127.0.0.1 -p {PORT} -U keeper -d postgres -f -"
        backups.shell(f"printf %s {shlex.quote(script.read_text())} | {program}")
    arguments = (*ARGUMENTS, *there.restic_arguments(tmp_path_factory.mktemp("secret"), REPOSITORY))
    status, changed, output = there.playbook("1_infrastructure.yml", *arguments, "--diff", "-vvv")
    assert status == 0, output
    assert changed > 0
    assert there.restic_password not in output
    # The settings of the copies are as they were, too.
    status, changed, output = there.playbook("1_infrastructure.yml", *arguments)
    assert (status, changed) == (0, 0), output
    make_repository(there)
    return there


@pytest.mark.promise("backup-password-hidden")
def test_only_the_user_of_the_backups_can_read_the_password(managed: Backups) -> None:
    assert managed.shell(f"stat -c '%U %a' {SETTINGS} {SETTINGS}/settings.json").splitlines() == [
        "postgres-backup 700",
        "postgres-backup 600",
    ]
    assert managed.psql(f"SELECT rolsuper FROM pg_roles WHERE rolname = '{MIGRATOR}'") == "f"


def test_a_drill_asks_for_the_right_it_lacks_and_the_backup_is_taken_all_the_same(managed: Backups) -> None:
    managed.psql(f"ALTER ROLE {MIGRATOR} NOCREATEDB")
    # What playbooks/backup.yml runs; that it says why it has failed is in tests/backup/test_role.py.
    status, output = managed.program("run")
    assert status == 1
    assert f"ALTER ROLE {MIGRATOR} CREATEDB;" in output
    [name] = managed.names()
    assert f"ALTER ROLE {MIGRATOR} CREATEDB;" in managed.start("postgres-backup-drill", succeeds=False)
    managed.psql(f"ALTER ROLE {MIGRATOR} CREATEDB")
    managed.start("postgres-backup-drill")
    managed.start("postgres-backup-check")
    assert managed.psql("SELECT name, verified_at IS NOT NULL FROM migration.backup") == f"{name}|t"
    assert managed.psql("SELECT count(*) FROM pg_database WHERE datname LIKE 'swarm_%'") == "0"


@pytest.mark.promise("copy-off-the-host")
def test_a_repository_on_a_disk_that_is_gone_does_not_keep_the_backup_from_being_taken(managed: Backups) -> None:
    managed.shell(f"mv {REPOSITORY} {REPOSITORY}.gone")
    count = len(managed.names())
    said = managed.start("postgres-backup", succeeds=False)
    assert re.search(rf"{REPOSITORY}: restic: .*(repository|no such file)", said), said
    assert len(managed.names()) == count + 1
    # Another one is there now, with nothing in it: everything is saved again.
    make_repository(managed)
    assert set(managed.copy_again()) == set(managed.names())
    managed.restic(REPOSITORY, "check", "--read-data")


def test_a_restore_asks_for_the_right_it_lacks_and_ends_the_services_sessions(managed: Backups) -> None:
    name = managed.names()[-1]
    managed.psql("INSERT INTO auth.roles (name, level) VALUES ('after the backup', 1)")
    managed.psql(f"REVOKE swarm_deploy FROM {MIGRATOR} GRANTED BY keeper")
    status, output = managed.program("restore", name)
    assert status == 1
    assert f"GRANT pg_signal_backend TO {MIGRATOR};" in output
    assert managed.psql("SELECT count(*) FROM auth.roles") == "1"
    managed.psql(f"GRANT swarm_deploy TO {MIGRATOR}")
    # A service that is connected all the time, and would keep the database from being renamed.
    managed.psql("ALTER ROLE swarm_deploy PASSWORD 'of-this-test'", "postgres")
    address = f"postgresql://swarm_deploy:of-this-test@127.0.0.1:{PORT}/swarm"
    managed.host.run(f"setsid psql {address} -c 'SELECT pg_sleep(600)' >/dev/null 2>&1 &")
    deadline = time.monotonic() + 120
    while managed.psql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'swarm_deploy'") == "0":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    status, output = managed.program("restore", name)
    assert status == 0, output
    assert managed.psql("SELECT count(*) FROM auth.roles") == "0"
    old = managed.psql("SELECT datname FROM pg_database WHERE datname LIKE 'swarm_before_restore%'")
    assert managed.psql("SELECT count(*) FROM auth.roles", old) == "1"
    status, output = managed.program("restore", name)
    assert status == 0
    assert "nothing to do" in output


@pytest.mark.promise("backup-password-hidden")
def test_the_password_reaches_neither_the_journal_nor_a_backup(managed: Backups) -> None:
    managed.shell("journalctl --sync")
    password = json.loads(managed.shell(f"cat {SETTINGS}/settings.json"))["login"]["login_password"]
    assert len(password) > 20
    quoted = shlex.quote(password)
    assert managed.host.run(f"journalctl --no-pager | grep -F {quoted}").status == 1
    assert managed.host.run(f"grep -rlaF {quoted} {managed.directory} /etc/systemd /var/log").status == 1
    of_restic = managed.restic_password
    assert managed.host.run(f"journalctl --no-pager | grep -F {of_restic}").status == 1
    places = "/etc /home /opt /root /run /srv /tmp /var"
    found = managed.host.run(f"grep -rlsaF {of_restic} {places} --exclude-dir=journal").stdout.split()
    assert found == [managed.restic_password_file]
    owner_and_mode = managed.shell(f"stat -c '%U %a' {found[0]} $(dirname {found[0]})").splitlines()
    assert owner_and_mode == ["postgres-backup 600", "postgres-backup 700"]
