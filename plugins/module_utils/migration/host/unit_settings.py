"""The settings of a unit of systemd: the file that its ``EnvironmentFile=`` names, or a drop-in and a file of our own.

systemd reads such a file otherwise than dotenv does: a backslash takes the meaning of any character that follows, ``$``
has none, backticks are no quotes, and a line that ends in a backslash goes on. So values are written in its own way.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from ..core.errors import MigrationError, Problem
from ..core.estate import Service
from ..core.files import UNIT_SETTINGS
from . import dotenv_file
from .recovery_unit import UNITS, write_whole
from .safe_paths import open_owned, private_directory, refused, require_private

# Drop-ins are read in the order of their names, and what is read last holds.
_DROP_IN = "zz-sqlite-to-postgresql.conf"
_HEADER = "# Gives the service its connection to PostgreSQL. The role service_env writes and removes it: do not edit."
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=-]")
_VALUE = re.compile(r"((?:\\.|[^\\])*?)\s*\Z")
_PRIVATE_MODE = 0o600
# At least what systemd takes for the start of an assignment.
_KEY = re.compile(r"^[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=", re.MULTILINE)
# Far beyond any settings.
_MOST_BYTES = 1 << 20


def drop_in_of(unit: str) -> Path:
    """Return the path of our drop-in of a unit."""
    return UNITS / f"{unit}.d" / _DROP_IN


def quote_value(value: str) -> str:
    """Return a value as it is written for systemd, which reads it again as it is.

    :raises ValueError: if it holds what no such file can hold.
    """
    if not value.isprintable():
        raise ValueError("it holds a control character or a line end")
    return "".join(letter if _PLAIN.match(letter) or ord(letter) > 127 else f"\\{letter}" for letter in value)


def read_values(text: str) -> dict[str, str]:
    """Return the keys and values as systemd reads them, where each value stands on one line."""
    entries = [entry for entry in dotenv_file.parse(text) if entry.key is not None]
    return {str(entry.key): _unquoted(entry.text.partition("=")[2]) for entry in entries}


def _unquoted(written: str) -> str:
    """Return what systemd makes of a value that is written on one line."""
    # A blank at its end belongs to it only behind a backslash.
    written = _VALUE.sub(r"\1", written.strip("\r\n").lstrip())
    mark = written[:1]
    if mark in ("'", '"') and len(written) > 1 and written.endswith(mark):
        inner = written[1:-1]
        return inner if mark == "'" else re.sub(r'\\(["\\`$])', r"\1", inner)
    return re.sub(r"\\(.)", r"\1", written)


@dataclass(frozen=True)
class EnvironmentFile:
    """A file that the unit names itself; it belongs to its service's user, or to root."""

    service: Service

    def read(self) -> str:
        """Return its text.

        :raises MigrationError: if it cannot be used, or one of its lines goes on in the next.
        """
        text = dotenv_file.read(self.service.env_path, self.service.user, or_root=True)
        for number, line in enumerate(text.splitlines(), 1):
            if (len(line) - len(line.rstrip("\\"))) % 2:
                what = f"line {number} ends in a backslash, so that systemd reads the next line as a part of it"
                fix = "Write it on one line, then run again"
                path = self.service.env_path
                raise MigrationError(f"The file {path} cannot be used.", [Problem(path, what, fix)])
        return text

    def write(self, text: str) -> None:
        """Replace it in one step."""
        dotenv_file.write(self.service.env_path, text, self.service.user, or_root=True)

    def is_private(self) -> bool:
        """Return whether its owner alone may read it."""
        return dotenv_file.is_private(self.service.env_path, self.service.user, or_root=True)

    def with_values(self, text: str, values: Mapping[str, str]) -> str:
        """Return a text with our lines."""
        return dotenv_file.set_keys(text, values, quote_value)

    def without_values(self, text: str) -> str:
        """Return a text without our lines, as it was before."""
        return dotenv_file.remove_keys(text)

    def values_of(self, text: str) -> dict[str, str]:
        """Return the keys and values of a text."""
        return read_values(text)

    def problems_of_values(self, where: str, values: Mapping[str, str]) -> list[Problem]:
        """Return a problem for each value that cannot be written."""
        return dotenv_file.problems_of_values(where, values.items(), quote_value, "an EnvironmentFile= of systemd")


