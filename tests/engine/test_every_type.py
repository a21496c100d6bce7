"""Generated texts over every type of a server's ``pg_type`` go through the real engine.

A text arrives as it was, or in a form whose equality Python itself can tell, or it is refused, or a policy keeps it.
The types come from the catalog of each server that this machine has: the tests' own, and those that the system's
packages have installed, with every extension that they ship. `make test-all` adds PostgreSQL 15 to 18 with contrib,
whatever this machine has. A type that no column can have, or that no text can become, is left out with the reason, and
that reason is checked.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from psycopg2 import DatabaseError

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import POLICIES
from tests.conftest import PROGRAMS, Server, running_server

from .support import make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# Every server of this machine: the tests' own, and what the system's packages have installed.
# A package of the client alone has programs there too.
SERVERS = [PROGRAMS, *sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
# The same texts on every run.
SEED = 13
TEXTS_OF_A_TYPE = 6
# A type of each contrib module that makes one; an extension that cannot be made would leave its types out unsaid.
TYPES_OF_EXTENSIONS = {
    "citext": "citext", "cube": "cube", "hstore": "hstore", "intarray": "query_int", "isn": "isbn13",
    "ltree": "ltxtquery", "seg": "seg",
}  # fmt: skip
OWN_TYPES = """
CREATE TYPE mood AS ENUM ('sad', 'Happy', '');
CREATE TYPE pair AS (a integer, b text);
CREATE TYPE textrange AS RANGE (subtype = text);
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN price AS numeric(6, 2);
CREATE DOMAIN short_list AS short[];
CREATE DOMAIN cash AS money;
CREATE DOMAIN moment AS timestamptz(3);
"""
# What is tried in every type.
ODD = [
    "", " ", "x", "0", "-0", "1", "01", "+1", " 1", "1 ", "-1", "1.5", "1.50", "1e3", ".5", "5.", "0x1F", "1_000",
    "NaN", "Infinity", "-infinity", "null", "NULL", "t", "TRUE", "yes", "off", "now", "today", "epoch", "{}", "()",
    "[]", "empty", "{1,2}", "{ 1 , 2 }", "[0:1]={1,2}", "{NULL}", '{"NULL"}', "[1,2]", "(1,2)", "[2,1]", "[1,1)", "(,)",
    "a\\b", "it's", '"quoted"', "é", "e\u0301", "😀", "a b", "a\tb", "line\n", "\r", "\\x00ff", "\u00a0", "A",
    "a" * 70, "9" * 25, "0.1234567890123456789", "2147483648", "99999999999999999999999999999999999999",
]  # fmt: skip
# Texts that a type reads, typical ones and such as lie at its limits.
SEEDS: dict[str, list[str]] = {
    "bool": ["true", "f", "n", "on", "False"],
    "int2": ["32767", "-32768", "32768"],
    "int4": ["2147483647", "-2147483648"],
    "int8": ["9223372036854775807", "-9223372036854775808", "9223372036854775808"],
    "float4": ["0.1", "3.4e38", "1e-45", "16777217"],
    "float8": ["0.1", "1e308", "5e-324", "9007199254740993", "1e400"],
    "numeric": ["123.45", "123.456", "1e-20", "12345678901234567890.123", "1234567"],
    "money": ["$1.99", "1.999", "-$2,000.00", "(3.00)"],
    "date": ["2021-05-01", "2021-02-30", "0001-01-01", "9999-12-31", "May 1, 2021", "2021-05-01 00:00", "20210501"],
    "time": ["10:00", "10:00:00.123456", "10:00:00.1234567", "24:00:00", "10:00 PM", "23:59:60"],
    "timetz": ["10:00:00+02", "10:00:00.1234567+02", "10:00:00 Europe/Berlin", "10:00", "now"],
    "timestamp": ["2021-05-01 10:00:00", "2021-05-01T10:00:00.123456", "2021-05-01 10:00:00.1234567", "2021-05-01",
                  "2021-05-01 10:00:00+02", "10000-01-01", "1 BC"],
    "timestamptz": ["2021-05-01 10:00:00+02", "2021-05-01T10:00:00Z", "2021-05-01 10:00:00.1234567Z", "1620000000",
                    "2021-05-01 10:00:00 Europe/Berlin"],
    "interval": ["1 day 02:03:04", "90 minutes", "1.5 hours", "P1Y2M3DT4H", "-1 mon +2 days", "1.0000004 seconds",
                 "0.51 months", "1:30", "1 year 13 months", "1e-7 seconds", "25:00:00", "5 weeks ago"],
    "uuid": ["6fa459ea-ee8a-4ca4-894e-db77e160355e", "6FA459EAEE8A4CA4894EDB77E160355E",
             "{6fa459ea-ee8a-4ca4-894e-db77e160355e}"],
    "json": ['{"a": 1, "a": 2}', '[1, 2.50, "x"]', '"\\u0000"', "[1e999999]", '{"b":1,"a":2}', "[1,]"],
    "jsonb": ['{"a": 1, "a": 2}', '[1, 2.50, "x"]', '"\\u0000"', "[1e999999]", '{"b":1,"a":2}', "[1,]"],
    "jsonpath": ["$.a[*] ? (@ > 1)", "$", "strict $.a", "lax $.a"],
    "bytea": ["\\xdeadbeef", "\\000", "\\xDEADBEEF"],
    "inet": ["192.168.0.1", "192.168.0.1/32", "192.168.0.1/24", "::1", "2001:DB8::1/64", "10.1"],
    "cidr": ["192.168.0.0/24", "192.168.0.1/24", "10", "2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03", "08002b010203", "08-00-2B-01-02-03", "0800.2b01.0203"],
    "macaddr8": ["08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03"],
    "bit": ["101", "1", "1010", "x1F", "B101", "102"],
    "varbit": ["101", "1", "1010", "", "x1F"],
    "tsvector": ["'cat' 'the'", "the cat the dog", "a:1A b:2 a:3", "a:99999", "'it''s'"],
    "tsquery": ["'cat' & 'dog'", "cat & dog | bird", "!cat", "cat:*A", "a <2> b"],
    "xml": ["<a/>", "<a>1</a>", "no", "<a>"],
    "point": ["(1,2)", "1,2", "(0.12345678901234567890,2)"],
    "lseg": ["[(1,2),(3,4)]", "1,2,3,4"],
    "box": ["(3,4),(1,2)", "(1,2),(3,4)"],
    "path": ["((1,2),(3,4))", "[(1,2),(3,4)]"],
    "line": ["{1,-1,0}", "[(0,0),(1,1)]"],
    "polygon": ["((1,2),(3,4))", "1,2,3,4"],
    "circle": ["<(1,2),3>", "1,2,3"],
    "pg_lsn": ["16/B374D848", "0/0", "00000016/b374d848"],
    "pg_snapshot": ["10:20:10,14,15", "10:20:15,14"],
    "txid_snapshot": ["10:20:10,14,15"],
    "oid": ["4294967295", "-1", "4294967296"],
    "xid": ["4294967295", "-1"],
    "cid": ["4294967295", "-1"],
    "xid8": ["18446744073709551615", "-1"],
    "tid": ["(1,2)", "(0,65535)"],
    "int2vector": ["1 2 3", "1  2"],
    "oidvector": ["1 2 3", "-1"],
    "name": ["short", "n" * 63, "n" * 64, "é" * 40],
    "char": ["x", "xyz", "\\101"],
    "refcursor": ["cursor"],
    "aclitem": ["postgres=r/postgres", "=r/postgres", "PUBLIC=r/postgres"],
    "regclass": ["pg_class", "pg_catalog.pg_class", "1259", "-"],
    "regtype": ["integer", "int4", "23", "timestamp(3) with time zone"],
    "regproc": ["now", "pg_catalog.now"],
    "regprocedure": ["now()", "pg_catalog.now( )"],
    "regoper": ["||/"],
    "regoperator": ["+(integer,integer)"],
    "regrole": ["postgres"],
    "regnamespace": ["pg_catalog"],
    "regcollation": ['"C"', "pg_catalog.\"C\""],
    "regconfig": ["english", "pg_catalog.english"],
    "regdictionary": ["simple"],
    "mood": ["sad", "Happy", "happy"],
    "pair": ["(1,x)", '(01,"x y")', "(,)", "(1,)", '(1,"")'],
    "textrange": ["[a,b)", '["a","b"]', "[b,a]"],
    "citext": ["Word", "word"],
    "hstore": ['"a"=>"1"', "a=>1", "a=>1, a=>2", "b=>1,a=>NULL"],
    "ltree": ["top.a.b", "top.a..b"],
    "lquery": ["top.*{1,2}.a", "*"],
    "ltxtquery": ["a & b", "!a"],
    "cube": ["(1, 2, 3)", "1,2", "(1,2),(3,4)", "(1),(1)"],
    "seg": ["1 .. 2", "1..2", "1.50", "5(+-)0.3", "~1.5", "0.1234567890123"],
    "isbn": ["978-0-393-04002-9", "9780393040029", "0-393-04002-X", "0393040020"],
    "issn13": ["977-1436-45200-8", "9771436452008"],
    "ismn13": ["979-0-3452-4680-5", "9790345246805"],
    "isbn13": ["978-0-393-04002-9", "9780393040029"],
    "issn": ["1436-4522", "14364522"],
    "ean13": ["001-234567890-5", "0012345678905"],
    "upc": ["220356483481"],
    "ismn": ["M-3452-4680-5"],
    "query_int": ["1&2", "1 & (2|3)"],
    "gtrgm": [],
    "lo": ["4294967295", "-1"],
    "earth": ["(6378168, 0, 0)"],
    "vector": ["[1,2,3]", "[0.123456789,1]", "[1, 2]"],
    "halfvec": ["[1,2,3]", "[0.123456789,1]"],
    "sparsevec": ["{1:1,3:2}/5"],
}  # fmt: skip
RANGES = {
    "int4range": ["[1,5]", "[1,6)", "(0,6)", "[2147483647,2147483647]"],
    "int8range": ["[1,5]", "[1,6)"],
    "numrange": ["[1.0,1.5]", "[1.60,2)", "(1,2]"],
    "daterange": ["[2021-05-01,2021-05-31]", "[2021-05-01,2021-06-01)", "[2021-05-01,)", "[now,)"],
    "tsrange": ['["2021-05-01 10:00:00","2021-05-01 11:00:00")', "[2021-05-01 10:00:00.1234567,)"],
    "tstzrange": ['["2021-05-01 10:00:00+02",)', '["2021-05-01 10:00:00+00",)'],
}
SEEDS |= RANGES
SEEDS |= {
    name.replace("range", "multirange"): [f"{{{texts[0]}}}", f"{{{texts[0]},{texts[1]}}}"]
    for name, texts in RANGES.items()
}
# Every type that a column can have: row types of tables and views are left out, and pseudo-types. Under a domain and
# in an array lies the type that decides what is the same.
TYPES = """
WITH RECURSIVE resolved AS (
  SELECT t.oid, t.oid AS type, false AS is_array FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
  LEFT JOIN pg_type e ON e.typarray = t.oid LEFT JOIN pg_class ec ON ec.oid = e.typrelid
  WHERE t.typtype <> 'p' AND coalesce(c.relkind, ec.relkind, 'c') = 'c'
  AND t.typnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname IN ('information_schema', 'pg_toast'))
  UNION ALL
  SELECT r.oid, coalesce(nullif(t.typbasetype, 0), t.typelem), r.is_array OR t.typtype <> 'd'
  FROM resolved r JOIN pg_type t ON t.oid = r.type
  WHERE t.typtype = 'd' OR EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
)
SELECT format_type(r.oid, NULL), b.typname::text, r.is_array, t.typmodin <> 0 AND t.typtype = 'b'
FROM resolved r JOIN pg_type b ON b.oid = r.type JOIN pg_type t ON t.oid = r.oid
WHERE b.typtype <> 'd' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = b.oid) AND b.typtype <> 'p'
ORDER BY 1
"""
# Modifiers to try where a type takes one: those that it refuses are left out.
MODIFIERS = ("(3)", "(6,2)")
# What separates nothing in an array's text.
SPACE = " \t\n\r\v\f"
# Texts never get into these: a number or a BLOB must be one in SQLite too.
NEVER_FROM_TEXT = frozenset(("float4", "float8", "bytea"))


@dataclass(frozen=True)
class Type:
    """A type of the catalog.

    :param name: as SQL writes it, the modifier included.
    :param base: name of the type itself, or of the elements of an array; that under a domain.
    """

    name: str
    base: str
    is_array: bool


# ---------------------------------------------------------------- what Python itself knows to be equal


def _same_text(text: str, form: str) -> bool:
    return text == form


def _same_number(text: str, form: str) -> bool:
    return Decimal(text.strip()) == Decimal(form)


def _same_range(bound: Callable[[str], Any], step: int = 0) -> Callable[[str, str], bool]:
    """Return whether two ranges hold the same; whole numbers may have their bounds counted otherwise."""

    def parsed(text: str) -> Any:
        text = text.strip()
        if text.lower() == "empty":
            return "empty"
        low, _, high = text[1:-1].partition(",")
        lower, upper = (None if side.strip() == "" else bound(side.strip().strip('"')) for side in (low, high))
        from_it = lower is not None and text[0] == "["
        to_it = upper is not None and text[-1] == "]"
        if step:
            lower = lower if lower is None or from_it else lower + step
            upper = upper if upper is None or not to_it else upper + step
            from_it, to_it = lower is not None, False
        if lower is not None and upper is not None and (lower > upper or (lower == upper and not (from_it and to_it))):
            return "empty"
        return lower, upper, from_it, to_it

    return lambda text, form: parsed(text) == parsed(form)


def _same_ranges(one: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    """Return whether multiranges are the same, range by range: none of the texts has ranges that touch."""

    def parts(text: str) -> list[str]:
        inner = text.strip()[1:-1]
        return [part for part in inner.replace("),", ")\n").replace("],", "]\n").split("\n") if part.strip()]

    def same(text: str, form: str) -> bool:
        return all(any(one(part, other) for other in parts(form)) for part in parts(text)) or text.strip() == form

    return same


def _same_interval(text: str, form: str) -> bool:
    """Return whether two durations of whole units are the same: months, days and seconds."""
    return _interval(text) == _interval(form)


_MONTHS = {"year": 12, "years": 12, "mon": 1, "mons": 1, "month": 1, "months": 1}
_SECONDS = {"hour": 3600, "hours": 3600, "minute": 60, "minutes": 60, "second": 1, "seconds": 1}


def _interval(text: str) -> tuple[Decimal, Decimal, Decimal]:
    """Return months, days and seconds of an interval that is written in words, with a clock, or as ISO 8601 has it."""
    months = days = seconds = Decimal(0)
    if text.startswith("P"):
        date, _, clock = text[1:].partition("T")
        for part, units in ((date, {"Y": "year", "M": "mon", "D": "day"}), (clock, {"H": "hour"})):
            for letter, unit in units.items():
                part = part.replace(letter, f" {unit} ")
            months, days, seconds = (
                a + b for a, b in zip((months, days, seconds), _interval(part.strip()), strict=True)
            )
        return months, days, seconds
    text = text.lower()
    sign = -1 if text.endswith(" ago") else 1
    words = text.removesuffix(" ago").split()
    while words:
        word = words.pop(0)
        if ":" in word:
            negative = -1 if word.startswith("-") else 1
            parts = [*map(Decimal, word.lstrip("+-").split(":")), Decimal(0)][:3]
            seconds += negative * (parts[0] * 3600 + parts[1] * 60 + parts[2])
            continue
        # A bare number is one of seconds: so the test's inventory says.
        number, unit = Decimal(word), words.pop(0).lower() if words else "seconds"
        months += number * _MONTHS.get(unit, 0)
        days += number * {"day": 1, "days": 1, "week": 7, "weeks": 7}.get(unit, 0)
        seconds += number * _SECONDS.get(unit, 0)
    return sign * months, sign * days, sign * seconds


def _hex_digits(text: str) -> str:
    digits = "".join(character for character in text.lower() if character in "0123456789abcdef")
    return f"{digits[:6]}fffe{digits[6:]}" if len(digits) == 12 else digits


def _address(text: str) -> list[int]:
    """Return the numbers between the signs of an address, or its digits where there is no sign."""
    for sign in ":-":
        if text.count(sign) == 5:
            return [int(part, 16) for part in text.split(sign)]
    digits = _hex_digits(text).replace("fffe", "")
    return [int(digits[start : start + 2], 16) for start in range(0, len(digits), 2)]


def _numbers_of_json(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal, object_pairs_hook=_members)


def _members(pairs: list[tuple[str, Any]]) -> Any:
    members = dict(pairs)
    assert len(members) == len(pairs), "a key is named twice"
    return members


def _network(text: str) -> Any:
    if "/" not in text and ":" not in text:
        parts = (text.strip().split(".") + ["0"] * 4)[:4]
        return ip_network(f"{'.'.join(parts)}/{8 * (text.count('.') + 1)}")
    return ip_network(text.strip())


def _same_moment(text: str, form: str) -> bool:
    """Return whether two times are the same; PostgreSQL's session is in UTC."""

    def parsed(written: str) -> datetime:
        moment = datetime.fromisoformat(written.replace("Z", "+00:00"))
        return moment.replace(tzinfo=moment.tzinfo or UTC)

    return parsed(text) == parsed(form)


