"""The services' library in a container with Node.js 18, compiled there and put beside the sample services' modules."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.node_package.shared_statements import (
    SHARED_STATEMENTS,
)

if TYPE_CHECKING:
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "roles" / "shared_library" / "files" / "db"
DIRECTORY = "/srv/db"
# What the sample services depend on, as the image has it.
NODE_MODULES = "/opt/sample-estate/node_modules"
# What a developer's own build leaves in the sources.
_BUILT = ("node_modules", "dist", "dist-test", "ledger", "migrations")
_BUILD = f"""
npm ci --ignore-scripts --prefer-offline --no-audit --no-fund --fetch-retries=5
npm run build
mkdir {NODE_MODULES}/swarm-shared-db
cp -r package.json dist ledger migrations {NODE_MODULES}/swarm-shared-db
"""


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


@contextmanager
def built_library(shared: Path) -> Iterator[Library]:
    """Run a container with the library, its development dependencies, and a copy for the sample services.

    :param shared: a directory that the container sees too.
    """
    image = [sys.executable, str(ROOT / "molecule" / "test_host" / "build.py")]
    tag = subprocess.run(image, capture_output=True, text=True, check=True).stdout.split()[-1]
    library = Library(f"library-{os.getpid()}", shared)
    options = ["--detach", "--rm", "--init", "--name", library.container, "--network", "host"]
    options += ["--volume", f"{shared}:{shared}"]
    subprocess.run(["docker", "run", *options, tag, "sleep", "infinity"], check=True, capture_output=True)
    try:
        place = ["docker", "cp", "-", f"{library.container}:{os.path.dirname(DIRECTORY)}"]
        subprocess.run(place, input=_sources(), check=True, capture_output=True)
        result = library.run("sh", "-ec", _BUILD)
        assert result.returncode == 0, result.stdout + result.stderr
        yield library
    finally:
        subprocess.run(["docker", "rm", "--force", library.container], check=True, capture_output=True)


def _sources() -> bytes:
    """Return an archive of the package as the role gives it to a host, with the SQL files that it carries."""
    content = io.BytesIO()
    top = os.path.basename(DIRECTORY)

    def chosen(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Leave out what was built, and give the rest to root."""
        if member.name.removeprefix(f"{top}/") in _BUILT:
            return None
        member.uid = member.gid = 0
        return member

    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(PACKAGE, top, filter=chosen)
        carried = {f"migrations/{path.name}": path.read_text() for path in (ROOT / "files" / "sql").glob("*.sql")}
        for path, text in {**carried, **SHARED_STATEMENTS}.items():
            member = tarfile.TarInfo(f"{top}/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()
