"""What a person sees of a run: the console callback, run by ansible-playbook and by ansible-runner."""

from __future__ import annotations

import argparse
import copy
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import ansible_runner
import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import messages
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.status_line import StatusLine
from tests.conftest import PROJECT

from .support import COLUMNS, CONSOLE, SECRET, Bench, Load, Outcome, rendered

FAILING: list[dict[str, Any]] = [
    {
        "name": "Look",
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"name": "Nothing to do here", "ansible.builtin.meta": "noop"},
            {"name": "Skip", "ansible.builtin.debug": {"msg": "never"}, "when": False},
        ],
    },
    {
        "name": "Move the rows",
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"name": "Look only", "answer": {"other": SECRET}},
            {
                "name": "files | Write it",
                "ansible.builtin.copy": {
                    "content": "line {{ inventory_hostname }}\n\x1b[2J\n",
                    "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.txt",
                    "mode": "0600",
                },
            },
            {
                "name": "Write what nobody may see",
                "answer": {"changed": True, "diff": {"before": "", "after": f"{SECRET}\n"}},
                "no_log": True,
            },
            {"name": "Say a secret", "ansible.builtin.debug": {"msg": SECRET}, "no_log": True},
            {"name": "Show a variable", "ansible.builtin.debug": {"var": "secret"}, "vars": {"secret": SECRET}},
            {"name": "Warn", "tell": {"warning": "Look at {{ inventory_hostname }}.\x1b[2K"}},
            {
                "name": "Say more",
                "ansible.builtin.debug": {"msg": "Next: {{ item }}\n\n  and \"more\"\n"},
                "loop": ["this", "that"],
            },
            {
                "name": "Say it again",
                "ansible.builtin.debug": {"msg": ["Next: this", "A last word"]},
                "when": "inventory_hostname == 'one'",
            },
            {
                "name": "Fail with a secret",
                "answer": {"error": SECRET},
                "no_log": True,
                "ignore_errors": True,
                "when": "inventory_hostname == 'one'",
            },
            {
                "name": "Fail in a loop",
                "answer": {"error": "{{ item }} is wrong", "other": SECRET},
                "loop": ["a", "b"],
                "ignore_errors": True,
                "when": "inventory_hostname == 'one'",
            },
            {
                "name": "Check it",
                "tell": {"error": "It's \x1b[31mwrong\x1b[0m:\n  - \"two\" things\n", "other": SECRET},
                "when": "inventory_hostname == 'two'",
            },
        ],
    },
]  # fmt: skip

LOADING = [
    {
        "name": "Load the rows",
        "hosts": "one",
        "gather_facts": False,
        "tasks": [
            {"name": "Say it", "ansible.builtin.debug": {"msg": "It begins"}},
            {"name": "Load", "slow": {}},
        ],
    }
]
SMALL = [
    {
        "name": "Say it",
        "hosts": "one",
        "gather_facts": False,
        "tasks": [
            {"name": "Say it", "ansible.builtin.debug": {"msg": "Hello"}},
            {"name": "Skip", "ansible.builtin.debug": {"msg": "Hello"}, "when": False},
            {"name": "Change", "ansible.builtin.debug": {"msg": "Changed"}, "changed_when": True},
            {"name": "Fail", "ansible.builtin.fail": {"msg": "Enough"}},
        ],
    }
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, load: Load) -> Bench:
    """A place for the runs of this file."""
    return Bench(tmp_path_factory.mktemp("bench"), load)


@pytest.fixture(scope="module")
def failed(bench: Bench) -> Outcome:
    """A run on two hosts that changes something and fails, in a pipe."""
    return bench.run(FAILING, "--diff")


@pytest.fixture(scope="module")
def shown(bench: Bench) -> Outcome:
    """A run on a terminal that shows progress."""
    return bench.run_in_terminal(LOADING)


@pytest.mark.promise("run-readable")
def test_only_what_changed_or_is_told_takes_a_line(failed: Outcome) -> None:
    of_one = [line for line in failed.lines if line.startswith("  one: ")]
    assert [re.sub(r"\(\d+ s\)", "", line).rstrip() for line in of_one] == [
        "  one: changed: Write it",
        "  one: changed: Write what nobody may see",
        "  one: Next: this",
        '  one:   and "more"',
        "  one: Next: that",
        '  one:   and "more"',
        "  one: Next: this",
        "  one: A last word",
        "  one: failed, and ignored: Fail with a secret",
        "  one: FAILED: Fail in a loop [a]",
        "  one: FAILED: Fail in a loop [b]",
    ]
    assert "Move the rows" in failed.lines
    # A play in which nothing was done has no heading.
    assert "Look" not in failed.lines
    assert re.search(r"^one: 2 changed, 2 ignored; \d+ tasks in \d+ s$", failed.output, re.MULTILINE)
    assert re.search(r"^two: FAILED, 2 changed; \d+ tasks in \d+ s$", failed.output, re.MULTILINE)