def _bits(text: str) -> str:
    """Return the digits of a bit string, which may stand in hexadecimal behind an x."""
    if text[:1] in ("x", "X"):
        return "".join(f"{int(digit, 16):04b}" for digit in text[1:])
    return text.lstrip("bB")


def _bytes(text: str) -> bytes:
    """Return what a text means to ``bytea``: hexadecimal digits, or characters of which some are octal numbers."""
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    pieces = text.split("\\")
    return pieces[0].encode() + b"".join(
        bytes([int(piece[:3], 8)]) + piece[3:].encode() if piece[:3].isdigit() else b"\\" + piece.encode()
        for piece in pieces[1:]
    )


_WHOLE = _same_range(int, 1)
_DECIMAL = _same_range(Decimal)
_TRUE = ("t", "true", "y", "yes", "on", "1")
SAME: dict[str, Callable[[str, str], bool]] = {
    "bool": lambda text, form: (text.strip().lower() in _TRUE or None) == (form in ("t", "true") or None),
    "int2": _same_number,
    "int4": _same_number,
    "int8": _same_number,
    "numeric": _same_number,
    "uuid": lambda text, form: _hex_digits(text) == _hex_digits(form),
    "bytea": lambda text, form: _bytes(text) == _bytes(form),
    "bit": lambda text, form: _bits(text) == form,
    "varbit": lambda text, form: _bits(text) == form,
    "int2vector": lambda text, form: [*map(int, text.split())] == [*map(int, form.split())],
    "jsonb": lambda text, form: bool(_numbers_of_json(text) == _numbers_of_json(form)),
    "inet": lambda text, form: ip_interface(text.strip()) == ip_interface(form),
    "cidr": lambda text, form: bool(_network(text) == _network(form)),
    "macaddr": lambda text, form: _address(text) == _address(form),
    "macaddr8": lambda text, form: _hex_digits(text) == _hex_digits(form),
    "pg_lsn": lambda text, form: (
        [int(part, 16) for part in text.split("/")] == [int(part, 16) for part in form.split("/")]
    ),
    "timestamp": _same_moment,
    "timestamptz": _same_moment,
    "date": _same_moment,
    "time": lambda text, form: f"{form}:00".startswith(text.rstrip("0") if "." in text else text),
    "interval": _same_interval,
    "int4range": _WHOLE,
    "int8range": _WHOLE,
    "numrange": _DECIMAL,
    "int4multirange": _same_ranges(_WHOLE),
    "int8multirange": _same_ranges(_WHOLE),
    "nummultirange": _same_ranges(_DECIMAL),
}


