"""Each promise of tests/README.md has a test that carries its id, and each id that a test carries is a promise."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PROMISE = re.compile(r"- `([a-z0-9-]+)`: .")
PART_OF_A_ROLE = re.compile(r"#.*\(\.\./roles/(\w+)/README\.md\)")


def read_promises(project: Path) -> list[tuple[str, str]]:
    """Return the id of each promise, and the role under whose heading it stands, or ''."""
    promises, role = [], ""
    for line in (project / "tests" / "README.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = PART_OF_A_ROLE.match(line)
            role = heading[1] if heading else ""
        elif promise := PROMISE.match(line):
            promises.append((promise[1], role))
    return promises


def ids_in(markers: Sequence[ast.expr]) -> list[str]:
    """Return the ids that these markers carry. An id that is no plain text is a ``ValueError``.

    A long search carries none: `make test` leaves it out, and has to prove every promise by itself.
    """
    if any(ast.unparse(marker) == "pytest.mark.long_search" for marker in markers):
        return []
    return [
        str(ast.literal_eval(argument))
        for marker in markers
        if isinstance(marker, ast.Call) and ast.unparse(marker.func) == "pytest.mark.promise"
        for argument in marker.args
    ]


def carried_ids(body: Sequence[ast.stmt], inherited: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the name of each test in a module or class, and each id that it carries; ``pytestmark`` counts for all."""
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            markers = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            inherited = [*inherited, *ids_in(markers)]
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            for promise in [*inherited, *ids_in(node.decorator_list)]:
                yield node.name, promise
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from carried_ids(node.body, [*inherited, *ids_in(node.decorator_list)])


def read_tests(project: Path) -> dict[str, list[str]]:
    """Return the tests of each id that any test carries, as ``file::function``."""
    tests = defaultdict(list)
    for directory in ("tests", "molecule"):
        for path in sorted((project / directory).rglob("test_*.py")):
            for name, promise in carried_ids(ast.parse(path.read_text(encoding="utf-8")).body):
                tests[promise].append(f"{path.relative_to(project)}::{name}")
    return tests


def shortcomings(project: Path) -> list[str]:
    """Return what is wrong between the promises and the tests, one sentence each."""
    promises, tests = read_promises(project), read_tests(project)
    counts = Counter(promise for promise, _ in promises)
    roles = {role for _, role in promises}
    return [
        *(f"{promise} stands in tests/README.md {count} times" for promise, count in counts.items() if count > 1),
        *(f"no test carries {promise}" for promise in counts if promise not in tests),
        *(
            f"{', '.join(names)} carries {promise}, which tests/README.md does not promise"
            for promise, names in tests.items()
            if promise not in counts
        ),
        *(
            f"tests/README.md has no promise of the role {path.parent.name}"
            for path in sorted(project.glob("roles/*/README.md"))
            if path.parent.name not in roles
        ),
    ]


def test_every_promise_has_a_test() -> None:
    assert shortcomings(PROJECT) == []


README = """
# Promises
## The whole
- `kept`: Nothing is lost.
## The role: [baker](../roles/baker/README.md)
- `fresh`: Bread is fresh.
"""
TESTS = """
import pytest
@pytest.mark.parametrize("n", [1])
@pytest.mark.promise("kept")
def test_kept(n): ...
class TestBread:
    @pytest.mark.promise("fresh", "kept")
    def test_fresh(self): ...
"""


@pytest.mark.parametrize(
    ("readme", "tests", "found"),
    [
        (README, TESTS, []),
        (README, TESTS.replace('"fresh", ', ""), ["no test carries fresh"]),
        (README, TESTS.replace("def test_fresh", "def helper"), ["no test carries fresh"]),
        (README, TESTS.replace("    @pytest", "    # @pytest"), ["no test carries fresh"]),
        (
            README,
            f'pytestmark = pytest.mark.promise("fresh")\n{TESTS.replace(chr(34) + "fresh", chr(34) + "kept")}',
            [],
        ),
        (
            README,
            f'pytestmark = [pytest.mark.slow, pytest.mark.promise("late")]\n{TESTS}',
            ["carries late, which tests/README.md does not promise"],
        ),
        (
            README,
            TESTS.replace("    @pytest", "    @pytest.mark.long_search\n    @pytest"),
            ["no test carries fresh"],
        ),
        (f"{README}- `kept`: Once more.\n", TESTS, ["kept stands in tests/README.md 2 times"]),
        (README.replace("- `fresh`", "- fresh"), TESTS, ["test_bread.py::test_fresh carries fresh", "the role baker"]),
        (README.replace("baker", "butcher"), TESTS, ["tests/README.md has no promise of the role baker"]),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, readme: str, tests: str, found: list[str]) -> None:
    for name, content in (
        ("tests/README.md", readme),
        ("molecule/bakery/tests/test_bread.py", tests),
        ("roles/baker/README.md", "# baker"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    said = shortcomings(tmp_path)
    assert len(said) == len(found), said
    assert all(part in sentence for part, sentence in zip(found, said, strict=True)), said


def test_an_id_that_is_computed_is_refused() -> None:
    with pytest.raises(ValueError, match="malformed"):
        list(carried_ids(ast.parse("@pytest.mark.promise(NAME)\ndef test_it(): ...").body))


def test_the_option_selects_the_tests_that_carry_the_id() -> None:
    here = "tests/foundation/"
    promise, expected = next(
        (promise, here_only)
        for promise, tests in read_tests(PROJECT).items()
        if (here_only := {test for test in tests if test.startswith(here)})
    )
    # Theirs, and one whose tests carry none.
    files = sorted({test.partition("::")[0] for test in expected} | {f"{here}test_promises.py"})
    command = [sys.executable, "-m", "pytest", *files, f"--promise={promise}", "--collect-only", "-q"]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert {line.partition("[")[0] for line in printed.splitlines() if "::" in line} == expected
