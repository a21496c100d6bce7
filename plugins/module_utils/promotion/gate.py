"""Whether this tree may change an environment: the one function that every place of the gate asks, and what it needs.

Nothing here asks a host. What a host says of itself is read by the action plugins, and judged by :func:`host_problems`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..migration.core.commands import UNKNOWN_LIMIT, playbook_on, site_on
from ..migration.core.errors import MigrationError, Problem
from . import evidence, plan
from .tree import SECRETS, is_playbook, read_tree

EVIDENCE_DIRECTORY = "evidence"
ALLOWED_SIGNERS = "keys/allowed_signers"
SHORTEST_REASON = 15
# What an operator says to the gate itself.
OVERRIDE = "promotion_override_reason"
THIS_HOST_IS = "promotion_this_host_is"
NAMED_PLAN = plan.NAMED
SECRETS_BEGIN_WITH = "vault_"

_DEFAULT_DAYS = 14.0
_DEFAULT_DAYS_OF_A_PLAN = 3.0
_DEFAULT_CHECKS = ("groups_on_postgresql", "verification", "functional_checks", "backup_restored", "rollback_rehearsed")
_MOST_SHOWN = 5


@dataclass(frozen=True)
class Protection:
    """What protects an environment.

    :param environment: its name.
    :param evidence_from: the environment whose evidence counts.
    :param maximum_age_days: how old that evidence may be.
    :param required_checks: the checks that must have passed.
    :param plan_maximum_age_days: how old the plan may be that a run names.
    :param minimum_soak_hours: how long all groups must have been on PostgreSQL when the evidence was collected.
    """

    environment: str
    evidence_from: str
    maximum_age_days: float
    required_checks: tuple[str, ...]
    plan_maximum_age_days: float = _DEFAULT_DAYS_OF_A_PLAN
    minimum_soak_hours: float = 0.0


@dataclass(frozen=True)
class Call:
    """How ``ansible-playbook`` was called.

    :param extra_variables: what was given with ``-e``.
    :param allowed_variables: those of them that a protected environment takes.
    :param options: options that would leave out the gate's own task, as they were given.
    :param configuration: the configuration file in use.
    :param playbook_directory: the folder of the playbook.
    :param playbooks: the playbooks, as they were given; none for the command ``ansible``.
    :param roles_path: where roles are looked for.
    :param inventories: the sources of the inventory, as they were given.
    :param secrets: names of the variables that the file of all environments' secrets sets, which is outside the tree.
    :param limit: the hosts of the run and what names its inventory, as they stand in a command.
    """

    extra_variables: Mapping[str, Any]
    allowed_variables: Sequence[str]
    options: Sequence[str]
    configuration: Path | None
    playbook_directory: Path | None
    playbooks: Sequence[str]
    roles_path: Sequence[str]
    inventories: Sequence[str]
    secrets: Sequence[str]
    limit: str = UNKNOWN_LIMIT

    @property
    def plan(self) -> str:
        """Return the id of the plan that the run names; empty if it names none."""
        return str(self.extra_variables.get(NAMED_PLAN, "")).strip()

    @property
    def override_reason(self) -> str:
        """Return why the operator wants to go on without evidence; empty without a reason."""
        return str(self.extra_variables.get(OVERRIDE, "")).strip()


def find_protection(protected: Any, names: Iterable[str]) -> Protection | None:
    """Return what protects the environment that a host belongs to, None if nothing does.

    :param protected: ``promotion_protected_environments`` of the inventory.
    :param names: the host's ``environment_name``, and the names of its groups.
    :raises MigrationError: if the variable is not right.
    """
    where, example = (
        "promotion_protected_environments",
        "See docs/promotion.md, for example {prod: {evidence_from: dev}}",
    )
    if not isinstance(protected, Mapping) or not all(isinstance(entry, Mapping) for entry in protected.values()):
        problem = Problem(where, "it is not a mapping from an environment to what protects it", example)
        raise MigrationError("The inventory is not right.", [problem])
    found = [name for name in names if name in protected]
    if not found:
        return None
    name, said = found[0], dict(protected[found[0]])
    source, days = said.pop("evidence_from", None), said.pop("maximum_age_days", _DEFAULT_DAYS)
    checks = said.pop("required_checks", _DEFAULT_CHECKS)
    days_of_a_plan = said.pop("plan_maximum_age_days", _DEFAULT_DAYS_OF_A_PLAN)
    soak = said.pop("minimum_soak_hours", 0)
    wrong = [f"{key}: this key is not known" for key in said]
    if not isinstance(source, str) or not source:
        wrong.append("evidence_from: it does not name the environment whose evidence counts")
    for key, value in (("maximum_age_days", days), ("plan_maximum_age_days", days_of_a_plan)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            wrong.append(f"{key}: it is no number above 0")
    if isinstance(soak, bool) or not isinstance(soak, int | float) or not soak >= 0:
        wrong.append("minimum_soak_hours: it is no number of at least 0")
    if isinstance(checks, str) or not isinstance(checks, Sequence) or not checks:
        wrong.append("required_checks: it is no list of checks")
    if wrong:
        problems = [Problem(f"{where}: {name}", text, example) for text in wrong]
        raise MigrationError("The inventory is not right.", problems)
    return Protection(name, str(source), float(days), tuple(map(str, checks)), float(days_of_a_plan), float(soak))


def required_checks(protected: Any, source: str) -> list[str]:
    """Return the checks that the evidence of an environment must name, whoever asks for it; all if nobody does.

    :param protected: ``promotion_protected_environments`` of the inventory.
    :param source: the environment that the evidence is about.
    :raises MigrationError: if the variable is not right.
    """
    find_protection(protected, ())
    protections = [entry for name in protected if (entry := find_protection(protected, [name]))]
    asked = [check for entry in protections if entry.evidence_from == source for check in entry.required_checks]
    return list(dict.fromkeys(asked or _DEFAULT_CHECKS))


def find_problems(root: Path, protection: Protection, call: Call, planned_host: str = "") -> list[Problem]:
    """Return everything because of which this tree may not change the environment.

    :param root: the project's folder.
    :param planned_host: the host, if the run has to name a plan of it.
    """
    problems = _problems_of_the_call(root, call)
    try:
        tree = read_tree(root)
        if planned_host:
            problems += _problems_of_the_plan(root, protection, call, planned_host, tree.digest)
        if tree.differences:
            shown = ", ".join(tree.differences[:_MOST_SHOWN])
            more = len(tree.differences) - _MOST_SHOWN
            what = f"it is not clean: {shown}" + (f", and {more} more" if more > 0 else "")
            source = protection.evidence_from
            fix = f"Commit or remove it, run every phase on {source}, and collect the evidence of that tree"
            problems.append(Problem("the work tree", what, fix))
        path = evidence.path_of(root / EVIDENCE_DIRECTORY, protection.evidence_from, tree.digest)
        record = evidence.read_verified(path, root / ALLOWED_SIGNERS)
        problems += evidence.shortcomings(
            record,
            path,
            protection.evidence_from,
            tree.digest,
            protection.maximum_age_days,
            protection.required_checks,
            minimum_soak_hours=protection.minimum_soak_hours,
        )
    except MigrationError as error:
        problems += error.problems
    return problems


def override(reason: str, overridden: Iterable[Problem]) -> dict[str, Any] | None:
    """Return an override as a run's record has it; None if nothing was overridden, whatever reason was given."""
    told = [str(problem) for problem in overridden]
    return {"reason": reason, "passed_over": told} if told else None