def _array(text: str) -> Any:
    """Return the elements of an array's text, nested as they are; None for NULL."""
    text = text.strip()
    if text.startswith("["):
        bounds, _, text = text.partition("=")
        return bounds, _array(text)
    position = 0

    def parse() -> Any:
        nonlocal position
        items: list[Any] = []
        position += 1
        while True:
            while text[position] in f",{SPACE}":
                position += 1
            if text[position] == "}":
                position += 1
                return items
            if text[position] == "{":
                items.append(parse())
                continue
            element, quoted = "", False
            while text[position] not in ",}":
                if text[position] == '"':
                    quoted = True
                    position += 1
                    while text[position] != '"':
                        position += text[position] == "\\"
                        element += text[position]
                        position += 1
                    position += 1
                    continue
                position += text[position] == "\\"
                element += text[position]
                position += 1
            element = element if quoted else element.strip(SPACE)
            items.append(None if not quoted and element.upper() == "NULL" else element)

    result = parse()
    assert not text[position:].strip()
    return result


def _same_array(one: Callable[[str, str], bool], text: Any, form: Any) -> bool:
    if isinstance(text, tuple) or isinstance(form, tuple):
        return isinstance(text, tuple) and isinstance(form, tuple) and text[0] == form[0] and _same_array(
            one, text[1], form[1]
        )  # fmt: skip
    if isinstance(text, list) and isinstance(form, list):
        return len(text) == len(form) and all(map(lambda a, b: _same_array(one, a, b), text, form))
    if text is None or form is None:
        return text is None and form is None
    return not isinstance(text, list) and not isinstance(form, list) and (text == form or one(text, form))


