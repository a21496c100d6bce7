"""The page of dangers on hosts of others: each command selects tests, and says whether `make test` runs them."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from tests.conftest import PROJECT

PAGE = PROJECT / "docs" / "safe_on_foreign_hosts.md"
COMMAND = re.compile(
    r"(?P<host>\*host\* )?`(?P<long>LONG_SEARCHES=1 )?(?:pytest )?"
    r"(?P<file>(?:tests|molecule)/[\w/]+\.py)(?:(?: -k |::)(?P<name>\w+))?`"
)


def rows_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield section, danger and the cell with its commands of each row of a page."""
    for section in text.split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for danger, shown in re.findall(r"^\| ([^|]+) \|[^|]+\| ([^|]+) \|$", section, re.MULTILINE):
            if danger != "danger":
                yield heading, danger, shown


@functools.cache
def all_tests_of(file: str) -> dict[str, bool]:
    """Return the tests of a file, each with whether it is a long search."""
    path = PROJECT / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    marks = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign)]
    is_long = any(mark.startswith("pytestmark") and "long_search" in mark for mark in marks)
    return {
        node.name: is_long or any("long_search" in ast.unparse(mark) for mark in node.decorator_list)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def selected(file: str, name: str) -> dict[str, bool]:
    """Return which tests of a file a command selects, each with whether it is a long search."""
    return {test: is_long for test, is_long in all_tests_of(file).items() if name in test}


def problems_of(text: str) -> list[str]:
    """Return what is wrong with the commands of a page."""
    found = []
    for section, danger, shown in rows_of(text):
        commands = list(COMMAND.finditer(shown))
        if COMMAND.sub("", shown).strip(" ;"):
            found.append(f"{danger} what shows it is not only commands")
        in_every_run = False
        for command in commands:
            tests = selected(command["file"], command["name"] or "")
            if not tests:
                found.append(f"{danger} {command['file']} has no test {command['name']}")
            elif all(tests.values()) != bool(command["long"]):
                found.append(f"{danger} {command['name']}: LONG_SEARCHES=1 stands there exactly before a long search")
            in_every_run |= not command["long"]
        if section == "Faults" and not in_every_run:
            found.append(f"{danger} nothing of it is in make test")
    return found


def test_every_command_selects_tests_and_says_whether_every_run_has_them() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert problems_of(text) == []
    assert len(list(rows_of(text))) > 60


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("-k test_no_limit_is_lowered", "-k test_gone", "has no test test_gone"),
        ("tests/postgres/test_distribution_host.py", "tests/postgres/test_gone.py", "has no test"),
        ("LONG_SEARCHES=1 ", "", "exactly before a long search"),
        ("`pytest tests/engine/", "`LONG_SEARCHES=1 pytest tests/engine/", "exactly before a long search"),
        (
            "`pytest tests/cutover/test_freeze.py -k test_a_hot_journal_is_rolled_back`",
            "`LONG_SEARCHES=1 pytest tests/postgres/test_distribution_host.py`",
            "in make test",
        ),
        ("`pytest tests/engine/", "`python tests/engine/", "not only commands"),
    ],
)
def test_a_command_that_shows_nothing_is_found(old: str, new: str, said: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert old in text
    assert any(said in problem for problem in problems_of(text.replace(old, new, 1)))
