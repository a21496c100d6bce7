"""A service's dotenv file: our keys are put in and taken out, every other byte stays as it is.

Our lines stand together at the top, under one comment line, so that nothing further down can
swallow them. A line of the operator's that sets one of our keys is set aside as a comment. Taking
our lines out again gives back the very bytes that were there before, without a copy kept anywhere.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ..core.errors import MigrationError, Problem
from ..core.estate import Service, fill_template
from ..core.files import synchronise
from . import safe_paths
from .safe_paths import Opened

HEADER = "# PostgreSQL connection of this service, written by the role service_env: do not edit."
# Before keys of the service's own, whose names follow.
OWN_HEADER = "# Further settings for PostgreSQL, written by the role service_env: "
SET_ASIDE = "# Set aside by the role service_env: "

# What we write.
POOL_SIZE = "DATABASE_POOL_SIZE"
WRITTEN_KEYS = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSSLMODE", "DATABASE_URL", POOL_SIZE)
# What would lead a service elsewhere if it were left standing beside ours.
MANAGED_KEYS = (*WRITTEN_KEYS, "PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGSSLROOTCERT")
# Values that a diff may show.
_SHOWN_KEYS = ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSSLMODE", POOL_SIZE)
_MASK = "********"
# A demand of TLS; the weaker modes of libpq mean something else to node's pg, which takes any of them for a demand.
_TLS_MODES = ("require", "verify-ca", "verify-full")

_ASSIGNMENT = re.compile(r"[^\S\n]*(?:export[^\S\n]+)?([A-Za-z0-9_.-]+)(?:[^\S\n]*=|:[^\S\n])[^\S\n]*")
_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=-]+\Z")
_AFTER_QUOTE = re.compile(r"[^\S\n]*(?:#[^\n]*)?\Z")
_BYTE_ORDER_MARK = "\ufeff"
# Far beyond any settings; a file that is larger was put there to fill our memory.
_MOST_BYTES = 1 << 20
_PRIVATE_MODE = 0o600


@dataclass(frozen=True)
class Entry:
    """One piece of a dotenv file: an assignment with all its lines, or one line of anything else.

    :param text: the piece as it stands there, line end included.
    :param key: the key that is set, or None for a comment, an empty line, or a line nobody reads.
    :param value: the value as dotenv reads it.
    :param line: number of its first line.
    """

    text: str
    key: str | None = None
    value: str = ""
    line: int = 1


def parse(text: str) -> list[Entry]:
    """Return the pieces of a dotenv file; put together they are the text again.

    :raises ValueError: naming the line of a quote that is never closed: parsers disagree on it.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    entries = []
    index = 0
    while index < len(lines):
        line = lines[index]
        match = _ASSIGNMENT.match(line.lstrip(_BYTE_ORDER_MARK) if index == 0 else line)
        if match is None:
            entries.append(Entry(line, line=index + 1))
            index += 1
            continue
        offset = match.end() + (len(line) - len(line.lstrip(_BYTE_ORDER_MARK)) if index == 0 else 0)
        count, value = _read_value(lines, index, offset)
        entries.append(Entry("".join(lines[index : index + count]), match.group(1), value, index + 1))
        index += count
    return entries


def _read_value(lines: list[str], index: int, offset: int) -> tuple[int, str]:
    """Return how many lines a value takes, and the value."""
    rest = lines[index][offset:]
    mark = rest[:1]
    if mark not in ("'", '"', "`"):
        return 1, rest.partition("#")[0].strip()
    joined = rest
    for count in range(1, len(lines) - index + 1):
        close = _closing_quote(joined, mark)
        if close:
            line_end = joined.find("\n", close)
            tail = joined[close + 1 : line_end if line_end >= 0 else len(joined)]
            if _AFTER_QUOTE.match(tail.rstrip("\r")):
                value = joined[1:close].replace("\r\n", "\n")
                return count, value.replace("\\n", "\n").replace("\\r", "\r") if mark == '"' else value
            if count == 1:
                # Text after the closing quote: the quotes are part of a bare value.
                return 1, rest.partition("#")[0].strip()
            break
        if index + count < len(lines):
            joined += lines[index + count]
    raise ValueError(f"line {index + 1}: the quote {mark} is never closed")


