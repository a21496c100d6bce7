"""SQL of SQLite read as words, and the part of its expressions that PostgreSQL can say with the same meaning.

What is not known to mean the same is refused by :class:`Untranslatable`: a draft without a check is a question to a
person, a draft with a wrong one is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .names import quote_text

INTEGER, DOUBLE, NUMERIC, TEXT, BOOLEAN = "integer", "double", "numeric", "text", "boolean"
TIME, DAY, JSON, UUID, BYTES = "time", "day", "json", "uuid", "bytes"
_NULL = "null"
_NUMBERS = (INTEGER, DOUBLE, NUMERIC)

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<blob>[xX]'[0-9a-fA-F]*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])
    | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<sign>\|\||<=|>=|<>|!=|==|<<|>>|->>|->|.)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "[": "]"}


class Untranslatable(Exception):
    """An expression, or what stands in it, has no equal in PostgreSQL that we know of."""


@dataclass(frozen=True)
class Token:
    """One word, name, string, number or sign.

    :param kind: ``blob``, ``string``, ``name`` (in quotes), ``number``, ``word`` or ``sign``.
    :param start: its place in the statement, in characters.
    """

    kind: str
    text: str
    start: int
    end: int

    @property
    def value(self) -> str:
        """Return a string or a name without its quotes."""
        if self.text[:1] not in _QUOTES or self.kind not in ("string", "name"):
            return self.text
        closing = _QUOTES[self.text[0]]
        return self.text[1:-1].replace(closing * 2, closing)

    def is_word(self, *words: str) -> bool:
        """Return whether it is one of some keywords, given in capitals."""
        return self.kind == "word" and self.text.upper() in words


def tokens(statement: str) -> list[Token]:
    """Return the tokens of a statement without space and comments."""
    return [
        Token(str(match.lastgroup), match.group(), match.start(), match.end())
        for match in _TOKEN.finditer(statement)
        if match.lastgroup != "space"
    ]


def closing(found: Sequence[Token], opening: int) -> int:
    """Return the position of the parenthesis that closes the one at ``opening``."""
    depth = 0
    for position in range(opening, len(found)):
        if found[position].text == "(":
            depth += 1
        elif found[position].text == ")":
            depth -= 1
            if depth == 0:
                return position
    return len(found) - 1


def split_list(found: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Yield the parts between the commas that stand in no parentheses."""
    start = depth = 0
    for position, token in enumerate(found):
        depth += {"(": 1, ")": -1}.get(token.text, 0) if token.kind == "sign" else 0
        if token.text == "," and depth == 0:
            yield found[start:position]
            start = position + 1
    yield found[start:]


@dataclass(frozen=True)
class Translated:
    """A piece of PostgreSQL's SQL and what kind of value it gives.

    :param literal: the constant that it is, None if it is none.
    :param collation: of a column itself; what is made of one has none.
    """

    sql: str
    kind: str
    literal: str | None = None
    collation: str = "BINARY"


@dataclass(frozen=True)
class Column:
    """A column that an expression may name.

    :param sql: its name, quoted.
    :param ascii_only: whether each of its texts is.
    :param collation: as declared in SQLite, in capitals.
    """

    sql: str
    kind: str
    ascii_only: bool = True
    collation: str = "BINARY"


def translate(text: str, columns: Mapping[str, Column], fold_ascii_only: bool = False) -> Translated:
    """Return an expression of SQLite as PostgreSQL says it.

    :param columns: those that it may name, by their names in lower case.
    :param fold_ascii_only: let ``lower`` and ``upper`` touch the letters A to Z alone wherever they stand, as SQLite
        does; if not, only where other letters are in the column.
    :raises Untranslatable: if it may not mean the same there.
    """
    return _Parser(tokens(text), columns, fold_ascii_only).whole()


def condition(translated: Translated) -> str:
    """Return a translated expression as something that is true or false.

    :raises Untranslatable: if it is neither.
    """
    if translated.kind in (BOOLEAN, _NULL):
        return translated.sql
    if translated.kind in _NUMBERS:
        return f"({translated.sql} <> 0)"
    raise Untranslatable(f"a {translated.kind} stands where true or false is needed")


