"""What is written to the sample services, and where it is found again: through HTTP, in SQLite and in PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TEXTS = (
    "plain",
    "",
    "Ünïcode, 日本語, 👩‍🚀",
    "\ttab, \"double\" and 'single' quotes, back\\slash, \\N\r\nend",
    "5",
    "null",
)

Body = dict[str, Any]


@dataclass(frozen=True)
class Children:
    """Rows that are written and removed together with their parent's, in one transaction.

    :param name: the key of the answer under which the service shows them.
    :param parent: the column that holds the parent's id.
    """

    name: str
    sqlite: str
    postgresql: str
    parent: str


@dataclass(frozen=True)
class Kind:
    """One kind of row.

    :param collection: address of POST; a row's own is ``item`` and the id.
    :param list_name: the key of the list in the answer to GET on ``item``; empty if rows cannot be listed.
    :param create: returns the body of POST for a natural key.
    :param change: returns the body of PATCH; None if rows of this kind are never changed.
    :param key_of: returns the natural key of a row as the service or the store shows it, JSON being decoded.
    :param stored: columns that a look into the store compares with the answer.
    :param json_columns: those of them that hold JSON.
    """

    name: str
    service: str
    collection: str
    item: str
    list_name: str
    sqlite: str
    postgresql: str
    create: Callable[[random.Random, str], Body]
    change: Callable[[random.Random], Body] | None
    key_of: Callable[[Body], str]
    stored: tuple[str, ...]
    json_columns: tuple[str, ...] = ()
    children: Children | None = None


def _agent(chance: random.Random, key: str) -> Body:
    version = f"{chance.randrange(9)}.{chance.randrange(99)}.0"
    return {"name": key, "version": version, "path": f"/opt/agents/{key}", **_agent_change(chance)}


def _agent_change(chance: random.Random) -> Body:
    return {"description": chance.choice((*TEXTS, None)), "tags": chance.sample(TEXTS, chance.randrange(3))}


def _run(chance: random.Random, key: str) -> Body:
    data = {"key": key, "text": chance.choice(TEXTS), "number": chance.choice((0.1, 5, -(2**53) + 1, None, True))}
    return {"trigger_data": data}


def _key_of_run(row: Body) -> str:
    data = row["trigger_data"]
    return str(data.get("key", "")) if isinstance(data, dict) else ""


def _deployment(chance: random.Random, key: str) -> Body:
    return {"service": chance.choice(("swarm-app", "swärm")), "commit_sha": key, "triggered_by": "load"}


def _deployment_change(chance: random.Random) -> Body:
    return {"status": "rolled_back", "rollback_reason": chance.choice((*TEXTS, None))}


def _attempt(chance: random.Random, key: str) -> Body:
    return {"ticket_id": key, "branch_name": f"branch/{key}", **_attempt_change(chance)}


def _attempt_change(chance: random.Random) -> Body:
    return {
        "status": chance.choice(("running", "passed", "failed")),
        "duration_ms": chance.randrange(1_000_000),
        "static_result": {"text": chance.choice(TEXTS), "ratio": chance.random()},
        "sentinel_decision": chance.choice(TEXTS),
    }


KINDS = (
    Kind(
        name="agent",
        service="swarm-registry",
        collection="/agents",
        item="/agents",
        list_name="agents",
        sqlite="agents",
        postgresql="registry.agents",
        create=_agent,
        change=_agent_change,
        key_of=lambda row: str(row["name"]),
        stored=("name", "version", "path", "description", "runtime", "tags", "memory_mb"),
        json_columns=("tags",),
    ),
    Kind(
        name="run",
        service="swarm-registry",
        collection="/workflows/weekly-report/runs",
        item="/runs",
        list_name="",
        sqlite="workflow_runs",
        postgresql="registry.workflow_runs",
        create=_run,
        change=None,
        key_of=_key_of_run,
        stored=("status", "trigger_type", "trigger_data", "step_results"),
        json_columns=("trigger_data", "step_results"),
        children=Children("steps", "step_executions", "registry.step_executions", "run_id"),
    ),
    Kind(
        name="deployment",
        service="swarm-deploy",
        collection="/deployments",
        item="/deployments",
        list_name="deployments",
        sqlite="deployments",
        postgresql="deploy.deployments",
        create=_deployment,
        change=_deployment_change,
        key_of=lambda row: str(row["commit_sha"]),
        stored=("service", "commit_sha", "triggered_by", "trigger_type", "status", "rollback_reason"),
        children=Children("events", "deployment_events", "deploy.deployment_events", "deployment_id"),
    ),
    Kind(
        name="attempt",
        service="swarm-tickets",
        collection="/attempts",
        item="/attempts",
        list_name="attempts",
        sqlite="verification_attempts",
        postgresql="verification.attempts",
        create=_attempt,
        change=_attempt_change,
        key_of=lambda row: str(row["ticket_id"]),
        stored=("ticket_id", "attempt_number", "branch_name", "status", "duration_ms", "static_result"),
        json_columns=("static_result",),
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}

# swarm-platform writes nothing but the time of a login. The other user is left to the validation's own login.
LOGIN = "login"
LOGIN_SERVICE = "swarm-platform"
LOGIN_BODY = {"email": "user@example.org", "password": "sample-user-password"}

PORTS = {"swarm-registry": 4001, "swarm-deploy": 4002, "swarm-tickets": 4003, "swarm-platform": 4004}
# The services that share a store, and its SQLite file.
GROUPS = {
    "registry": (("swarm-registry",), "/opt/swarm-registry/registry.db"),
    "deploy": (("swarm-deploy",), "/opt/swarm-deploy/data/deployments.db"),
    "platform": (("swarm-tickets", "swarm-platform"), "/opt/swarm-platform/data/swarm.db"),
}
# For each group its tables: the name in SQLite, and in PostgreSQL.
TABLES = {
    "registry": {
        "agents": "registry.agents",
        "workflows": "registry.workflows",
        "workflow_runs": "registry.workflow_runs",
        "step_executions": "registry.step_executions",
        "secrets": "registry.secrets",
        "triggers": "registry.triggers",
        "vm_assignments": "registry.vm_assignments",
        "execution_artifacts": "registry.execution_artifacts",
    },
    "deploy": {
        "deployments": "deploy.deployments",
        "deployment_events": "deploy.deployment_events",
        "deploy_queue": "deploy.queue",
        "commit_ticket_map": "deploy.commit_ticket_map",
    },
    "platform": {
        "users": "auth.users",
        "roles": "auth.roles",
        "permissions": "auth.permissions",
        "role_permissions": "auth.role_permissions",
        "verification_attempts": "verification.attempts",
    },
}
