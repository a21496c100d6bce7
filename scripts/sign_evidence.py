#!/usr/bin/env python3
"""Sign with an SSH key what a person vouches for.

The evidence of an environment for this tree: sign_evidence.py path/to/key dev.
The record of a run on a protected environment: sign_evidence.py path/to/key reports/prod/runs/NAME.json.

The record is the one that playbooks/evidence.yml has just written. Its hosts and checks are shown before. It is not
signed if it is not of this environment and tree, was not collected within the last hour, or lacks a check that a
protected environment requires.
The record of a run is made anew from the events that the run has written, so a run that was killed has one too, and
what was edited in it since is gone. The program ends with status 1 if nothing was signed, or nobody would take the
signature.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".collections"))

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.commands import playbook_on
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import (
    MigrationError,
    Problem,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import evidence, gate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion.tree import read_tree
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import protected_run, run_record
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.messages import printable

ROOT = Path(__file__).resolve().parent.parent
# Whoever signs has seen it being collected.
LONGEST_AGE = timedelta(hours=1)


def main(arguments: Sequence[str]) -> int:
    """Sign the record, and return the exit status."""
    if len(arguments) != 2:
        print(
            "Name the key, and the environment or the record of a run: scripts/sign_evidence.py path/to/key dev",
            file=sys.stderr,
        )
        return 2
    try:
        key = Path(arguments[0]).expanduser()
        if arguments[1].endswith(".json"):
            _sign_run(key, Path(arguments[1]))
        else:
            _sign(key, arguments[1])
    except MigrationError as error:
        print(printable(error.message()), file=sys.stderr)
        return 1
    return 0


def _sign(key: Path, environment: str) -> None:
    """Show a record, and sign it.

    :raises MigrationError: if it may not be signed, that fails, or the gate would not take the signature.
    """
    digest = read_tree(ROOT).digest
    path = evidence.path_of(ROOT / gate.EVIDENCE_DIRECTORY, environment, digest)
    collect_it = f"Collect it: {playbook_on(shlex.quote(environment), 'evidence')}"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        problem = Problem(str(path), f"there is no evidence of {environment} for the tree {digest[:12]}", collect_it)
        raise MigrationError("Nothing was signed.", [problem]) from None
    except (OSError, ValueError) as error:
        raise MigrationError("Nothing was signed.", [Problem(str(path), str(error), collect_it)]) from None
    if not isinstance(content, dict):
        raise MigrationError("Nothing was signed.", [Problem(str(path), "it is no record", collect_it)])
    print(printable("\n".join(_lines(content))))
    record = evidence.Evidence(content, "")
    days = LONGEST_AGE / timedelta(days=1)
    problems = evidence.shortcomings(record, path, environment, digest, days, _required_checks(environment))
    if problems:
        raise MigrationError("Nothing was signed.", problems)
    evidence.sign(path, key)
    try:
        signer = evidence.read_verified(path, ROOT / gate.ALLOWED_SIGNERS).signer
    except MigrationError as error:
        raise MigrationError("The gate will not take this signature.", error.problems) from None
    print(f"{path} is signed by {printable(signer)}. Commit both files, so that whoever promotes this tree has them.")


def _sign_run(key: Path, path: Path) -> None:
    """Make the record of a run anew, show it, and sign it.

    :raises MigrationError: if there is no such run, it goes on, that fails, or nobody would take the signature.
    """
    source = protected_run.source_of(path.resolve())
    fix = "Name a record as the run has told it: reports/ENVIRONMENT/runs/NAME.json"
    try:
        run = run_record.read(source)
        written = protected_run.write(source.parents[1], run)
    except OSError as error:
        problem = Problem(str(source), f"the events of the run cannot be used: {error.strerror}", fix)
        raise MigrationError("Nothing was signed.", [problem]) from None
    if written is None or written != path.resolve():
        problem = Problem(str(path), "it is no record of a run on a protected environment", fix)
        raise MigrationError("Nothing was signed.", [problem])
    if run.verdict == run_record.RUNNING:
        raise MigrationError("Nothing was signed.", [Problem(str(path), "its run goes on", "Wait until it has ended")])
    print(printable("\n".join(protected_run.lines(protected_run.build(run)))))
    evidence.sign(path, key, protected_run.NAMESPACE)
    try:
        signer = evidence.verify(path, path.read_bytes(), ROOT / gate.ALLOWED_SIGNERS, protected_run.NAMESPACE)
    except MigrationError as error:
        raise MigrationError("Nobody will take this signature.", error.problems) from None
    print(f"{path} is signed by {printable(signer)}. Give both files to the auditor.")


def _required_checks(environment: str) -> list[str]:
    """Return the checks that a protected environment asks of this one's evidence.

    :raises MigrationError: if the inventory does not say it right.
    """
    settings = ROOT / "inventory" / "group_vars" / "all" / "promotion.yml"
    said = yaml.safe_load(settings.read_bytes()) if settings.exists() else None
    return gate.required_checks((said or {}).get("promotion_protected_environments", {}), environment)


def _lines(content: dict[str, object]) -> list[str]:
    """Return what a record says, for a person."""
    hosts, checks = content.get("hosts"), content.get("checks")
    lines = [f"hosts: {', '.join(map(str, hosts)) if isinstance(hosts, list) else 'none'}"]
    for name, check in checks.items() if isinstance(checks, dict) else ():
        said = check if isinstance(check, dict) else {}
        lines.append(f"{name}: {'passed' if said.get('passed') is True else 'NOT PASSED'}: {said.get('told')}")
    return [" ".join(line.split()) for line in lines]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
