"""Keeps a record of each run on the controller, and a page that lists all of them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: run_record
type: notification
short_description: A record of each run, and a page that lists them
description:
  - Writes what a run of C(ansible-playbook) does into a file of its own below O(directory)C(/runs), mode 0600, as it
    happens. A run that is interrupted or killed leaves a record that says where it stopped.
  - A record holds the playbooks, the limit, the plan that the run names with C(-e plan), the SHA-256 of the inventory,
    versions, each play, the tasks that each host began, those that changed something, failures with their message, the
    downtime of each cutover group, and the verdict. It holds nothing else of a result, and nothing of one that
    C(no_log) hides. A dry run is recorded as such.
  - Of a run of the whole C(site.yml) on a clean work tree it also holds the tree's digest, and the names of what C(-e)
    sets.
  - A run that the gate has let change a protected environment leaves a record for its auditor too, below
    O(directory)C(/ENVIRONMENT/runs), mode 0600. It says who, when, the tree, the plan, the evidence or the reason of an
    override, each group's tables, rows and downtime, and where it stopped if it did. It is signed if O(signing_key) is
    set; else the command that signs it is told. A rollback and a restore that have changed something leave one too,
    with what they brought back or gave up.
  - O(directory)C(/index.html) lists all runs of every host, with verdict, duration and downtime.
  - If a record cannot be written the run warns once and goes on without it. Records are never removed.
options:
  directory:
    description: Directory of the reports, on the controller.
    type: path
    default: reports
    env:
      - name: SQLITE_TO_POSTGRESQL_REPORTS
    ini:
      - section: callback_run_record
        key: directory
  enabled:
    description: Whether runs are recorded.
    type: bool
    default: true
    env:
      - name: SQLITE_TO_POSTGRESQL_RUN_RECORD
    ini:
      - section: callback_run_record
        key: enabled
  signing_key:
    description:
      - An SSH key that signs the record of each run on a protected environment, without asking for a passphrase.
      - It may be a public key whose private half an agent holds.
    type: path
    env:
      - name: SQLITE_TO_POSTGRESQL_SIGNING_KEY
requirements:
  - Name it in C(callbacks_enabled) in C(ansible.cfg), or in E(ANSIBLE_CALLBACKS_ENABLED).
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
ansible.cfg: |
  [defaults]
  callbacks_enabled = swarm.sqlite_to_postgresql.run_record
  [callback_run_record]
  directory = reports
"""

import atexit
import getpass
import json
import os
import platform
import shlex
import time
from pathlib import Path
from typing import Any

import yaml
from ansible import __version__ as ansible_version
from ansible import context
from ansible.plugins.callback import CallbackBase

from ..module_utils.migration.core.errors import MigrationError
from ..module_utils.promotion import evidence
from ..module_utils.promotion.tree import WHOLE_PLAYBOOK, read_tree
from ..plugin_utils import messages, protected_run, run_index, run_record