def is_same(kind: Type, text: str, form: str) -> bool:
    """Return whether a text and what the server made of it are known to be the same value."""
    if text == form:
        return True
    same = SAME.get(kind.base, _same_text)
    try:
        return _same_array(same, _array(text), _array(form)) if kind.is_array else same(text, form)
    except (ArithmeticError, AssertionError, ValueError, IndexError):
        return False


# ---------------------------------------------------------------- the types and their texts


@pytest.fixture(
    scope="module",
    params=[pytest.param(each, marks=[] if each == PROGRAMS else [pytest.mark.long_search]) for each in SERVERS],
    ids=str,
)
def server_here(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One of the servers of this machine."""
    if request.param == PROGRAMS:
        yield request.getfixturevalue("server")
        return
    with running_server(request.param) as started:
        yield started


@contextmanager
def types_database(server: Server) -> Iterator[Connection]:
    """Make a database with every extension that the server ships and that makes a type."""
    server.execute("DROP DATABASE IF EXISTS types WITH (FORCE)", "CREATE DATABASE types TEMPLATE empty_template")
    login = replace(server.superuser, database="types")
    with closing(connect(login)) as connection:
        for (name,) in query(connection, "SELECT name FROM pg_available_extensions ORDER BY name"):
            with connection.cursor() as cursor:
                cursor.execute("SAVEPOINT extension")
                try:
                    cursor.execute(f'CREATE EXTENSION IF NOT EXISTS "{name}" SCHEMA public CASCADE')
                except DatabaseError:  # one that needs to be preloaded makes no type
                    cursor.execute("ROLLBACK TO SAVEPOINT extension")
            connection.commit()
        yield connection
    server.execute("DROP DATABASE types WITH (FORCE)")


def types_of(connection: Connection) -> list[Type]:
    """Return all types that a column can have, also with a modifier."""
    found = []
    # Without a search path the names of the types are written in full.
    for name, base, is_array, has_modifier in query(connection, f"SET LOCAL search_path = ''; {TYPES}"):
        found.append(Type(name, base, is_array))
        for modifier in MODIFIERS if has_modifier else ():
            element = name.removesuffix("[]")
            word, _, rest = element.partition(" ")  # timestamp(3) with time zone
            written = f"{word}{modifier} {rest}" if rest.startswith(("with", "without")) else element + modifier
            written += "[]" if name.endswith("[]") else ""
            with connection.cursor() as cursor:
                try:
                    cursor.execute(f"CREATE TEMP TABLE tried (v {written})")
                except DatabaseError:  # no such modifier
                    continue
                finally:
                    connection.rollback()
            found.append(Type(written, base, is_array))
    return found


def texts_of(kind: Type, chosen: random.Random) -> list[str]:
    """Return the texts to try in a type: those that it knows, odd ones, and the former spelled otherwise."""
    seeds = SEEDS.get(kind.base) or ODD
    spelled = [change(text) for text in seeds for change in (str.upper, " {}".format, "{} ".format, "{}0".format)]
    texts = [*seeds, *chosen.sample(spelled, min(len(spelled), TEXTS_OF_A_TYPE // 2))]
    if kind.is_array:
        quoted = ['"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts]
        pairs = [f"{{{chosen.choice(quoted)},{chosen.choice(texts)}}}" for _ in range(TEXTS_OF_A_TYPE // 4)]
        texts = [
            *(f"{{{text}}}" for text in quoted),
            *pairs,
            "{{}}",
            "{}",
            "{NULL}",
            *(f"{{{text}}}" for text in seeds),
        ]
    odd = chosen.sample(ODD, TEXTS_OF_A_TYPE)
    if kind.base == "uuid" and not kind.is_array:
        # The plan asks for one spelling of each id.
        texts = list({_hex_digits(text): text for text in reversed(texts)}.values())
        return list(dict.fromkeys([*texts, *odd]))
    if kind.is_array:
        return chosen.sample(texts, min(len(texts), TEXTS_OF_A_TYPE))
    return list(dict.fromkeys([*seeds, *chosen.sample(texts, min(len(texts), TEXTS_OF_A_TYPE)), *odd]))


def form_of(connection: Connection, kind: Type, text: str) -> str | None:
    """Return what a type makes of a text, None if it cannot read it."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT CAST(%s AS {kind.name})::text", (text,))
            row = cursor.fetchone()
            return None if row is None else str(row[0])
    except DatabaseError:
        return None
    finally:
        connection.rollback()


