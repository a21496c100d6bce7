"""Reads the numbered SQL files of the schema, and refuses what could not be applied as a whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..core.errors import MigrationError, Problem

_NAME = re.compile(r"(\d{3})_[a-z0-9_]+\.sql\Z")
# The pieces of SQL that matter for finding the end of a statement. Comments nest, so only their start stands here. With
# \restrict and its end pg_dump tells psql to take no other command: that is nothing to us, as a comment is.
_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*|(?<![^\n])\\(?:un)?restrict[ ]\w+[ \r]*(?![^\n]))
    | (?P<quoted>(?<![\w$])E'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"
        |(?<![\w$])(?P<tag>\$(?:[^\W\d]\w*)?\$).*?(?P=tag))
    | (?P<word>[^\W\d][\w$]*)
    | (?P<other>\S)
    """,
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")

IN_TRANSACTION = "Write it in another way: a file that is applied only in part could not be repeated"
# pattern of the statement's code, what is wrong with it, what to do
_FORBIDDEN = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), what, fix)
    for pattern, what, fix in (
        (
            r"(begin|start\s+transaction|commit|end|rollback|abort|savepoint|release|prepare\s+transaction)\b",
            "controls the transaction",
            "Remove the statement: each file is one transaction already",
        ),
        (
            r"(vacuum|create\s+database|drop\s+database|alter\s+system|(create|drop)\s+tablespace"
            r"|reindex\s.*\bconcurrently|(create(\s+unique)?|drop)\s+index\s+concurrently)\b",
            "cannot run inside a transaction",
            IN_TRANSACTION,
        ),
        (
            r"(reset|discard|set(\s+(session|local))?\s+(role|session\s+authorization)"
            r"|set(?!\s+(local|constraints|transaction)\b))\b",
            "changes the session, and with it every file that follows",
            "Write SET LOCAL for a setting; leave the role alone, all objects belong to the owner",
        ),
        (
            r"select\b.*\bset_config\s*\(.*,\s*false\s*\)",
            "changes the session, and with it every file that follows",
            "Write true in place of false: then it holds for this file",
        ),
        (
            r"copy\b.*\b(stdin|stdout)\b",
            "needs a client that sends or reads the rows",
            "Write the rows as INSERT",
        ),
        (r"\\", "is a command of psql, not SQL", "Write it as SQL: the files are not applied by psql"),
    )
)


# What pg_dump -s writes at its beginning about its session, and what becomes of it.
_EMPTY_SEARCH_PATH = re.compile(
    r"(select\s+pg_catalog\.set_config\s*\(\s*'search_path'\s*,\s*''\s*,\s*)false(\s*\)\s*;?)", re.IGNORECASE
)
# How the files are applied decides these.
_DUMP_SETTING_OF_OURS = re.compile(
    r"set\s+((statement_timeout|lock_timeout|idle_in_transaction_session_timeout|transaction_timeout)\s*=\s*0"
    r"|client_encoding\s*=\s*'UTF8'|standard_conforming_strings\s*=\s*on|default_with_oids\s*=\s*false)\s*;?",
    re.IGNORECASE,
)
_DUMP_SETTING_OF_THE_FILE = re.compile(
    r"set(?=\s+(check_function_bodies|xmloption|client_min_messages|row_security|default_tablespace"
    r"|default_table_access_method)\s*=)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Statement:
    """One statement of a file.

    :param text: as it stands in the file, from its first word on.
    :param line: the line that it starts on.
    :param code: the text with each comment as one blank.
    """

    text: str
    line: int
    code: str

    @property
    def executed(self) -> str:
        """Return what is executed for it: what pg_dump says of its session holds for its own file only.

        Empty for a setting that is ours to say.
        """
        if _DUMP_SETTING_OF_OURS.fullmatch(self.code):
            return ""
        if _EMPTY_SEARCH_PATH.fullmatch(self.code):
            return _EMPTY_SEARCH_PATH.sub(r"\1true\2", self.code)
        return _DUMP_SETTING_OF_THE_FILE.sub("SET LOCAL", self.text, count=1) if self._is_of_the_file() else self.text

    def _is_of_the_file(self) -> bool:
        """Return whether it is a setting of pg_dump's that changes what the file's statements mean."""
        return _DUMP_SETTING_OF_THE_FILE.match(self.code) is not None

    @property
    def is_of_a_dump(self) -> bool:
        """Return whether pg_dump has written it about its session."""
        return self.executed != self.text


@dataclass(frozen=True)
class SqlFile:
    """One file of the schema."""

    number: int
    name: str
    content: str

    @property
    def sha256(self) -> str:
        """Return the hash that the ledger keeps."""
        return hashlib.sha256(self.content.encode()).hexdigest()


def split_statements(content: str) -> Iterator[Statement]:
    """Yield the statements of a file.

    A semicolon ends a statement unless it stands in a comment, a quoted text, parentheses
    or the body of a function (``$$ … $$`` or ``BEGIN ATOMIC … END``).
    """
    start: int | None = None
    code: list[str] = []
    before = parentheses = blocks = 0
    previous = ""
    position = 0
    while (token := _TOKEN.search(content, position)) is not None:
        position = token.end()
        if token["comment"]:
            if token["comment"] == "/*":
                position = _end_of_comment(content, position)
            continue
        if start is None:
            if token[0] == ";":
                continue
            start = token.start()
        elif token.start() > before:
            code.append(" ")
        code.append(token[0])
        before = token.end()
        word = token["word"].lower() if token["word"] else ""
        if word == "atomic" and previous == "begin":
            blocks = 1
        elif blocks:
            blocks += {"case": 1, "end": -1}.get(word, 0)
        parentheses = max(0, parentheses + {"(": 1, ")": -1}.get(token[0], 0))
        previous = word
        if token[0] == ";" and not parentheses and not blocks:
            yield Statement(content[start:position], content.count("\n", 0, start) + 1, "".join(code))
            start, code = None, []
    if start is not None:
        yield Statement(content[start:], content.count("\n", 0, start) + 1, "".join(code))


def _end_of_comment(content: str, position: int) -> int:
    """Return where the block comment ends that began before ``position``; such comments nest."""
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(content, position)) is not None:
        position = edge.end()
        depth += 1 if edge[0] == "/*" else -1
    return len(content) if depth else position


def read_files(files: Sequence[Mapping[str, str]]) -> list[SqlFile]:
    """Return the files in their order, after checking what can be checked without a server.

    :param files: each with ``name`` and ``content``.
    :raises MigrationError: with every problem in every file.
    """
    problems: list[Problem] = []
    result: dict[int, SqlFile] = {}
    for entry in sorted(files, key=lambda file: file["name"]):
        name, content = entry["name"], entry["content"]
        match = _NAME.match(name)
        if match is None:
            problems.append(Problem(name, "is not named like 001_create_tables.sql", "Rename it"))
            continue
        number = int(match.group(1))
        if number in result:
            problems.append(Problem(name, f"has the number of {result[number].name}", "Give it a number of its own"))
            continue
        result[number] = SqlFile(number, name, content)
        for statement in split_statements(content):
            for pattern, what, fix in _FORBIDDEN if not statement.is_of_a_dump else ():
                if pattern.match(statement.code):
                    first = " ".join(statement.code.split()[:3])
                    problems.append(Problem(f"{name}:{statement.line}", f"'{first}' {what}", fix))
    if not files:
        problems.append(Problem("schema_apply_directory", "holds no .sql file", "Put the schema's files there"))
    if problems:
        raise MigrationError("The SQL files cannot be applied as they are.", problems)
    return [result[number] for number in sorted(result)]
