"""What runs all checks: none is forgotten, none hangs for ever, and a failure is named."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import full_test_runs, processor_time, run_all_checks
from scripts.run_all_checks import CHECKS, Check, Outcome, Run, chosen

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def logs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_all_checks, "ROOT", tmp_path)
    monkeypatch.setattr(run_all_checks, "LOGS", tmp_path)


def python(name: str, code: str, after: str = "") -> Check:
    return Check(name, (sys.executable, "-c", code), after)


def problems(run: Run) -> dict[str, str]:
    """Let one worker run the checks, and return why each has failed."""
    run.work()
    return {outcome.check.name: outcome.problem for outcome in run.queue.outcomes}


def runs_tests_of(check: Check, path: Path) -> bool:
    """Return whether a check runs the tests of a file."""
    name = str(path.relative_to(ROOT))
    arguments = [argument for argument in check.command[1:] if argument.startswith(("tests", "--ignore="))]

    def is_below(argument: str) -> bool:
        place = argument.removeprefix("--ignore=")
        return name == place or name.startswith(f"{place}/")

    return any(is_below(argument) for argument in arguments if argument.startswith("tests")) and not any(
        is_below(argument) for argument in arguments if argument.startswith("--ignore=")
    )


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: str(path.name))
def test_every_test_belongs_to_one_check(path: Path) -> None:
    found = [check.name for check in CHECKS if check.command[0] == "pytest" and runs_tests_of(check, path)]
    assert len(found) == 1, found


# What a test, or what it has in common with others of its folder, says that needs the image of the test hosts.
NEEDS_A_HOST = re.compile(
    r"ThrowawayHost\(|molecule/test_host/build\.py|from \.host import|library: Library|either_estate: Estate"
)


def test_a_test_on_a_host_waits_for_the_image() -> None:
    waits = {run_all_checks.TEST_HOST_IMAGE, run_all_checks.READY_HOSTS}
    # What they look at is the program that makes the image; they make none.
    needing = [
        path
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.parent.name not in ("test_host", "checks") and NEEDS_A_HOST.search(path.read_text(encoding="utf-8"))
    ]
    assert len(needing) > 10
    early = [check for check in CHECKS if check.command[0] == "pytest" and check.after not in waits]
    assert [(str(path), check.name) for path in needing for check in early if runs_tests_of(check, path)] == []


def test_the_image_is_made_first_and_ready_hosts_from_it() -> None:
    image, ready = CHECKS[:2]
    assert (image.name, image.after) == (run_all_checks.TEST_HOST_IMAGE, "")
    assert (ready.name, ready.after) == (run_all_checks.READY_HOSTS, run_all_checks.TEST_HOST_IMAGE)
    assert all(check.after for check in CHECKS if check.name.endswith("scenario"))


def test_every_scenario_belongs_to_one_check() -> None:
    scenarios = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}
    by_molecule = [check.command[-1] for check in CHECKS if check.command[0] == "molecule"]
    by_pytest = [
        path.split("/")[1] for check in CHECKS for path in check.command if re.match("molecule/.*/tests$", path)
    ]
    assert sorted(by_molecule + by_pytest) == sorted(scenarios)


@pytest.mark.parametrize("has_time", [True, False])
def test_no_check_waits_for_one_that_is_none(has_time: bool) -> None:
    checks = chosen(has_time)
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert {check.after for check in checks} - {""} <= set(names)


def test_a_long_check_runs_only_where_there_is_time() -> None:
    assert set(chosen(has_time=True)) == set(CHECKS)
    left_out = set(CHECKS) - set(chosen(has_time=False))
    assert {check.name for check in left_out} == {
        "two hosts scenario",
        "three managers scenario",
        "under load scenario",
    }


def test_what_takes_longest_with_the_long_searches_begins_as_soon_as_it_may() -> None:
    assert chosen(has_time=False)[0].name == run_all_checks.TEST_HOST_IMAGE
    queue = run_all_checks.Queue(chosen(has_time=True))
    begun = []
    for _ in range(6):
        check = queue.take()
        assert check is not None
        begun.append(check)
        if check.name in (run_all_checks.TEST_HOST_IMAGE, run_all_checks.READY_HOSTS):
            queue.end(Outcome(check, "", 0.0, 1.0))
    assert [check.name for check in begun[:2]] == [run_all_checks.TEST_HOST_IMAGE, run_all_checks.READY_HOSTS]
    assert all(check.grows for check in begun[2:])


def test_a_check_that_hangs_is_ended_with_its_children_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_all_checks, "SECONDS_TO_END", 0.5)
    noted = tmp_path / "child"
    # It hears no request to end, and its child has a session of its own.
    code = (
        "import pathlib, signal, subprocess, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        f"child = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        f"pathlib.Path({str(noted)!r}).write_text(str(child.pid)); print('so far', flush=True); time.sleep(600)"
    )
    found = problems(Run((python("hangs", code), python("next", "")), 10.0, 15.0 / 60))
    assert found == {"hangs": "it was ended after 0 minutes", "next": ""}
    output = capsys.readouterr().out
    assert "===== hangs: the output =====\nso far" in output
    assert "hangs: FAILED (it was ended after 0 minutes)" in output
    child = Path(f"/proc/{noted.read_text()}/stat")
    deadline = time.monotonic() + 120
    # A process that has ended may wait for somebody to take note of it.
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_has_no_time_left_is_not_begun() -> None:
    found = problems(Run((python("first", "import time; time.sleep(1)"), python("late", "")), 0.5 / 60, 1.0))
    assert found == {
        "first": "it was ended after 0 minutes",
        "late": "it was not begun within 0 minutes",
    }


def test_what_waits_for_a_check_that_fails_fails_too_and_what_need_not_wait_is_run_before() -> None:
    checks = (python("needs", "", after="fails"), python("free", ""), python("fails", "raise SystemExit(3)"))
    found = problems(Run(checks, 10.0, 1.0))
    assert list(found) == ["free", "fails", "needs"]
    assert found == {"free": "", "fails": "exit code 3", "needs": "it was not begun, because this failed: fails"}


def test_the_minutes_and_the_summaries_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(
        (python("one", "print('===== 3 passed in 1.23s =====')"), python("two", "raise SystemExit(1)")), 10.0, 1.0
    )
    problems(run)
    output = capsys.readouterr().out
    assert "  3 passed in 1.23s\n" in output
    assert "two: FAILED (exit code 1)" in output
    lines = run_all_checks.table(run.queue.outcomes).splitlines()
    assert lines[0].split() == ["check", "began", "minutes", "CPU", "s"]
    assert {tuple(line.split()[4:]) for line in lines[1:] if line.startswith("two")} == {("FAILED",)}


def test_the_processor_time_of_a_check_is_that_of_its_children_too() -> None:
    work = "import time\nwhile time.process_time() < 0.5: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}], check=True)"
    run = Run((python("works", code), python("sleeps", "import time; time.sleep(0.6)")), 10.0, 1.0)
    assert set(problems(run).values()) == {""}
    found = {outcome.check.name: outcome.processor_seconds for outcome in run.queue.outcomes}
    assert found["works"] > 0.5
    assert found["works"] > found["sleeps"] > 0.0


def test_what_the_processors_did_is_told() -> None:
    outcome = Outcome(python("one", ""), "", 0.0, 60.0, 30.0)
    text = run_all_checks.told_of_processors([outcome], {"a-host": 10.4, "b-host": 20.0}, 80.0, 20.0)
    assert "worked 80 s and were idle 20% of the time: 30 s for the checks' own processes" in text
    assert "30 s in containers, 20 s for Docker" in text
    assert text.endswith("Containers, CPU s: b-host 20, a-host 10")


def test_the_seconds_of_a_machine_are_read_from_its_own_account() -> None:
    # user, nice, system, idle, iowait, irq, softirq, steal, guest
    busy, idle = processor_time.machine_seconds("cpu  100 20 30 400 50 6 7 8 99 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n")
    ticks = os.sysconf("SC_CLK_TCK")
    assert (busy, idle) == pytest.approx((171 / ticks, 450 / ticks))


def test_containers_that_come_and_go_are_counted_once(tmp_path: Path) -> None:
    def note(name: str, text: str) -> None:
        (tmp_path / "docker" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "docker" / name / "cpu.stat").write_text(text)

    note("a", "usage_usec 1000000\nuser_usec 1\n")
    with processor_time.ContainerTimes([tmp_path / "docker" / "*" / "cpu.stat"]) as containers:
        note("a", "usage_usec 3500000\nuser_usec 1\n")
        note("b", "usage_usec 500000\nuser_usec 1\n")
        containers.look()
        shutil.rmtree(tmp_path / "docker" / "b")
    assert containers.seconds == pytest.approx({"others": 3.0})


def failing(name: str, *failed: str) -> Outcome:
    """Return how a check of tests ended in which these failed, with its log."""
    check = Check(name, ("pytest", "--durations=15", "tests/a", "tests/b", "--ignore=tests/a/c"))
    lines = [f"FAILED {test} - AssertionError" for test in failed]
    run_all_checks.log_of(check).write_text("\n".join(["=== short test summary info ===", *lines, ""]))
    return Outcome(check, "exit code 1", 0.0, 1.0)


def test_files_with_failed_tests_are_run_once_more() -> None:
    (check,) = run_all_checks.second_tries(
        [
            failing(
                "some tests", "tests/a/test_x.py::test_1[a::b]", "tests/a/test_x.py::test_2", "tests/b/test_y.py::t"
            ),
            Outcome(python("fine", ""), "", 0.0, 1.0),
        ]
    )
    assert check.command == ("pytest", "--durations=15", "tests/a/test_x.py", "tests/b/test_y.py")
    assert check.name == "some tests, second try"
    # A session that ended before it could name a test is run as a whole, and so is what is no pytest.
    (check,) = run_all_checks.second_tries([failing("some tests")])
    assert check.command == ("pytest", "--durations=15", "tests/a", "tests/b", "--ignore=tests/a/c")


def test_what_waited_for_a_failed_check_waits_for_its_second_try() -> None:
    checks = (python("first", "raise SystemExit(1)"), python("second", "", after="first"))
    run = Run(checks, 10.0, 1.0)
    assert list(problems(run).values()).count("") == 0
    assert [check.after for check in run_all_checks.second_tries(run.queue.outcomes)] == ["", "first, second try"]


def test_faults_of_the_tree_are_not_tried_again() -> None:
    many = [failing(f"check {number}", "tests/a/test_x.py::t") for number in range(4)]
    assert run_all_checks.second_tries(many) == []
    assert len(run_all_checks.second_tries(many[:3])) == 3
    linters = Outcome(replace(python("linters", ""), fails_by_chance=False), "exit code 1", 0.0, 1.0)
    assert run_all_checks.second_tries([many[0], linters]) == []


def test_a_check_that_fails_twice_has_failed_and_one_that_passes_then_is_named(tmp_path: Path) -> None:
    chance = f"import pathlib; p = pathlib.Path({str(tmp_path / 'tried')!r}); t = p.exists(); p.touch(); exit(not t)"
    run = Run((python("always", "raise SystemExit(1)"), python("by chance", chance)), 10.0, 1.0)
    problems(run)
    second = Run(run_all_checks.second_tries(run.queue.outcomes), 10.0, 1.0, run.started)
    problems(second)
    failed, by_chance = run_all_checks.verdicts(run.queue.outcomes, second.queue.outcomes)
    assert (failed, [check.name for check in by_chance]) == (["always"], ["by chance"])


def test_full_runs_are_noted_and_their_age_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_test_runs, "RUNS", tmp_path / "runs.md")
    assert "not been noted yet" in full_test_runs.age()
    full_test_runs.note(61.6, [])
    full_test_runs.note(75.0, ["crash tests"])
    text = (tmp_path / "runs.md").read_text()
    assert text.startswith(full_test_runs.HEADING)
    assert text.count(" | 62 | passed |\n") == 1
    assert text.endswith(" | 75 | failed: crash tests |\n")
    assert "75 minutes, failed: crash tests." in full_test_runs.age()