def grounds(root: Path, protection: Protection, call: Call, overridden: Iterable[Problem] = ()) -> dict[str, Any]:
    """Return what lets a run change the environment, for its record: the tree, the plan, and evidence or an override.

    :param root: the project's folder.
    :param overridden: what the operator's reason has overridden.
    """
    said: dict[str, Any] = {"environment": protection.environment, "plan": call.plan, "evidence": None}
    said["override"] = override(call.override_reason, overridden)
    try:
        tree = read_tree(root)
        said.update(tree=tree.digest, tree_is_clean=not tree.differences)
        path = evidence.path_of(root / EVIDENCE_DIRECTORY, protection.evidence_from, tree.digest)
        record = evidence.read_verified(path, root / ALLOWED_SIGNERS)
        said["evidence"] = {
            "path": path.relative_to(root).as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "signer": record.signer,
            "collected_at": record.content.get("collected_at"),
        }
    except (MigrationError, OSError):
        # What is missing was passed over with a reason, and is in the record of the override.
        pass
    return said


def _problems_of_the_plan(root: Path, protection: Protection, call: Call, host: str, tree: str) -> list[Problem]:
    """Return why a run may not change a host, as far as its plan goes and the controller knows."""
    if not call.playbooks:
        # Only a playbook begins with the task that looks whether the host is still as it was planned.
        fix = "Run the playbook of a phase"
        return [Problem("this run", "the command ansible does not compare what it finds with a plan", fix)]
    fix = f"See what a run would do; it ends with the plan's id: {site_on(call.limit, dry_run=True)}"
    return plan.problems_of(root, protection.environment, call.plan, tree, host, protection.plan_maximum_age_days, fix)