class _Parser:
    """Reads an expression by the precedence of SQLite's operators, the loosest first."""

    def __init__(self, found: Sequence[Token], columns: Mapping[str, Column], fold_ascii_only: bool) -> None:
        self.found = found
        self.columns = columns
        self.fold_ascii_only = fold_ascii_only
        self.position = 0

    def whole(self) -> Translated:
        """Return the translation of all tokens."""
        result = self.disjunction()
        if self.position < len(self.found):
            raise Untranslatable(f"'{self.found[self.position].text}' is not known here")
        return result

    # --- reading --------------------------------------------------------------------------------

    def next_is(self, *texts: str) -> bool:
        """Return whether the next token is one of some signs or keywords (in capitals)."""
        if self.position >= len(self.found):
            return False
        token = self.found[self.position]
        return token.kind in ("sign", "word") and token.text.upper() in texts

    def take(self, *texts: str) -> str | None:
        """Return the next token in capitals and go on, if it is one of these."""
        if not self.next_is(*texts):
            return None
        self.position += 1
        return self.found[self.position - 1].text.upper()

    def need(self, text: str) -> None:
        """Go over a token that must stand here."""
        if self.take(text) is None:
            raise Untranslatable(f"'{text}' was expected")

    # --- operators ------------------------------------------------------------------------------

    def disjunction(self) -> Translated:
        """Read ``a OR b``."""
        result = self.conjunction()
        while self.take("OR"):
            result = Translated(f"({condition(result)} OR {condition(self.conjunction())})", BOOLEAN)
        return result

    def conjunction(self) -> Translated:
        """Read ``a AND b``."""
        result = self.negation()
        while self.take("AND"):
            result = Translated(f"({condition(result)} AND {condition(self.negation())})", BOOLEAN)
        return result

    def negation(self) -> Translated:
        """Read ``NOT a``."""
        if self.take("NOT"):
            return Translated(f"(NOT {condition(self.negation())})", BOOLEAN)
        return self.equality()

    def equality(self) -> Translated:
        """Read what stands on one level with ``=``."""
        left = self.comparison()
        while True:
            if sign := self.take("=", "==", "<>", "!="):
                left = _compared(left, "=" if sign in ("=", "==") else "<>", self.comparison())
            elif self.take("ISNULL"):
                left = Translated(f"({left.sql} IS NULL)", BOOLEAN)
            elif self.take("NOTNULL"):
                left = Translated(f"({left.sql} IS NOT NULL)", BOOLEAN)
            elif self.take("IS"):
                word = "IS NOT" if self.take("NOT") else "IS"
                right = self.comparison()
                if right.kind == _NULL:
                    left = Translated(f"({left.sql} {word} NULL)", BOOLEAN)
                else:
                    left = _compared(left, "IS DISTINCT FROM" if word == "IS NOT" else "IS NOT DISTINCT FROM", right)
            elif self.next_is("NOT", "IN", "BETWEEN", "LIKE"):
                left = self.membership(left)
            else:
                return left

    def membership(self, left: Translated) -> Translated:
        """Read ``[NOT] IN (…)``, ``[NOT] BETWEEN`` and ``[NOT] LIKE``."""
        negated = "NOT " if self.take("NOT") else ""
        if self.take("NULL"):
            return Translated(f"({left.sql} IS NOT NULL)", BOOLEAN)
        word = self.take("IN", "BETWEEN", "LIKE")
        if word == "IN":
            self.need("(")
            values = [_alike(left, self.disjunction())[1]]
            while self.take(","):
                values.append(_alike(left, self.disjunction())[1])
            self.need(")")
            return Translated(f"({left.sql} {negated}IN ({', '.join(values)}))", BOOLEAN)
        if word == "BETWEEN":
            low = self.comparison()
            self.need("AND")
            high = self.comparison()
            both = f"{_compared(left, '>=', low).sql} AND {_compared(left, '<=', high).sql}"
            return Translated(f"({negated}({both}))", BOOLEAN)
        if word == "LIKE":
            pattern = self.comparison()
            if left.kind != TEXT or pattern.literal is None or pattern.kind != TEXT or "\\" in pattern.literal:
                raise Untranslatable("LIKE is not translated here")
            return Translated(f"({left.sql} {negated}ILIKE {pattern.sql})", BOOLEAN)
        raise Untranslatable("an operator is not known")

    def comparison(self) -> Translated:
        """Read ``a < b``."""
        left = self.bits()
        while sign := self.take("<", "<=", ">", ">="):
            left = _compared(left, sign, self.bits())
        return left

    def bits(self) -> Translated:
        """Read ``a & b`` and ``a | b``."""
        left = self.sum()
        while sign := self.take("&", "|"):
            right = self.sum()
            if (left.kind, right.kind) != (INTEGER, INTEGER):
                raise Untranslatable(f"'{sign}' is translated for whole numbers only")
            left = Translated(f"({_operand(left)} {sign} {_operand(right)})", INTEGER)
        return left

    def sum(self) -> Translated:
        """Read ``a + b`` and ``a - b``."""
        left = self.product()
        while sign := self.take("+", "-"):
            left = _calculated(left, sign, self.product())
        return left

    def product(self) -> Translated:
        """Read ``a * b``, ``a / b`` and ``a % b``."""
        left = self.joined()
        while sign := self.take("*", "/", "%"):
            left = _calculated(left, sign, self.joined())
        return left

    def joined(self) -> Translated:
        """Read ``a || b``."""
        left = self.sign()
        while self.take("||"):
            left = Translated(f"({_as_text(left)} || {_as_text(self.sign())})", TEXT)
        return left

    def sign(self) -> Translated:
        """Read ``-a``."""
        if sign := self.take("-", "+"):
            value = self.sign()
            if value.kind not in _NUMBERS:
                raise Untranslatable("a sign stands before something that is no number")
            if value.literal is not None and value.sql[0] != "-":
                return Translated(f"{sign}{value.sql}".lstrip("+"), value.kind, f"{sign}{value.literal}".lstrip("+"))
            return Translated(f"({sign}{_operand(value)})", value.kind)
        value = self.primary()
        if self.next_is("COLLATE"):
            raise Untranslatable("COLLATE is not translated here")
        return value

    # --- values ---------------------------------------------------------------------------------

    def primary(self) -> Translated:
        """Read a constant, a column, a call, CASE, or an expression in parentheses."""
        if self.position >= len(self.found):
            raise Untranslatable("it ends too early")
        if self.take("("):
            value = self.disjunction()
            self.need(")")
            return value
        if self.take("CASE"):
            return self.case()
        token = self.found[self.position]
        self.position += 1
        if token.kind == "string":
            return Translated(quote_text(token.value), TEXT, token.value)
        if token.kind == "number":
            if token.text[:2].lower() == "0x":
                raise Untranslatable("a hexadecimal number is not translated")
            return Translated(token.text, INTEGER if token.text.isdigit() else NUMERIC, token.text)
        if token.kind == "blob":
            return Translated(f"'\\x{token.text[2:-1]}'::bytea", BYTES, token.text)
        if token.is_word("NULL"):
            return Translated("NULL", _NULL)
        if token.is_word("TRUE", "FALSE"):
            return Translated(token.text.lower(), BOOLEAN, token.text.lower())
        if token.kind == "word" and self.take("("):
            return self.call(token.text.lower())
        if token.kind in ("word", "name"):
            column = self.columns.get(token.value.lower())
            if column is not None:
                return Translated(column.sql, column.kind, None, column.collation)
            if token.text[0] == '"':
                # SQLite takes it for a string if there is no such column.
                return Translated(quote_text(token.value), TEXT, token.value)
        raise Untranslatable(f"'{token.text}' is not known here")

    def case(self) -> Translated:
        """Read ``CASE WHEN … THEN … ELSE … END``; the word CASE is behind us."""
        parts, values = [], []
        while self.take("WHEN"):
            when = condition(self.disjunction())
            self.need("THEN")
            values.append(self.disjunction())
            parts.append(f"WHEN {when} THEN {values[-1].sql}")
        if self.take("ELSE"):
            values.append(self.disjunction())
            parts.append(f"ELSE {values[-1].sql}")
        self.need("END")
        return Translated(f"(CASE {' '.join(parts)} END)", _one_kind(values))

    def call(self, name: str) -> Translated:
        """Read the arguments of a call, behind its parenthesis, and return it."""
        start = self.position
        arguments: list[Translated] = []
        while not self.take(")"):
            arguments.append(self.disjunction())
            if not self.next_is(")"):
                self.need(",")
        kinds = tuple(argument.kind for argument in arguments)
        listed = ", ".join(argument.sql for argument in arguments)
        if name in ("lower", "upper") and kinds == (TEXT,):
            named = [self.columns.get(token.value.lower()) for token in self.found[start : self.position]]
            exact = self.fold_ascii_only or not all(column.ascii_only for column in named if column is not None)
            return Translated(f'{name}({listed} COLLATE "C")' if exact else f"{name}({listed})", TEXT)
        if name == "length" and kinds in ((TEXT,), (BYTES,), (INTEGER,)):
            return Translated(f"length({listed}{'::text' if kinds == (INTEGER,) else ''})", INTEGER)
        if name == "abs" and len(kinds) == 1 and kinds[0] in _NUMBERS:
            return Translated(f"abs({_operand(arguments[0])})", kinds[0])
        if name in ("coalesce", "ifnull") and len(kinds) > 1:
            return Translated(f"coalesce({listed})", _one_kind(arguments))
        if name == "nullif" and len(kinds) == 2:
            return Translated(f"nullif({listed})", _one_kind(arguments))
        if name in ("trim", "ltrim", "rtrim") and kinds in ((TEXT,), (TEXT, TEXT)):
            return Translated(f"{'btrim' if name == 'trim' else name}({listed})", TEXT)
        if name == "replace" and kinds == (TEXT, TEXT, TEXT) and arguments[1].literal:
            return Translated(f"replace({listed})", TEXT)
        if name == "instr" and kinds == (TEXT, TEXT):
            return Translated(f"strpos({listed})", INTEGER)
        if name in ("substr", "substring") and kinds[:1] == (TEXT,) and len(kinds) in (2, 3):
            numbers = [argument.literal for argument in arguments[1:]]
            if all(number is not None and number.isdigit() and int(number) > 0 for number in numbers):
                return Translated(f"substr({listed})", TEXT)
        if name == "json_valid" and kinds == (JSON,):
            return Translated("true", BOOLEAN)
        raise Untranslatable(f"{name}() is not translated here")