def _closing_quote(text: str, mark: str) -> int:
    """Return where the quote at the start of ``text`` is closed, or 0."""
    position = 1
    while True:
        position = text.find(mark, position)
        if position < 0:
            return 0
        if text[position - 1] != "\\":
            return position
        position += 1


def read_values(text: str) -> dict[str, str]:
    """Return the keys and values as dotenv reads them: the last assignment of a key wins."""
    return {entry.key: entry.value for entry in parse(text) if entry.key is not None}


def quote_value(value: str) -> str:
    """Return a value as it is written, so that every parser reads the same.

    :raises ValueError: if no way of quoting serves all parsers.
    """
    if _BARE.match(value):
        return value
    if not value.isprintable():
        raise ValueError("it holds a control character or a line end")
    for mark in ("'", "`"):
        if mark not in value and not value.endswith("\\"):
            return f"{mark}{value}{mark}"
    raise ValueError("it holds both ' and `, or ends in a backslash: dotenv parsers disagree on it")


def changed_by(value: str) -> str:
    """Return which readers take a value for another than :func:`quote_value` has written, and why; '' if none does."""
    if "$" in value:
        return "it holds $, and readers that expand variables (dotenv-expand) replace what follows, whatever the quotes"
    if "'" in value:
        return "it holds ', so it stands in backticks, which no reader but the dotenv of Node.js takes for quotes"
    return ""


def connection_values(
    host: str,
    port: int,
    database: str,
    user: str,
    password: str,
    ssl_mode: str = "prefer",
    ca_certificate: str | None = None,
    pool_size: int | None = None,
) -> dict[str, str]:
    """Return the lines of one connection by their keys, ``DATABASE_URL`` from the same values as the others.

    :param pool_size: most connections of each process of the service.
    :param ssl_mode: a mode of libpq; one that demands or forbids TLS is written, the others are the service's own
        affair.
    :param ca_certificate: file with the authorities that may have signed the server's certificate.
    """
    values = {"PGHOST": host, "PGPORT": str(port), "PGDATABASE": database, "PGUSER": user, "PGPASSWORD": password}
    options = {}
    if ssl_mode in _TLS_MODES:
        options["sslmode"] = ssl_mode
        if ca_certificate:
            options["sslrootcert"] = ca_certificate
        else:
            # Node's pg ignores PGSSLROOTCERT: with an authority of our own, PGSSLMODE alone would refuse the server.
            values["PGSSLMODE"] = ssl_mode
    elif ssl_mode == "disable":
        # Else the library would demand TLS of a server on another host.
        values["PGSSLMODE"] = ssl_mode
    if host.startswith("/"):
        options["host"] = host
        server = ""
    else:
        server = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    query = f"?{urlencode(options, quote_via=quote, safe='/')}" if options else ""
    values["DATABASE_URL"] = f"postgresql://{login}@{server}/{quote(database, safe='')}{query}"
    if pool_size is not None:
        values[POOL_SIZE] = str(pool_size)
    return values


def keys_of(service: Service) -> tuple[str, ...]:
    """Return the keys that a service must have from us, or not at all."""
    return *MANAGED_KEYS, *service.settings