def problems_of_extra_variables(given: Iterable[str], allowed: Sequence[str]) -> list[Problem]:
    """Return which of the variables given with ``-e`` would make the run another one than the evidence is about."""
    others = sorted(name for name in given if name not in allowed)
    what = f"-e sets {', '.join(others)}, of which the evidence knows nothing"
    fix = "Set it in the inventory, or name it there in promotion_extra_variables"
    return [Problem("this run", what, fix)] if others else []


def _problems_of_the_call(root: Path, call: Call) -> list[Problem]:
    """Return what of the command would make the run another one than the evidence is about."""
    problems = [
        Problem("this run", f"{option} leaves out the gate", "Run the playbook of a phase without it")
        for option in call.options
    ]
    words = (OVERRIDE, THIS_HOST_IS, NAMED_PLAN)
    problems += problems_of_extra_variables(call.extra_variables, (*call.allowed_variables, *words))
    if call.configuration is None or call.configuration.resolve() != root / "ansible.cfg":
        what = f"its configuration is {call.configuration or 'none'}, not that of the tree"
        problems.append(Problem("this run", what, f"export ANSIBLE_CONFIG={root / 'ansible.cfg'}"))
    if call.playbook_directory is None or not call.playbook_directory.resolve().is_relative_to(root):
        what = f"its playbook is in {call.playbook_directory}, outside the tree"
        problems.append(Problem("this run", what, f"Run a playbook of {root}"))
    others = [name for name in call.playbooks if not is_playbook(root, Path(name).resolve())]
    if others:
        what = f"it runs {', '.join(others)}, which is no playbook of the tree"
        problems.append(Problem("this run", what, f"Run a playbook of {root}"))
    if [Path(path).resolve() for path in call.roles_path] != [root / "roles"]:
        what = f"its roles are in {', '.join(map(str, call.roles_path)) or 'no folder'}, not in the tree's alone"
        problems.append(Problem("this run", what, "unset ANSIBLE_ROLES_PATH"))
    own = root / "inventory"
    foreign = [source for source in call.inventories if not Path(source).resolve().is_relative_to(own)]
    if foreign:
        what = f"its inventory is {', '.join(foreign)}, of which the evidence knows nothing"
        problems.append(Problem("this run", what, f"Put what it holds into {own}, and collect evidence of that tree"))
    others = sorted(name for name in call.secrets if not name.startswith(SECRETS_BEGIN_WITH))
    if others:
        what = f"it sets {', '.join(others)}, of which the evidence knows nothing"
        fix = f"Set it in another file there: only names that begin with {SECRETS_BEGIN_WITH} belong here"
        problems.append(Problem(SECRETS, what, fix))
    return problems


def reason_problems(call: Call) -> list[Problem]:
    """Return why the reason of an override does not suffice."""
    if len(call.override_reason) >= SHORTEST_REASON:
        return []
    what = f"it is shorter than {SHORTEST_REASON} characters"
    return [Problem(OVERRIDE, what, "Say in a sentence why this run goes on without evidence")]


# --- what a host says of itself -----------------------------------------------------------------


def host_text(environment: str, machine_id: str) -> str:
    """Return the content of the file by which a host says what environment it is."""
    return (
        "# Written once by phase 1, with the operator's word. It counts on this machine only.\n"
        f"environment: {environment}\nmachine: {machine_of(machine_id)}\n"
    )


