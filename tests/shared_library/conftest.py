"""The library as a host has it, built in a container with Node.js 18."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "roles" / "shared_library" / "files" / "db"
DIRECTORY = "/srv/db"


def url_of(login: Login, port: int | None = None, options: str = "") -> str:
    """Return the address of a database as a service has it in its environment."""
    return f"postgresql://{login.user}:{login.password}@{login.host}:{port or login.port}/{login.database}{options}"


@dataclass(frozen=True)
class Library:
    """The built library in a container that shares the machine's network.

    :param shared: a directory that both the container and the tests see, under the same path.
    """

    container: str
    shared: Path

    def command(self, *arguments: str, **environment: str) -> list[str]:
        """Return a command line that runs a program in the library's directory."""
        options = [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
        return ["docker", "exec", "--interactive", "--workdir", DIRECTORY, *options, self.container, *arguments]

    def run(self, *arguments: str, given: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program in the library's directory."""
        command = self.command(*arguments, **environment)
        return subprocess.run(command, input=given, capture_output=True, text=True, check=False)

    def migrate(self, login: Login, *options: str) -> subprocess.CompletedProcess[str]:
        """Apply SQL files as the library's own runner does, acting as the login's owner."""
        arguments = ("--role", login.session_role or login.user, *options)
        return self.run("node", "dist/migrations/command.js", *arguments, DATABASE_URL=url_of(login))

    def applied_by(self, login: Login, *options: str) -> list[str]:
        """Apply SQL files, and return the names of those that were not applied before."""
        result = self.migrate(login, *options)
        assert result.returncode == 0, result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        return list(answer["applied"])


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, build_library: Callable[[str, str], None]) -> Iterator[Library]:
    """The library with its development dependencies, compiled."""
    build = [sys.executable, str(ROOT / "molecule/test_host/build.py")]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.split()[-1]
    shared = tmp_path_factory.mktemp("library")
    shared.chmod(0o755)
    container = f"library-{os.getpid()}"
    options = ["--detach", "--rm", "--init", "--name", container, "--network", "host", "--volume", f"{shared}:{shared}"]
    subprocess.run(["docker", "run", *options, image, "sleep", "infinity"], check=True, capture_output=True)
    try:
        build_library(container, DIRECTORY)
        yield Library(container, shared)
    finally:
        subprocess.run(["docker", "rm", "--force", container], check=True, capture_output=True)
