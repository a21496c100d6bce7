"""Both kinds of docker compose: the program ``docker-compose`` and Docker's plugin, as this machine has them.

Where the plugin is missing, long searches fetch it once with apt, from the archive of Debian that this machine uses.
It stays below ``.cache/compose`` or the directory that ``COMPOSE_CACHE`` names.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

PROJECT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("COMPOSE_CACHE") or PROJECT / ".cache" / "compose")
# The first release of Debian whose package docker-compose is the plugin. It needs nothing but the C library.
_SUITE = "trixie"
_FETCHED = CACHE / _SUITE
_PLUGIN = Path("usr/libexec/docker/cli-plugins/docker-compose")
_PATIENCE = 600


class NoComposeError(Exception):
    """A compose cannot be had here; the text says why."""


def program() -> list[str]:
    """Return the command of the older program, version 1.

    :raises NoComposeError: if this machine has none.
    """
    path = shutil.which("docker-compose")
    if path is None:
        raise NoComposeError("docker-compose is not installed")
    done = subprocess.run([path, "version", "--short"], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("1."):
        raise NoComposeError(f"{path} is no version 1: {done.stdout.strip()}")
    # It asks for distutils, in whose place Debian's Python loads the whole of setuptools: half of its start.
    return ["/usr/bin/env", "SETUPTOOLS_USE_DISTUTILS=stdlib", path]


def plugin(fetches: bool) -> list[str]:
    """Return the command of Docker's plugin.

    :param fetches: whether it is fetched where it is missing.
    :raises NoComposeError: if it cannot be had.
    """
    docker = shutil.which("docker")
    if docker is None:
        raise NoComposeError("docker is not installed")
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    if not fetches and not _FETCHED.is_dir():
        raise NoComposeError("Docker's plugin compose is not installed, and only `make test-all` fetches it")
    fetched_plugin()
    return [docker, "--config", str(_FETCHED), "compose"]


def fetched_plugin() -> Path:
    """Return the file of a plugin that runs on any Debian, after fetching it if need be.

    :raises NoComposeError: if it cannot be had.
    """
    if not _FETCHED.is_dir():
        _fetch(_FETCHED)
    return _FETCHED / "cli-plugins" / "docker-compose"


def _fetch(settings: Path) -> None:
    """Make a directory of Docker's settings that has the plugin.

    :raises NoComposeError: if the archive cannot be reached.
    """
    if shutil.which("apt-get") is None:
        raise NoComposeError("apt, which fetches Docker's plugin compose, is not installed")
    sources = [f"deb {address} {_SUITE} main" for address in _archives()]
    if not sources:
        raise NoComposeError("this machine uses no archive of Debian that has Docker's plugin compose")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        (work / "sources.list").write_text("\n".join([*sources, ""]))
        for directory in ("lists/partial", "archives/partial", "package", "made/cli-plugins"):
            (work / directory).mkdir(parents=True)
        places = {
            "Dir::Etc::SourceList": work / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": work / "lists",
            "Dir::Cache": work,
            "Acquire::Languages": "none",
            # The directory is private to root, whose rights apt would give up.
            "APT::Sandbox::User": "root",
        }
        apt = ["apt-get", "--quiet=2", *(word for key, value in places.items() for word in ("-o", f"{key}={value}"))]
        _run([*apt, "update"], work)
        _run([*apt, "download", "docker-compose"], work)
        (package,) = work.glob("docker-compose_*.deb")
        _run(["dpkg-deb", "--extract", str(package), str(work / "package")], work)
        shutil.move(work / "package" / _PLUGIN, work / "made" / "cli-plugins")
        # Renamed at the end, so that what stands there is whole; another run may have been quicker.
        if not settings.exists():
            (work / "made").rename(settings)


def _archives() -> list[str]:
    """Return the addresses of Debian's archives that this machine uses, without those of security updates."""
    build = _build_of_the_test_hosts()
    found = [
        address
        for address, suite in build.apt_sources()
        if suite.partition("-")[0] in build.DEBIAN_RELEASES and not suite.endswith("-security")
    ]
    return list(dict.fromkeys(found))


def _build_of_the_test_hosts() -> ModuleType:
    """Return the program that makes the test hosts, which knows how to read apt's sources."""
    specification = importlib.util.spec_from_file_location("build", PROJECT / "molecule/test_host/build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _run(command: Sequence[str], directory: Path) -> None:
    """Run a command that belongs to fetching.

    :raises NoComposeError: with what it says, if it fails.
    """
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise NoComposeError(f"{command[0]} has not ended within {_PATIENCE} seconds") from None
    if done.returncode:
        told = " ".join(done.stderr.split())[:200]
        raise NoComposeError(f"Docker's plugin compose cannot be fetched: {told}")


if __name__ == "__main__":
    print(fetched_plugin())