def host_problems(
    protection: Protection,
    host: str,
    path: str,
    text: str | None,
    machine_id: str,
    options: Sequence[str] = (),
    named_plan: str = "",
) -> list[Problem]:
    """Return why a host is not known to be of the protected environment.

    :param path: the file by which it says so.
    :param text: the file's content, None if it is not there.
    :param machine_id: the content of the host's ``/etc/machine-id``.
    :param options: what names the inventory of the run in a command.
    :param named_plan: the id of the plan that the run names, empty if it names none.
    """
    where, environment = f"{host}: {path}", protection.environment
    said = _said(text)
    if not machine_id.strip():
        return [Problem(where, "the host has no machine id", "Run systemd-machine-id-setup on the host")]
    if text is None:
        hosts = " ".join([shlex.quote(host), *options])
        words = {THIS_HOST_IS: environment, NAMED_PLAN: named_plan}
        fix = f"If it is: {playbook_on(hosts, '1_infrastructure', **words)}"
        if not named_plan:
            fix = f"If it is, the end of a dry run shows the command that marks it: {site_on(hosts, dry_run=True)}"
        return [Problem(where, f"the host does not say that it is {environment}", fix)]
    look = "See which host this is. Remove the file by hand only if you know"
    if said.get("environment") != environment:
        return [Problem(where, f"the host says that it is {said.get('environment') or 'nothing'}", look)]
    if said.get("machine") != machine_of(machine_id):
        return [Problem(where, "the file was written on another machine, and copied", look)]
    return []


def problems_of_another(protected: Iterable[str], host: str, path: str, text: str, machine_id: str) -> list[Problem]:
    """Return why a host that is in no protected environment by the inventory is in one by its own word.

    :param protected: the names of the protected environments.
    """
    said = _said(text)
    environment = said.get("environment", "")
    # A copy of the file on another machine says nothing.
    if environment not in protected or said.get("machine") != machine_of(machine_id):
        return []
    fix = f"Correct ansible_host of {host}. Remove the file by hand only if this machine is {environment} no more"
    return [Problem(f"{host}: {path}", f"the host says that it is {environment}", fix)]


def _said(text: str | None) -> dict[str, str]:
    """Return what a host's file says."""
    lines = (text or "").splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("#"))


def machine_of(machine_id: str) -> str:
    """Return what a machine is known by; its id itself should not be told, see machine-id(5)."""
    return hashlib.sha256(f"sqlite-to-postgresql {machine_id.strip()}".encode()).hexdigest()


# --- the record of an override ------------------------------------------------------------------


def record_override(root: Path, protection: Protection, reason: str, problems: Sequence[Problem]) -> Path:
    """Write down that a run went on without evidence, once a day for the same reason and problems; return the file.

    :raises MigrationError: if it cannot be written: an override that leaves no record is none.
    """
    now = datetime.now(UTC)
    content: dict[str, Any] = {
        "environment": protection.environment,
        "reason": reason,
        "user": os.environ.get("SUDO_USER") or os.environ.get("USER") or str(os.getuid()),
        "passed_over": [str(problem) for problem in problems],
    }
    name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    path = _overrides_of(root, protection.environment) / f"{now:%Y-%m-%d}-{name}.json"
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            json.dump({"at": now.isoformat(timespec="seconds"), **content}, file, indent=1, ensure_ascii=False)
    except FileExistsError:
        pass
    except OSError as error:
        problem = Problem(str(path), f"it cannot be written: {error.strerror}", "Correct the owner and mode")
        raise MigrationError("The override cannot be recorded.", [problem]) from None
    return path


def read_overrides(root: Path, environment: str) -> list[dict[str, Any]]:
    """Return the records of all overrides of an environment's gate on this machine, the oldest first.

    A file that cannot be read as one is left out.
    """
    found = []
    for path in _overrides_of(root, environment).glob("*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads(path.read_text(encoding="utf-8"))
            at = datetime.fromisoformat(record["at"]).astimezone(UTC).isoformat(timespec="seconds")
            told = {"at": at, "user": str(record["user"]), "reason": str(record["reason"])}
            found.append({**told, "passed_over": [str(problem) for problem in record["passed_over"]]})
    return sorted(found, key=lambda record: str(record["at"]))


def _overrides_of(root: Path, environment: str) -> Path:
    return root / "reports" / environment / "overrides"
