"""The default of a column: a constant, the time of now, or a random id, as PostgreSQL says it."""

from __future__ import annotations

import json
import re

from . import expressions
from .expressions import Untranslatable
from .names import quote_text
from .types import Choice

_NOW_AS_NUMBER = {
    "seconds": ("strftime('%s','now')", "unixepoch()", "unixepoch('now')", "cast(strftime('%s','now')asinteger)"),
    "milliseconds": (
        "strftime('%s','now')*1000",
        "unixepoch()*1000",
        "unixepoch('now')*1000",
        "unixepoch('subsec')*1000",
        "cast((julianday('now')-2440587.5)*86400000asinteger)",
        "(julianday('now')-2440587.5)*86400000",
    ),
    "julian_days": ("julianday('now')", "julianday()"),
}
_NOW_AS_TEXT = {
    "current_timestamp": "YYYY-MM-DD HH24:MI:SS",
    "datetime('now')": "YYYY-MM-DD HH24:MI:SS",
    "datetime()": "YYYY-MM-DD HH24:MI:SS",
    "strftime('%y-%m-%d %h:%m:%s','now')": "YYYY-MM-DD HH24:MI:SS",
    "strftime('%y-%m-%dt%h:%m:%sz','now')": 'YYYY-MM-DD"T"HH24:MI:SS"Z"',
    "strftime('%y-%m-%dt%h:%m:%fz','now')": 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"',
    "strftime('%y-%m-%d %h:%m:%f','now')": "YYYY-MM-DD HH24:MI:SS.MS",
    "current_date": "YYYY-MM-DD",
    "date('now')": "YYYY-MM-DD",
    "date()": "YYYY-MM-DD",
    "current_time": "HH24:MI:SS",
    "time('now')": "HH24:MI:SS",
}
_RANDOM_HEX = re.compile(r"(lower\()?hex\(randomblob\(16\)\)\)?\Z")
_RANGES = {"integer": 2**31, "bigint": 2**63}


def default(text: str, choice: Choice) -> str | None:
    """Return a column's default for PostgreSQL, None for NULL, which needs none.

    :param text: the default as SQLite has it.
    :param choice: the type of the column.
    :raises Untranslatable: if it has no equal that we know of.
    """
    found = expressions.tokens(text)
    while len(found) > 1 and found[0].text == "(" and expressions.closing(found, 0) == len(found) - 1:
        found = found[1:-1]
    # Blanks only count within strings.
    plain = "".join(token.text if token.kind == "string" else token.text.lower() for token in found)
    plain = re.sub(r"'%[^']*'", lambda match: match.group().lower(), plain)
    if plain == "null":
        return None
    of_time = _of_now(plain, choice)
    if of_time is not None:
        return of_time
    if "randomblob" in plain:
        return _random(plain, choice)
    if not found:
        raise Untranslatable("it is empty")
    if len(found) == 1 and found[0].kind in ("name", "string"):
        return _constant(found[0].value, choice)
    if len(found) == 1 and found[0].kind == "word" and found[0].text.lower() not in ("true", "false"):
        return _constant(found[0].text, choice)
    value = expressions.translate(" ".join(token.text for token in found), {})
    if value.literal is not None and value.kind in (expressions.INTEGER, expressions.NUMERIC):
        return _constant(value.literal, choice)
    if value.kind == expressions.BOOLEAN and value.literal is not None:
        return _constant({"true": "1", "false": "0"}[value.literal], choice)
    if value.kind == choice.kind and value.kind in (expressions.BYTES, expressions.TEXT, expressions.INTEGER):
        return f"({value.sql})" if value.literal is None else value.sql
    raise Untranslatable(f"a {value.kind} is no default of {choice.sql}")


def _of_now(plain: str, choice: Choice) -> str | None:
    """Return the default of a column that gets the time of now, None if it is another one."""
    unit = next((name for name, forms in _NOW_AS_NUMBER.items() if plain in forms), None)
    form = _NOW_AS_TEXT.get(plain)
    if unit is None and form is None:
        return None
    if choice.kind == expressions.TIME and (unit == choice.epoch_unit or choice.epoch_unit is None or form):
        if form == "HH24:MI:SS":
            raise Untranslatable("a time of day is no moment")
        return "CURRENT_TIMESTAMP" if form != "YYYY-MM-DD" else "date_trunc('day', now(), 'UTC')"
    if choice.kind == expressions.DAY and form == "YYYY-MM-DD":
        return "(now() AT TIME ZONE 'UTC')::date"
    if choice.kind == expressions.TEXT and form is not None:
        return f"to_char(now() AT TIME ZONE 'UTC', {quote_text(form)})"
    if choice.sql == "bigint" and unit in ("seconds", "milliseconds"):
        factor = " * 1000" if unit == "milliseconds" else ""
        return f"floor(extract(epoch FROM now()){factor})::bigint"
    raise Untranslatable(f"the time of now in this form is no default of {choice.sql}")


def _random(plain: str, choice: Choice) -> str:
    """Return the default of a column that gets a random id."""
    if choice.kind == expressions.UUID:
        return "gen_random_uuid()"
    if choice.kind == expressions.TEXT and _RANDOM_HEX.match(plain):
        text = "replace(gen_random_uuid()::text, '-', '')"
        return text if plain.startswith("lower(") else f"upper({text})"
    if choice.kind == expressions.BYTES and plain == "randomblob(16)":
        return "uuid_send(gen_random_uuid())"
    raise Untranslatable("a random value of this form has no equal")


def _constant(value: str, choice: Choice) -> str:
    """Return a constant as the column's type writes it."""
    kind = choice.kind
    if "\x00" in value:
        raise Untranslatable("it holds U+0000")
    if kind == expressions.TEXT:
        return quote_text(value)
    if kind == expressions.BOOLEAN and value.lower() in ("0", "1", "true", "false"):
        return "true" if value.lower() in ("1", "true") else "false"
    if kind == expressions.INTEGER and re.fullmatch(r"-?\d+(\.0*)?", value):
        number = int(value.partition(".")[0])
        if -_RANGES[choice.sql] <= number < _RANGES[choice.sql]:
            return str(number)
    if kind in (expressions.DOUBLE, expressions.NUMERIC) and re.fullmatch(
        r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", value
    ):
        if not choice.sql.startswith("numeric("):
            return value
        precision, scale = (int(part) for part in choice.sql[8:-1].split(","))
        whole, _, fraction = value.lstrip("-").partition(".")
        if whole.isdigit() and len(whole.lstrip("0")) <= precision - scale and len(fraction.rstrip("0")) <= scale:
            return value
    if kind == expressions.JSON:
        try:
            json.loads(value, parse_constant=_no_json)
        except ValueError:
            raise Untranslatable("it is no JSON") from None
        if "\\u" not in value:
            return quote_text(value)
    if kind == expressions.DAY and re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])-([01][1-9]|10|2[0-8])", value):
        return quote_text(value)
    raise Untranslatable(f"{value!r} is no default of {choice.sql}")


def _no_json(name: str) -> None:
    """Refuse NaN and Infinity."""
    raise ValueError(name)
