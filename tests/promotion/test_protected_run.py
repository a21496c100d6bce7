"""The record that a run on a protected environment leaves for its auditor: what it says, and its signature."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.callback import run_record as callback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import ledger
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.transfer import migrate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.steps import (
    Steps,
    make_report,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import evidence
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import protected_run, run_index, run_record
from tests.conftest import PROJECT
from tests.validation.support import make_estate

from .conftest import Clone

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

GROUNDS = {
    "environment": "prod",
    "tree": "d" * 64,
    "tree_is_clean": True,
    "plan": "3f0a86c1d2b7",
    "evidence": {"path": "evidence/dev-dd.json", "sha256": "e" * 64, "signer": "anna@example.org"},
    "override": None,
}
TABLE = {"source": "agents", "target": "registry.agents", "source_hash": "a", "target_hash": "a"}


def begun(reports: Path, *, check_mode: bool = False) -> run_record.RunRecord:
    """Return the record of a run that the gate has let change prod, and that moves a group."""
    record = run_record.RunRecord(reports, "prod")
    about = {"playbooks": ["site.yml"], "limit": "prod", "check_mode": check_mode, "user": "ben", "versions": {}}
    record.add("begin", **about)
    record.add("gate", host="swarm-prod", **GROUNDS)
    record.add("task", host="swarm-prod", task="Move it")
    record.add("downtime", host="swarm-prod", group="registry", seconds=4.25)
    tables = [{**TABLE, "rows": 1200, "equal": True}]
    record.add("arrived", host="swarm-prod", group="registry", seen_by="the cutover", state="live", tables=tables)
    return record


def written(reports: Path, record: run_record.RunRecord) -> tuple[Path, dict[str, Any]]:
    """Return the record for the auditor, and what it says."""
    path = protected_run.write(reports, run_record.read(record.path))
    assert path is not None
    return path, json.loads(path.read_text())


def kill(record: run_record.RunRecord) -> None:
    """Let go of the lock of a record, as the end of its process does."""
    record._close()


@pytest.mark.promise("prod-run-recorded")
def test_the_record_says_who_what_why_and_what_arrived(tmp_path: Path) -> None:
    record = begun(tmp_path)
    record.add("end", verdict=run_record.PASSED, hosts={"swarm-prod": {"failures": 0}})
    path, content = written(tmp_path, record)
    assert path == tmp_path / "prod" / "runs" / f"{record.path.stem}.json"
    assert [stat.S_IMODE(where.stat().st_mode) for where in (path.parent, path)] == [0o700, 0o600]
    assert {name: content[name] for name in GROUNDS} == GROUNDS
    assert (content["by"], content["verdict"], content["stopped_in"]) == ("ben", "passed", {})
    (group,) = content["groups"]
    assert (group["group"], group["state"], group["downtime_seconds"]) == ("registry", "live", [4.25])
    assert group["tables"] == [{**TABLE, "rows": 1200, "equal": True}]


@pytest.mark.promise("prod-run-recorded")
def test_a_run_that_failed_or_was_interrupted_says_where_it_stopped(tmp_path: Path) -> None:
    failed, killed = begun(tmp_path), begun(tmp_path)
    failed.add("failed", host="swarm-prod", task="Move it", message="It is wrong\nid=1: name is a")
    failed.add("end", verdict=run_record.FAILED, hosts={})
    kill(killed)
    content = written(tmp_path, failed)[1]
    assert content["failures"] == [{"host": "swarm-prod", "task": "Move it", "message": "It is wrong"}]
    for record, verdict in ((failed, "failed"), (killed, "stopped")):
        content = written(tmp_path, record)[1]
        assert (content["verdict"], content["stopped_in"]) == (verdict, {"swarm-prod": "Move it"})


@pytest.mark.promise("prod-run-recorded")
def test_what_tidies_up_behind_a_failure_is_not_where_the_run_stopped(tmp_path: Path) -> None:
    """As the tasks behind "always" in phase 1 do. What another task has rescued is none either."""
    record = begun(tmp_path)
    record.add("failed", host="swarm-prod", task="Try it", message="It is wrong")
    for task in ("Try another", "Apply the SQL files"):
        record.add("task", host="swarm-prod", task=task)
    record.add("failed", host="swarm-prod", task="Apply the SQL files", message="It is wrong")
    record.add("task", host="swarm-prod", task="Revert the files")
    for host in ("swarm-other", "swarm-rescued"):
        record.add("task", host=host, task="Look")
    record.add("failed", host="swarm-rescued", task="Look", message="It is wrong")
    record.add("task", host="swarm-rescued", task="Look again")
    counts = {"swarm-prod": {"failures": 1, "rescued": 1}, "swarm-other": {"failures": 0}}
    record.add("end", verdict=run_record.FAILED, hosts={**counts, "swarm-rescued": {"failures": 0, "rescued": 1}})
    stopped = {"swarm-other": "Look", "swarm-prod": "Apply the SQL files", "swarm-rescued": "Look again"}
    assert written(tmp_path, record)[1]["stopped_in"] == stopped


@pytest.mark.promise("prod-run-recorded")
def test_a_rollback_after_a_phase_in_the_same_command_hides_no_plan(tmp_path: Path) -> None:
    record = begun(tmp_path)
    record.add("gate", host="swarm-prod", **{**GROUNDS, "plan": "", "evidence": None, "goes_back": True})
    record.add("end", verdict=run_record.PASSED, hosts={"swarm-prod": {"failures": 0}})
    content = written(tmp_path, record)[1]
    assert {name: content[name] for name in GROUNDS} == GROUNDS
    assert content["goes_back"] is False


BACK = {
    "way": "exported", "lost_rows": None, "frozen_sha256": "a" * 64, "exported_sha256": "b" * 64,
    "tables": [{**TABLE, "inserted": 3, "updated": 1, "deleted": 0, "hash": "c", "not_told": ["secret"]}],
    "dump": {"path": "/var/dumps/registry.dump", "sha256": "d" * 64, "rows": 9, "seconds": 1.0},
}  # fmt: skip


@pytest.mark.promise("prod-run-recorded")
def test_a_rollback_and_a_restore_leave_a_record_once_they_have_changed_something(tmp_path: Path) -> None:
    record = run_record.RunRecord(tmp_path, "prod")
    record.add("begin", playbooks=["playbooks/rollback.yml"], limit="prod", check_mode=False, user="ben", versions={})
    record.add("named", variables={"service_env_rollback_groups": "registry"})
    record.add("gate", host="swarm-prod", **{**GROUNDS, "plan": "", "evidence": None, "goes_back": True})
    asked_only = record.path.read_text()
    recorder = callback.CallbackModule()
    recorder._record = record
    task = Namespace(action="swarm.sqlite_to_postgresql.cutover_group", get_name=lambda: "Put it back")
    result = {"changed": True, "state": "rolled_back", "report": {"group": "registry", "downtime_seconds": 3.5, **BACK}}
    recorder.v2_runner_item_on_ok(Namespace(result=result, host=Namespace(get_name=lambda: "swarm-prod"), task=task))
    record.add("changed", host="swarm-prod", task="Put it back")
    record.add("end", verdict=run_record.PASSED, hosts={"swarm-prod": {"failures": 0}})
    _, content = written(tmp_path, record)
    assert (content["goes_back"], content["plan"], content["evidence"]) == (True, "", None)
    assert content["named"] == {"service_env_rollback_groups": "registry"}
    (group,) = content["groups"]
    back = group["went_back"]
    assert (group["downtime_seconds"], back["way"], back["frozen_sha256"]) == ([3.5], "exported", "a" * 64)
    table = {"source": "agents", "target": "registry.agents", "inserted": 3, "updated": 1, "deleted": 0, "hash": "c"}
    assert back["tables"] == [table]
    assert back["dump"] == {"path": "/var/dumps/registry.dump", "sha256": "d" * 64, "rows": 9}
    told = "\n".join(protected_run.lines(content))
    assert "swarm-prod: registry went back to SQLite: 4 rows were brought back, downtime: 3.5 s" in told
    assert "-e service_env_rollback_groups=registry" in told
    # The one that only lists the backups, or finds nothing to do, is none of the auditor's.
    kill(record)
    end = json.dumps({"event": "end", "at": "2026-01-01T00:00:00+00:00", "verdict": run_record.PASSED, "hosts": {}})
    record.path.write_text(f"{asked_only}{end}\n")
    assert protected_run.write(tmp_path, run_record.read(record.path)) is None
    # One that failed is, whatever it had changed by then.
    record.path.write_text(f"{asked_only}{end.replace('passed', 'failed')}\n")
    assert protected_run.write(tmp_path, run_record.read(record.path)) is not None


@pytest.mark.promise("override-recorded")
def test_what_any_phase_has_overridden_is_in_the_record(tmp_path: Path) -> None:
    """The later phases have found nothing to override, or something else."""
    record = begun(tmp_path)
    for override in ({"reason": "A fix.", "passed_over": ["no plan"]}, None):
        record.add("gate", host="swarm-prod", **{**GROUNDS, "override": override})
    record.add("override", host="swarm-prod", reason="A fix.", passed_over=["no plan", "another column"])
    content = written(tmp_path, record)[1]
    assert content["override"] == {"reason": "A fix.", "passed_over": ["no plan", "another column"]}
    assert "  overridden: another column" in protected_run.lines(content)
    # And in the list of all runs.
    page = run_index.page([run_record.read(record.path)], [], tmp_path)
    assert "<pre>The gate was overridden: A fix.\nno plan\nanother column</pre>" in page


def test_a_dry_run_and_one_that_the_gate_has_refused_leave_none(tmp_path: Path) -> None:
    dry = begun(tmp_path, check_mode=True)
    refused = run_record.RunRecord(tmp_path, "dev")
    refused.add("begin", playbooks=["site.yml"], check_mode=False)
    for record in (dry, refused):
        assert protected_run.write(tmp_path, run_record.read(record.path)) is None


@pytest.mark.promise("prod-run-recorded")
def test_it_is_signed_after_it_was_made_anew_and_verified_as_the_page_says(clone: Clone) -> None:
    names = f'namespaces="{evidence.NAMESPACE},{protected_run.NAMESPACE}"'
    signers = clone.root / "keys" / "allowed_signers"
    signers.write_text(signers.read_text().replace(f'namespaces="{evidence.NAMESPACE}"', names))
    record = begun(clone.root / "reports")
    path, _ = written(clone.root / "reports", record)

    def sign() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/sign_evidence.py", str(clone.key), str(path.relative_to(clone.root))]
        return subprocess.run(command, cwd=clone.root, capture_output=True, text=True, check=False)

    assert "its run goes on" in sign().stderr
    kill(record)
    path.write_text(path.read_text().replace('"ben"', '"nobody"'))
    done = sign()
    assert (done.returncode, "is signed by anna@example.org" in done.stdout) == (0, True), done.stderr
    assert "on prod by ben: stopped" in done.stdout
    assert "1 of 1 tables equal, 1,200 rows, downtime: 4.2 s" in done.stdout
    page = (PROJECT / "docs" / "promotion.md").read_text()
    (command,) = re.findall(r"^ssh-keygen -Y verify .*\n.*$", page, re.MULTILINE)
    command = re.sub(r"reports/prod/runs/\S+?\.json", shlex.quote(str(path)), command)

    def verify() -> int:
        return subprocess.run(["sh", "-c", command], cwd=clone.root, capture_output=True, check=False).returncode

    assert verify() == 0
    with pytest.raises(MigrationError):
        # It is no evidence, whoever renames it.
        evidence.read_verified(path, signers)
    path.write_text(path.read_text().replace("1200", "1201"))
    assert verify() != 0


def test_a_key_that_asks_for_a_passphrase_is_not_waited_for(clone: Clone, tmp_path: Path) -> None:
    key = tmp_path / "locked"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    record = begun(clone.root / "reports")
    path, _ = written(clone.root / "reports", record)
    with pytest.raises(MigrationError, match="ssh-keygen cannot sign with it"):
        callback._sign(path, key)
    assert callback._sign(path, clone.key).is_file()


@pytest.mark.promise("prod-run-recorded")
def test_what_arrived_is_read_from_what_the_modules_return(connection: Connection, tmp_path: Path) -> None:
    estate = make_estate(connection, tmp_path)
    estate.cut_over()
    final_sync = ledger.read_latest_run(connection, "zoo", migrate.FINAL)
    assert final_sync is not None
    moved = {"state": "live", "report": make_report(estate.group, [], 1.5, Steps(), None, final_sync)}
    found = estate.validate()
    recorder = callback.CallbackModule()
    for module, seen_by, result in (
        ("cutover_group", "the cutover", {"changed": True, **moved}),
        ("validate_group", "the validation", {"changed": False, "validations": [found]}),
    ):
        recorder._record = run_record.RunRecord(tmp_path / "reports", module)
        task = Namespace(action=f"swarm.sqlite_to_postgresql.{module}", get_name=lambda: "A task")
        for shown in ({**result, "_ansible_no_log": True}, result):
            recorder.v2_runner_on_ok(Namespace(result=shown, host=Namespace(get_name=lambda: "swarm-prod"), task=task))
        # What no_log hides is no part of the record.
        text = recorder._record.path.read_text()
        assert (text.count('"arrived"'), "hush-hush" in text) == (1, False)
        (arrived,) = run_record.read(recorder._record.path).arrived.values()
        assert (arrived["group"], arrived["seen_by"], arrived["state"]) == ("zoo", seen_by, "live")
        tables = [(table["source"], table["target"], table["rows"], table["equal"]) for table in arrived["tables"]]
        assert tables == [("owners", "app.owners", 2, True), ("pets", "app.pets", 2, True)]
        assert all(table["source_hash"] and table["source_hash"] == table["target_hash"] for table in arrived["tables"])
