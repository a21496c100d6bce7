"""Makes databases with real applications: each from its package registry, at an exact version, in a place of its own.

A directory here describes one application:

- ``requirements.txt``, or ``package.json`` and ``package-lock.json``: what is installed, with exact versions.
- ``recipe.py`` or ``recipe.mjs``: run as ``recipe STEP URL``, with a URL such as ``sqlite:////path`` or
  ``postgresql://…``. The steps are ``schema`` (the application makes its tables with its own tool), ``rows`` (it fills
  them, on SQLite), ``change`` (it writes to what was moved) and ``read`` (it prints as JSON what it finds).
- ``mapping.yml``: what is needed beyond "tables of the same name"; see :func:`group_of`. ``refused`` is a part of the
  refusal that must come first, and ``sql`` the statement that answers it on PostgreSQL.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("APPLICATIONS_CACHE") or HERE.parents[1] / ".cache" / "applications")
# Longest wait for an installation, and for one step of a recipe, in seconds.
PATIENCE = 1800


class ApplicationError(Exception):
    """An application cannot be installed, or a step of its recipe fails; the text says what to look at."""


@dataclass(frozen=True)
class Application:
    """One application.

    :param name: name of its directory.
    """

    name: str

    @property
    def directory(self) -> Path:
        """Return where its recipe stands."""
        return HERE / self.name

    @property
    def mapping(self) -> dict[str, Any]:
        """Return what ``mapping.yml`` says, empty if there is none."""
        file = self.directory / "mapping.yml"
        return (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.exists() else {}

    def install(self) -> Path:
        """Return the directory that it is installed in, which is made if need be.

        :raises ApplicationError: if the registry cannot be reached, or its client is not there.
        """
        is_python = (self.directory / "requirements.txt").exists()
        wanted = self.directory / ("requirements.txt" if is_python else "package-lock.json")
        digest = hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]
        place = CACHE / f"{self.name}-{digest}"
        complete = place / "is-complete"
        if complete.exists():
            return place
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if is_python:
            self._run([sys.executable, "-m", "venv", str(place)], place)
            pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            self._run([*pip, "--requirement", str(wanted)], place)
        else:
            for file in (wanted, self.directory / "package.json"):
                shutil.copy(file, place)
            self._run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], place)
        complete.touch()
        return place

    def step(self, step: str, url: str, work: Path) -> str:
        """Run one step of the recipe, and return what it prints.

        :param work: a directory for whatever the application writes beside its database.
        """
        place = self.install()
        work.mkdir(exist_ok=True)
        if (place / "bin" / "python").exists():
            command = [str(place / "bin" / "python"), str(self.directory / "recipe.py")]
        else:
            # Node looks for packages beside the file.
            recipe = shutil.copy(self.directory / "recipe.mjs", place)
            command = ["node", str(recipe)]
        return self._run([*command, step, url], work)

    def _run(self, command: list[str], work: Path) -> str:
        """Run a command and return its output."""
        is_installation = "install" in command or "ci" in command
        # The clients' own settings; nothing else of the caller's reaches an application.
        environment = {
            **{key: value for key, value in os.environ.items() if key.lower().startswith(("npm_", "pip_", "ssl_"))},
            "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}",
            "HOME": os.environ.get("HOME", "/") if is_installation else str(work),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            # Recipes share orm_rows.py.
            "PYTHONPATH": str(HERE),
        }
        where = f"{self.name}: {' '.join(command[:6])}"
        try:
            done = subprocess.run(
                command, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
        except FileNotFoundError:
            raise ApplicationError(f"{where}: {command[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise ApplicationError(f"{where}: no end after {PATIENCE} seconds") from None
        if done.returncode:
            said = (done.stdout[-2000:] + done.stderr[-6000:]).strip()
            hint = "\nIs the package registry reachable?" if is_installation else ""
            raise ApplicationError(f"{where}: exit code {done.returncode}{hint}\n{said}")
        return done.stdout

    def read(self, url: str, work: Path) -> Any:
        """Return what the application finds in a database, as plain data."""
        return json.loads(self.step("read", url, work).strip().split("\n")[-1])


def applications() -> list[Application]:
    """Return all applications, by name."""
    return [Application(file.parent.name) for file in sorted(HERE.glob("*/recipe.*"))]


def tables_of(file: Path) -> list[str]:
    """Return the tables of an SQLite file."""
    statement = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    with closing(sqlite3.connect(file)) as connection:
        return sorted(name for (name,) in connection.execute(statement))


def group_of(name: str, file: Path, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of ``estate_cutover_groups``: each table goes to the one of its name.

    :param mapping: ``schema`` (of the target, else ``public``), ``tables`` (table → options of its entry) and
        ``ignored_tables``.
    """
    schema = mapping.get("schema", "public")
    options = mapping.get("tables", {})
    ignored = mapping.get("ignored_tables", [])
    return {
        "name": name,
        "source": {"path": str(file)},
        "tables": [
            {"source": table, "target": f"{schema}.{table}", **options.get(table, {})}
            for table in tables_of(file)
            if table not in ignored
        ],
        "ignored_tables": ignored,
    }
