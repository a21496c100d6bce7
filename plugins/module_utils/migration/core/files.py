"""What several packages do with files of their own: private copies, hashes, and directories brought to the disk.

Nothing here is for files in directories that somebody else may write to: those go through :mod:`.host.safe_paths`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

# Where private files of a run lie, mode 0700, unless the inventory names another directory.
WORK_DIRECTORY = "/var/lib/sqlite-migration"
# Where the settings of units of systemd lie, mode 0700: they have to stay there as long as the services use them.
UNIT_SETTINGS = "/var/lib/sqlite-to-postgresql/units"
_CHUNK_BYTES = 1 << 20
_CANNOT_SYNCHRONISE = (errno.EINVAL, errno.EOPNOTSUPP, errno.EROFS)


def progress_file(group_name: str, directory: str | None = None) -> Path:
    """Return the file on the host that holds one line about the progress of a run over a group.

    A group may have any name. The action plugin sqlite_migrate reads the file while the module runs.

    :param directory: where private files lie; :data:`WORK_DIRECTORY` if not given.
    """
    name = hashlib.sha256(group_name.encode()).hexdigest()[:16]
    return Path(directory or WORK_DIRECTORY) / f"progress-{name}"


def copy_private(source: Path, copy: Path) -> None:
    """Copy a file to one that only its owner can read from the moment it exists; an earlier one goes first."""
    copy.unlink(missing_ok=True)
    with (
        source.open("rb") as reader,
        os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writer,
    ):
        shutil.copyfileobj(reader, writer, 1 << 20)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    :raises OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        found = sha256_of_open(file.fileno())
        # Reading must not push the database's own pages out of memory.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return found


def sha256_of_open(descriptor: int) -> str:
    """Return the SHA-256 of an open file in hexadecimal, from its beginning, wherever it was read to.

    :raises OSError: if it cannot be read.
    """
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _CHUNK_BYTES, offset):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def synchronise(descriptor: int) -> None:
    """Bring an open file or directory to the disk; some file systems cannot do so for a directory.

    :raises OSError: if the disk fails.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNCHRONISE:
            raise


def sync_directory(path: Path) -> None:
    """Bring a directory's entries to the disk, as :func:`synchronise` does.

    :raises OSError: if it cannot be opened, or the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        synchronise(descriptor)
    finally:
        os.close(descriptor)
