"""The life of an estate after its move, in the order of this file: soak, attacks, quarantine, return, deletion."""

from __future__ import annotations

import re
from typing import Any

import pytest

SOURCES = (
    "/opt/swarm-registry/registry.db",
    "/opt/swarm-deploy/data/deployments.db",
    "/opt/swarm-platform/data/swarm.db",
)
SYMLINKS = ("/opt/swarm-tickets/data/swarm.db", "/opt/swarm-tickets/tickets.db", "/opt/swarm-platform/tickets.db")
LEGACY = ("/opt/swarm-platform/swarm.db", "/opt/swarm-mcp-factory.legacy/registry.db")
# That of the first disk, and that at the top of another one: nothing is moved from one to the other.
QUARANTINES = (
    "/var/lib/sqlite-migration/quarantine",
    "/opt/swarm-mcp-factory.legacy/.sqlite-migration-quarantine",
)
# A report that says something new is written, and the checks of a user write rows.
REPORT_TASKS = {
    "validation : Functional checks | Play what a user does with the services",
    "validation : Report | Write the report on the controller, if it says anything new",
}
AS_SERVICE = "runuser -u swarm --"
# Opens a database as the services did before the move.
OLD_PROGRAM = "new (require('/opt/swarm-registry/node_modules/better-sqlite3'))(process.argv[1])"
OLD_PYTHON = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE t (a)')"
# What the service's user can do: swap the directory of a source for a symlink, and a legacy file for another.
SWAP = """
import os
os.chdir('/opt')
while True:
    for name, real, decoy in (
        ('swarm-deploy/data', 'swarm-deploy/real', '/etc/sqlite-decoy'),
        ('swarm-platform/swarm.db', 'swarm-platform/real.db', '/etc/sqlite-decoy/deployments.db'),
    ):
        try:
            os.rename(name, real)
            os.symlink(decoy, name)
            os.unlink(name)
            os.rename(real, name)
        except OSError:
            try:
                if os.path.islink(name):
                    os.unlink(name)
                os.rename(real, name)
            except OSError:
                pass
"""


@pytest.fixture(autouse=True)
def before(remembered: dict[str, Any]) -> None:
    """Read every row before the first test changes anything."""


@pytest.mark.promise("daily-check-sees-every-touch")
def test_the_timer_checks_every_group_and_a_failed_check_interrupts(cleaned: Any) -> None:
    assert cleaned.shell("systemctl is-active sqlite-soak-check.timer") == "active"
    assert cleaned.shell("systemctl is-enabled sqlite-soak-check.timer") == "enabled"
    cleaned.shell("systemctl start sqlite-soak-check.service")
    count = "SELECT count(*) FILTER (WHERE passed), count(*) FILTER (WHERE NOT passed) FROM migration.soak_check"
    assert cleaned.sql(count) == "3|0"
    # Nobody may open the frozen file.
    cleaned.shell(f"{AS_SERVICE} sleep 600 < {SOURCES[0]} > /dev/null 2>&1 & echo $! > /run/reader.pid")
    is_open = f"find /proc/[0-9]*/fd -lname {SOURCES[0]} 2>/dev/null | grep -q ."
    cleaned.shell(f"until {is_open}; do sleep 0.1; done")
    assert cleaned.host.run("systemctl start sqlite-soak-check.service").status != 0
    assert cleaned.sql(count) == "5|1"
    cleaned.shell("pkill --parent $(cat /run/reader.pid) || kill $(cat /run/reader.pid)")
    cleaned.shell(f"while {is_open}; do sleep 0.1; done")
    cleaned.shell("journalctl --sync")
    journal = cleaned.shell("journalctl --no-pager --unit sqlite-soak-check.service")
    password = cleaned.shell("rev /etc/sqlite-migration/soak_check.pgpass | cut -d: -f1 | rev")
    assert len(password) > 10
    assert password not in journal
    assert cleaned.host.run(f"grep -r {password} /etc/systemd /etc/sqlite-migration/soak_check.json").status == 1
    assert cleaned.shell("stat -c %a /etc/sqlite-migration/soak_check.pgpass") == "600"


