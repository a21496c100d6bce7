"""The page that lists, for each place where root works in a directory of others, the test of each attack."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PAGE = PROJECT / "docs" / "attacks_on_files.md"
ATTACKS = [
    "symbolic link",
    "hard link",
    "exchanged file",
    "exchanged directory",
    "FIFO",
    "huge file",
    "file that never ends",
]


def rows_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield place, attack and answer of each row of a page."""
    for section in text.split("\n## ")[1:]:
        place = section.partition("\n")[0]
        for attack, answer in re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE):
            if not attack.startswith("attack"):
                yield place, attack, answer


def problems_of(text: str) -> list[str]:
    """Return what a page lacks: an attack, or the test that an answer names."""
    rows = list(rows_of(text))
    found = []
    for place in dict.fromkeys(place for place, _, _ in rows):
        if [attack for name, attack, _ in rows if name == place] != ATTACKS:
            found.append(f"{place}: not every attack, in order")
    for place, attack, answer in rows:
        named = re.fullmatch(r"`(tests/[\w/]+\.py)::(\w+)`", answer)
        if named and named[2] not in known_tests(PROJECT / named[1]):
            found.append(f"{place}, {attack}: there is no {named[0]}")
        if not named and not re.fullmatch(r"– [A-Z`].+\.", answer):
            found.append(f"{place}, {attack}: neither a test nor a reason")
    return found


@cache
def known_tests(path: Path) -> set[str]:
    """Return the names of the tests of a file, nothing if there is none."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return set(re.findall(r"^ *def (test_\w+)\(", text, re.MULTILINE))


def test_every_place_has_an_answer_to_every_attack() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert problems_of(text) == []
    # Places that the page must not lose.
    places = " ".join(dict.fromkeys(place for place, _, _ in rows_of(text)))
    for word in (".env", "source", "journals", "aliases", "ecosystem", "dump.pm2", "package.json", "node_modules"):
        assert word in places
    for word in ("directory of a service", "legacy", "EnvironmentFile", "units of systemd", "compose", "discovery"):
        assert word in places


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"test_settings_with_a_further_name_are_refused", "test_gone", "there is no"),
        (r"tests/cutover/test_systemd\.py", "tests/cutover/test_gone.py", "there is no"),
        (r"\| FIFO \|.*\n", "", "not every attack"),
        (r"– A directory has no hard links\.", "–", "neither a test nor a reason"),
    ],
)
def test_what_the_page_lacks_is_found(old: str, new: str, said: str) -> None:
    text, number = re.subn(old, new, PAGE.read_text(encoding="utf-8"), count=1)
    assert number == 1
    assert any(said in problem for problem in problems_of(text))