def own_values(service: Service, values: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a service's own keys, made of those of its connection."""
    names = {"host": "PGHOST", "port": "PGPORT", "database": "PGDATABASE", "user": "PGUSER", "password": "PGPASSWORD"}
    known = {name: values[key] for name, key in names.items()}
    known |= {"url": values["DATABASE_URL"], "pool_size": values.get(POOL_SIZE, "")}
    known["password_in_url"] = quote(known["password"], safe="")
    return {key: fill_template(template, known) for key, template in service.settings.items()}


def set_keys(text: str, values: Mapping[str, str], quote: Callable[[str], str] = quote_value) -> str:
    """Return the text with our lines at its top, and every other definition of these and our other keys set aside.

    :param quote: how a value is written.
    :raises ValueError: if the text cannot be parsed, or a value cannot be written.
    """
    text = remove_keys(text)
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    text = text.removeprefix(mark)
    line_end = "\r\n" if re.match(r"[^\n]*\r\n", text) else "\n"
    own = [key for key in values if key not in WRITTEN_KEYS]
    ours = [HEADER, *(f"{key}={quote(value)}" for key, value in values.items() if key in WRITTEN_KEYS)]
    if own:
        ours += [f"{OWN_HEADER}{', '.join(own)}", *(f"{key}={quote(values[key])}" for key in own)]
    kept: list[str] = []
    for entry in parse(text):
        if entry.key in MANAGED_KEYS or entry.key in own or entry.text.startswith(SET_ASIDE):
            kept.extend(f"{SET_ASIDE}{line}" for line in entry.text.splitlines(keepends=True))
        else:
            kept.append(entry.text)
    return mark + "".join(f"{line}{line_end}" for line in ours) + "".join(kept)


def remove_keys(text: str) -> str:
    """Return the text as it was before :func:`set_keys`; a text without our lines stays as it is.

    :raises ValueError: if the text cannot be parsed.
    """
    mark = _BYTE_ORDER_MARK if text.startswith(_BYTE_ORDER_MARK) else ""
    kept = []
    ours = False
    found = False
    keys: tuple[str, ...] = WRITTEN_KEYS
    for entry in parse(text.removeprefix(mark)):
        if not found and entry.text.rstrip("\r\n") == HEADER:
            ours = found = True
        elif ours and entry.text.startswith(OWN_HEADER):
            keys = tuple(entry.text.removeprefix(OWN_HEADER).rstrip("\r\n").split(", "))
        elif ours and entry.key in keys:
            continue
        else:
            ours = False
            kept.append(entry.text)
    if not found:
        return text
    return mark + "".join(piece.removeprefix(SET_ASIDE) for piece in kept)


def masked(text: str) -> str:
    """Return the text for a diff: every value hidden but those of the connection that are no secrets."""
    lines = []
    for entry in parse(text):
        if entry.key is None:
            # Somebody may have commented out a line with a secret.
            before, equals, _ = entry.text.rstrip("\r\n").partition("=")
            lines.append(f"{before}={_MASK}" if equals else before)
        else:
            shown = entry.value if entry.key in _SHOWN_KEYS else _MASK
            lines.append(f"{entry.key}={shown}")
    return "".join(f"{line}\n" for line in lines)


def read(path: str, user: str, or_root: bool = False) -> str:
    """Return a dotenv file's text.

    :param user: the service's user, who has to own the file: the file is later replaced on its behalf.
    :param or_root: whether root may own it instead, where nobody else can exchange it.
    :raises MigrationError: if it is missing, not the user's, or not to be parsed.
    """
    with _opened(path, user, or_root) as file:
        return _text_of(path, file)


def is_private(path: str, user: str, or_root: bool = False) -> bool:
    """Return whether nobody but its owner may read a dotenv file.

    :raises MigrationError: as :func:`read`.
    """
    with _opened(path, user, or_root) as file:
        return _mode_of(file) == _PRIVATE_MODE


def write(path: str, text: str, user: str, or_root: bool = False) -> None:
    """Replace a dotenv file in one step: whoever reads it sees the old file or the new one, whole, never another mode.

    Where it already holds the text, and is private, it stays as it is.

    :param user: the service's user, to whom it belongs.
    :param or_root: as in :func:`read`.
    :raises MigrationError: if it is not a file of the user's, or is exchanged meanwhile.
    """
    with _opened(path, user, or_root) as file:
        if _mode_of(file) != _PRIVATE_MODE or _text_of(path, file) != text:
            _replace(file, text.encode("utf-8"))


@contextmanager
def _opened(path: str, user: str, or_root: bool) -> Iterator[Opened]:
    """Open a dotenv file that belongs to its service's user, who may exchange it at any moment.

    :raises MigrationError: if it is missing, or another file than it should be.
    """
    try:
        pwd.getpwnam(user)
    except KeyError:
        what = f"its user {user} does not exist on this host"
        raise _unusable(path, what, "Correct 'user' in estate_cutover_groups") from None
    try:
        with safe_paths.open_owned(path, [user, *(["root"] if or_root else [])]) as file:
            if or_root and file.status.st_uid == 0:
                # Whoever may write to its directory could put another file of root's there.
                safe_paths.require_private(file.path.parent, secret=False)
            # Whoever may put a file there could also take ours away.
            if os.fstat(file.directory).st_mode & stat.S_IWOTH:
                what = f"everybody may write to its directory {file.path.parent} and exchange the file"
                raise _unusable(path, what, f"Run: chmod o-w {file.path.parent}")
            yield file
    except FileNotFoundError:
        fix = f"Create it, even empty, as {user}, or correct 'env_file' in estate_cutover_groups"
        raise _unusable(path, "the file does not exist", fix) from None
    except OSError as error:
        raise _unusable(path, f"it cannot be used: {error.strerror}", "Correct this, then run again") from None


def _text_of(path: str, file: Opened) -> str:
    """Return the text of an open dotenv file.

    :raises MigrationError: if it is too large, or not to be parsed.
    """
    content = os.pread(file.descriptor, _MOST_BYTES + 1, 0)
    if max(len(content), file.status.st_size) > _MOST_BYTES:
        what = f"it is larger than {_MOST_BYTES:,} bytes, so it is no file of settings"
        raise _unusable(path, what, "Find out what fills it, and put the service's settings back")
    try:
        text = content.decode("utf-8")
        parse(text)
    except UnicodeDecodeError:
        raise _unusable(path, "it is not UTF-8", "Save it as UTF-8, then run again") from None
    except ValueError as error:
        raise _unusable(path, str(error), "Close the quote, then run again") from None
    return text


def _mode_of(file: Opened) -> int:
    """Return the permission bits of an open dotenv file."""
    return stat.S_IMODE(file.status.st_mode)


def _replace(file: Opened, content: bytes) -> None:
    """Put a new private file of the same owner in the place of an open one, within its directory's descriptor.

    :raises MigrationError: if the open file, or the new one, is exchanged meanwhile.
    """
    before = file.status
    group = pwd.getpwuid(before.st_uid).pw_gid
    name = f"{file.name}.new"
    _remove_leftover(file, name)
    descriptor = os.open(
        name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _PRIVATE_MODE, dir_fd=file.directory
    )
    try:
        if os.geteuid() == 0:
            os.fchown(descriptor, before.st_uid, group)
        os.fchmod(descriptor, _PRIVATE_MODE)
        with os.fdopen(descriptor, "wb", closefd=False) as writer:
            writer.write(content)
        os.fsync(descriptor)
        new = Opened(file.path, file.directory, file.name, descriptor)
        _require_unchanged(file, before)
        os.replace(name, file.name, src_dir_fd=file.directory, dst_dir_fd=file.directory)
        # The directory is the user's, who could have put another file in the place of the new one.
        new.require_same()
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=file.directory)
        raise
    finally:
        os.close(descriptor)
    synchronise(file.directory)