def is_planned(kind: Type, text: str) -> bool:
    """Return whether a text is one that the plan itself asks about: a number in a column of times has no unit."""
    return not kind.is_array and kind.base in ("date", "timestamp", "timestamptz") and text[:1].isdigit() and set(
        text
    ) <= set("0123456789.")  # fmt: skip


def test_no_text_is_changed_without_a_word_in_any_type(server_here: Server, tmp_path: Path) -> None:
    with types_database(server_here) as connection:
        try_every_type(connection, tmp_path)


def test_no_text_is_changed_without_a_word_in_any_type_of_every_version(fetched_server: Server, tmp_path: Path) -> None:
    with types_database(fetched_server) as connection:
        assert query(connection, "SELECT 1 FROM pg_available_extensions WHERE name = 'hstore'")  # contrib is there
        try_every_type(connection, tmp_path)


def try_every_type(connection: Connection, tmp_path: Path) -> None:
    """Move texts into a column of each type, and say which of them have become others, or are lost."""
    with connection.cursor() as cursor:
        cursor.execute(OWN_TYPES)
    connection.commit()
    chosen = random.Random(SEED)  # noqa: S311 (the same on every run)
    kinds = types_of(connection)
    available = {name for (name,) in query(connection, "SELECT name FROM pg_available_extensions")}
    expected = {name for extension, name in TYPES_OF_EXTENSIONS.items() if extension in available}
    assert {kind.base for kind in kinds} >= expected
    tables = {f"t{number}": (kind, texts_of(kind, chosen)) for number, kind in enumerate(kinds)}
    make_target(
        connection,
        "".join(f"CREATE TABLE {name} (id integer PRIMARY KEY, v {kind.name});" for name, (kind, _) in tables.items()),
    )
    script = "".join(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, v TEXT);" for name in tables)
    rows = {
        name: [(key, text) for key, text in enumerate(texts) if not is_planned(kind, text)]
        for name, (kind, texts) in tables.items()
    }
    source = make_source(tmp_path / "types.db", script, rows)
    answers = {policy: "reject" for policy, known in POLICIES.items() if "reject" in known} | {"rewritten": "keep"}
    columns = {"v": answers | {"duration_unit": "seconds"}}
    group = make_group(source, *({"source": name, "columns": columns} for name in tables))
    report = rehearse(connection, group, tmp_path)["report"]
    assert all(table["equal"] for table in report["tables"])
    came_back = counts(bring_back(connection, group)[0])
    rejected, kept = (
        {(table, key): value for table, key, value in query(connection, f"SELECT source_table, row_key, {what}")}
        for what in ("row_values->>'v' FROM migration.reject", "value FROM migration.original_value")
    )
    wrong: list[tuple[str, str, Any]] = [
        (tables[name][0].name, "in a rollback", changed) for name, changed in came_back.items() if any(changed)
    ]
    for name, (kind, _) in tables.items():
        arrived = dict(query(connection, f"SELECT id, v::text FROM app.{name}"))
        for number, text in rows[name]:
            place = (name, f"id={number}")
            if place in rejected or place in kept:
                continue
            if number not in arrived:
                wrong.append((kind.name, text, "is lost"))
            elif not is_same(kind, text, arrived[number]):
                wrong.append((kind.name, text, arrived[number]))
        if not arrived and kind.base not in NEVER_FROM_TEXT:
            # A type for an index alone reads no text, and others none of these.
            read = [text for _, text in rows[name] if text and form_of(connection, kind, text) == text]
            wrong += [(kind.name, text, "is refused, though the type gives it back") for text in read]
    assert not wrong, "\n".join(map(repr, wrong))
