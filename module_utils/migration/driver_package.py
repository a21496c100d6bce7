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

    npm does it as the service's user, from what lies on the disk: no registry is asked, no script is run, and the
    indentation of ``package.json`` stays. A lock file is kept up to date where there is one, and none is made.

    :raises MigrationError: if npm fails; the package is as npm has left it, and a further run tries again.
    """
    path = str(package["path"])
    if _read(path)[0] is None:
        return False
    directory = str(package["directory"])
    program = shutil.which("npm", path=_PATH)
    if program is None:
        raise _failed(path, f"npm is not in {_PATH}")
    arguments = ["uninstall", DRIVER, "--offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    arguments += ["--no-progress", "--no-update-notifier", "--legacy-peer-deps"]
    if not any(Path(directory, name).exists() for name in ("package-lock.json", "npm-shrinkwrap.json")):
        arguments.append("--no-package-lock")
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
            [program, *arguments],
            cwd=directory,
            env={"HOME": account.pw_dir, "USER": account.pw_name, "PATH": _PATH, "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            umask=0o022,
            check=False,
            **identity,
        )
    except subprocess.TimeoutExpired:
        raise _failed(path, f"npm did not end within {_SECONDS} seconds") from None
    except OSError as error:
        raise _failed(path, f"npm cannot be run: {error.strerror}") from None
    if result.returncode != 0 or _read(path)[0] is not None:
        said = [line for line in result.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
        raise _failed(path, f"npm says: {said[0][:200] if said else f'status {result.returncode}'}")
    return True


def _failed(path: str, what: str) -> MigrationError:
    """Return the error for a driver that could not be removed."""
    fix = f"Nothing depends on it any more. Run again, or do it by hand in that directory: npm uninstall {DRIVER}"
    return MigrationError(f"{DRIVER} could not be removed.", [Problem(path, what, fix)])