_COLLECTION = Path(__file__).resolve().parents[2]
_LONGEST_MESSAGE = 4000
# Variables that name what goes back, as they are given with -e. None is a secret.
_NAMING = (
    "service_env_rollback_groups",
    "service_env_rollback_lose_rows",
    "postgres_backup_restore_name",
    "postgres_backup_restore_confirm",
    "postgres_backup_restore_trusts",
)
# Of a table that went back, what the record keeps: no value of a row.
_OF_A_TABLE = ("source", "target", "inserted", "updated", "deleted", "hash")
_MODULE_OF_A_WINDOW = "swarm.sqlite_to_postgresql.cutover_group"
_MODULE_OF_THE_GATE = "swarm.sqlite_to_postgresql.promotion_gate"
_MODULE_OF_THE_PLAN = "swarm.sqlite_to_postgresql.promotion_plan"
_MODULE_OF_VALIDATION = "swarm.sqlite_to_postgresql.validate_group"


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible ships without types
    """Turns Ansible's events into those of a record."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "swarm.sqlite_to_postgresql.run_record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._record: run_record.RunRecord | None = None
        self._has_begun = False
        self._has_ended = False
        self._has_called = False
        self._process = os.getpid()
        self._started: dict[str, float] = {}

    # ---------------------------------------------------------------- the run

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Begin the record; several playbooks of one command share it."""
        if self._has_begun or not self.get_option("enabled"):
            return
        self._has_begun = True
        arguments = context.CLIARGS
        limit = arguments.get("subset") or "all"
        try:
            self._record = run_record.RunRecord(self._reports, limit)
        except OSError as error:
            self._give_up(error)
            return
        atexit.register(self._stop)
        self._add(
            "begin",
            playbooks=list(arguments.get("args", ())),
            limit=limit,
            check_mode=bool(arguments.get("check")),
            tags=list(arguments.get("tags") or ()),
            skip_tags=list(arguments.get("skip_tags") or ()),
            user=_user(),
            inventory_sha256=run_record.digest_of_inventory(arguments.get("inventory") or ()),
            versions={
                "ansible-core": ansible_version,
                "collection": _version_of_the_collection(),
                "python": platform.python_version(),
            },
        )
        self._write_index()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Record the name of a play; before the first one the plan that the run names, and the tree of a whole run."""
        if not self._has_called:
            self._has_called = True
            given = play.get_variable_manager().extra_vars
            if given.get("plan", ""):
                self._add("plan", plan=messages.printable(str(given["plan"])))
            named = {name: messages.printable(str(given[name])) for name in _NAMING if name in given}
            if named:
                self._add("named", variables=named)
            tree = _tree_of_a_whole_run() if self._record is not None else ""
            if tree:
                self._add("whole", tree=tree, extra_variables=sorted(map(str, given)))
        self._add("play", play=messages.printable(play.get_name().strip()))

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Record the verdict; another playbook of the same command may follow."""
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        has_failed = any(run_index.failed(counts) for counts in hosts.values())
        self._has_ended = True
        self._add("end", verdict=run_record.FAILED if has_failed else run_record.PASSED, hosts=hosts)
        self._write_index()
        self._write_for_auditor()

    # ---------------------------------------------------------------- tasks

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Record which task a host begins."""
        self._started[host.get_name()] = time.monotonic()
        self._has_ended = False
        self._add("task", host=host.get_name(), task=_name(task))

    def v2_runner_on_ok(self, result: Any) -> None:
        """Record a task that changed something."""
        if result.result.get("changed"):
            self._add_of("changed", result)
        if "results" not in result.result:
            self._add_downtime(result)
        self._add_gate(result)
        self._add_validations(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Record the downtime of a cutover group as it happens."""
        self._add_downtime(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Record a failure, and what was changed before it."""
        # The items of a loop that failed are recorded already.
        if not isinstance(result.result.get("results"), list):
            self._add_downtime(result)
            self._add_failure(result, "ignored" if ignore_errors else "failed")
        if result.result.get("changed"):
            self._add_of("changed", result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Record the failure of an item of a loop, and the downtime of a group that was moved before it."""
        self._add_downtime(result)
        self._add_failure(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Record that a host does not answer."""
        self._add_failure(result, "failed")

    # ---------------------------------------------------------------- the pieces

    @property
    def _reports(self) -> Path:
        return Path(self.get_option("directory"))

    def _add_of(self, event: str, result: Any, **details: Any) -> None:
        host = result.host.get_name()
        seconds = round(time.monotonic() - self._started.get(host, time.monotonic()), 3)
        self._add(event, host=host, task=_name(result.task), seconds=seconds, **details)

    def _add_failure(self, result: Any, event: str) -> None:
        message = "\n".join(messages.failure_lines(result.result))[:_LONGEST_MESSAGE]
        self._add_of(event, result, message=message, item=messages.item_label(result.result))

    def _add_downtime(self, result: Any) -> None:
        if result.task.action != _MODULE_OF_A_WINDOW or messages.is_hidden(result.result):
            return
        report = result.result.get("report")
        if result.result.get("changed") and isinstance(report, dict) and "downtime_seconds" in report:
            host = result.host.get_name()
            self._add("downtime", host=host, group=str(report.get("group")), seconds=float(report["downtime_seconds"]))
            if "way" in report:
                self._add("went_back", host=host, group=str(report.get("group")), **_how_it_went_back(report))
            migration = report.get("migration")
            if isinstance(migration, dict):
                self._add_arrived(host, str(report.get("group")), "the cutover", result.result.get("state"), migration)

    def _add_gate(self, result: Any) -> None:
        """Record what has let the run change a protected environment, and what a reason has overridden."""
        if result.task.action == _MODULE_OF_THE_GATE and result.result.get("grounds"):
            self._add("gate", host=result.host.get_name(), **result.result["grounds"])
        if result.task.action == _MODULE_OF_THE_PLAN and result.result.get("override"):
            self._add("override", host=result.host.get_name(), **result.result["override"])

    def _add_validations(self, result: Any) -> None:
        """Record which tables the validation found, without any value of a row."""
        if result.task.action != _MODULE_OF_VALIDATION or messages.is_hidden(result.result):
            return
        for found in result.result.get("validations") or ():
            host, group = result.host.get_name(), str(found["group"])
            self._add_arrived(host, group, "the validation", found["state"], found, findings=len(found["findings"]))

    def _add_arrived(self, host: str, group: str, seen_by: str, state: Any, found: dict[str, Any], **more: int) -> None:
        tables = [
            {
                **{name: table.get(name) for name in ("source", "target", "source_hash", "target_hash")},
                "rows": int(table["target_rows"]),
                "equal": bool(table["equal"]),
            }
            for table in found.get("tables") or ()
        ]
        self._add("arrived", host=host, group=group, seen_by=seen_by, state=state, tables=tables, **more)

    def _write_for_auditor(self) -> None:
        """Write the record of a run on a protected environment, and sign it, or tell how."""
        if self._record is None:
            return
        try:
            path = protected_run.write(self._reports, run_record.read(self._record.path))
        except OSError as error:
            self._display.warning(
                f"The record for the auditor cannot be written ({error}). The run itself is recorded."
            )
            return
        if path is None:
            return
        key = self.get_option("signing_key")
        command = f"scripts/sign_evidence.py path/to/key {shlex.quote(str(path))}"
        told = f"The record of this run is in {path}. Sign it: {command}"
        if key:
            try:
                told = f"The record of this run is in {path}, signed: {_sign(path, Path(key))}"
            except MigrationError as error:
                told = f"{messages.printable(error.message())} {told}"
        self._display.display(told)

    def _add(self, event: str, **details: Any) -> None:
        if self._record is None:
            return
        try:
            self._record.add(event, **details)
        except OSError as error:
            self._give_up(error)

    def _write_index(self) -> None:
        if self._record is None:
            return
        try:
            run_index.write(self._reports)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._record = None
        self._display.warning(f"The record of this run cannot be written ({error}). The run goes on without it.")

    def _stop(self) -> None:
        """Record that the run has stopped before its end. A worker is a copy of this process, and has no say."""
        if os.getpid() == self._process and not self._has_ended:
            self._add("stopped")
            self._write_index()
            self._write_for_auditor()


def _name(task: Any) -> str:
    """Return the name of a task on one line."""
    return messages.printable(task.get_name().strip()).replace("\n", " ")


def _how_it_went_back(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a record keeps of a rollback's report."""
    kept = {name: report.get(name) for name in ("way", "lost_rows", "frozen_sha256", "exported_sha256")}
    dump = report.get("dump") or {}
    return {
        **kept,
        "tables": [{name: table.get(name) for name in _OF_A_TABLE} for table in report.get("tables") or ()],
        "dump": {name: dump[name] for name in ("path", "sha256", "rows") if name in dump},
    }


def _sign(path: Path, key: Path) -> Path:
    """Sign a record with a key that asks for nothing, and return the signature's path.

    :raises MigrationError: if that fails.
    """
    return evidence.sign(path, key, protected_run.NAMESPACE, asks=False)


def _tree_of_a_whole_run() -> str:
    """Return the digest of the tree that this run of ``site.yml`` is of; empty if it leaves something out.

    It is empty too if the work tree is not clean, or Git cannot tell.
    """
    given = context.CLIARGS
    playbooks = [Path(name).resolve() for name in given.get("args", ())]
    # Without --tags Ansible means the tag all.
    leaves_out = set(given.get("tags") or ()) - {"all"} or given.get("skip_tags") or given.get("start_at_task")
    if playbooks != [_COLLECTION / WHOLE_PLAYBOOK] or leaves_out or given.get("step") or given.get("check"):
        return ""
    try:
        tree = read_tree(_COLLECTION)
    except MigrationError:
        return ""
    return "" if tree.differences else tree.digest


def _user() -> str:
    """Return who runs it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _version_of_the_collection() -> str:
    """Return the version in ``galaxy.yml``, or where a collection is installed in ``MANIFEST.json``."""
    try:
        manifest = json.loads((_COLLECTION / "MANIFEST.json").read_text(encoding="utf-8"))
        return str(manifest["collection_info"]["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return str(yaml.safe_load((_COLLECTION / "galaxy.yml").read_text(encoding="utf-8"))["version"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return "unknown"
