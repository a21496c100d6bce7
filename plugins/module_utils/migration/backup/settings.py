"""What the backup program has to know, read from one file that only its user can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.commands import playbook
from ..core.connection import LOGIN_ARGUMENTS, Login
from ..core.errors import MigrationError, Problem

DEFAULT_PATH = Path("/etc/sqlite-to-postgresql-backup/settings.json")
# A century, after which there is no date to count from; and a day, for what PostgreSQL is told too.
_LIMITS = {"keep_days": 36_525, "maximum_age_hours": 36_525 * 24, "lock_wait_seconds": 86_400}


@dataclass(frozen=True)
class CopyTarget:
    """Where backups are copied to, away from this host.

    :param method: ``rsync`` or ``restic``.
    :param target: for rsync ``user@host:/directory`` or a directory, for restic its repository.
    :param remote_shell: for rsync, the command and arguments that reach the target's host.
    :param password_file: for restic, the file with the repository's password.
    :param environment: further variables of the copying program, for example the credentials of an object store.
    """

    method: str
    target: str
    remote_shell: tuple[str, ...] = ()
    password_file: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Settings:
    """The settings of the backups of one database.

    :param login: how to log in to the database.
    :param maintenance_database: another database of the same server, from which databases are created and renamed.
    :param programs: directory of PostgreSQL's client programs; ``{major}`` stands for the server's major version.
    :param keep_days: days for which every backup is kept.
    :param keep_count: so many of the newest verified backups are kept however old they are; at least 1.
    :param maximum_age_hours: age of the newest verified backup, and of its copy, from which the check fails.
    :param lock_wait_seconds: how long to wait for another run of this program.
    :param reserve_bytes: so much stays free on a disk that a dump or a restore writes to: it may be PostgreSQL's own.
    """

    directory: Path
    login: Login
    maintenance_database: str
    programs: str
    keep_days: float
    keep_count: int
    maximum_age_hours: float
    lock_wait_seconds: float
    reserve_bytes: int
    copy: CopyTarget | None = None

    def programs_for(self, major: int) -> Path:
        """Return the directory of the client programs for a server of this major version."""
        return Path(self.programs.replace("{major}", str(major)))


def read(path: Path) -> Settings:
    """Return the settings of a file.

    :raises MigrationError: if it cannot be read, or something in it is missing or senseless.
    """
    fix = f"Run {playbook('1_infrastructure')}, which writes it, as root or as the user of the backups"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else "is no JSON"
        raise MigrationError("The settings of the backups cannot be read.", [Problem(str(path), what, fix)]) from None
    try:
        return parse(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MigrationError(
            "The settings of the backups are not complete.", [Problem(str(path), f"wrong or missing: {error}", fix)]
        ) from None


def parse(content: dict[str, Any]) -> Settings:
    """Return the settings in what a file holds.

    :raises AttributeError, KeyError, TypeError, ValueError: if something is missing or senseless.
    """
    arguments = {name: option.get("default") for name, option in LOGIN_ARGUMENTS.items()} | content["login"]
    copy = content.get("copy")
    settings = Settings(
        directory=Path(content["directory"]),
        login=Login.from_arguments(arguments),
        maintenance_database=content["maintenance_database"],
        programs=content["programs"],
        keep_days=float(content["keep_days"]),
        keep_count=int(content["keep_count"]),
        maximum_age_hours=float(content["maximum_age_hours"]),
        lock_wait_seconds=float(content["lock_wait_seconds"]),
        reserve_bytes=int(content["reserve_bytes"]),
        copy=_parse_copy(copy) if copy else None,
    )
    for name, limit in _LIMITS.items():
        if not 0 <= getattr(settings, name) <= limit:
            raise ValueError(f"{name} is {getattr(settings, name)}, not between 0 and {limit}")
    if settings.reserve_bytes < 0:
        raise ValueError("reserve_bytes is below 0")
    if settings.keep_count < 1:
        raise ValueError("keep_count is below 1: the newest verified backup is always kept")
    if not settings.directory.is_absolute():
        raise ValueError("directory is no absolute path")
    if settings.copy and settings.copy.method not in ("rsync", "restic"):
        raise ValueError(f"copy.method is {settings.copy.method}, not rsync or restic")
    return settings


def _parse_copy(content: dict[str, Any]) -> CopyTarget:
    """Return the target of the copies in what a file holds of it."""
    environment = {str(name): str(value) for name, value in content.get("environment", {}).items()}
    shell = tuple(content.get("remote_shell", ()))
    return CopyTarget(**{**content, "remote_shell": shell, "environment": environment})
