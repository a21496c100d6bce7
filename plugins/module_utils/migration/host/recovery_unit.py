"""The unit of systemd that brings a window to an end if its run, or the whole host, dies in it.

It is put on the host before a window opens and taken away when the window is shut. It starts at once, and waits for the
lock of the run; it starts at each boot too. What it needs to know, passwords among it, stands in one private file of
root's for just as long: in the work directory, because what keeps versions of ``/etc`` would keep a password for ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.files import WORK_DIRECTORY, sync_directory
from . import programs
from .safe_paths import private_directory, require_private

UNITS = Path("/etc/systemd/system")
# There while systemd manages this host.
SYSTEMD = Path("/run/systemd/system")
_WANTS = "multi-user.target.wants"
_PROGRAM = "recovery.recover"
# The setting of the unit that names the private file.
_CONDITION = "ConditionPathExists"

_UNIT = """\
# It is here while the window of a cutover or a rollback is open. The role service_env writes and removes it.
[Unit]
Description=Bring an interrupted cutover or rollback between SQLite and PostgreSQL to an end
After={after}
ConditionPathExists={settings}
# Each try may stop and start services: one that does not help is not made for ever.
StartLimitBurst=10
StartLimitIntervalSec=1d

[Service]
ExecStart={command}
SyslogIdentifier=sqlite-to-postgresql-recovery
UMask=0077
# A daemon of pm2 that it should have started must not end with it.
KillMode=process
# It may be in the middle of bringing the services back.
TimeoutStopSec=300
Restart=on-failure
RestartSec=60

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class RecoveryUnit:
    """The unit for one group.

    :param source_path: its SQLite file, which no two estates on a host share. The server may change between two runs.
    :param program: the engine on this host, as the role engine_program installs it; empty if no unit is to be put
        there, and only one of an earlier run to be taken away.
    :param content: what the program has to know, passwords among it; read by :mod:`..recovery.recover`.
    :param work_directory: private directory for the file with the content; :data:`.core.files.WORK_DIRECTORY` if None.
    :param is_own_process: whether this is the unit's own process, which looks after the services already.
    """

    group_name: str
    source_path: str
    program: str
    content: Mapping[str, Any] = field(repr=False)
    work_directory: str | None = None
    is_own_process: bool = False

    @property
    def name(self) -> str:
        """Return the name of the unit. A group may have any name, and one of another estate may have the same."""
        group = json.dumps([self.group_name, self.source_path])
        return f"sqlite-to-postgresql-recovery-{hashlib.sha256(group.encode()).hexdigest()[:16]}.service"

    @property
    def settings(self) -> Path:
        """Return the path of the private file."""
        return Path(self.work_directory or WORK_DIRECTORY) / f"{self.name}.json"

    def is_there(self) -> bool:
        """Return whether any part of the unit is on this host."""
        return any(os.path.lexists(path) for path in self._everything())

    def require_possible(self) -> None:
        """Refuse a host on which :meth:`put` could not write the unit; nothing is written.

        :raises MigrationError: if the work directory is not root's alone, or units cannot be written.
        """
        if not self.program or not SYSTEMD.is_dir():
            return
        require_private(self.settings.parent)
        if not os.access(UNITS, os.W_OK):
            what = "nothing can be written there, so nothing would finish or undo the window if this host died in it"
            fix = "Make it writable, or set service_env_recovery_unit: false"
            raise MigrationError("The recovery unit cannot be written.", [Problem(str(UNITS), what, fix)])

    def put(self, after: Iterable[str], **more: Any) -> None:
        """Write the unit and start it; nothing is done without a program, or on a host without systemd.

        :param after: units that bring the services up at boot.
        :param more: what the program has to know besides ``content``.
        :raises MigrationError: if the program is missing, the work directory is not root's alone, or systemd refuses.
        :raises OSError: if it cannot be written.
        """
        if self.is_own_process or not self.program or not SYSTEMD.is_dir():
            return
        if not Path(self.program).is_file():
            fix = "Run the playbook again: the role engine_program installs it"
            what = "it is missing, so nothing would finish or undo the window if this host died in it"
            raise MigrationError("The recovery unit cannot be written.", [Problem(self.program, what, fix)])
        settings, unit, link = self._paths()
        before = self._everything()
        with private_directory(settings.parent):
            write_whole(settings, json.dumps({**self.content, **more}), 0o600)
        # The interpreter of the run itself, which has psycopg2.
        words = [sys.executable, "-I", self.program, _PROGRAM, str(settings)]
        text = _UNIT.format(
            after=" ".join(["network-online.target", "postgresql.service", *sorted(set(after))]),
            settings=str(settings).replace("%", "%%"),
            command=" ".join(map(_quoted, words)),
        )
        write_whole(unit, text, 0o644)
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(unit)
        sync_directory(link.parent)
        _unlink(path for path in before if path not in (settings, unit, link))
        _systemctl("daemon-reload")
        # The tries for an earlier window do not count.
        self._forget_failures()
        # One that an earlier run has left may be waiting with the settings of that run.
        _systemctl("restart", "--no-block", self.name)

    def remove(self) -> None:
        """Take the unit away, the passwords first; the process of it that waits for the lock then finds nothing to do.

        systemd does not load its units anew here: it would forget ``KillMode``, and end a pm2 that the unit has started
        together with the unit.

        :raises OSError: if a file cannot be removed.
        """
        _unlink(self._everything())
        if SYSTEMD.is_dir() and not self.is_own_process:
            self._forget_failures()

    def _forget_failures(self) -> None:
        """Let systemd forget how often the unit has failed; it refuses this where it does not know the unit."""
        with suppress(MigrationError):
            _systemctl("reset-failed", self.name)

    def _paths(self) -> tuple[Path, Path, Path]:
        """Return the private file, the unit, and the link that lets it start at boot."""
        return self.settings, UNITS / self.name, UNITS / _WANTS / self.name

    def _everything(self) -> list[Path]:
        """Return what may be there, files with passwords first: of a run that was killed while it wrote them too.

        An earlier run may have had another work directory.
        """
        settings, unit, link = self._paths()
        lines = unit.read_text(encoding="utf-8").splitlines() if unit.is_file() else []
        named = [line.partition("=")[2].replace("%%", "%") for line in lines if line.startswith(f"{_CONDITION}=")]
        private = dict.fromkeys([settings, *map(Path, named)])
        return [*private, *map(_new, private), unit, _new(unit), link]