def _alike(left: Translated, right: Translated) -> tuple[str, str]:
    """Return both sides of a comparison, made comparable.

    :raises Untranslatable: if SQLite would compare them in a way that PostgreSQL does not.
    """
    if _NULL in (left.kind, right.kind):
        return left.sql, right.sql
    for side in (left, right):
        if side.kind == TEXT and side.collation != "BINARY":
            raise Untranslatable(f"it compares texts by {side.collation}")
    if left.kind == BOOLEAN and right.literal in ("0", "1") and right.kind == INTEGER:
        return left.sql, ("true" if right.literal == "1" else "false")
    if right.kind == BOOLEAN and left.literal in ("0", "1") and left.kind == INTEGER:
        return ("true" if left.literal == "1" else "false"), right.sql
    both = (left.kind, right.kind)
    if left.kind == right.kind != JSON or all(kind in _NUMBERS for kind in both) or set(both) == {TIME, DAY}:
        return left.sql, right.sql
    raise Untranslatable(f"it compares a {left.kind} with a {right.kind}")


def _compared(left: Translated, sign: str, right: Translated) -> Translated:
    """Return a comparison; texts are ordered by their bytes, as SQLite does."""
    one, other = _alike(left, right)
    if BOOLEAN in (left.kind, right.kind) and sign in ("<", "<=", ">", ">="):
        raise Untranslatable("it orders true and false")
    by_bytes = ' COLLATE "C"' if left.kind == TEXT and sign in ("<", "<=", ">", ">=") else ""
    return Translated(f"({one}{by_bytes} {sign} {other})", BOOLEAN)