@pytest.mark.promise("plan-id-required")
def test_nothing_happens_without_a_confirmation(cleaned: Any) -> None:
    before = cleaned.describe()
    run = cleaned.clean_up()
    assert (run.status, run.changed) == (0, 0), run.output
    assert cleaned.describe() == before
    assert re.search(r"not yet: it has been on PostgreSQL for \d+\.\d hours of 7 days", run.output), run.output
    assert "not yet: there is no verified backup" in run.output
    assert "a daily check failed, and the time began anew" in run.output
    # As the host itself says, whom the tests below ask where no playbook is needed.
    assert cleaned.plan() == {"id": run.plan_id, "ready": 0, "is_due": False}


@pytest.mark.promise("only-planned-files-move")
def test_an_attack_by_the_services_user_moves_nothing_else(cleaned: Any) -> None:
    cleaned.pass_days()
    cleaned.sql("INSERT INTO migration.backup VALUES ('proven', clock_timestamp(), clock_timestamp(), 'sha', '{}')")
    plan = cleaned.plan()
    assert plan["ready"] == 8
    cleaned.shell("mkdir -p /etc/sqlite-decoy && echo precious > /etc/sqlite-decoy/deployments.db")
    marks = cleaned.shell("stat -c '%i %a %U %Y %Z' /etc/sqlite-decoy/deployments.db")
    cleaned.shell(f'{AS_SERVICE} python3 -c "{SWAP}" > /dev/null 2>&1 & echo $! > /run/attack.pid; sleep 0.5')
    run = cleaned.clean_up(confirm=plan["id"])
    cleaned.shell("pkill -9 --parent $(cat /run/attack.pid) || kill -9 $(cat /run/attack.pid); sleep 0.3")
    # What was in the middle of a swap goes back to where its owner had it.
    cleaned.shell("cd /opt/swarm-deploy; if [ -e real ]; then [ ! -L data ] || rm data; mv real data; fi")
    cleaned.shell(
        "cd /opt/swarm-platform; if [ -e real.db ]; then [ ! -L swarm.db ] || rm swarm.db; mv real.db swarm.db; fi"
    )
    assert cleaned.shell("cat /etc/sqlite-decoy/deployments.db") == "precious"
    assert cleaned.shell("stat -c '%i %a %U %Y %Z' /etc/sqlite-decoy/deployments.db") == marks
    assert cleaned.shell("ls /etc/sqlite-decoy") == "deployments.db"
    assert "precious" not in cleaned.shell(
        "grep -rl precious /var/lib/sqlite-migration /var/backups/sqlite-migration || true"
    )
    assert run.status != 0 or "moved to" in run.output
    assert cleaned.stores() == ["postgresql"] * 4


def test_a_confirmed_plan_archives_and_hides_every_file(cleaned: Any) -> None:
    # What an attack has kept from being moved.
    if cleaned.plan()["is_due"]:
        cleaned.carry_out()
    assert set(cleaned.states().values()) == {"archived"}
    paths = (*SOURCES, *SYMLINKS, *LEGACY)
    # Without following a symlink.
    assert cleaned.shell(f"stat -c %F {' '.join(paths)}").splitlines() == ["directory"] * len(paths)
    assert cleaned.shell(f"find {' '.join(paths)} -mindepth 1 -printf '%f '").split() == ["README"] * len(paths)
    private = cleaned.shell(f"stat -c '%a %U' {' '.join(QUARANTINES)} /var/backups/sqlite-migration")
    assert private.splitlines() == ["700 root"] * 3
    assert cleaned.stores() == ["postgresql"] * 4


