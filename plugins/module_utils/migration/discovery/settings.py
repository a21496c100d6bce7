"""SQLite files that settings name: values of dotenv files and of the environment that processes were started with.

A value is only asked whether it leads to a file. What is told of it is its key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from urllib.parse import unquote, urlsplit

from ..core.errors import MigrationError
from ..core.rights import rights_of
from ..host import dotenv_file, safe_paths

_MOST_BYTES = 1 << 20
_LONGEST_PATH = 4096
_URL = re.compile(r"(?:file|sqlite[0-9]?|sqlite\+\w+):", re.IGNORECASE)
_FILE_NAME = re.compile(r"[^\s,;]+\.(?:db3?|sqlite3?)\Z", re.IGNORECASE)


def read(path: str, uid: int) -> dict[str, str]:
    """Return the keys and values of a dotenv file, with the rights of a service's user; none if it cannot be read.

    What that user may not read is read as root where nobody else can change the way to it, as systemd does.
    """
    try:
        return dotenv_file.read_values(_text(path, uid))
    except (OSError, ValueError, MigrationError):
        return {}


def _text(path: str, uid: int) -> str:
    """Return what a file of settings holds.

    :raises OSError: if it may not be read.
    :raises MigrationError: if somebody else than root could lead root to another file.
    """
    with ExitStack() as opened:
        try:
            with rights_of(uid):
                descriptor = opened.enter_context(safe_paths.regular_file(path))
        except PermissionError:
            safe_paths.require_private(os.path.dirname(path), secret=False)
            descriptor = opened.enter_context(safe_paths.regular_file(path, follow=False))
        return os.pread(descriptor, _MOST_BYTES, 0).decode("utf-8", "replace")


def scheme_of(value: str) -> str:
    """Return the scheme of a URL such as ``sqlite+aiosqlite:///app.db``, empty for anything else.

    ``file:`` says nothing of the program: SQLite itself opens such names.
    """
    scheme = value.partition(":")[0].lower()
    return scheme if _URL.match(value) and scheme != "file" else ""


def fixed_directory(pattern: str) -> str:
    """Return the directory that all paths of a pattern lie below, empty if there is none."""
    return os.path.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0])


def paths_in(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each key whose value looks like the path of a file, and that path."""
    for key, value in values.items():
        path = _path_in(value)
        if path and len(path) <= _LONGEST_PATH and "\x00" not in path:
            yield key, path


def _path_in(value: str) -> str:
    """Return the path that a value looks like, empty if it looks like none."""
    if _URL.match(value):
        scheme, _, rest = value.partition(":")
        if scheme.lower() != "file" and rest.startswith("//"):
            # As SQLAlchemy has it: three slashes before a relative path, four before an absolute one; others write two.
            rest = rest[3:] if rest.startswith("///") else rest[2:]
        elif rest.startswith("//"):
            try:
                rest = urlsplit(value).path
            except ValueError:
                return ""
        return unquote(rest.partition("?")[0])
    if value.startswith("/") or _FILE_NAME.match(value):
        return value
    return ""
