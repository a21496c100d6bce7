"""The source of a Node.js package, and the files that it becomes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# In the package: the hash of the source that it was made from.
SOURCE_HASH = "source.sha256"
LOAD_SECONDS = 60
DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


@dataclass(frozen=True)
class Source:
    """The source of the package.

    :param files: content by path.
    """

    files: Mapping[str, bytes]

    @property
    def description(self) -> dict[str, Any]:
        """Return what ``package.json`` says."""
        described: dict[str, Any] = json.loads(self.files["package.json"])
        return described

    @property
    def name(self) -> str:
        """Return the name that services require the package by."""
        return str(self.description["name"])

    @property
    def version(self) -> str:
        """Return the version of the package."""
        return str(self.description["version"])

    @property
    def digest(self) -> str:
        """Return one hash of all files and their paths."""
        lines = (f"{hashlib.sha256(self.files[path]).hexdigest()}  {path}\n" for path in sorted(self.files))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def archive(self) -> str:
        """Return the name of the file that ``npm pack`` makes."""
        return f"{self.name}-{self.version}.tgz"

    @property
    def node_major(self) -> int:
        """Return the oldest major version of Node.js that will do."""
        return first_number(self.description["engines"]["node"])

    @property
    def needed_modules(self) -> dict[str, int]:
        """Return the major version of each module that the services must have, by its name."""
        needed: dict[str, str] = self.description.get("peerDependencies", {})
        return {name: first_number(version) for name, version in needed.items()}


def first_number(version: str) -> int:
    """Return the first whole number in a version or a range of versions, 0 if there is none."""
    match = re.search(r"\d+", version)
    return int(match.group()) if match else 0


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files, readable for everybody, into an empty directory."""
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    # Said for each: the directory above may hand down other rights.
    directory.chmod(DIRECTORY_MODE)
    for entry in directory.rglob("*"):
        entry.chmod(DIRECTORY_MODE if entry.is_dir() else FILE_MODE)


def remove(path: Path) -> None:
    """Remove a file, a symlink or a whole directory, if it is there."""
    if _is_directory(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put_in_place(new: Path, place: Path) -> Path:
    """Put a new directory, which lies beside it, in the place of whatever is there.

    :return: where the old one is now, if there was one and it could be moved: the caller removes it.
    :raises OSError: if it cannot be put there.
    """
    replaced = new.with_name(f"{new.name}-replaced")
    try:
        if os.path.lexists(place):
            place.rename(replaced)
    except OSError as error:
        # On overlayfs a directory of a lower layer, as an image has it, cannot be renamed. Its files can be replaced.
        if error.errno != errno.EXDEV:
            raise
        _replace_files(new, place)
    else:
        new.rename(place)
    return replaced


def _replace_files(new: Path, place: Path) -> None:
    """Make the content of a directory that of a new one, file by file; what the new one does not have goes last.

    A file that both have is never missing or half written. A service that starts meanwhile may read files of both. Of a
    run that is killed here the next one finds other content than it wants, and does it again.
    """
    names = os.listdir(new)
    for name in names:
        source, target = new / name, place / name
        if _is_directory(source) and _is_directory(target):
            _replace_files(source, target)
            continue
        if _is_directory(target) or (_is_directory(source) and os.path.lexists(target)):
            remove(target)
        source.replace(target)
    for name in set(os.listdir(place)) - set(names):
        remove(place / name)
    place.chmod(DIRECTORY_MODE)


def _is_directory(path: Path) -> bool:
    """Return whether a path is a directory itself, and no symlink to one."""
    return path.is_dir() and not path.is_symlink()


def output(*command: str) -> str:
    """Return what a command prints, nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=LOAD_SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def first_errors(output: str) -> str:
    """Return the first lines of what a program says when it fails, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and "complete log of this run" not in line]
    telling = [line for line in lines if re.search(r"\berror\b|Error:", line)] or lines
    return "; ".join(telling[:4]) or "failed without a word"
