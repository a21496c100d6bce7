"""What a run keeps of itself: the callback run_record, and the page that lists all runs."""

from __future__ import annotations

import json
import signal
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.callback.run_record import CallbackModule
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import run_index, run_record

from .support import SECRET, Bench, Load, Outcome

PLAYS = [
    {
        "name": "Move <the rows>",
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"name": "Change", "ansible.builtin.debug": {"msg": SECRET}, "changed_when": True},
            {"name": "Fail with a secret", "answer": {"error": SECRET}, "no_log": True, "ignore_errors": True},
            {
                "name": "Fail",
                "tell": {"error": "<b>It is wrong</b>", "other": SECRET},
                "when": "inventory_hostname == 'two'",
            },
        ],
    }
]


def waiting(begun: Path) -> list[dict[str, Any]]:
    """Return plays whose second task writes its process id into a file, and waits."""
    wait = {"argv": ["sh", "-c", 'echo $$ > "$1"; exec sleep 600', "sh", str(begun)]}
    tasks = [
        {"name": "First", "ansible.builtin.debug": {"msg": "It begins"}},
        {"name": "Wait long", "ansible.builtin.command": wait},
    ]
    return [{"name": "Wait", "hosts": "one", "gather_facts": False, "tasks": tasks}]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, load: Load) -> Bench:
    """A place for the runs of this file."""
    return Bench(tmp_path_factory.mktemp("bench"), load)


@pytest.fixture(scope="module")
def failed(bench: Bench) -> Outcome:
    """A run on two hosts, one of which fails."""
    options = ("--limit", "one,two", "-e", "plan=3f0a86c1d2b7")
    return bench.run(PLAYS, *options, ANSIBLE_STDOUT_CALLBACK="default", SQLITE_TO_POSTGRESQL_RUN_RECORD="true")


