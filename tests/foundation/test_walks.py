"""The three walks of docs/find_your_way.md lead where the page says: each step is taken here as a reader takes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from scripts import list_messages
from tests.conftest import PROJECT

from .test_links import FENCED, LINK
from .test_promises import read_promises

PAGE = PROJECT / "docs" / "find_your_way.md"
STEP = re.compile(r"^\d\. (?:.+\n?)(?:   .+\n?)*", re.MULTILINE)
GREP = re.compile(r"`git grep (?:-i )?(?:'([^`]*?)'|\"([^`]*?)\") (plugins|tests(?: molecule)?)`")
# So many words one after the other are enough to find a message by.
FEWEST_WORDS = 3


def walk(title: str) -> list[str]:
    """Return the steps of a walk."""
    section = PAGE.read_text(encoding="utf-8").partition(f"### {title}\n")[2].partition("\n### ")[0]
    return [" ".join(step.split()) for step in STEP.findall(section)]


def links_of(text: str, page: Path) -> list[tuple[str, Path]]:
    """Return the text and the target, without its anchor, of each link to a file."""
    found = LINK.findall(FENCED.sub("", text))
    return [(shown, (page.parent / to.partition("#")[0]).resolve()) for shown, to in found if "://" not in to]


@cache
def text_of(*directories: str) -> str:
    """Return the text of all Python files of some directories but of this one, in small letters."""
    files = [path for name in directories for path in sorted((PROJECT / name).rglob("*.py")) if path != Path(__file__)]
    return "\n".join(path.read_text(encoding="utf-8").lower() for path in files)


def grepped(words: str, *directories: str) -> bool:
    """Return whether ``git grep -i`` finds words there, which stand in one line."""
    return words.lower() in text_of(*directories)


def searches(steps: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the words and the directories of each ``git grep`` of a walk."""
    for step in steps:
        for single, double, directories in GREP.findall(step):
            yield single or double, directories.split()


def test_each_walk_has_three_steps() -> None:
    titles = re.findall(r"^### (From .+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {title: len(walk(title)) for title in titles} == dict.fromkeys(titles, 3)
    assert len(titles) == 3


def test_the_readme_leads_to_the_function_that_decides_a_conversion() -> None:
    first, second, third = walk("From the README to the function that decides how a value is converted")
    (_, readme), (_, role) = links_of(first, PAGE)
    assert readme == PROJECT / "README.md"
    assert role in [target for _, target in links_of(readme.read_text(encoding="utf-8"), readme)]
    types = role.read_text(encoding="utf-8").partition("\n## Types\n")[2].partition("\n## ")[0]
    _, function = links_of(second, PAGE)
    assert function[0] == "`converter`"
    assert function in links_of(types, role)
    assert links_of(third, PAGE)[0] == ("`_CONVERTERS`", function[1])
    # The function does look there.
    code = function[1].read_text(encoding="utf-8")
    assert "_CONVERTERS.get(column.kind" in code.partition("def converter(")[2].partition("\ndef ")[0]


def test_the_example_of_a_refusal_is_found() -> None:
    steps = walk("From a refusal to its test")
    found = list(searches(steps))
    assert [directories for _, directories in found] == [["plugins"], ["tests"]]
    assert all(grepped(words, *directories) for words, directories in found)
    (_, code), (_, test) = links_of(steps[1], PAGE)[0], links_of(steps[2], PAGE)[0]
    assert all(words in path.read_text(encoding="utf-8") for (words, _), path in zip(found, (code, test), strict=True))


def messages() -> set[str]:
    """Return all messages of docs/messages.md."""
    refused = {message for found in list_messages.refused_values().values() for message in found}
    return refused | {message for found in list_messages.other_problems().values() for message, _ in found}


def chances(message: str) -> Iterator[str]:
    """Yield what a reader can search for: words that stand one after the other, and are not put in by a run."""
    for piece in message.split(list_messages.PLACE):
        words = piece.strip(" ,.:;()").split()
        fewest = min(FEWEST_WORDS, max(len(words), 2))
        yield from (" ".join(words[start : start + fewest]) for start in range(len(words) - fewest + 1))


def test_every_message_is_found_in_a_test() -> None:
    unseen = {message for message in messages() if not any(grepped(words, "tests") for words in chances(message))}
    assert sorted(unseen) == []


def test_every_promise_is_found_in_a_test() -> None:
    (words, directories), *more = searches(walk("From a promise to its test"))
    assert not more
    ids = [promise for promise, _ in read_promises(PROJECT)]
    assert words in (f'"{promise}"' for promise in ids)
    assert [promise for promise in ids if not grepped(f'"{promise}"', *directories)] == []


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("holds …, not 12 or more", ["not 12 or", "12 or more"]),
        ("is no backup", ["is no backup"]),
        ("is refused: …", ["is refused"]),
        ("… refused", []),
    ],
)
def test_words_of_a_run_are_not_searched_for(message: str, words: list[str]) -> None:
    assert list(chances(message)) == words