class DropIn(EnvironmentFile):
    """A drop-in of the unit and the file that it names; both are ours, and are there on PostgreSQL alone."""

    @property
    def _drop_in(self) -> Path:
        return drop_in_of(self.service.unit)

    @property
    def _file(self) -> Path:
        return Path(self.service.env_path)

    @property
    def _made(self) -> Path:
        """The file that says that the directory of the drop-in is ours too."""
        return self._file.with_name(f"{self.service.unit}.d.made")

    def read(self) -> str:
        """Return the text of our file; empty if it, or the drop-in that leads to it, is not as it should be.

        :raises MigrationError: if somebody else's file stands in the place of the drop-in.
        """
        drop_in = _text_of(self._drop_in)
        if drop_in and not drop_in.startswith(_HEADER):
            what = "it is in the way of our settings, and not written by the role service_env"
            fix = "Give it another name, then run again"
            raise MigrationError(f"The file {self._drop_in} cannot be used.", [Problem(str(self._drop_in), what, fix)])
        text = _text_of(self._file)
        return text if drop_in == self._wanted_drop_in(text) else ""

    def write(self, text: str) -> None:
        """Put both files there, or take both away if there is nothing to say.

        systemd reads the drop-in when the units are loaded, which :mod:`.systemd` sees to before it starts the service.
        """
        self.read()
        if text:
            with private_directory(self._file.parent):
                if _text_of(self._file) != text or not self.is_private():
                    write_whole(self._file, text, _PRIVATE_MODE)
            wanted = self._wanted_drop_in(text)
            if _text_of(self._drop_in) != wanted:
                is_new = not self._drop_in.parent.exists()
                if is_new:
                    write_whole(self._made, "", _PRIVATE_MODE)
                with private_directory(self._drop_in.parent, secret=False) as directory:
                    if is_new:
                        # The drop-in holds no secret, and whoever looks at the unit should see it.
                        os.fchmod(directory, 0o755)
                    write_whole(self._drop_in, wanted, 0o644)
            return
        self._drop_in.unlink(missing_ok=True)
        if self._made.exists():
            with suppress(OSError):
                # Not if somebody has a drop-in of his own there.
                self._drop_in.parent.rmdir()
            self._made.unlink()
        for path in (self._file, self._file.with_name(f".{self._file.name}.new")):
            path.unlink(missing_ok=True)

    def is_private(self) -> bool:
        """Return whether root alone may read our file, if there is one."""
        with suppress(FileNotFoundError):
            return stat.S_IMODE(self._file.stat().st_mode) == _PRIVATE_MODE
        return True

    def _wanted_drop_in(self, text: str) -> str:
        """Return the drop-in for a text of our file."""
        if not text:
            return ""
        others = [key for key in dotenv_file.MANAGED_KEYS if key not in read_values(text)]
        return (
            f"{_HEADER}\n[Service]\nEnvironmentFile={self._file}\n"
            f"# These would lead the service elsewhere.\nUnsetEnvironment={' '.join(others)}\n"
        )


def problems_of_later_files(files: Sequence[tuple[str, bool]], ours: str, written: Iterable[str]) -> list[Problem]:
    """Return a problem for each of our keys in a file that systemd reads after ours, so that it beats our value.

    :param files: path or pattern of each EnvironmentFile= in their order, and whether it may be missing.
    :param ours: path of the file that gets our lines, which is one of them.
    :param written: our keys.
    """
    own = os.path.realpath(ours)
    last = max(index for index, (path, _) in enumerate(files) if os.path.realpath(path) == own)
    problems = []
    for pattern, may_be_missing in files[last + 1 :]:
        paths = [path for path in sorted(glob(pattern)) if os.path.realpath(path) != own]
        if not paths and not may_be_missing:
            fix = "Put it there, or take it out of the unit"
            problems.append(Problem(pattern, "the unit names it as EnvironmentFile=, and it does not exist", fix))
        for path in paths:
            try:
                keys = _assigned_keys(path)
            except MigrationError as error:
                problems += error.problems
                continue
            except OSError as error:
                what = f"the unit names it as EnvironmentFile=, and it cannot be read: {error.strerror}"
                problems.append(Problem(path, what, "Correct this, then run again"))
                continue
            for key in sorted(keys.intersection(written)):
                what = f"systemd reads this file after {ours}, so it would beat the value there"
                problems.append(Problem(f"{path}: {key}", what, "Take it out, or name this file first in the unit"))
    return problems


def _assigned_keys(path: str) -> set[str]:
    """Return the names of what a file of settings may set; whoever owns it may exchange it at any moment.

    :raises MigrationError: if it is no regular file, or too large.
    :raises OSError: if it cannot be read.
    """
    with open_owned(path, None, links=None) as file:
        content = os.pread(file.descriptor, _MOST_BYTES + 1, 0)
    if len(content) > _MOST_BYTES:
        what = f"it is larger than {_MOST_BYTES:,} bytes, so it is no file of settings"
        raise refused(path, what, "Find out what fills it, or take it out of the unit")
    # A carriage return alone ends a line for systemd too.
    return set(_KEY.findall(content.decode("utf-8", "replace").replace("\r", "\n")))


def problems_of_later_drop_ins(unit: str, paths: Iterable[str]) -> list[Problem]:
    """Return a problem for each drop-in of a unit that systemd reads after ours, so that it may beat our settings.

    :param paths: of the drop-ins that systemd has loaded; it loads those of the directory of ours too.
    """
    beside = [str(path) for path in drop_in_of(unit).parent.glob("*.conf")]
    what = f"systemd reads this drop-in after ours ({_DROP_IN}), so it may beat the settings of the service"
    fix = "Give it a name that sorts before ours, then run: systemctl daemon-reload"
    return [Problem(path, what, fix) for path in sorted({*paths, *beside}) if os.path.basename(path) > _DROP_IN]


def problems_of_place(unit: str) -> list[Problem]:
    """Return why a drop-in of a unit and its file could not be written."""
    try:
        require_private(UNIT_SETTINGS)
        require_private(drop_in_of(unit).parent, secret=False)
    except MigrationError as error:
        return list(error.problems)
    if not os.access(UNITS, os.W_OK):
        fix = "Make it writable, or name a file as EnvironmentFile= in the unit and as 'env_file' of the service"
        return [Problem(str(UNITS), "nothing can be written there, so its services get no settings", fix)]
    return []


def _text_of(path: Path) -> str:
    """Return the text of a file of our own, empty if it is missing."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