@pytest.mark.promise("run-readable")
def test_the_last_line_counts_what_a_failed_task_has_changed(bench: Bench) -> None:
    """Ansible counts none: a cutover group may have moved before a functional check, or a later group, has failed."""
    move = {
        "name": "Move them",
        "ansible.builtin.command": {"argv": ["sh", "-c", "exit {{ item }}"]},
        "loop": [0, 1],
        "changed_when": "item == 0",
        "when": "inventory_hostname == 'one'",
    }
    refuse = {"name": "Refuse", "answer": {"error": "No."}, "when": "inventory_hostname == 'two'"}
    run = bench.run([{"name": "Move", "hosts": "all", "gather_facts": False, "tasks": [move, refuse]}])
    assert re.search(r"^one: FAILED, 1 changed; 1 task in \d+ s$", run.output, re.MULTILINE), run.output
    # What the failed task had done by then it does not say.
    assert re.search(r"^two: FAILED, nothing else changed; 1 task in \d+ s$", run.output, re.MULTILINE), run.output
    page = (run.reports / "index.html").read_text()
    assert re.findall(r'<td class="number">(\d+)</td>', page) == ["1", "0"]


@pytest.mark.promise("run-readable")
def test_a_play_that_comes_again_takes_a_line_only_if_it_has_something_to_tell(bench: Bench) -> None:
    """As the check of the inventory does, with which each playbook begins."""
    look = {"name": "Look", "hosts": "one", "gather_facts": False, "tasks": [{"name": "Look", "answer": {}}]}
    move = {**look, "name": "Move"}
    tell = {**look, "tasks": [{"name": "Say it", "ansible.builtin.debug": {"msg": "Something"}}]}
    run = bench.run([look, move, look, tell, look])
    assert run.lines[:-1] == ["Look", "Move", "Look", "  one: Something"], run.output


@pytest.mark.promise("run-readable")
def test_a_failure_is_its_message_as_text(failed: Outcome) -> None:
    assert failed.status == 2
    (start,) = [number for number, line in enumerate(failed.lines) if line.startswith("  two: FAILED: Check it")]
    assert failed.lines[start + 1 : start + 4] == [
        "    It's ?[31mwrong?[0m:",
        '      - "two" things',
        failed.lines[start + 3],
    ]
    assert failed.lines[start + 3].startswith("one: ")
    assert [line for line in failed.lines if line.endswith(" is wrong")] == ["    a is wrong", "    b is wrong"]


def test_warnings_and_diffs_are_shown(failed: Outcome) -> None:
    assert failed.output.count("[WARNING]: Look at one.?[2K") == 1
    assert failed.output.count("[WARNING]: Look at two.") == 1
    for host in ("one", "two"):
        begin = next(
            number for number, line in enumerate(failed.lines) if line.startswith(f"  {host}: changed: Write it")
        )
        assert f"+line {host}" in failed.lines[begin : begin + 6]


@pytest.mark.promise("run-readable", "no-password-in-output")
def test_nothing_hidden_and_no_control_character_is_printed(failed: Outcome) -> None:
    assert SECRET not in failed.output
    assert f"    {messages.HIDDEN}" in failed.lines
    assert "\x1b" not in failed.output and "\r" not in failed.output


@pytest.mark.promise("progress-shown")
def test_without_a_terminal_each_progress_is_a_line(bench: Bench) -> None:
    output = bench.run(LOADING).output
    assert re.search(r"^  \[one\] app.items: 1 of 2 rows.* left$", output, re.MULTILINE)
    assert re.search(r"^  \[one\] app.items: 2 of 2 rows.* left$", output, re.MULTILINE)