def _new(path: Path) -> Path:
    """Return where a file is written until it is whole."""
    return path.with_name(f".{path.name}.new")


def _unlink(paths: Iterable[Path]) -> None:
    """Remove files where they are there, one by one, and bring that to the disk."""
    for path in paths:
        path.unlink(missing_ok=True)
        if path.parent.is_dir():
            sync_directory(path.parent)


def write_whole(path: Path, text: str, mode: int) -> None:
    """Write a file in a directory of root's, in one step, and bring it to the disk."""
    new = _new(path)
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_directory(path.parent)


def _quoted(word: str) -> str:
    """Return a word as it stands in the command of a unit."""
    for special, written in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(special, written)
    return f'"{word}"'


def _systemctl(*arguments: str) -> None:
    """Call systemctl.

    :raises MigrationError: with what it says, if it fails.
    """
    command = ["systemctl", *arguments]
    try:
        answer = programs.call(command, os.environ)
        said = "" if answer.status == 0 else (answer.errors.strip() or f"it ended with status {answer.status}")
    except programs.NoAnswer as error:
        said = str(error)
    if said:
        raise MigrationError(
            "The recovery unit cannot be set up.",
            [Problem(" ".join(command), said, "Repair systemd, or set service_env_recovery_unit: false")],
        )