@pytest.mark.promise("tombstone-stops-old-programs")
def test_an_old_program_fails_loudly_and_creates_nothing(cleaned: Any) -> None:
    for path in (SOURCES[0], SYMLINKS[0], SYMLINKS[1]):
        for user in (AS_SERVICE, ""):
            result = cleaned.host.run(f'cd /tmp && {user} node -e "{OLD_PROGRAM}" {path}')
            assert result.status != 0
            assert "unable to open database file" in result.stderr
            result = cleaned.host.run(f'cd /tmp && {user} python3 -c "{OLD_PYTHON}" {path}')
            assert result.status != 0
            assert "unable to open database file" in result.stderr
        assert cleaned.host.run(f"{AS_SERVICE} rm -rf {path}").status != 0
        assert cleaned.host.run(f"{AS_SERVICE} mv {path} {path}.away").status != 0
        assert cleaned.shell(f"ls {path}") == "README"


def test_the_other_phases_live_with_it(cleaned: Any) -> None:
    # The last of them fails; whatever fails before it keeps it from being begun. Phases 4 and 5 are run at the end.
    run = cleaned.play("3_data_migration", "rollback", options=("-e", "service_env_rollback_groups=registry"))
    assert (run.status != 0, run.changed) == (True, 0), run.output
    assert "sqlite_cleanup_restore_groups" in run.output.partition("TASK [service_env : Rollback")[2], run.output
    # The daily check looks at what lies in quarantine now.
    cleaned.shell("systemctl start sqlite-soak-check.service")


@pytest.mark.promise("file-comes-back")
def test_a_file_comes_back_until_it_is_deleted(cleaned: Any) -> None:
    run = cleaned.clean_up(restore="registry")
    assert (run.status, run.changed) == (0, 1), run.output
    assert cleaned.states() == {"registry": "live", "deploy": "archived", "platform": "archived"}
    assert cleaned.host.run(f"test -f {SOURCES[0]}").status == 0
    assert "i" in cleaned.shell(f"lsattr {SOURCES[0]}").split()[0]
    cleaned.pass_days()
    # Those in quarantine have passed their time as well, so this plan holds both.
    cleaned.carry_out()
    assert cleaned.states() == {"registry": "archived", "deploy": "removed", "platform": "removed"}


def test_the_last_deletion_keeps_every_row(cleaned: Any, remembered: dict[str, Any]) -> None:
    cleaned.pass_days()
    rows = cleaned.rows()
    run = cleaned.clean_up(confirm=cleaned.plan()["id"])
    assert (run.status, run.changed) == (0, 1), run.output
    assert set(cleaned.states().values()) == {"removed"}
    for path in QUARANTINES:
        assert cleaned.host.run(f"test -e {path}").status == 1
    assert cleaned.archives() == f"{remembered['sources']} 2"
    assert cleaned.rows() == rows
    # The functional checks of validation log in, which changes a time of a user; no row has come or gone.
    number_of_rows = re.compile(r'"([a-z_.]+)" : .*?<n>(\d+)</n>')
    assert number_of_rows.findall(rows) == number_of_rows.findall(remembered["rows"]) != []


@pytest.mark.promise("driver-removed-last")
def test_the_driver_is_gone_and_the_services_start_without_it(cleaned: Any) -> None:
    places = "node_modules/better-sqlite3 node_modules/swarm-shared-db package-lock.json"
    for service in ("swarm-registry", "swarm-deploy", "swarm-tickets", "swarm-platform"):
        text = cleaned.shell(f"cat /opt/{service}/package.json")
        assert "better-sqlite3" not in text
        assert text.startswith('{\n  "name"')
        found = cleaned.shell(f"cd /opt/{service} && ls -d {places} 2>/dev/null; stat -c %U package.json")
        assert found.split() == ["node_modules/swarm-shared-db", "swarm"]
    cleaned.reboot()
    cleaned.wait_for_services()
    assert cleaned.stores() == ["postgresql"] * 4
    run = cleaned.play("4_service_cutover", "5_validation", "6_cleanup")
    assert run.status == 0, run.output
    assert set(run.changed_tasks) <= REPORT_TASKS, run.output
    assert run.output.count("deleted; its archive is") == 8
