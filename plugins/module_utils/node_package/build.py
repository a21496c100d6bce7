"""Compiles and packs the source: the new build takes the old one's place whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from ..migration.core.errors import MigrationError, Problem
from .source import SOURCE_HASH, Source, first_errors, put_in_place, remove, write

BUILD_SECONDS = 300
_PREFIX = "package/"  # of every path in an archive that npm makes


def read_build(directory: Path, source: Source) -> dict[str, bytes] | None:
    """Return the content of the package if exactly this source is built there, else None."""
    try:
        content = _read_archive(directory / source.archive)
        if content.get(SOURCE_HASH) != source.digest.encode():
            return None
        expected = {**source.files, **content}
        intact = all((directory / path).read_bytes() == data for path, data in expected.items())
        intact = intact and not _unfinished_builds(directory)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError):
        return None
    return content if intact else None


def _read_archive(path: Path) -> dict[str, bytes]:
    """Return the content of the regular files in an archive that npm has made.

    :raises ValueError: if it holds anything else.
    """
    content = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            reader = archive.extractfile(member) if member.isreg() else None
            if reader is None or not member.name.startswith(_PREFIX) or ".." in PurePosixPath(member.name).parts:
                raise ValueError(f"unexpected member {member.name}")
            content[member.name.removeprefix(_PREFIX)] = reader.read()
    return content


def _unfinished_builds(directory: Path) -> list[Path]:
    """Return what builds that were killed have left beside the directory."""
    return list(directory.parent.glob(f".{directory.name}-build-*"))


def check_build(directory: Path, source: Source, npm: str | None) -> None:
    """Refuse a build that cannot work, or that would remove what is not ours.

    :raises MigrationError: with every problem.
    """
    problems = []
    if npm is None:
        problems.append(Problem("this host", "has no npm, which the build needs", "Install npm"))
    if os.path.lexists(directory):
        try:
            ours = not any(directory.iterdir()) or _name_in(directory / "package.json") == source.name
        except OSError:
            ours = False
        if not ours:
            fix = "Move it away, or set shared_library_directory to another directory"
            problems.append(Problem(str(directory), f"holds something else than {source.name}", fix))
    if problems:
        raise MigrationError(f"{source.name} cannot be built.", problems)


def _name_in(path: Path) -> str:
    """Return the name in a ``package.json``, nothing if it cannot be read."""
    try:
        return str(json.loads(path.read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def build(directory: Path, source: Source, npm: str) -> dict[str, bytes]:
    """Build the package beside its directory, put it in the directory's place, and return the package's content.

    :raises MigrationError: if it cannot be built; what was there before is untouched then.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in _unfinished_builds(directory):
        remove(unfinished)
    staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}-build-", dir=directory.parent))
    try:
        write(staged, {**source.files, SOURCE_HASH: source.digest.encode()})
        _run_npm(staged, source, npm, "ci", "--ignore-scripts", "--prefer-offline")
        _run_npm(staged, source, npm, "run", "build")
        _run_npm(staged, source, npm, "pack", "--ignore-scripts")
        # The compiler and what it reads: 30 MB that nobody needs until the source changes.
        shutil.rmtree(staged / "node_modules")
        remove(put_in_place(staged, directory))
    finally:
        remove(staged)
    content = read_build(directory, source)
    if content is None:
        fix = "Compare its package.json with those of a release of this project"
        raise MigrationError("The build is not complete.", [Problem(str(directory / source.archive), "is amiss", fix)])
    return content


def _run_npm(directory: Path, source: Source, npm: str, *arguments: str) -> None:
    """Run npm in a directory.

    :raises MigrationError: with what it says.
    """
    options = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    command = f"npm {arguments[0]}"
    try:
        result = subprocess.run(
            [npm, *arguments, *options],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=BUILD_SECONDS,
        )
        what = first_errors(result.stdout) if result.returncode else ""
    except subprocess.TimeoutExpired:
        what = f"is not done after {BUILD_SECONDS} s"
    if what:
        fix = "Check that this host reaches the npm registry (npm ping), then run again"
        if arguments[0] != "ci":
            fix = "Correct the source in roles/shared_library/files/db, then run again"
        raise MigrationError(f"{source.name} cannot be built.", [Problem(command, what, fix)])
