#!/usr/bin/env python3
"""Create the SQLite files of the sample estate: three databases, their symlinks, empty and legacy files.

Everything here is made up and the same in every run: ids, times and texts are constants or come from a fixed seed.
Needs nothing but Python's standard library. Never overwrites: if one of its files is there, it names it and stops.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pwd
import random
import shutil
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

REGISTRY = Path("opt/swarm-registry/registry.db")
DEPLOYMENTS = Path("opt/swarm-deploy/data/deployments.db")
SWARM = Path("opt/swarm-platform/data/swarm.db")
LEGACY = Path("opt/swarm-mcp-factory.legacy/registry.db")

SYMLINKS = (
    Path("opt/swarm-tickets/data/swarm.db"),
    Path("opt/swarm-tickets/tickets.db"),
    Path("opt/swarm-platform/tickets.db"),
)
EMPTY_FILES = (
    Path("opt/swarm-platform/data/platform.db"),
    Path("opt/swarm-platform/data/swarm-platform.db"),
    Path("opt/swarm-platform/swarm.db"),
    Path("opt/swarm-app/apps/platform/data/swarm.db"),
)

# Log in with these in the sample only. The README names them too.
SAMPLE_PASSWORDS = {
    "admin@example.org": "sample-admin-password",
    "user@example.org": "sample-user-password",
}

VARIANTS = ("corrupt-page", "not-sqlite", "nul-byte", "text-in-integer")

# Of every 0/1 and every time in here the declared type has NUMERIC affinity; the services never declared NOT NULL
# except where this says so.
REGISTRY_TABLES = """
CREATE TABLE agents (
  id TEXT PRIMARY KEY, name TEXT, version TEXT, path TEXT, description TEXT,
  capabilities JSON, inputs_schema JSON, outputs_schema JSON,
  runtime TEXT DEFAULT 'node', memory_mb INTEGER DEFAULT 128, timeout_seconds INTEGER DEFAULT 300,
  triggers JSON, author TEXT, tags JSON,
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  UNIQUE (name, version)
);
CREATE TABLE workflows (
  id TEXT PRIMARY KEY, name TEXT, version TEXT, path TEXT, description TEXT, trigger_type TEXT,
  trigger_config JSON, steps JSON NOT NULL, variables JSON, on_error JSON, on_success JSON,
  enabled BOOLEAN DEFAULT 1, author TEXT, tags JSON, created_at TIMESTAMP, updated_at TIMESTAMP,
  UNIQUE (name, version)
);
CREATE TABLE workflow_runs (
  id TEXT PRIMARY KEY, workflow_id TEXT REFERENCES workflows (id), workflow_version TEXT,
  status TEXT DEFAULT 'pending', current_step TEXT, trigger_type TEXT, trigger_data JSON,
  step_results JSON DEFAULT '{}', started_at TIMESTAMP, completed_at TIMESTAMP, error TEXT, error_step TEXT,
  total_vm_time_ms INTEGER DEFAULT 0, total_api_tokens INTEGER DEFAULT 0, created_at TIMESTAMP
);
CREATE TABLE step_executions (
  id TEXT PRIMARY KEY, run_id TEXT REFERENCES workflow_runs (id), step_id TEXT,
  agent_id TEXT REFERENCES agents (id), agent_name TEXT, agent_version TEXT, status TEXT, vm_id TEXT,
  inputs JSON, outputs JSON, queued_at TIMESTAMP, started_at TIMESTAMP, completed_at TIMESTAMP,
  duration_ms INTEGER, api_tokens_used INTEGER DEFAULT 0, error TEXT, retry_count INTEGER DEFAULT 0
);
CREATE TABLE secrets (
  id TEXT PRIMARY KEY, workflow_id TEXT REFERENCES workflows (id), name TEXT, encrypted_value BLOB,
  scope TEXT DEFAULT 'workflow', created_at TIMESTAMP, updated_at TIMESTAMP,
  UNIQUE (workflow_id, name)
);
CREATE TABLE triggers (
  id TEXT PRIMARY KEY, workflow_id TEXT REFERENCES workflows (id), type TEXT, webhook_path TEXT UNIQUE,
  webhook_secret TEXT, cron_expression TEXT, next_run_at TIMESTAMP, event_source TEXT, event_type TEXT,
  enabled BOOLEAN DEFAULT 1, created_at TIMESTAMP
);
CREATE TABLE vm_assignments (
  vm_id TEXT PRIMARY KEY, ticket_id TEXT, assigned_at TEXT, status TEXT DEFAULT 'running', heartbeat_at TEXT
);
CREATE TABLE execution_artifacts (
  id TEXT PRIMARY KEY, ticket_id TEXT, artifact_type TEXT, content TEXT, created_at TEXT
);
CREATE INDEX idx_runs_workflow ON workflow_runs (workflow_id);
CREATE INDEX idx_steps_run ON step_executions (run_id);
"""

DEPLOYMENTS_TABLES = """
CREATE TABLE deployments (
  id TEXT PRIMARY KEY, service TEXT, commit_sha TEXT, triggered_by TEXT, trigger_type TEXT, status TEXT,
  started_at TEXT DEFAULT CURRENT_TIMESTAMP, completed_at TEXT, build_log TEXT, deploy_log TEXT,
  health_check_result TEXT, rollback_reason TEXT, created_at TEXT
);
CREATE TABLE deployment_events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, deployment_id TEXT REFERENCES deployments (id), stage TEXT, status TEXT,
  message TEXT, details TEXT, created_at TEXT
);
CREATE TABLE deploy_queue (
  id TEXT PRIMARY KEY, ticket_id TEXT, parent_ticket_id TEXT, commit_sha TEXT, repo TEXT, service TEXT,
  pr_number INTEGER, status TEXT DEFAULT 'waiting', waiting_for TEXT, queued_at TEXT, deployed_at TEXT
);
CREATE TABLE commit_ticket_map (
  commit_sha TEXT PRIMARY KEY, ticket_id TEXT, repo TEXT, pr_number INTEGER, created_at TEXT
);
CREATE INDEX idx_events_deployment ON deployment_events (deployment_id);
"""

USERS_TABLE = """
CREATE TABLE users (
  id TEXT PRIMARY KEY, email TEXT UNIQUE, password_hash TEXT, name TEXT, role TEXT DEFAULT 'user', role_id TEXT,
  tenant_id TEXT, last_login DATETIME, created_at DATETIME
);
"""

SWARM_TABLES = """
CREATE TABLE roles (
  id TEXT PRIMARY KEY, name TEXT UNIQUE, level INTEGER, description TEXT, created_at DATETIME
);
CREATE TABLE permissions (
  id TEXT PRIMARY KEY, name TEXT UNIQUE, description TEXT, category TEXT, created_at DATETIME
);
CREATE TABLE role_permissions (
  role_id TEXT REFERENCES roles (id), permission_id TEXT REFERENCES permissions (id), created_at DATETIME,
  PRIMARY KEY (role_id, permission_id)
);
CREATE TABLE verification_attempts (
  id TEXT PRIMARY KEY, ticket_id TEXT, attempt_number INTEGER, branch_name TEXT, commit_sha TEXT, status TEXT,
  failed_phase TEXT, duration_ms INTEGER, static_result TEXT, automated_result TEXT, sentinel_result TEXT,
  sentinel_decision TEXT, sentinel_score INTEGER, created_at DATETIME
);
"""

LEGACY_TABLES = """
CREATE TABLE mcp_servers (id TEXT PRIMARY KEY, name TEXT, command TEXT, created_at TIMESTAMP);
"""

# The weekly report's id is a UUID; the other workflow's is text.
WEEKLY_REPORT = "7d1f0c52-3b0a-4c5e-9a55-0d7b5f1f6c11"
FIRST_RUN = "b9a3f6de-5a0b-4f0e-8c43-2f6a0a1f7e01"
SECOND_RUN = "run-1765864287178"
THIRD_RUN = "0f4b2b1c-92a1-4d0b-9d5a-6f5f1c2d3e04"

LAST_EVENT_ID = 200
LAST_GIVEN_EVENT_ID = 203
DELETED_EVENT_IDS = (17, 18, 96, 143, 199, 201, 202, 203)
FIRST_DEPLOYMENT = datetime(2025, 12, 16, 5, 51, 27, 178000, tzinfo=UTC)

AWKWARD_TEXT = "Ünïcode, 日本語, 👩‍🚀\n\ttab, \"double\" and 'single' quotes, back\\slash, \\N, C:\\new\r\nend"

PERMISSIONS = (
    ("create-feature", "features"),
    ("view-feature", "features"),
    ("edit-feature", "features"),
    ("delete-feature", "features"),
    ("create-ticket", "tickets"),
    ("view-ticket", "tickets"),
    ("edit-ticket", "tickets"),
    ("close-ticket", "tickets"),
    ("run-workflow", "workflows"),
    ("view-workflow", "workflows"),
    ("edit-workflow", "workflows"),
    ("start-deployment", "deployments"),
    ("view-deployment", "deployments"),
    ("roll-back-deployment", "deployments"),
    ("manage-users", "administration"),
    ("manage-roles", "administration"),
    ("manage-secrets", "administration"),
)
# For each role its level, and which permissions it has: 17 + 14 + 10 + 5 = 46.
ROLES = (
    ("admin", 100, "May do everything", tuple(range(17))),
    ("manager", 75, "May do everything but administer", tuple(range(14))),
    ("developer", 50, "Works on tickets and workflows", (0, 1, 2, 4, 5, 6, 7, 8, 9, 12)),
    ("user", 10, "Sees what happens", (1, 4, 5, 9, 12)),
)


class EstateError(Exception):
    """The estate cannot be created; the message says why and what to do."""


def utc_text(moment: datetime) -> str:
    """Return a time as CURRENT_TIMESTAMP writes it: UTC, without a zone."""
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def javascript_text(moment: datetime) -> str:
    """Return a time as JavaScript's toISOString writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def javascript_number(moment: datetime) -> float:
    """Return a time as a Node driver binds Date.now(): milliseconds, as a double.

    In a TEXT column it becomes the text ``1704164645678.0``, in a TIMESTAMP column an integer.
    """
    return float(round(moment.timestamp() * 1000))


