"""Writes down what a run has left in an environment, as evidence that somebody can sign."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from ansible import __version__ as ansible_version
from ansible.plugins.action import ActionBase

from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.promotion import collect, evidence, gate
from ..module_utils.promotion.tree import read_tree
from ..plugin_utils.gated import ROOT
from ..plugin_utils.promotion import value_for_all_hosts
from ..plugin_utils.run_inventory import inventory_options

# As module promotion_evidence documents them.
ARGUMENTS: dict[str, Any] = {
    "environment_name": {"type": "str", "required": True},
    "validations": {"type": "list", "elements": "dict", "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships without types
    """Builds the record from what the modules of the validation have found, and writes it on the controller."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return where the record is, and what is missing in it."""
        result = dict(super().run(tmp, task_vars))
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        try:
            self._refuse_a_part(arguments["environment_name"], arguments["validations"], task_vars or {})
            return {**result, **self._collect(arguments["environment_name"], arguments["validations"])}
        except MigrationError as error:
            return {**result, "failed": True, "msg": error.message(), "problems": error.as_dicts()}

    def _refuse_a_part(self, environment: str, validations: list[dict[str, Any]], variables: Mapping[str, Any]) -> None:
        """Refuse evidence of some hosts, or of a run that looked at something else than the tree says.

        :raises MigrationError: with every reason.
        """
        hostvars = variables["hostvars"]
        # Variables of other environments are not asked for: their secrets may not be readable here.
        known = {*variables["groups"].get(environment, ()), *variables["ansible_play_hosts_all"]}
        hosts = [
            host
            for host in variables["groups"].get("service_hosts", ())
            if host in known and self._templar.template(hostvars[host].get("environment_name")) == environment
        ]
        problems = gate.problems_of_extra_variables(
            hostvars._variable_manager.extra_vars, value_for_all_hosts(variables, "promotion_extra_variables") or ()
        )
        seen = [str(found.get("host")) for found in validations]
        problems += collect.problems_of_hosts(environment, hosts, seen, inventory_options(variables))
        if problems:
            raise MigrationError("Evidence is about all of an environment, as the inventory has it.", problems)

    def _collect(self, environment: str, validations: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the result of the task.

        :raises MigrationError: if the tree is not clean, or the record cannot be written.
        """
        tree = read_tree(ROOT)
        if tree.differences and not self._task.check_mode:
            problems = [Problem("the work tree", text, "Commit or remove it") for text in tree.differences]
            summary = "Evidence is about a tree that others can have, so the work tree must be clean."
            raise MigrationError(summary, problems)
        path = evidence.path_of(ROOT / gate.EVIDENCE_DIRECTORY, environment, tree.digest)
        content = collect.build(environment, tree.digest, validations, _versions(), datetime.now(UTC))
        missing = evidence.unmet(content, list(content["checks"]))
        lines = [
            f"Evidence of {environment} for the tree {tree.digest[:12]}: "
            f"{len(content['checks']) - len(missing)} of {len(content['checks'])} checks passed.",
            *(f"Missing: {sentence}" for sentence in (*missing, *tree.differences)),
        ]
        if not self._task.check_mode:
            _write(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
            command = f"scripts/sign_evidence.py path/to/key {environment}"
            lines.append(f"Next: sign it within the hour with a key of {gate.ALLOWED_SIGNERS}: {command}")
        return {"changed": True, "path": str(path), "missing": missing, "lines": lines}


def _versions() -> dict[str, Any]:
    """Return the versions of what runs on the controller: the engine is the project's own collection."""
    collections = {}
    for manifest in sorted((ROOT / ".collections" / "ansible_collections").glob("*/*/MANIFEST.json")):
        about = json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]
        collections[f"{about['namespace']}.{about['name']}"] = str(about["version"])
    engine = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    return {"ansible-core": ansible_version, "collections": collections, "engine": str(engine)}


def _write(path: Path, text: str) -> None:
    """Write a record in place of an older one, whose signature would not hold any more.

    :raises MigrationError: if it cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        evidence.signature_of(path).unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = Problem(str(path), f"it cannot be written: {error.strerror}", "Correct the owner and mode")
        raise MigrationError("The evidence cannot be written.", [problem]) from None