def _operand(value: Translated) -> str:
    """Return a number to calculate with: SQLite calculates with 64 bits, whole or floating."""
    if value.literal is not None:
        return value.sql if value.kind == INTEGER else f"{value.sql}::double precision"
    return f"{value.sql}::bigint" if value.kind == INTEGER else f"{value.sql}::double precision"


def _calculated(left: Translated, sign: str, right: Translated) -> Translated:
    """Return an arithmetic operation; a division by zero gives NULL, as in SQLite."""
    if left.kind not in _NUMBERS or right.kind not in _NUMBERS:
        raise Untranslatable(f"'{sign}' stands between other things than numbers")
    kind = INTEGER if (left.kind, right.kind) == (INTEGER, INTEGER) else DOUBLE
    if sign == "%" and kind != INTEGER:
        raise Untranslatable("'%' is translated for whole numbers only")
    divisor = f"nullif({_operand(right)}, 0)" if sign in ("/", "%") else _operand(right)
    return Translated(f"({_operand(left)} {sign} {divisor})", kind)


def _as_text(value: Translated) -> str:
    """Return an operand of ``||``."""
    if value.kind in (TEXT, _NULL):
        return value.sql
    if value.kind == INTEGER:
        return f"{value.sql}::text"
    raise Untranslatable(f"'||' stands beside a {value.kind}")


def _one_kind(values: Sequence[Translated]) -> str:
    """Return the kind that all values have but for NULL.

    :raises Untranslatable: if they have several.
    """
    kinds = {value.kind for value in values} - {_NULL}
    if len(kinds) != 1:
        raise Untranslatable("its values are of several kinds")
    return kinds.pop()