def _require_unchanged(file: Opened, before: os.stat_result) -> None:
    """Refuse to replace a file that is no longer the one that was opened, or that was changed since.

    :raises MigrationError: saying so.
    """
    file.require_same()
    after = file.status
    kept = ("st_uid", "st_nlink", "st_size", "st_mtime_ns")
    if any(getattr(after, field) != getattr(before, field) for field in kept):
        what = "somebody has changed it while it was being replaced"
        raise _unusable(str(file.path), what, "Find out who did, then run again")


def _remove_leftover(file: Opened, name: str) -> None:
    """Remove the new file that a run which was killed has left behind, and nothing else.

    :raises MigrationError: if another file stands in its place.
    """
    found = safe_paths.identify(file.directory, name)
    if found is None:
        return
    unfinished = found.owner == os.geteuid() and found.size == 0
    if found.kind != "file" or found.links != 1 or not (found.owner == file.status.st_uid or unfinished):
        where = f"{file.path.parent}/{name}"
        what = "it is in the way of the new settings, and is no file that an earlier run has left"
        raise _unusable(where, what, "Find out whose it is, and move it away")
    os.unlink(name, dir_fd=file.directory)


def problems_of_values(
    where: str,
    values: Iterable[tuple[str, str]],
    quote: Callable[[str], str] = quote_value,
    kind: str = "a .env",
) -> list[Problem]:
    """Return a problem for each value that no file of a kind can hold, without showing it.

    :param quote: how a value is written there.
    """
    problems = []
    for key, value in values:
        try:
            quote(value)
        except ValueError as error:
            problems.append(Problem(f"{where}: {key}", f"cannot be written to {kind}: {error}", "Choose another value"))
    return problems


def _unusable(path: str, what: str, fix: str) -> MigrationError:
    """Return the error for a dotenv file that cannot be used."""
    return MigrationError(f"The file {path} cannot be used.", [Problem(path, what, fix)])
