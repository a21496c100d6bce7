"""What all values of a column have in common, counted by SQLite itself: memory stays flat however many there are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..sqlite.tables import quote_name

_LOWER_UUID = "-".join("[0-9a-f]" * length for length in (8, 4, 4, 4, 12))
_UPPER_UUID = "-".join("[0-9A-F]" * length for length in (8, 4, 4, 4, 12))
_DAY = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
# What passwords, keys and tokens look like: bcrypt, argon2 and their like, PEM, JWT, keys of well-known services.
_SECRET_FORMS = ("$2[aby]$*", "$argon2*", "$scrypt$*", "$pbkdf2*", "-----BEGIN *", "eyJ*.eyJ*.*", "sk[-_]*", "gh[ps]_*")
# Columns that one query looks at: SQLite bounds how many results it may have.
_AT_ONCE = 20

# Figures of Profile as SQL over the value {0}.
_TEXT = "typeof({0}) = 'text'"
_OF_ALL = {
    "nulls": "sum({0} IS NULL)",
    "integers": "sum(typeof({0}) = 'integer')",
    "reals": "sum(typeof({0}) = 'real')",
    "texts": f"sum({_TEXT})",
    "blobs": "sum(typeof({0}) = 'blob')",
    "smallest": "min(CASE typeof({0}) WHEN 'integer' THEN {0} END)",
    "largest": "max(CASE typeof({0}) WHEN 'integer' THEN {0} END)",
    "zeros_and_ones": "sum(typeof({0}) = 'integer' AND {0} IN (0, 1))",
    "most_bytes": "max(CASE WHEN typeof({0}) IN ('text', 'blob') THEN length(CAST({0} AS BLOB)) END)",
}
# Asked only of columns that hold texts.
_OF_TEXTS = {
    "lower_uuids": f"sum({_TEXT} AND {{0}} GLOB '{_LOWER_UUID}')",
    "upper_uuids": f"sum({_TEXT} AND {{0}} GLOB '{_UPPER_UUID}')",
    # Objects and lists alone: any number is JSON too.
    "json_texts": f"sum({_TEXT} AND {{0}} GLOB '[[{{{{]*' AND json_valid({{0}}))",
    "days": f"sum({_TEXT} AND {{0}} GLOB '{_DAY}')",
    "times": f"sum({_TEXT} AND {{0}} GLOB '{_DAY}[ T][0-9][0-9]:[0-9][0-9]*')",
    "zones": f"sum({_TEXT} AND {{0}} GLOB '{_DAY}[ T]*[-+][0-9][0-9]*')",
    "shortest": f"min(CASE WHEN {_TEXT} THEN length({{0}}) END)",
    "longest": f"max(CASE WHEN {_TEXT} THEN length({{0}}) END)",
    "first_mark": f"min(CASE WHEN {_TEXT} THEN substr({{0}}, 11, 1) END)",
    "last_mark": f"max(CASE WHEN {_TEXT} THEN substr({{0}}, 11, 1) END)",
    "with_nul": f"sum({_TEXT} AND instr(CAST({{0}} AS BLOB), x'00') > 0)",
    "beyond_ascii": f"sum({_TEXT} AND {{0}} GLOB ('*[^' || char(1) || '-' || char(127) || ']*'))",
    "like_numbers": f"sum({_TEXT} AND ({{0}} NOT GLOB '*[^-+.0-9e]*' OR {{0}} IN ('inf', '-inf'))"
    f" AND {{0}} NOT GLOB '{_DAY}')",
    "like_secrets": "sum(" + " OR ".join(f"{{0}} GLOB '{form}'" for form in _SECRET_FORMS) + ")",
}


@dataclass(frozen=True)
class Profile:
    """What was counted of one column, or of several that hold the same keys.

    :param nulls: how many values are NULL; likewise ``integers``, ``reals``, ``texts`` and ``blobs`` by storage class.
    :param smallest: of the whole numbers, None without any; likewise ``largest``.
    :param zeros_and_ones: whole numbers that are 0 or 1.
    :param json_texts: texts that are an object or a list of JSON to SQLite.
    :param days: texts that look like ``2025-12-31``; ``times`` are those with a time of day behind it, and ``zones``
        those of them with an offset.
    :param shortest: characters of the shortest text, None without any; likewise ``longest``.
    :param first_mark: the smallest eleventh character of any text, ``last_mark`` the largest.
    :param most_bytes: of the longest text or blob.
    :param with_nul: texts that hold U+0000.
    :param beyond_ascii: texts with other characters than ASCII's.
    :param like_numbers: texts that may be the text of a number.
    :param like_secrets: texts that have the form of a password's hash, a key or a token.
    """

    nulls: int = 0
    integers: int = 0
    reals: int = 0
    texts: int = 0
    blobs: int = 0
    smallest: int | None = None
    largest: int | None = None
    zeros_and_ones: int = 0
    lower_uuids: int = 0
    upper_uuids: int = 0
    json_texts: int = 0
    days: int = 0
    times: int = 0
    zones: int = 0
    shortest: int | None = None
    longest: int | None = None
    first_mark: str | None = None
    last_mark: str | None = None
    most_bytes: int | None = None
    with_nul: int = 0
    beyond_ascii: int = 0
    like_numbers: int = 0
    like_secrets: int = 0

    @property
    def values(self) -> int:
        """Return how many values are not NULL."""
        return self.integers + self.reals + self.texts + self.blobs

    @property
    def one_form(self) -> bool:
        """Return whether all texts are times of one form, so that two different ones are two moments."""
        return self.shortest == self.longest and self.first_mark == self.last_mark and not self.zones


_SMALLEST = ("smallest", "shortest", "first_mark")
_LARGEST = ("largest", "longest", "last_mark", "most_bytes")


def read_profiles(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> list[Profile]:
    """Return the profile of each column of a table; one scan looks at up to twenty columns."""
    found = dict(zip(columns, _count(connection, table, columns, _OF_ALL), strict=True))
    with_texts = [column for column in columns if found[column]["texts"]]
    for column, figures in zip(with_texts, _count(connection, table, with_texts, _OF_TEXTS), strict=True):
        found[column].update(figures)
    return [Profile(**found[column]) for column in columns]


def _count(
    connection: sqlite3.Connection, table: str, columns: Sequence[str], figures: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield some figures of each column."""
    for start in range(0, len(columns), _AT_ONCE):
        part = columns[start : start + _AT_ONCE]
        asked = [figure.format(quote_name(name)) for name in part for figure in figures.values()]
        found = connection.execute(f"SELECT {', '.join(asked)} FROM {quote_name(table)}").fetchone()  # noqa: S608 (quoted)
        for position in range(len(part)):
            values = found[position * len(figures) : (position + 1) * len(figures)]
            # A sum over no rows is NULL.
            yield {
                name: 0 if value is None and name not in _SMALLEST + _LARGEST else value
                for name, value in zip(figures, values, strict=True)
            }


def merged(profiles: Iterable[Profile]) -> Profile:
    """Return the profile of several columns taken together."""
    every = list(profiles)
    result: dict[str, Any] = {}
    for entry in fields(Profile):
        found = [getattr(profile, entry.name) for profile in every]
        known = [value for value in found if value is not None]
        if entry.name in _SMALLEST:
            result[entry.name] = min(known, default=None)
        elif entry.name in _LARGEST:
            result[entry.name] = max(known, default=None)
        else:
            result[entry.name] = sum(known)
    return Profile(**result)
