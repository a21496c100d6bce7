"""Phase 5 on any day, in the order of this file: rehearsed, damaged, cut over, damaged in every way, and written to.

What becomes of the estate then is in test_life.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

REGISTRY = "http://127.0.0.1:4001"
FROZEN = "/opt/swarm-registry/registry.db"
# Tables that no service of the sample estate writes to.
UNWRITTEN = ("-e", '{"validation_unwritten_tables": ["auth.permissions", "auth.role_permissions"]}')
OTHER_NAME = "database.example"
# Functional checks write rows, and remove them again.
NO_CHECKS = ("-e", '{"validation_functional_checks": []}')
PM2 = "cd / && runuser -u swarm -- env -i HOME=/home/swarm PATH=/usr/local/bin:/usr/bin:/bin pm2 -s"
# A busy pm2 fails now and then without a word.
AGAIN = "$ for try in 1 2 3 4; do {} && exit 0; sleep 1; done; exit 1"


@dataclass(frozen=True)
class Damage:
    """Something that goes wrong behind our back.

    :param do: SQL or shell commands that do it, and that mend it.
    :param where: place that the finding names.
    :param what: pattern of what it says.
    """

    do: tuple[str, ...]
    mend: tuple[str, ...]
    where: str
    what: str


@contextmanager
def damaged(estate: Any, *damages: Damage) -> Iterator[None]:
    """Do damage, and mend it again, the last first."""
    execute(estate, [command for damage in damages for command in damage.do])
    try:
        yield
    finally:
        execute(estate, [command for damage in reversed(damages) for command in damage.mend])


def execute(estate: Any, commands: Sequence[str]) -> None:
    """Run commands, each by itself, in their order: those of the shell begin with a dollar sign."""
    for is_shell, group in groupby(commands, lambda command: command.startswith("$ ")):
        if is_shell:
            for command in group:
                estate.shell(command.removeprefix("$ "))
        else:
            # One program for all of them, and a transaction for each.
            estate.sql(*group)


def changed_value(estate: Any) -> Damage:
    """Return one changed value of one row."""
    old_id, name = estate.sql(
        "SELECT m.old_id, p.name FROM auth.permissions p JOIN migration.id_map m ON m.new_id = p.id "
        "WHERE m.namespace = 'auth.permissions' ORDER BY p.name LIMIT 1"
    ).split("|")
    return Damage(
        (f"UPDATE auth.permissions SET description = 'changed by hand' WHERE name = '{name}'",),
        (kept_row(estate, "auth.permissions", f"name = '{name}'"),),
        "platform: permissions → auth.permissions",
        rf"id='{re.escape(old_id)}': description is .* in SQLite and 'changed by hand' in PostgreSQL",
    )


def deleted_row(estate: Any, source: str, target: str, where: str) -> Damage:
    """Return one row that is gone."""
    row = estate.sql(f"SELECT to_json(t) FROM {target} AS t ORDER BY ctid LIMIT 1")
    return Damage(
        (f"DELETE FROM {target} WHERE ctid = (SELECT ctid FROM {target} ORDER BY ctid LIMIT 1)",),
        (f"INSERT INTO {target} SELECT * FROM json_populate_record(NULL::{target}, $row${row}$row$)",),
        f"{where}: {source} → {target}",
        "1 rows in SQLite and 0 rows in PostgreSQL",
    )


def kept_row(estate: Any, target: str, condition: str) -> str:
    """Return the statement that brings one row back to what it is now."""
    row = estate.sql(f"SELECT to_json(t) FROM {target} AS t WHERE {condition}")
    columns = ", ".join(json.loads(row))
    return (
        f"UPDATE {target} SET ({columns}) = (SELECT {columns} FROM json_populate_record(NULL::{target}, "
        f"$row${row}$row$)) WHERE {condition}"
    )


# ---------------------------------------------------------------- before the cutover


def test_a_rehearsed_estate_is_compared_with_its_sources(estate: Any) -> None:
    run = estate.validate()
    assert (run.status, run.changed) == (0, 1), run.output
    assert "The rehearsal holds: every value arrived" in run.output
    assert [(group["state"], group["valid"]) for group in run.report["groups"]] == [("rehearsed", True)] * 3
    tables = [table for group in run.report["groups"] for table in group["tables"]]
    assert len(tables) == 17
    assert all(table["equal"] for table in tables)
    assert [check["result"] for check in run.report["functional_checks"]] == ["passed"] * 5
    # The login of the functional check is a write of a service.
    assert "users: written to in SQLite since the rehearsal run" in " ".join(run.group("platform")["information"])


# tests/validation/test_validate.py has it without a host, and damage of every kind is named below.
@pytest.mark.long_search
def test_damage_before_the_cutover_is_named_with_its_rows_and_mended_it_is_valid(estate: Any) -> None:
    damages = [
        changed_value(estate),
        deleted_row(estate, "commit_ticket_map", "deploy.commit_ticket_map", "deploy"),
    ]
    with damaged(estate, *damages):
        run = estate.validate()
    assert run.status != 0
    assert set(run.findings) == {damage.where for damage in damages}, run.output
    for damage in damages:
        assert "PostgreSQL does not hold what the rehearsal run left there" in run.findings[damage.where]
        assert re.search(damage.what, run.findings[damage.where]), run.findings
    with estate.untouched():
        run = estate.validate(*NO_CHECKS)
    assert (run.status, run.findings) == (0, {}), run.output


# tests/shared_library/test_on_a_host.py tries every kind of login in a host's Node.js, without a playbook.
@pytest.mark.long_search
@pytest.mark.promise("untrusted-server-named-early")
def test_a_server_that_the_services_would_not_trust_is_found_before_anything_stops(estate: Any) -> None:
    """Its name stands for another host: the library verifies the certificate of such a server."""
    estate.shell(f"echo 127.0.0.1 {OTHER_NAME} >> /etc/hosts")
    login = {"host": OTHER_NAME, "port": 5432, "database": "swarm", "ssl_mode": "prefer"}
    run = estate.play("4_service_cutover", "--check", "-e", json.dumps({"service_env_services_login": login}))
    assert run.status != 0
    reason = (
        r"postgres_ssl_mode: it is prefer, and with it swarm-registry cannot log in to database\.example:5432: "
        r".*(SSL|certificate)"
    )
    assert re.search(reason, " ".join(run.output.split())), run.output
    assert "postgres_ca_certificate" in run.output
    assert estate.sql("SELECT DISTINCT state FROM migration.cutover_group") == "rehearsed"


# ---------------------------------------------------------------- after it


@pytest.fixture(scope="module")
def proven_backup(estate: Any) -> Iterator[str]:
    """Note a backup as one that was proven to restore; return its name. Afterwards there is none."""
    estate.sql("INSERT INTO migration.backup VALUES ('proven', clock_timestamp(), clock_timestamp(), 'sha', '{}')")
    yield "proven"
    estate.sql("DELETE FROM migration.backup")


@pytest.mark.promise("proof-repeated")
def test_after_the_cutover_the_proof_is_repeated_on_the_frozen_files(estate: Any, proven_backup: str) -> None:
    """What is left of site.yml is run: phase 6, which looks and changes nothing but the daily check, comes last."""
    run = estate.play("4_service_cutover 5_validation 6_cleanup", *UNWRITTEN)
    assert (run.status, run.findings) == (0, {}), run.output
    assert "Every value arrived" in run.output
    for group in run.report["groups"]:
        assert (group["state"], group["proof_repeated"]) == ("live", True)
        assert all(sequence["correct"] for sequence in group["sequences"])
        assert all(entry["valid"] for kind in ("foreign_keys", "constraints", "indexes") for entry in group[kind])
        assert all(not service["shortcoming"] for service in group["service_health"])
    assert run.report["database"]["drift"] == []
    assert run.report["database"]["backup"]["newest_verified"] == proven_backup


@pytest.fixture
def all_damage(estate: Any, proven_backup: str) -> list[Damage]:
    """Return damage of every kind."""
    sequence = "deploy.deployment_events_id_seq"
    email_index = estate.sql("SELECT pg_get_indexdef('auth.idx_users_email'::regclass)")
    unique = estate.sql(
        "SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'registry.agents'::regclass AND contype = 'u'"
    )
    key, _, definition = estate.sql(
        "SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'registry.triggers'::regclass AND contype = 'f'"
    ).partition(" ")
    invalid = "UPDATE pg_index SET indisvalid = {} WHERE indexrelid = 'registry.idx_steps_run'::regclass"
    add_row = (
        "$ python3 -c \"import sqlite3; c = sqlite3.connect('{}'); c.execute('CREATE TABLE stray (a)'); c.commit()\""
    )
    reload = "SELECT pg_reload_conf()"
    return [
        changed_value(estate),
        deleted_row(estate, "role_permissions", "auth.role_permissions", "platform"),
        Damage(
            (f"SELECT setval('{sequence}', 1)",),
            (f"SELECT setval('{sequence}', {estate.sql(f'SELECT last_value FROM {sequence}')})",),
            f"sequence {sequence}",
            r"its next value is 2, and \d+ or more is needed",
        ),
        Damage(
            (
                f"ALTER TABLE registry.triggers DROP CONSTRAINT {key}",
                f"ALTER TABLE registry.triggers ADD CONSTRAINT {key} {definition} NOT VALID",
            ),
            (f"ALTER TABLE registry.triggers VALIDATE CONSTRAINT {key}",),
            f"foreign key registry.triggers: {key}",
            "PostgreSQL has not validated it",
        ),
        Damage(
            (f"ALTER TABLE registry.agents DROP CONSTRAINT {unique.split()[0]}",),
            (f"ALTER TABLE registry.agents ADD CONSTRAINT {unique}",),
            "schema of the target",
            rf"missing: constraint registry\.agents\.{re.escape(unique)}",
        ),
        Damage(
            ("ALTER TABLE registry.workflow_runs DISABLE TRIGGER ALL",),
            ("ALTER TABLE registry.workflow_runs ENABLE TRIGGER ALL",),
            "schema of the target",
            r"constraint registry\.workflow_runs\.\w+ is not enforced by its triggers",
        ),
        Damage(
            ("DROP INDEX auth.idx_users_email",),
            (email_index,),
            "schema of the target",
            "missing: index CREATE INDEX idx_users_email",
        ),
        Damage(
            (invalid.format("false"),), (invalid.format("true"),), "index registry.idx_steps_run", "it is not valid"
        ),
        Damage(
            ("ALTER SYSTEM SET work_mem = '1MB'", reload),
            ("ALTER SYSTEM RESET work_mem", reload),
            "setting work_mem",
            r"the server uses 1MB, from .*postgresql\.auto\.conf, and the role postgres_config has set 4MB",
        ),
        Damage(
            ("ALTER SYSTEM SET synchronous_commit = off", reload),
            ("ALTER SYSTEM RESET synchronous_commit", reload),
            "setting synchronous_commit",
            "it is off, expected on",
        ),
        Damage(
            ("GRANT SELECT ON auth.users TO PUBLIC",),
            ("REVOKE SELECT ON auth.users FROM PUBLIC",),
            "auth.users",
            "every role has SELECT on it",
        ),
        Damage(
            ("GRANT UPDATE ON registry.secrets TO swarm_deploy",),
            ("REVOKE UPDATE ON registry.secrets FROM swarm_deploy",),
            "privileges",
            "too much: swarm_deploy: UPDATE on registry.secrets",
        ),
        Damage(
            ("GRANT swarm_owner TO swarm_registry",),
            ("REVOKE swarm_owner FROM swarm_registry",),
            "role swarm_registry",
            "it is a member of swarm_owner",
        ),
        Damage(
            (AGAIN.format(f"{PM2} stop swarm-tickets"),),
            (
                AGAIN.format(f"{PM2} restart swarm-tickets"),
                "$ for n in $(seq 600); do ss -ltn | grep -q :4003 && exit 0; sleep 0.2; done; exit 1",
            ),
            "service swarm-tickets",
            "it is not well: http://127.0.0.1:4003/health does not answer",
        ),
        Damage(
            ("UPDATE migration.backup SET taken_at = taken_at - interval '3 days'",),
            ("UPDATE migration.backup SET taken_at = taken_at + interval '3 days'",),
            "backups of PostgreSQL",
            "the newest that was proven to restore is backup proven, taken at .*: 48 hours are allowed",
        ),
        Damage(
            ("$ chattr -i " + FROZEN, f"$ cp --preserve=all {FROZEN} /root/kept.db", add_row.format(FROZEN)),
            (f"$ cp --preserve=all /root/kept.db {FROZEN}", "$ rm /root/kept.db; chattr +i " + FROZEN),
            FROZEN,
            "has changed since the cutover.* its write protection is gone",
        ),
    ]


@pytest.mark.promise("damage-is-a-finding")
def test_damage_of_every_kind_is_named(estate: Any, all_damage: list[Damage]) -> None:
    """That the mended estate is valid is in the next test."""
    with damaged(estate, *all_damage):
        run = estate.validate(*NO_CHECKS, *UNWRITTEN)
    assert run.status != 0
    assert run.report["status"] == "failed"
    page = Path(re.search(r"Report: (\S+)/report\.html", run.output)[1], "report.html").read_text(encoding="utf-8")  # type: ignore[index]
    printed = " ".join(run.output.split())
    for damage in all_damage:
        assert re.search(damage.what, run.findings.get(damage.where, "")), (damage.where, run.findings)
        assert damage.where in printed
        assert damage.where in page
    # Nothing else is wrong.
    assert set(run.findings) == {damage.where for damage in all_damage}


@pytest.mark.promise("validation-only-reads", "later-writes-are-counted")
def test_rows_that_the_services_wrote_since_are_counted_and_nothing_is_written(estate: Any, proven_backup: str) -> None:
    made = [
        estate.send("POST", f"{REGISTRY}/agents", {"name": f"since-{n}", "version": "1.0.0", "path": "/agents/since"})
        for n in range(3)
    ]
    estate.send("DELETE", f"{REGISTRY}/agents/{made[0]['id']}")
    estate.send("PATCH", f"{REGISTRY}/agents/{made[1]['id']}", {"description": "changed since"})
    old = estate.sql("SELECT new_id FROM migration.id_map WHERE namespace = 'registry.agents' LIMIT 1")
    estate.send("PATCH", f"{REGISTRY}/agents/{old}", {"description": "changed since"})
    # For the evidence: it was taken after the cutover.
    estate.sql("UPDATE migration.backup SET taken_at = clock_timestamp(), verified_at = clock_timestamp()")
    with estate.untouched():
        run = estate.validate(*NO_CHECKS, *UNWRITTEN)
        # A dry run writes no evidence into the work tree, and sends no request.
        evidence = estate.play("evidence", "--check").output
    assert (run.status, run.findings) == (0, {}), run.output
    missing = set(re.findall(r"check '(\w+)' has not passed", evidence))
    # Nor has anybody run site.yml a second time.
    assert ("4 of 6 checks passed." in evidence, missing) == (True, {"functional_checks", "second_run"}), evidence
    rows = {table["target"]: table["written_rows"] for table in run.group("registry")["tables"]}
    assert rows.pop("registry.agents") == {"added": 2, "changed": 1, "gone": 0}
    assert not any(rows.values())
    assert run.group("registry")["proof_repeated"] is True
    assert "registry.agents: rows written since the cutover: 2 added, 1 changed" in run.group("registry")["information"]
