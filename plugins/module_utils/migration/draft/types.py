"""Which type of PostgreSQL a column gets: from its declared type, and from all of its values.

A type is chosen only if it holds every value there is. Where the engine reads a value in a way that SQL cannot say
(JSON, times, decimals), its own converter is asked for each value, so that the draft and the engine never disagree.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..core.errors import Problem
from ..core.estate import ColumnOptions
from ..engine.convert.refusals import Refused
from ..engine.convert.values import converter
from ..engine.plan.epoch_units import JULIAN_DAYS, epoch_units
from ..engine.plan.planner import KINDS, ColumnPlan
from ..sqlite.tables import SourceTable, quote_name
from . import expressions
from .profile import Profile

# A whole number below this leaves half of integer's range to grow into.
_SAFE_INTEGER = 2**30
# Doubles hold every whole number up to this one.
_EXACT_IN_DOUBLE = 2**53
_BOOLEAN_NAME = re.compile(
    r"(is|has|can|should|allow|enable|use|was|needs|requires)_.+|.+_(enabled|disabled|active|flag|verified|visible)"
    r"|(enabled|disabled|active|deleted|archived|hidden|visible|public|private|verified|locked|default|required|read|done"
    r"|completed|published|approved|confirmed|banned|blocked|suspended|revoked|is[A-Z].+|has[A-Z].+|can[A-Z].+"
    r"|.*[a-z](Enabled|Disabled|Active|Flag|Verified|Visible|Confirmed|Approved))\Z"
)
_TIME_NAME = re.compile(
    r"(.*_)?(at|time|timestamp|date|datetime|ts|on|expires|expiry|created|updated|modified|deleted|started|finished"
    r"|last_seen|seen|utc|since|until|epoch)(_utc|_ms|_ts)?\Z|.*[a-z](At|Time|Timestamp|Date|On)\Z"
)
_SECRET_NAME = re.compile(
    r"passw|pwd|passphrase|secret|token|api_?key|private_?key|access_?key|auth_?key|encrypt|credential|salt\Z|otp\b|otp_"
    r"|cookie|(\A|_)hash\Z|hash(ed)?_pass|session_?(id|key)\Z|\Apin\Z|webhook_?url",
    re.IGNORECASE,
)
_WITH_DIGITS = re.compile(r"(?:NUMERIC|DECIMAL)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)\s*\Z")


@dataclass(frozen=True)
class Choice:
    """The type that was chosen.

    :param sql: as it stands in CREATE TABLE.
    :param kind: what expressions may do with it, see :mod:`.expressions`.
    :param why: why, where the declared type alone does not say so; empty if it does.
    :param epoch_unit: of numbers in a time column.
    :param question: what a person has to decide about its values, and how; empty if there is nothing.
    :param policies: answers that would let all values pass, each as ``policy: answer``.
    """

    sql: str
    kind: str
    why: str = ""
    epoch_unit: str | None = None
    question: tuple[str, str] | None = None
    policies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a column stands: its table, and its names there.

    :param table: as the engine reads it.
    """

    table: SourceTable
    column: str


def is_secret(name: str, profile: Profile) -> bool:
    """Return whether a column looks as if its values were nobody's business: by its name, or by their form."""
    return bool(_SECRET_NAME.search(name)) or profile.like_secrets > 0


def choose(
    connection: sqlite3.Connection,
    places: Sequence[Place],
    declared: str,
    profile: Profile,
    is_key: bool,
    is_unique: bool,
    of_primary_keys: bool,
    of_row_ids: bool,
    days_hold_times: bool = False,
) -> Choice:
    """Return the type of a column, or of all columns that hold the same keys.

    :param places: the column first, then those that are tied to it by foreign keys.
    :param declared: its declared type.
    :param profile: of the values of all of them.
    :param is_key: whether it is part of a primary or a foreign key.
    :param is_unique: whether it is part of any key: two different values must stay two.
    :param of_primary_keys: whether each foreign key among them refers to a primary key of one column.
    :param of_row_ids: whether one of them is numbered by SQLite itself, and holds nothing but whole numbers.
    :param days_hold_times: whether other columns of the file that are declared DATE hold times of a day.
    """
    chooser = _Chooser(
        connection, places, declared.upper(), profile, is_key, is_unique, of_primary_keys, days_hold_times
    )
    if of_row_ids:
        return chooser.of_row_ids()
    return chooser.without_values() if not profile.values else chooser.from_values()


