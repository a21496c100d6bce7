"""Finds what the same thing is called on the other side: a table or a column in another spelling.

Names are compared exactly first, then without regard to case, then as words however they are joined (``userId``,
``user_id``), and at last without regard to plural and singular. What is certain by an earlier comparison is no question
in a later one. Where a comparison finds more than one, a person is asked. What begins a name (``_users``) and what
parts two numbers (``line_1_1``) is never left out: it tells one thing from another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

Source = TypeVar("Source", bound=Hashable)
Target = TypeVar("Target", bound=Hashable)

_SEPARATORS = re.compile(r"[\W_]+")
# What the comparison by plurals does not look at, as it is told.
PLURAL = "without regard to plural and singular"
# Plurals that no rule makes, by how they end.
_IRREGULAR = {
    "people": "person",
    "children": "child",
    "women": "woman",
    "indices": "index",
    "matrices": "matrix",
    "vertices": "vertex",
    "quizzes": "quiz",
}


@dataclass(frozen=True)
class Matches(Generic[Source, Target]):
    """What belongs together.

    :param pairs: each source with its target; no target stands here twice.
    :param disregarded: of pairs whose names are not the same, what the comparison that found them did not look at.
    :param unsure: sources that could belong to each of several targets, or whose target others could have as well.
    :param unmatched: sources without any.
    :param free: targets that no source belongs to for certain.
    """

    pairs: Mapping[Source, Target]
    disregarded: Mapping[Source, str]
    unsure: Mapping[Source, tuple[Target, ...]]
    unmatched: tuple[Source, ...]
    free: tuple[Target, ...]


def match(sources: Mapping[Source, str], targets: Mapping[Target, str]) -> Matches[Source, Target]:
    """Return what belongs together, whatever the order of the names is.

    :param sources: what is looked for, each with its name.
    :param targets: what there is, each with its name.
    """
    open_sources, open_targets = dict(sources), dict(targets)
    pairs: dict[Source, Target] = {}
    disregarded: dict[Source, str] = {}
    unsure: dict[Source, tuple[Target, ...]] = {}
    for form, said in _FORMS:
        sources_of, targets_of = _by_form(open_sources, form), _by_form(open_targets, form)
        for name in sources_of.keys() & targets_of.keys():
            ours, theirs = sources_of[name], targets_of[name]
            if len(ours) == len(theirs) == 1:
                pairs[ours[0]] = theirs[0]
                if said:
                    disregarded[ours[0]] = said
            else:
                unsure.update(dict.fromkeys(ours, tuple(theirs)))
            for source in ours:
                del open_sources[source]
            for target in theirs:
                del open_targets[target]
    taken = set(pairs.values())
    return Matches(
        {source: pairs[source] for source in sources if source in pairs},
        {source: disregarded[source] for source in sources if source in disregarded},
        {source: unsure[source] for source in sources if source in unsure},
        tuple(open_sources),
        tuple(target for target in targets if target not in taken),
    )


def _by_form(names: Mapping[Source, str], form: Callable[[str], str]) -> dict[str, list[Source]]:
    """Return what has the same form of its name."""
    result: dict[str, list[Source]] = {}
    for key, name in names.items():
        result.setdefault(form(name), []).append(key)
    return result


def _joined(name: str) -> str:
    """Return a name without regard to case and to what joins its words."""
    return _SEPARATORS.sub(_kept_of_separator, name).casefold()


def _kept_of_separator(found: re.Match[str]) -> str:
    """Return what stays of the signs between two words: all at the begin of a name, one sign between two numbers."""
    name, start, end = found.string, found.start(), found.end()
    if not start:
        return found[0]
    return "_" if name[start - 1].isdigit() and name[end : end + 1].isdigit() else ""


def stem(name: str) -> str:
    """Return what a name and its plural have in common; it need be no word."""
    name = _joined(name)
    for plural, singular in _IRREGULAR.items():
        if name.endswith(plural):
            return name.removesuffix(plural) + singular
    if name.endswith("sis"):  # analysis, analyses
        name = name.removesuffix("sis") + "se"
    shorter = _without_s(name)
    if shorter.endswith("ie"):  # category, categories; movie, movies
        return shorter.removesuffix("ie") + "y"
    # address, addresses; house, houses; status, statuses
    return _without_s(shorter.removesuffix("e")) or name


def _without_s(name: str) -> str:
    """Return a name without the s of a plural, or of a word that only looks like one."""
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


# The comparisons, each with what it does not look at.
_FORMS: tuple[tuple[Callable[[str], str], str], ...] = (
    (str, ""),
    (str.casefold, "without regard to case"),
    (_joined, "without regard to how words are joined"),
    (stem, PLURAL),
)
