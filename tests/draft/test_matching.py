"""Names of the same thing in every spelling are found, and nothing is matched that is not certain."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.matching import match

# Singular and plural, as a person writes them.
NOUNS = {
    "account": "accounts", "address": "addresses", "alias": "aliases", "analysis": "analyses", "api": "apis",
    "batch": "batches", "bonus": "bonuses", "box": "boxes", "canvas": "canvases", "case": "cases",
    "category": "categories", "child": "children", "class": "classes", "country": "countries", "database": "databases",
    "day": "days", "expense": "expenses", "house": "houses", "id": "ids", "index": "indices", "invoice": "invoices",
    "issue": "issues", "key": "keys", "license": "licenses", "matrix": "matrices", "menu": "menus", "movie": "movies",
    "news": "news", "order": "orders", "person": "people", "process": "processes", "purchase": "purchases",
    "queue": "queues", "quiz": "quizzes", "reply": "replies", "series": "series", "status": "statuses", "tax": "taxes",
    "user": "users", "vertex": "vertices",
}  # fmt: skip
SPELLINGS: dict[str, Callable[[Sequence[str]], str]] = {
    "snake": lambda words: "_".join(words),
    "kebab": lambda words: "-".join(words),
    "camel": lambda words: words[0] + "".join(word.capitalize() for word in words[1:]),
    "pascal": lambda words: "".join(word.capitalize() for word in words),
    "constant": lambda words: "_".join(words).upper(),
    "flat": lambda words: "".join(words),
    "spaced": lambda words: " ".join(word.capitalize() for word in words),
}
THINGS = st.lists(
    st.lists(st.sampled_from(sorted(NOUNS)), min_size=1, max_size=3).map(tuple),
    min_size=1,
    max_size=8,
    unique_by="".join,
)


def spelt(words: tuple[str, ...], spelling: str, plural: bool) -> str:
    """Return a name in a spelling; its last word may be the plural."""
    last = NOUNS[words[-1]] if plural else words[-1]
    return SPELLINGS[spelling]([*words[:-1], last])


@given(THINGS, st.data())
def test_every_spelling_of_a_name_finds_its_own_and_no_other(
    things: list[tuple[str, ...]], data: st.DataObject
) -> None:
    how = st.tuples(st.sampled_from(sorted(SPELLINGS)), st.booleans())
    sources = {words: spelt(words, *data.draw(how)) for words in things}
    targets = {words: spelt(words, *data.draw(how)) for words in things}
    found = match(sources, targets)
    assert found.pairs == {words: words for words in things}
    assert not found.unsure
    assert found.unmatched == found.free == ()


@given(
    st.dictionaries(st.integers(), st.text(alphabet="aAsSeEiu_-1 ", max_size=5), max_size=8),
    st.dictionaries(st.integers(), st.text(alphabet="aAsSeEiu_-1 ", max_size=5), max_size=8),
    st.randoms(use_true_random=False),
)
def test_whatever_the_names_are_each_stands_in_one_place_and_their_order_is_no_matter(
    sources: dict[int, str], targets: dict[int, str], shuffle: random.Random
) -> None:
    found = match(sources, targets)
    places = [*found.pairs, *found.unsure, *found.unmatched]
    assert sorted(places) == sorted(sources)
    assert len(set(found.pairs.values())) == len(found.pairs)
    assert sorted([*found.pairs.values(), *found.free]) == sorted(targets)
    # A name that stands once on either side is its own, whatever else there is.
    for source, name in sources.items():
        theirs = [target for target, other in targets.items() if other == name]
        if list(sources.values()).count(name) == len(theirs) == 1:
            assert found.pairs[source] == theirs[0]
    for source, candidates in found.unsure.items():
        assert len(candidates) > 1 or len([name for name in found.unsure if candidates == found.unsure[name]]) > 1
        assert source not in found.pairs
    again = match(*(dict(shuffle.sample(list(names.items()), len(names))) for names in (sources, targets)))
    assert again.pairs == found.pairs
    assert {source: set(names) for source, names in again.unsure.items()} == {
        source: set(names) for source, names in found.unsure.items()
    }


@pytest.mark.parametrize(
    ("sources", "targets", "pairs", "unsure"),
    [
        ("user", "user users", {"user": "user"}, {}),
        ("userId user_id", "user_id", {"user_id": "user_id"}, {}),
        ("userId UserID", "user_id", {}, {"userId": ("user_id",), "UserID": ("user_id",)}),
        ("order", "Order ORDER", {}, {"order": ("Order", "ORDER")}),
        ("users", "accounts", {}, {}),
        ("_ -", "-", {"-": "-"}, {}),
        ("_users", "users", {}, {}),
        ("__old_users", "old_users _OldUsers", {}, {}),
        ("line_1_1", "line_11 line_1_10", {}, {}),
        ("order_1_2", "order_12", {}, {}),
        ("_order_1_2", "_Order-1-2", {"_order_1_2": "_Order-1-2"}, {}),
    ],
)
def test_what_is_not_certain_is_not_matched(
    sources: str, targets: str, pairs: dict[str, str], unsure: dict[str, tuple[str, ...]]
) -> None:
    found = match({name: name for name in sources.split()}, {name: name for name in targets.split()})
    assert (found.pairs, found.unsure) == (pairs, unsure)


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("user", "user", ""),
        ("user", "User", "without regard to case"),
        ("userId", "user_id", "without regard to how words are joined"),
        ("basis", "bases", "without regard to plural and singular"),
        ("new", "News", "without regard to plural and singular"),
    ],
)
def test_a_match_that_is_not_exact_says_what_was_disregarded(source: str, target: str, said: str) -> None:
    found = match({source: source}, {target: target})
    assert found.pairs == {source: target}
    assert found.disregarded == ({source: said} if said else {})