def mixed_time(number: int, moment: datetime) -> str | float:
    """Return a time in one of the three formats that several writers left in one column."""
    if number % 9 == 4:
        return javascript_number(moment)
    return utc_text(moment) if number % 2 else javascript_text(moment)


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[Sequence[Any] | dict[str, Any]]) -> None:
    """Insert rows: a dict names its columns and leaves the others to their defaults, a sequence has them all."""
    for row in rows:
        columns = f"({', '.join(row)})" if isinstance(row, dict) else ""
        values = tuple(row.values()) if isinstance(row, dict) else tuple(row)
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO {table} {columns} VALUES ({marks})", values)  # noqa: S608


def compact(value: Any) -> str:
    """Return JSON as JSON.stringify writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def fill_registry(connection: sqlite3.Connection) -> None:
    """Create and fill the eight tables of the agent registry."""
    connection.executescript(REGISTRY_TABLES)
    noon = datetime(2025, 12, 15, 12, 0, 0, 250000, tzinfo=UTC)
    insert(
        connection,
        "agents",
        [
            {
                "id": "forge-agent-001",
                "name": "forge",
                "version": "1.2.0",
                "path": "/opt/agents/forge",
                "description": AWKWARD_TEXT,
                "capabilities": compact(["code", "test", "review"]),
                "inputs_schema": compact({"type": "object", "properties": {"ticket": {"type": "string"}}}),
                "outputs_schema": compact({"type": "object"}),
                "memory_mb": 512,
                "timeout_seconds": 900,
                "triggers": "null",
                "author": "Sample Author",
                "tags": compact(["build", "日本語"]),
                "created_at": "2025-12-15 12:00:00",
                "updated_at": javascript_text(noon),
            },
            {
                "id": "echo",
                "name": "echo",
                "version": "1.0.0",
                "path": "/opt/agents/echo",
                # NULL where the target has a default: it must stay NULL.
                "capabilities": None,
                "runtime": None,
                "tags": None,
                "created_at": javascript_number(noon),
                "updated_at": "2025-12-15 12:00:01",
            },
            {
                "id": "2c9a4f0e-8d57-4b36-9f0a-51d2c8b7e6a3",
                "name": "echo",
                "version": "1.1.0",
                "path": "/opt/agents/echo-1.1",
                "description": "",
                "capabilities": compact([]),
                "inputs_schema": "5",
                "outputs_schema": "null",
                "runtime": "python",
                "triggers": compact([{"type": "cron", "expression": "0 6 * * 1"}]),
                "tags": compact([]),
                "created_at": "2025-12-16T05:51:27.178Z",
                "updated_at": "2025-12-16 05:51:27",
            },
        ],
    )
    steps = [{"id": "collect", "agent": "echo"}, {"id": "write", "agent": "forge"}]
    insert(
        connection,
        "workflows",
        [
            {
                "id": WEEKLY_REPORT,
                "name": "weekly-report",
                "version": "1.0.0",
                "path": "/opt/workflows/weekly-report",
                "description": "Collects what happened and writes it down",
                "trigger_type": "cron",
                "trigger_config": compact({"expression": "0 6 * * 1"}),
                "steps": compact(steps),
                # The JSON text 5 in a column of NUMERIC affinity is stored as the integer 5.
                "variables": "5",
                "on_error": "null",
                "on_success": compact({"notify": "ops@example.org", "ratio": 0.1}),
                "enabled": 1.0,
                "author": "Sample Author",
                "tags": compact(["report"]),
                "created_at": "2025-12-15 13:00:00",
                "updated_at": "2025-12-15T13:00:00.001Z",
            },
            {
                "id": "workflow-release",
                "name": "release",
                "version": "0.9.0",
                "path": "/opt/workflows/release",
                "trigger_type": "webhook",
                "steps": compact([{"id": "build", "agent": "forge"}]),
                "variables": compact({"build_number": 9007199254740993, "text": AWKWARD_TEXT}),
                "enabled": 0,
                "created_at": javascript_number(noon),
                "updated_at": None,
            },
        ],
    )
    insert(
        connection,
        "workflow_runs",
        [
            {
                "id": FIRST_RUN,
                "workflow_id": WEEKLY_REPORT,
                "workflow_version": "1.0.0",
                "status": "completed",
                "trigger_type": "cron",
                "trigger_data": "null",
                "step_results": compact({"collect": {"items": 3}, "write": {"pages": 2}}),
                "started_at": "2025-12-15 13:00:00",
                "completed_at": "2025-12-15T13:00:04.250Z",
                "total_vm_time_ms": 4250.0,
                "total_api_tokens": 1834,
                "created_at": "2025-12-15 13:00:00",
            },
            {
                "id": SECOND_RUN,
                "workflow_id": "workflow-release",
                "workflow_version": "0.9.0",
                "status": "failed",
                "current_step": "build",
                "trigger_type": "webhook",
                "trigger_data": "2.5",
                "started_at": javascript_number(FIRST_DEPLOYMENT),
                "completed_at": "2025-12-16T05:52:00.000Z",
                "error": "Build failed:\n\tmissing file 'main.js'",
                "error_step": "build",
                "created_at": "2025-12-16 05:51:27",
            },
            {
                "id": THIRD_RUN,
                "workflow_id": WEEKLY_REPORT,
                "trigger_data": compact({"by": "user", "urgent": True}),
                "step_results": None,
                "total_vm_time_ms": None,
                "created_at": "2025-12-16 06:00:00",
            },
        ],
    )
    insert(
        connection,
        "step_executions",
        [
            {
                "id": f"{FIRST_RUN}-1",
                "run_id": FIRST_RUN,
                "step_id": "collect",
                "agent_id": "echo",
                "agent_name": "echo",
                "agent_version": "1.0.0",
                "status": "completed",
                "vm_id": "vm-1",
                "inputs": compact({"since": "2025-12-08"}),
                "outputs": compact({"items": 3}),
                "queued_at": "2025-12-15 13:00:00",
                "started_at": "2025-12-15T13:00:00.100Z",
                "completed_at": "2025-12-15T13:00:01.350Z",
                "duration_ms": 1250,
                "api_tokens_used": 534,
            },
            {
                "id": f"{FIRST_RUN}-2",
                "run_id": FIRST_RUN,
                "step_id": "write",
                "agent_id": "forge-agent-001",
                "agent_name": "forge",
                "agent_version": "1.2.0",
                "status": "completed",
                "inputs": "5",
                "outputs": compact({"pages": 2, "text": AWKWARD_TEXT}),
                "queued_at": javascript_number(noon),
                "started_at": "2025-12-15T13:00:01.400Z",
                "completed_at": "2025-12-15T13:00:04.250Z",
                "duration_ms": 2850,
                "api_tokens_used": 1300,
            },
            {
                # The agent has been deleted since.
                "id": "step-1765864287200",
                "run_id": SECOND_RUN,
                "step_id": "build",
                "agent_id": "retired-agent-007",
                "agent_name": "retired",
                "agent_version": "0.1.0",
                "status": "failed",
                "vm_id": "7",
                "inputs": "null",
                "queued_at": "2025-12-16 05:51:27",
                "started_at": "2025-12-16T05:51:27.300Z",
                "error": "exit status 1",
                "retry_count": 2,
            },
        ],
    )
    every_byte = bytes(range(256))
    insert(
        connection,
        "secrets",
        [
            ("secret-1", WEEKLY_REPORT, "mail-key", every_byte, "workflow", "2025-12-15 12:30:00", None),
            ("secret-2", None, "shared-key", every_byte[::-1] * 4, "global", "2025-12-15T12:30:00.500Z", None),
            ("secret-3", "workflow-release", "empty", b"", "workflow", javascript_number(noon), "2025-12-16 00:00:00"),
        ],
    )
    insert(
        connection,
        "triggers",
        [
            {
                "id": "trigger-cron-1",
                "workflow_id": WEEKLY_REPORT,
                "type": "cron",
                "cron_expression": "0 6 * * 1",
                "next_run_at": "2025-12-22 06:00:00",
                "created_at": "2025-12-15 12:31:00",
            },
            {
                "id": "5f2d7a90-6a1e-4d7c-8f3b-9b8a7c6d5e4f",
                "workflow_id": "workflow-release",
                "type": "webhook",
                "webhook_path": "/hooks/release",
                "webhook_secret": "sample-webhook-secret",
                "event_source": "git",
                "event_type": "push",
                "enabled": 0,
                "created_at": "2025-12-15T12:31:00.000Z",
            },
        ],
    )
    insert(
        connection,
        "vm_assignments",
        [
            ("vm-1", "TKT-E452DE50", "2025-12-15 13:00:00", "running", javascript_text(noon)),
            # A later writer takes numbers as vm_id, and Date.now() as time.
            (7, "TKT-0A1B2C3D", javascript_number(FIRST_DEPLOYMENT), "released", None),
        ],
    )
    insert(
        connection,
        "execution_artifacts",
        [
            ("artifact-1", "TKT-E452DE50", "log", AWKWARD_TEXT, "2025-12-15 13:00:05"),
            ("artifact-2", "TKT-0A1B2C3D", "diff", "-old\n+new\n" * 600, "2025-12-16T05:52:00.000Z"),
        ],
    )


def event_details(number: int) -> str | None:
    """Return the details of a deployment event: mostly JSON, at times null, a bare number or free text."""
    if number % 50 == 11:
        return f"Rolled back by hand: the disk was full ({number} MB left)"
    if number % 29 == 3:
        return "null"
    if number % 31 == 5:
        return "5"
    if number % 7 == 2:
        return None
    return compact({"attempt": number % 3 + 1, "seconds": number / 8, "note": "déjà vu" if number % 13 == 0 else "ok"})


def fill_deployments(connection: sqlite3.Connection) -> None:
    """Create and fill the four tables of the deployment history: 60 + 195 + 8 + 17 rows."""
    connection.executescript(DEPLOYMENTS_TABLES)
    generator = random.Random(20251216)  # noqa: S311
    services = ("swarm-registry", "swarm-deploy", "swarm-tickets", "swarm-platform")

    def commit() -> str:
        return f"{generator.getrandbits(160):040x}"

    deployment_ids = []
    commits = []
    for number in range(60):
        started = FIRST_DEPLOYMENT + timedelta(hours=7 * number, milliseconds=137 * number)
        identifier = str(uuid.UUID(int=generator.getrandbits(128), version=4))
        failed = number % 12 == 7
        deployment_ids.append(identifier)
        commits.append(commit())
        deployment = {
            "id": identifier,
            "service": services[number % 4],
            "commit_sha": commits[-1],
            "triggered_by": "user-admin-001" if number % 3 else "webhook",
            "trigger_type": "manual" if number % 3 else "push",
            "status": "rolled_back" if failed else "success",
            "started_at": mixed_time(number, started),
            "completed_at": mixed_time(number + 1, started + timedelta(seconds=42)),
            "build_log": "".join(f"[{step}/4] step {step} of {services[number % 4]}\n" for step in range(1, 5)),
            "deploy_log": AWKWARD_TEXT if number == 21 else "copied\nrestarted\n",
            "health_check_result": compact({"status": 500 if failed else 200}),
            "rollback_reason": "The health check answered 500" if failed else None,
            "created_at": mixed_time(number + 2, started),
        }
        if number == 59:
            deployment |= {"status": "building", "completed_at": None, "deploy_log": None, "health_check_result": None}
        insert(connection, "deployments", [deployment])
    stages = ("queued", "build", "deploy", "health_check")
    insert(
        connection,
        "deployment_events",
        (
            (
                number,
                deployment_ids[(number - 1) * 60 // LAST_GIVEN_EVENT_ID],
                stages[number % 4],
                "failed" if number % 40 == 39 else "success",
                AWKWARD_TEXT if number == 100 else f"{stages[number % 4]} finished",
                event_details(number),
                mixed_time(number, FIRST_DEPLOYMENT + timedelta(hours=2 * number)),
            )
            for number in range(1, LAST_GIVEN_EVENT_ID + 1)
        ),
    )
    # The greatest ids are among the deleted ones: AUTOINCREMENT never gives them out again.
    connection.executemany("DELETE FROM deployment_events WHERE id = ?", ((number,) for number in DELETED_EVENT_IDS))
    tickets = [f"TKT-{generator.getrandbits(32):08X}" for _ in range(17)]
    for number in range(8):
        queued = FIRST_DEPLOYMENT + timedelta(days=number)
        insert(
            connection,
            "deploy_queue",
            [
                {
                    "id": f"queue-{tickets[number]}-{number}",
                    "ticket_id": tickets[number],
                    "parent_ticket_id": tickets[number - 1] if number % 3 == 1 else None,
                    "commit_sha": commits[number],
                    "repo": "example/swarm",
                    "service": services[number % 4],
                    "pr_number": 100 + number if number % 2 else None,
                    "status": "deployed" if number < 5 else "waiting",
                    "waiting_for": compact(tickets[number - 2 : number]) if number >= 5 else None,
                    "queued_at": mixed_time(number, queued),
                    "deployed_at": mixed_time(number + 1, queued + timedelta(minutes=9)) if number < 5 else None,
                }
            ],
        )
    insert(
        connection,
        "commit_ticket_map",
        (
            (
                commits[number],
                tickets[number],
                "example/swarm",
                200.0 + number,
                mixed_time(number, FIRST_DEPLOYMENT + timedelta(hours=7 * number)),
            )
            for number in range(17)
        ),
    )


def password_hash(email: str) -> str:
    """Return ``scrypt:N:r:p:salt:hash`` of a sample password, salt and hash in hexadecimal digits.

    The salt is made of the address, so that the sample is the same in every run. Never do so elsewhere.
    """
    salt = hashlib.sha256(f"sample estate: {email}".encode()).digest()[:16]
    digest = hashlib.scrypt(SAMPLE_PASSWORDS[email].encode(), salt=salt, n=16384, r=8, p=1, dklen=64)
    return f"scrypt:16384:8:1:{salt.hex()}:{digest.hex()}"


def fill_users(connection: sqlite3.Connection) -> None:
    """Create and fill the one table of swarm.db that has ever been checkpointed."""
    connection.executescript(USERS_TABLE)
    insert(
        connection,
        "users",
        [
            (
                "user-admin-001",
                "admin@example.org",
                password_hash("admin@example.org"),
                "Sample Administrator",
                "admin",
                "role-admin",
                "tenant-swarm",
                "2025-12-16T05:51:27.178Z",
                "2025-12-01 08:00:00",
            ),
            (
                "9f86d081884c7d659a2feaa0c55ad015",
                "user@example.org",
                password_hash("user@example.org"),
                "Sämple Üser 🙂",
                "user",
                "role-user",
                "default",
                None,
                javascript_number(FIRST_DEPLOYMENT),
            ),
        ],
    )


def fill_swarm(connection: sqlite3.Connection) -> None:
    """Create and fill the other four tables of swarm.db."""
    connection.executescript(SWARM_TABLES)
    created = "2025-12-01 08:00:00"
    insert(
        connection,
        "roles",
        ((f"role-{name}", name, level, description, created) for name, level, description, _ in ROLES),
    )
    insert(
        connection,
        "permissions",
        (
            (
                f"perm-{name}",
                name,
                name.replace("-", " ").capitalize() if number % 5 else None,
                category,
                mixed_time(number, FIRST_DEPLOYMENT),
            )
            for number, (name, category) in enumerate(PERMISSIONS)
        ),
    )
    insert(
        connection,
        "role_permissions",
        (
            (f"role-{role}", f"perm-{PERMISSIONS[number][0]}", created)
            for role, _, _, allowed in ROLES
            for number in allowed
        ),
    )
    insert(
        connection,
        "verification_attempts",
        [
            {
                "id": "TKT-E452DE50-1-1765864287178",
                "ticket_id": "TKT-E452DE50",
                "attempt_number": 1,
                "branch_name": "ticket/e452de50",
                "status": "failed",
                "failed_phase": "static",
                "duration_ms": 8300.0,
                "static_result": compact({"passed": False, "errors": ["unused variable 'x'"]}),
                "automated_result": "null",
                "created_at": "2025-12-16 05:51:27",
            },
            {
                "id": "TKT-E452DE50-2-1765864587178",
                "ticket_id": "TKT-E452DE50",
                "attempt_number": 2,
                "branch_name": "ticket/e452de50",
                "commit_sha": "3f1d2c4b5a69788796a5b4c3d2e1f0a9b8c7d6e5",
                "status": "passed",
                "duration_ms": 61250,
                "static_result": compact({"passed": True}),
                "automated_result": compact({"passed": True, "tests": 128}),
                "sentinel_result": compact({"comment": AWKWARD_TEXT}),
                "sentinel_decision": "approve",
                "sentinel_score": 9,
                "created_at": "2025-12-16T05:56:27.178Z",
            },
            {
                "id": "TKT-0A1B2C3D-1-1765950000000",
                "ticket_id": "TKT-0A1B2C3D",
                "attempt_number": 1.0,
                "branch_name": "ticket/0a1b2c3d-größer",
                "status": "running",
                "sentinel_result": "5",
                "created_at": 1765950000000.0,
            },
        ],
    )


def fill_legacy(connection: sqlite3.Connection) -> None:
    """Create and fill the table of the legacy registry."""
    connection.executescript(LEGACY_TABLES)
    insert(
        connection,
        "mcp_servers",
        [
            ("server-1", "files", "mcp-files --read-only", "2025-10-01 09:00:00"),
            ("server-2", "search", "mcp-search", "2025-10-02T09:00:00.000Z"),
        ],
    )


def open_database(path: Path, write_ahead_log: bool) -> sqlite3.Connection:
    """Open a new database that checkpoints only when told to."""
    connection = sqlite3.connect(path)
    if write_ahead_log:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def place(source: Path, root: Path, path: Path) -> None:
    """Put a finished database where the services look for it, together with its write-ahead log.

    The writer may still have it open: only so do rows stay in the log, because the last one to close a database
    checkpoints it. Nobody writes meanwhile, so the copy is a consistent one.
    """
    log = source.with_name(source.name + "-wal")
    if log.exists():
        shutil.copyfile(log, root / f"{path}-wal")
    shutil.copyfile(source, root / path)


def make_bad(path: Path, variant: str) -> None:
    """Damage the registry's database so that a migration must refuse it.

    ``corrupt-page`` overwrites the page where execution_artifacts begins, ``not-sqlite`` the whole file.
    ``nul-byte`` and ``text-in-integer`` write values that SQLite allows, in several tables: all must be named.
    """
    if variant == "not-sqlite":
        path.write_text("This file was a database once.\n", encoding="utf-8")
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if variant == "nul-byte":
            connection.execute("UPDATE agents SET description = ? WHERE id = 'echo'", ("before\0after",))
            connection.execute("UPDATE execution_artifacts SET content = ? WHERE id = 'artifact-2'", ("\0",))
        elif variant == "text-in-integer":
            connection.execute("UPDATE agents SET memory_mb = '128 MB' WHERE id = 'echo'")
            connection.execute("UPDATE step_executions SET duration_ms = 'unknown' WHERE id = 'step-1765864287200'")
        root_page, page_size = connection.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_master "
            "WHERE name = 'execution_artifacts'"
        ).fetchone()
    if variant == "corrupt-page":
        with path.open("r+b") as file:
            file.seek((root_page - 1) * page_size)
            file.write(b"\xff" * page_size)


def create(root: Path, variant: str | None = None) -> list[Path]:
    """Create the whole estate below a directory and return the files and symlinks it consists of.

    :raises EstateError: if any of them exists; nothing is written then.
    """
    files = [REGISTRY, DEPLOYMENTS, Path(f"{DEPLOYMENTS}-wal"), LEGACY, Path(f"{LEGACY}-wal"), *EMPTY_FILES, *SYMLINKS]
    # swarm.db comes last: where it stands, the estate is complete.
    files += [Path(f"{SWARM}-wal"), SWARM]
    existing = [str(root / path) for path in files if os.path.lexists(root / path)]
    if existing:
        raise EstateError(
            "These files exist and are never overwritten; move them away to create the estate anew:\n  "
            + "\n  ".join(existing)
        )
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
    for path in EMPTY_FILES:
        (root / path).touch()
    for path in SYMLINKS:
        (root / path).symlink_to((root / SWARM).resolve())
    with tempfile.TemporaryDirectory(prefix="sample-estate-") as directory:
        building = Path(directory)
        with closing(open_database(building / "registry.db", write_ahead_log=False)) as registry:
            fill_registry(registry)
            registry.commit()
        place(building / "registry.db", root, REGISTRY)
        if variant is not None:
            make_bad(root / REGISTRY, variant)
        with closing(open_database(building / "legacy.db", write_ahead_log=True)) as legacy:
            fill_legacy(legacy)
            legacy.commit()
            place(building / "legacy.db", root, LEGACY)
        with closing(open_database(building / "deployments.db", write_ahead_log=True)) as deployments:
            fill_deployments(deployments)
            deployments.commit()
            place(building / "deployments.db", root, DEPLOYMENTS)
        with closing(open_database(building / "swarm.db", write_ahead_log=True)) as swarm:
            fill_users(swarm)
            swarm.commit()
            swarm.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            fill_swarm(swarm)
            swarm.commit()
            place(building / "swarm.db", root, SWARM)
    return files


def give_to(owner: str, root: Path, files: Iterable[Path]) -> None:
    """Give files, symlinks and the directories below ``opt`` that hold them to a user and the user's own group.

    :raises EstateError: if there is no such user.
    """
    try:
        account = pwd.getpwnam(owner)
    except KeyError:
        raise EstateError(f"There is no user {owner} on this host: create it, or name another with --owner.") from None
    paths = set(files)
    for path in files:
        paths.update(parent for parent in path.parents if len(parent.parts) > 1)
    for path in paths:
        os.chown(root / path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the estate as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="directory that stands for / (default: /)")
    parser.add_argument("--owner", help="user that gets the files (default: whoever runs this)")
    parser.add_argument("--variant", choices=VARIANTS, help="make registry.db one that a migration must refuse")
    options = parser.parse_args(arguments)
    try:
        files = create(options.root, options.variant)
        if options.owner:
            give_to(options.owner, options.root, files)
    except (EstateError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in files:
        print(options.root / path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
