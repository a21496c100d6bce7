"""The SQLite driver in the services' packages: who depends on it, and its removal by npm as the service's user."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .cleanup_text import ABSENT, DRIVER
from .errors import MigrationError, Problem
from .estate import Group

_KINDS = ("dependencies", "optionalDependencies", "devDependencies")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 300
_MOST_BYTES = 10 << 20


def find(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return each package of the services, with the version of the driver that it names.

    Services that share a ``package.json`` or a ``node_modules`` have one package together: the driver must not be
    taken from a service whose group still needs it.

    :returns: ``path``, ``directory``, ``user``, ``services``, ``groups``, ``driver`` (None if it names none), ``note``.
    """
    packages: list[dict[str, Any]] = []
    shared: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        for service in group.services:
            path = os.path.realpath(f"{service.directory}/package.json")
            package = next((known for known in packages if known["path"] == path), None)
            if package is None:
                driver, note = _read(path)
                package = {
                    **{"path": path, "directory": os.path.dirname(path), "user": service.user},
                    **{"services": [], "groups": [], "driver": driver, "note": note},
                }
                packages.append(package)
            package["services"].append(service.name)
            package["groups"].append(group.name)
            shared.setdefault(os.path.realpath(f"{service.directory}/node_modules"), []).append(package)
    for together in shared.values():
        names = [name for package in together for name in package["groups"]]
        for package in together:
            package["groups"] += names
    for package in packages:
        package["services"] = list(dict.fromkeys(package["services"]))
        package["groups"] = list(dict.fromkeys(package["groups"]))
    return packages


def _read(path: str) -> tuple[str | None, str]:
    """Return the version of the driver that a ``package.json`` names, and what is to be said of the file."""
    try:
        # It is the user's, who may let it lead to anything: nothing but a JSON object is taken from it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = json.loads(file.read(_MOST_BYTES))
        versions = [data[kind][DRIVER] for kind in _KINDS if DRIVER in (data.get(kind) or {})]
    except FileNotFoundError:
        return None, ABSENT
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return None, f"cannot be read: {type(error).__name__}"
    return (str(versions[0])[:100] if versions else None), ""


def remove(package: Mapping[str, Any]) -> bool:
    """Remove the driver from a package and from its ``node_modules``, and return whether it was there.

    npm changes ``package.json``, whose indentation stays, and a lock file where there is one; it never touches
    ``node_modules``, where it would also prune what ``package.json`` does not name, such as a library that was put
    there. Everything is done as the service's user, no registry is asked, and no script is run.

    :raises MigrationError: if npm fails; a further run tries again.
    """
    path = str(package["path"])
    if _read(path)[0] is None:
        return False
    directory = str(package["directory"])
    # First, because package.json is what a run after a crash looks at.
    _run(package, ["rm", "-rf", "--", f"node_modules/{DRIVER}"])
    if any(Path(directory, name).exists() for name in ("package-lock.json", "npm-shrinkwrap.json")):
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--no-update-notifier"]
        _run(package, ["npm", "uninstall", DRIVER, "--package-lock-only", "--offline", "--legacy-peer-deps", *quiet])
    else:
        _run(package, ["npm", "pkg", "delete", *(f"{kind}.{DRIVER}" for kind in _KINDS), "--no-update-notifier"])
    if _read(path)[0] is not None:
        raise _failed(path, "npm has left it there")
    return True


def _run(package: Mapping[str, Any], command: list[str]) -> None:
    """Run a program in a package's directory as its user.

    :raises MigrationError: if it fails.
    """
    path = str(package["path"])
    program = shutil.which(command[0], path=_PATH)
    if program is None:
        raise _failed(path, f"{command[0]} is not in {_PATH}")
    try:
        account = pwd.getpwnam(str(package["user"]))
    except KeyError:
        raise _failed(path, f"there is no user {package['user']} on this host") from None
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    try:
        result = subprocess.run(
            [program, *command[1:]],
            cwd=str(package["directory"]),
            env={"HOME": account.pw_dir, "USER": account.pw_name, "PATH": _PATH, "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            umask=0o022,
            check=False,
            **identity,
        )
    except subprocess.TimeoutExpired:
        raise _failed(path, f"{command[0]} did not end within {_SECONDS} seconds") from None
    except OSError as error:
        raise _failed(path, f"{command[0]} cannot be run: {error.strerror}") from None
    if result.returncode != 0:
        said = [line for line in result.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        raise _failed(path, f"{command[0]} says: {said[0][:200] if said else f'status {result.returncode}'}")


def _failed(path: str, what: str) -> MigrationError:
    """Return the error for a driver that could not be removed."""
    fix = f"Nothing depends on it any more. Run again, or do it by hand in that directory: npm uninstall {DRIVER}"
    return MigrationError(f"{DRIVER} could not be removed.", [Problem(path, what, fix)])