def events_of(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the events of the only record."""
    (path,) = outcome.reports.glob("runs/*")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.promise("run-recorded")
def test_a_record_says_what_was_run_and_how_it_ended(failed: Outcome) -> None:
    events = events_of(failed)
    begin, end = events[0], events[-1]
    assert (begin["event"], begin["limit"], begin["check_mode"]) == ("begin", "one,two", False)
    assert begin["versions"].keys() == {"ansible-core", "collection", "python"}
    assert begin["versions"]["collection"] == "0.1.0"
    assert len(begin["inventory_sha256"]) == 64
    assert {(event["host"], event["task"]) for event in events if event["event"] == "changed"} == {
        ("one", "Change"),
        ("two", "Change"),
    }
    assert [event["plan"] for event in events if event["event"] == "plan"] == ["3f0a86c1d2b7"]
    (failure,) = [event for event in events if event["event"] == "failed"]
    assert (failure["host"], failure["task"], failure["message"]) == ("two", "Fail", "<b>It is wrong</b>")
    assert end["event"] == "end" and end["verdict"] == "failed"
    assert {host: counts["failures"] for host, counts in end["hosts"].items()} == {"one": 0, "two": 1}


@pytest.mark.promise("run-recorded", "no-password-in-output")
def test_a_record_is_private_and_holds_no_secret(failed: Outcome) -> None:
    (path,) = failed.reports.glob("runs/*")
    assert SECRET not in path.read_text()
    modes = [stat.S_IMODE(where.stat().st_mode) for where in (path.parent, path, failed.reports / "index.html")]
    assert modes == [0o700, 0o600, 0o600]


@pytest.mark.promise("run-recorded")
def test_the_page_lists_the_run_of_each_host_with_its_own_verdict(failed: Outcome) -> None:
    one, two = run_index.page(run_record.read_all(failed.reports), [], failed.reports).split("<h2>")[1:]
    assert one.startswith("one<") and 'class="passed"' in one and 'class="failed"' not in one
    assert two.startswith("two<") and 'class="failed"' in two
    assert "Fail: &lt;b&gt;It is wrong&lt;/b&gt;" in two and "<b>" not in two
    assert "It is wrong" not in one
    assert (failed.reports / "index.html").read_text().count("<tr>\n") == 2


@pytest.mark.promise("run-recorded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_run_leaves_where_it_stopped(bench: Bench, tmp_path: Path, number: signal.Signals) -> None:
    """By Ctrl-C, by the loss of the terminal or of the connection to this machine, or with no chance to react."""
    outcome = bench.interrupt(waiting(tmp_path / "begun"), number, tmp_path / "begun")
    assert outcome.status != 0
    said = "Stopped in: Wait long. The next run finishes what this one began." in outcome.output.splitlines()
    assert said is (number == signal.SIGINT)
    (run,) = run_record.read_all(outcome.reports)
    assert (run.verdict, run.started) == (run_record.STOPPED, {"one": "Wait long"})
    run_index.write(outcome.reports)
    assert "Stopped in: Wait long" in (outcome.reports / "index.html").read_text()


def test_a_run_that_cannot_be_recorded_warns_once_and_goes_on(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    run = bench.run(PLAYS, "--limit", "one", SQLITE_TO_POSTGRESQL_REPORTS=str(tmp_path / "file" / "reports"))
    assert run.status == 0
    assert run.output.count("The record of this run cannot be written") == 1, run.output


def test_a_dry_run_is_recorded_as_one_and_a_variable_turns_records_off(bench: Bench) -> None:
    dry = bench.run(PLAYS, "--check", "--limit", "one")
    assert events_of(dry)[0]["check_mode"] is True
    assert " (dry run)" in (dry.reports / "index.html").read_text()
    assert not bench.run(PLAYS, "--limit", "one", SQLITE_TO_POSTGRESQL_RUN_RECORD="false").reports.exists()


# ---------------------------------------------------------------- records without a run of ansible-playbook


@pytest.fixture
def record(tmp_path: Path) -> run_record.RunRecord:
    """A record of a run that lives: this process."""
    return run_record.RunRecord(tmp_path / "reports", "dev:&web ../x")


def test_a_run_that_lives_is_not_taken_for_one_that_stopped(record: run_record.RunRecord) -> None:
    record.add("begin", playbooks=["site.yml"])
    record.add("task", host="dev", task="Move it")
    assert record.path.name.endswith("-dev-web-..-x.jsonl")
    run = run_record.read(record.path)
    assert (run.verdict, run.started) == (run_record.RUNNING, {"dev": "Move it"})
    record.add("stopped")
    assert run_record.read(record.path).verdict == run_record.STOPPED


def test_a_line_that_was_not_written_whole_is_left_out(record: run_record.RunRecord) -> None:
    record.add("task", host="dev", task="Move it")
    with record.path.open("a") as file:
        file.write('{"event": "end", "verdi')
    assert run_record.read(record.path).started == {"dev": "Move it"}


@dataclass
class _Named:
    """A host, as an event names it."""

    name: str

    def get_name(self) -> str:
        return self.name


@dataclass
class _Result:
    """A result as Ansible gives it to a callback, as far as a downtime is read from it."""

    result: dict[str, Any]
    host: _Named
    task: Any


class _Task(_Named):
    action = "swarm.sqlite_to_postgresql.cutover_group"


def test_the_downtime_of_a_group_is_recorded_and_listed(record: run_record.RunRecord, tmp_path: Path) -> None:
    callback = CallbackModule()
    callback._record = record
    moved = {"changed": True, "report": {"group": "registry", "downtime_seconds": 4.26, "password": SECRET}}
    record.add("task", host="dev", task="Move it")
    for result in (moved, {**moved, "changed": False}, {**moved, "_ansible_no_log": True}, {"changed": True}):
        callback.v2_runner_item_on_ok(_Result(result, _Named("dev"), _Task("Move it")))
    # It was moved, and a functional check has failed behind it.
    failed = {**moved, "failed": True, "msg": "It is wrong", "report": {"group": "deploy", "downtime_seconds": 2.0}}
    callback.v2_runner_item_on_failed(_Result(failed, _Named("dev"), _Task("Move it")))
    run = run_record.read(record.path)
    assert run.downtimes == [("dev", "registry", 4.26), ("dev", "deploy", 2.0)]
    assert run.failures == [("dev", "Move it", "It is wrong")]
    assert SECRET not in record.path.read_text()
    assert "registry 4.3 s" in run_index.page([run], [], tmp_path / "reports")


def test_the_digest_of_an_inventory_changes_with_every_file_of_it(tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    hosts, variables = tmp_path / "hosts.yml", tmp_path / "group_vars" / "all.yml"
    hosts.write_text("all:")
    variables.write_text("a: 1")
    digests = {run_record.digest_of_inventory([str(hosts)]), run_record.digest_of_inventory(["one,two,"])}
    variables.write_text("a: 2")
    digests.add(run_record.digest_of_inventory([str(hosts)]))
    hosts.write_text("all: {}")
    digests.add(run_record.digest_of_inventory([str(hosts)]))
    digests.add(run_record.digest_of_inventory([str(tmp_path)]))
    assert len(digests) == 5
    assert run_record.digest_of_inventory([str(hosts)]) in digests