@pytest.mark.promise("progress-shown")
def test_on_a_terminal_progress_is_written_over_in_place(shown: Outcome) -> None:
    assert shown.status == 0
    drawn = re.findall(r"\r\x1b\[K([^\r\n\x1b]*)", shown.output)
    assert any(re.match(r"  … Load, \d+ s  one: app.items: 1 of 2 rows", text) for text in drawn), drawn
    assert any(re.match(r"  … Load, \d+ s  one: app.items: 2 of 2 rows", text) for text in drawn), drawn
    assert max(map(len, drawn)) < COLUMNS
    heading, message, summary, rest = rendered(shown.output)
    assert heading.endswith("  Load the rows") and message == "  one: It begins" and rest == ""
    assert re.fullmatch(r"one: nothing changed; 2 tasks in \d+ s", summary)


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("abcdefghij", "abcdefghi"),
        ("表の名前は長い", "表の名前"),
        ("e\u0301" * 12, "e\u0301" * 9),
        ("a\x1b[2J", "a?[2J"),
    ],
)
def test_the_last_line_never_takes_more_than_one(text: str, drawn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a table may have letters that take two cells of a terminal, or none."""
    monkeypatch.setenv("COLUMNS", "10")
    terminal = io.StringIO()
    line = StatusLine(argparse.Namespace(display=terminal.write), terminal, lambda: text, lambda _host, _text: None)
    line._draw()
    line.close()
    assert terminal.getvalue() == f"\r\x1b[K{drawn}\r\x1b[K"


def test_v_and_the_variable_give_the_output_of_ansible(bench: Bench) -> None:
    # The console of ansible.cfg.
    own = bench.run(SMALL, "-v")
    default = bench.run(SMALL, "-v", ANSIBLE_STDOUT_CALLBACK="default")
    assert own.status == default.status == 2
    assert "PLAY RECAP" in default.output
    assert re.sub(r"play_\d+", "play", own.output) == re.sub(r"play_\d+", "play", default.output)


def test_a_dry_run_says_what_would_change_and_an_option_shows_what_does_not(bench: Bench) -> None:
    tasks = copy.deepcopy(FAILING[1]["tasks"][:2])
    tasks[1]["ansible.builtin.copy"]["dest"] = "{{ playbook_dir }}/dry.txt"
    plays = [{"name": "Dry", "hosts": "one", "gather_facts": False, "tasks": tasks}]
    run = bench.run(plays, "--check", "--diff", SQLITE_TO_POSTGRESQL_SHOW_UNCHANGED="true")
    assert run.status == 0
    assert "Dry (dry run)" in run.lines
    assert "  one: unchanged: Look only" in [re.sub(r" \(\d+ s\)$", "", line) for line in run.lines]
    assert "  one: would change: Write it" in [re.sub(r" \(\d+ s\)$", "", line) for line in run.lines]
    assert "+line one" in run.lines
    assert re.search(r"^one: 1 would change; 2 tasks in \d+ s$", run.output, re.MULTILINE)


def test_ansible_runner_wraps_it_and_gets_every_event(bench: Bench, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []

    def note(event: dict[str, Any]) -> bool:
        events.append(event)
        return True

    command, variables, _ = bench.prepare(SMALL, ANSIBLE_STDOUT_CALLBACK=CONSOLE, ANSIBLE_NOCOLOR="1")
    output, _, status = ansible_runner.run_command(
        command[0],
        command[1:],
        host_cwd=str(bench.directory),
        private_data_dir=str(tmp_path),
        envvars=variables,
        event_handler=note,
        quiet=True,
    )
    assert status == 2
    told = {event["event_data"]["task"]: event for event in events if event["event"].startswith("runner_on_")}
    assert told["Change"]["event_data"]["res"]["changed"] is True
    assert told["Fail"]["event"] == "runner_on_failed"
    lines = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line.rstrip()) for line in output.splitlines()]
    assert lines[:5] == ["Say it", "  one: Hello", "  one: Changed", "  one: FAILED: Fail", "    Enough"], output
    assert "\x1b" not in output


def test_what_a_change_of_our_modules_says_is_shown_at_once_and_of_others_not() -> None:
    sentence = "registry lives on PostgreSQL; its services were down for 4.1 seconds"
    ours = "swarm.sqlite_to_postgresql.cutover_group"
    assert messages.told_to_a_person(ours, {"changed": True, "msg": sentence}) == [sentence]
    assert messages.told_to_a_person(ours, {"changed": False, "msg": sentence}) == []
    assert messages.told_to_a_person(ours, {"changed": True, "msg": sentence, "_ansible_no_log": True}) == []
    assert messages.told_to_a_person("ansible.builtin.copy", {"changed": True, "msg": sentence}) == []


def test_ansible_doc_knows_the_callbacks() -> None:
    names = [f"swarm.sqlite_to_postgresql.{name}" for name in ("console", "run_record")]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-doc"), "--json", "-t", "callback", *names],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(told) == names
    assert all(callback["doc"]["options"] for callback in told.values())