@dataclass(frozen=True)
class _Chooser:
    """Everything that a choice looks at."""

    connection: sqlite3.Connection
    places: Sequence[Place]
    declared: str
    profile: Profile
    is_key: bool
    is_unique: bool
    of_primary_keys: bool
    days_hold_times: bool

    @property
    def looked(self) -> str:
        """Return the words for how many values were looked at; a verb in the singular follows."""
        values = self.profile.values
        return "its one value" if values == 1 else f"each of its {values:,} values"

    def of_row_ids(self) -> Choice:
        """Return bigint, whatever stands in columns that refer to such numbers."""
        why = "" if "INT" in self.declared else "it holds the numbers that SQLite gives to rows of another table"
        if self._engine_takes("bigint"):
            return Choice("bigint", expressions.INTEGER, why)
        what = "it holds other values than whole numbers, and refers to a column of whole numbers"
        policies = ("unconvertible: set_null", "unconvertible: reject")
        question = (what, "Choose a policy in the mapping, or take the foreign key out and another type in the SQL")
        return Choice("bigint", expressions.INTEGER, what, None, question, policies)

    def without_values(self) -> Choice:
        """Return what the declared type says."""
        note = "no value to look at: the declared type decides"
        if self.days_hold_times and re.match(r"DATE\b", self.declared):
            why = "no value to look at: other columns that are declared DATE hold times"
            return Choice("timestamptz", expressions.TIME, why)
        for pattern, sql, kind in (
            (r"BOOL", "boolean", expressions.BOOLEAN),
            (r"\A(TIMESTAMP|DATETIME)", "timestamptz", expressions.TIME),
            (r"\ADATE\b", "date", expressions.DAY),
            (r"\AJSON", "jsonb", expressions.JSON),
            (r"\A(UUID|GUID)\b", "uuid", expressions.UUID),
        ):
            if re.search(pattern, self.declared) and not (self.is_unique and kind in ("boolean", "json")):
                return Choice(sql, kind, note)
        digits = self._digits()
        if digits and not self.is_key:
            return Choice(digits, expressions.NUMERIC)
        affinity = self.places[0].table.affinity(self.places[0].column)
        if affinity == "INTEGER" and not re.search("BOOL", self.declared):
            return Choice("bigint", expressions.INTEGER, note if self.declared not in ("INTEGER", "BIGINT") else "")
        if affinity == "REAL":
            return Choice("double precision", expressions.DOUBLE)
        if affinity == "BLOB" and self.declared:
            return Choice("bytea", expressions.BYTES)
        if affinity == "NUMERIC" and re.match("NUMERIC|DECIMAL", self.declared):
            return Choice("numeric", expressions.NUMERIC)
        return Choice("text", expressions.TEXT, "" if affinity == "TEXT" else f"{note}, and says nothing else")

    def from_values(self) -> Choice:
        """Return the first type that holds every value and that declaration, name or form speak for."""
        p = self.profile
        if p.integers == p.values:
            return self._of_integers()
        if p.blobs == p.values:
            why = "" if "BLOB" in self.declared or not self.declared else f"{self.looked} is a blob"
            return Choice("bytea", expressions.BYTES, why)
        if p.blobs:
            what = f"it holds {p.blobs:,} blobs beside {p.values - p.blobs:,} other values, and no type holds both"
            fix = "Say by 'computed' in the mapping what they are, or choose a policy there"
            return Choice(
                "text", expressions.TEXT, what, None, (what, fix), ("unconvertible: set_null", "unconvertible: reject")
            )
        if p.texts == 0:
            return self._of_numbers()
        return self._of_texts() if p.texts == p.values else self._of_texts_and_numbers()

    def _of_integers(self) -> Choice:
        """Return the type of a column of whole numbers."""
        p = self.profile
        low, high = p.smallest or 0, p.largest or 0
        if self.is_key:
            large = "" if "INT" in self.declared else f"{self.looked} is a whole number; a key is always a bigint"
            return Choice("bigint", expressions.INTEGER, large)
        if p.zeros_and_ones == p.values and not self.is_unique:
            named = bool(_BOOLEAN_NAME.match(self.places[0].column))
            if "BOOL" in self.declared or named:
                how = "declared" if "BOOL" in self.declared else "named"
                why = "" if how == "declared" else f"{self.looked} is 0 or 1, and it is named like a boolean"
                return Choice("boolean", expressions.BOOLEAN, why)
        time = self._of_epochs()
        if time is not None:
            return time
        note = self._time_note()
        digits = self._digits()
        if digits and self._engine_takes(digits):
            return Choice(digits, expressions.NUMERIC, note)
        if re.match("NUMERIC|DECIMAL", self.declared):
            return Choice("numeric", expressions.NUMERIC, note)
        if re.search("REAL|FLOA|DOUB", self.declared) and max(-low, high) <= _EXACT_IN_DOUBLE:
            return Choice("double precision", expressions.DOUBLE, note)
        if re.match(r"(BIGINT|INT8|UNSIGNED BIG)", self.declared):
            return Choice("bigint", expressions.INTEGER, note)
        if low > -_SAFE_INTEGER and high < _SAFE_INTEGER:
            small = f"{self.looked} is a whole number, and integer has room for larger ones"
            return Choice("integer", expressions.INTEGER, f"{small}; {note}" if note else small)
        return Choice(
            "bigint",
            expressions.INTEGER,
            note or f"integer is too small for the largest of its {p.values:,} values, or nearly",
        )

    def _of_numbers(self) -> Choice:
        """Return the type of a column of REALs, with or without whole numbers among them."""
        p = self.profile
        time = self._of_epochs()
        if time is not None:
            return time
        digits = self._digits()
        if digits and self._engine_takes(digits):
            return Choice(digits, expressions.NUMERIC)
        note = f"{digits} does not hold {self.looked}; " if digits else ""
        if re.match("NUMERIC|DECIMAL", self.declared) and self._engine_takes("numeric"):
            return Choice("numeric", expressions.NUMERIC, note.removesuffix("; "))
        if max(-(p.smallest or 0), p.largest or 0) > _EXACT_IN_DOUBLE:
            if self._engine_takes("numeric"):
                why = f"{note}a double does not hold each of the {p.integers:,} whole numbers exactly"
                return Choice("numeric", expressions.NUMERIC, why)
            what = "it holds infinity, and whole numbers that no double holds exactly"
            return Choice("text", expressions.TEXT, what)
        if not re.search("REAL|FLOA|DOUB", self.declared):
            note += f"{self.looked} is a number, and {p.reals:,} of them are floating"
        return Choice("double precision", expressions.DOUBLE, note.removesuffix("; "))

    def _of_texts(self) -> Choice:
        """Return the type of a column of texts alone."""
        p = self.profile
        # The engine remembers the spelling of ids in capitals by the primary key that they belong to.
        if p.values == p.lower_uuids or (p.values == p.upper_uuids and self.of_primary_keys):
            return Choice("uuid", expressions.UUID, f"{self.looked} is a UUID")
        zone = "times without an offset are UTC" if p.zones < p.values else "their offsets are not kept"
        if p.days == p.values and not re.search("TIME", self.declared) and self._engine_takes("date"):
            return Choice("date", expressions.DAY, "" if self.declared == "DATE" else f"{self.looked} is a day")
        if p.days + p.times == p.values and (p.one_form or not self.is_unique) and self._engine_takes("timestamptz"):
            return Choice("timestamptz", expressions.TIME, f"{self.looked} is a time; {zone}")
        time = self._of_mixed_times()
        if time is not None:
            return time
        # Among objects and lists a text or a number is JSON too; alone it is just a text or a number.
        as_json = p.json_texts > p.values // 2 or re.match("JSON", self.declared)
        if as_json and not self.is_unique and not p.with_nul and self._engine_takes("jsonb"):
            return Choice("jsonb", expressions.JSON, f"{self.looked} is JSON; the order of keys is not kept")
        digits = self._digits()
        if not self.is_unique and (digits or re.match("NUMERIC|DECIMAL", self.declared)):
            for sql in (digits, "numeric"):
                if sql and self._engine_takes(sql):
                    return Choice(sql, expressions.NUMERIC, f"{self.looked} is a text that is a decimal number")
        return self._text()

    def _of_texts_and_numbers(self) -> Choice:
        """Return the type of a column of texts and numbers: text, which holds both, unless all of them are times."""
        p = self.profile
        time = self._of_mixed_times()
        if time is not None:
            return time
        if re.match("JSON", self.declared) and not self.is_unique and self._engine_takes("jsonb"):
            return Choice("jsonb", expressions.JSON, f"{self.looked} is JSON")
        chosen = self._text()
        what = f"it holds {p.texts:,} texts beside {p.integers + p.reals:,} numbers"
        if not self.is_unique or not p.like_numbers:
            return Choice("text", expressions.TEXT, what, None, chosen.question, chosen.policies)
        what += f", and {p.like_numbers:,} of the texts look like numbers: two keys may be one text then"
        question = (what, "Choose the policy in the mapping, if the engine finds any such keys")
        return Choice("text", expressions.TEXT, what, None, question, (*chosen.policies, "duplicate: reject"))

    def _text(self) -> Choice:
        """Return ``text``, and why where that is not what the declaration says."""
        p = self.profile
        why = ""
        if not re.search("CHAR|CLOB|TEXT", self.declared):
            why = f"{self.looked} is a text of no other type" if self.declared and p.texts == p.values else ""
        elif limit := re.search(r"CHAR\w*\s*\((\d+)\)", self.declared):
            longest = f"the longest text has {p.longest or 0:,}"
            why = f"SQLite does not enforce the limit of {limit.group(1)} characters; {longest}"
        elif p.json_texts > p.values // 2:
            why = "not every value is JSON that jsonb holds"
        elif p.days + p.times > p.values // 2:
            why = "not every value is a time of a known form, or they are keys in several forms"
        if not p.with_nul:
            return Choice("text", expressions.TEXT, why)
        what = f"{p.with_nul:,} of its texts hold the character U+0000, which PostgreSQL's text cannot"
        policies = ("nul_character: remove", "nul_character: reject")
        return Choice("text", expressions.TEXT, what, None, (what, "Choose a policy in the mapping"), policies)

    # --- times as numbers -----------------------------------------------------------------------

    def _looks_like_time(self) -> bool:
        """Return whether declaration or name say that it holds times."""
        return bool(re.search("DATE|TIME", self.declared) or _TIME_NAME.match(self.places[0].column))

    def _of_epochs(self) -> Choice | None:
        """Return timestamptz if all numbers are times since 1970 in one unit, or Julian days; None if not."""
        if self.is_key or not self._looks_like_time():
            return None
        units = {self._epoch_unit(place)[0] for place in self.places}
        unit = units.pop() if len(units) == 1 else None
        if unit is None or (unit == JULIAN_DAYS and not re.search("DATE|TIME", self.declared)):
            return None
        if self.is_unique and unit == JULIAN_DAYS:
            return None  # they are rounded to the millisecond
        if not self._engine_takes("timestamptz", unit):
            return None
        rounded = ", rounded to the millisecond" if unit == JULIAN_DAYS else ""
        since = "Julian days" if unit == JULIAN_DAYS else f"{unit} since 1970"
        return Choice("timestamptz", expressions.TIME, f"{self.looked} reads as {since}{rounded}", unit)

    def _of_mixed_times(self) -> Choice | None:
        """Return timestamptz if some values are times as text and all others are in one unit; None if not."""
        p = self.profile
        numbers = p.integers + p.reals + p.like_numbers
        if self.is_unique or not numbers or p.days + p.times + numbers < p.values:
            return None
        if not p.days + p.times and not self._looks_like_time():
            return None
        units = {self._epoch_unit(place)[0] for place in self.places}
        unit = units.pop() if len(units) == 1 else None
        if unit in (None, JULIAN_DAYS) or not self._engine_takes("timestamptz", unit):
            return None
        why = f"{self.looked} is a time, {numbers:,} of them {unit} since 1970; times without an offset are UTC"
        return Choice("timestamptz", expressions.TIME, why, unit)

    def _time_note(self) -> str:
        """Return why numbers that are named like times are none, empty if they are not named so."""
        if self.is_key or not self._looks_like_time():
            return ""
        problems = [problem for place in self.places for problem in self._epoch_unit(place)[1]]
        if not problems:
            return ""
        # The question itself shows the first and the last number.
        hidden = is_secret(self.places[0].column, self.profile)
        return "it may be a time, and in which unit is not sure" if hidden else problems[0].what

    def _epoch_unit(self, place: Place) -> tuple[str | None, list[Problem]]:
        """Return the unit in which the engine reads the numbers of a column, and why it may not."""
        problems: list[Problem] = []
        plan = _plan(place.column, "timestamptz", None)
        units = epoch_units("", self.connection, place.table, [plan], problems)
        return units.get(place.column), problems

    # --- what the engine says -------------------------------------------------------------------

    def _digits(self) -> str | None:
        """Return ``numeric(p,s)`` if it is declared so."""
        match = _WITH_DIGITS.match(self.declared)
        if match is None:
            return None
        precision, scale = int(match.group(1)), int(match.group(2) or 0)
        return f"numeric({precision},{scale})" if 1 <= precision <= 1000 and scale <= precision else None

    def _engine_takes(self, sql: str, unit: str | None = None) -> bool:
        """Return whether the engine would take every value into a column of this type, without any policy."""
        for place in self.places:
            convert = converter(_plan(place.column, sql, unit), lambda _: None)
            for value in self._values(place):
                try:
                    convert(value)
                except Refused:
                    return False
        return True

    def _values(self, place: Place) -> Iterator[int | float | str | bytes]:
        """Yield each value of a column that is not NULL."""
        column = quote_name(place.column)
        query = f"SELECT {column} FROM {quote_name(place.table.name)} WHERE {column} IS NOT NULL"  # noqa: S608 (quoted)
        for (value,) in self.connection.execute(query):
            yield value


def _plan(column: str, sql: str, unit: str | None) -> ColumnPlan:
    """Return the plan that the engine would make for a column of this type."""
    name, _, digits = sql.partition("(")
    type_name = {"bigint": "int8"}.get(name, name)
    precision, scale = (int(part) for part in digits.rstrip(")").split(",")) if digits else (None, None)
    if type_name == "timestamptz":
        scale = 6
    options = ColumnOptions(column, column, epoch_unit=unit)
    return ColumnPlan(
        column,
        column,
        KINDS[type_name],
        type_name,
        sql,
        False,
        options,
        precision=precision,
        scale=scale,
        epoch_unit=unit,
    )
