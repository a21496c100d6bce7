"""The SQLite driver in the services' packages: who depends on it, and its removal by npm.

A package is changed by npm alone, as the user that it belongs to, and only where npm keeps all of it: what another
package manager or a workspace keeps, or what another package still needs, is named with what to do by hand.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ..core.errors import MigrationError, Problem
from ..core.estate import Group
from ..core.rights import rights_of
from ..host import open_files, programs, safe_paths
from .entry import ABSENT
from .text import DRIVER

_KINDS = ("dependencies", "optionalDependencies", "devDependencies", "peerDependencies")
_NPM_LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
# The lock files of others, with the program that keeps each.
_OTHER_LOCKS = {"pnpm-lock.yaml": "pnpm", "yarn.lock": "yarn", "bun.lock": "bun", "bun.lockb": "bun"}
# What the ledger keeps of a package whose driver is to go.
LASTING = ("path", "directory", "homes", "users", "services", "groups")
_SECONDS = 300
_MOST_BYTES = 10 << 20
_MOST_SAID_BYTES = 1 << 16


def find(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return each package of the services, with the version of the driver that it names.

    Services that share a ``package.json`` or a ``node_modules`` have one package together: the driver must not be
    taken from a service whose group still needs it.

    :returns: ``path`` and ``directory`` (symlinks resolved), ``homes`` (as the inventory names it), ``users``,
        ``services``, ``groups``, ``driver`` (None if it names none), ``note``, ``by_hand`` (why npm cannot remove it
        here, empty if it can) and ``loaded`` (which process would not start again without it, empty if none).
    """
    packages: list[dict[str, Any]] = []
    shared: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        for service in group.services:
            path = os.path.realpath(f"{service.directory}/package.json")
            package = next((known for known in packages if known["path"] == path), None)
            if package is None:
                with _rights_of_user(service.user):
                    driver, note = _read(path)
                package = {
                    **{"path": path, "directory": os.path.dirname(path), "homes": [], "users": []},
                    **{"services": [], "groups": [], "driver": driver, "note": note},
                }
                packages.append(package)
            package["homes"].append(service.directory)
            package["users"].append(service.user)
            package["services"].append(service.name)
            package["groups"].append(group.name)
            shared.setdefault(os.path.realpath(f"{service.directory}/node_modules"), []).append(package)
    for together in shared.values():
        names = [name for package in together for name in package["groups"]]
        for package in together:
            package["groups"] += names
    for package in packages:
        for key in ("homes", "users", "services", "groups"):
            package[key] = list(dict.fromkeys(package[key]))
        package["by_hand"] = _obstacle(package) if package["driver"] else ""
        package["loaded"] = _loaded(package) if package["driver"] else ""
        if not package["driver"] and not package["note"] and _installed(package).is_dir():
            package["note"] = f"it does not name {DRIVER}, so that in its node_modules stays"
    return packages


def _read(path: str | Path) -> tuple[str | None, str]:
    """Return the version of the driver that a ``package.json`` names, and what is to be said of the file."""
    try:
        data = _read_json(path)
        versions = [data[kind][DRIVER] for kind in _KINDS if DRIVER in (data.get(kind) or {})]
    except FileNotFoundError:
        return None, ABSENT
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        return None, f"cannot be read: {type(error).__name__}"
    # It may hold what no output and no jsonb can.
    shown = "".join(letter if letter.isprintable() else "?" for letter in str(versions[0])[:100]) if versions else None
    return shown, ""


def _read_json(path: str | Path) -> Any:
    """Return what a file holds. It is the user's, who may let it lead to anything, such as a fifo.

    :raises FileNotFoundError: if there is none.
    :raises OSError: if it is no regular file, or may not be read.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with safe_paths.regular_file(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        return json.loads(file.read(_MOST_BYTES))


def _rights_of_user(name: str) -> AbstractContextManager[None]:
    """Return with whose rights a package is read: those of its service's user, whose links may lead anywhere."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return nullcontext()
    return rights_of(uid) if os.geteuid() == 0 else nullcontext()


def _installed(package: Mapping[str, Any]) -> Path:
    """Return the driver's directory in a package."""
    return Path(str(package["directory"]), "node_modules", DRIVER)


# ---------------------------------------------------------------- what keeps npm from it


def _obstacle(package: Mapping[str, Any]) -> str:
    """Return why npm cannot remove the driver from a package, with what to do instead; empty if it can."""
    directory = Path(str(package["directory"]))
    for name, program in _OTHER_LOCKS.items():
        if (directory / name).exists():
            return f"{program} keeps it ({name}): there, {program} remove {DRIVER}"
    if not any((directory / name).exists() for name in _NPM_LOCKS):
        for parent in directory.parents:
            if any((parent / name).exists() for name in (*_NPM_LOCKS, *_OTHER_LOCKS)):
                return f"it seems to be in the workspace {parent}, whose lock file names it: remove {DRIVER} there"
    with _rights_of_user(str(package["users"][0])):
        dependent = next(_dependents(directory), None)
    if dependent is not None:
        return f"{dependent} in its node_modules still depends on {DRIVER}: remove that first"
    try:
        _account_of(package)
    except MigrationError as error:
        return "; ".join(problem.what for problem in error.problems)
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    return ""


def _loaded(package: Mapping[str, Any]) -> str:
    """Return which process has loaded the driver: it would run on, and fail at its next start; empty if none has."""
    for holder in open_files.find_loaders(_installed(package)):
        return f"process {holder.pid} ({holder.command}) has loaded it: let the service start without it first"
    return ""


def _dependents(directory: Path) -> Iterator[str]:
    """Yield each package in a ``node_modules`` that depends on the driver."""
    for pattern in ("*/package.json", "@*/*/package.json"):
        for path in (directory / "node_modules").glob(pattern):
            with suppress(OSError, ValueError, AttributeError, TypeError, RecursionError):
                if DRIVER in (_read_json(path).get("dependencies") or {}):
                    yield "/".join(path.parent.parts[-2:] if pattern.startswith("@") else path.parent.parts[-1:])


def _account_of(package: Mapping[str, Any]) -> pwd.struct_passwd:
    """Return who acts on a package: its owner, who is the user of one of its services, or root.

    :raises MigrationError: if it is somebody else's, or root's in a directory that others may change.
    """
    path = str(package["path"])
    owner = os.stat(path).st_uid
    for user in package["users"]:
        with suppress(KeyError):
            account = pwd.getpwnam(str(user))
            if account.pw_uid == owner:
                return account
    if owner == 0:
        # Root runs npm only where nobody else can lay anything in its way, or lead it elsewhere.
        installed = os.path.realpath(f"{package['directory']}/node_modules")
        for directory in (*package["homes"], str(package["directory"]), installed):
            safe_paths.require_private(directory, secret=False)
        return pwd.getpwuid(0)
    raise _failed(path, f"it belongs to the user with the id {owner}, as whom none of its services runs")


# ---------------------------------------------------------------- its removal


def remove(package: Mapping[str, Any]) -> bool:
    """Remove the driver from a package and from its ``node_modules``, and return whether it was there.

    npm changes ``package.json``, whose indentation stays, and a lock file where there is one; it never touches
    ``node_modules``, where it would also prune what ``package.json`` does not name, such as a library that was put
    there. Everything is done as the package's owner, no registry is asked, and no script is run.

    :raises MigrationError: if npm fails or must not do it; a further run tries again.
    """
    path = str(package["path"])
    if _read(path)[0] is None:
        return False
    obstacle = _obstacle(package) or _loaded(package)
    if obstacle:
        raise _failed(path, obstacle)
    account = _account_of(package)
    directory = Path(str(package["directory"]))
    # First, because package.json is what a run after a crash looks at.
    _run(["rm", "-rf", "--", f"node_modules/{DRIVER}"], directory, account)
    if any((directory / name).exists() for name in _NPM_LOCKS):
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--no-update-notifier"]
        command = ["npm", "uninstall", DRIVER, "--package-lock-only", "--offline", "--legacy-peer-deps", *quiet]
    else:
        command = ["npm", "pkg", "delete", *(f"{kind}.{DRIVER}" for kind in _KINDS), "--no-update-notifier"]
    _run(command, directory, account)
    if _read(path)[0] is not None:
        raise _failed(path, "npm has left it there")
    return True


def _run(command: Sequence[str], directory: Path, account: pwd.struct_passwd) -> None:
    """Run a program in a package's directory as its owner, in a session of its own.

    :raises MigrationError: if it fails.
    """
    path = str(directory / "package.json")
    program = shutil.which(command[0], path=programs.PATH)
    if program is None:
        raise _failed(path, f"{command[0]} is not in {programs.PATH}")
    try:
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=directory,
            env=programs.environment_of(account),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            umask=0o022,
            start_new_session=True,
            **programs.identity_of(account.pw_uid),
        )
    except OSError as error:
        raise _failed(path, f"{command[0]}: {programs.not_run(error)}") from None
    with process:
        try:
            said = _listen(process)
        finally:
            # One that has ended has given its number back.
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if said is None:
        raise _failed(path, f"{command[0]}: {programs.not_ended(_SECONDS)}")
    if process.returncode != 0:
        lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        raise _failed(path, f"{command[0]} says: {lines[0][:200] if lines else f'status {process.returncode}'}")


def _listen(process: subprocess.Popen[bytes]) -> bytes | None:
    """Return the beginning of what a program says until it ends, None if it does not end in time.

    The program is the user's to influence: it may say anything for ever, or leave the pipe to a child.
    """
    if process.stderr is None:
        raise ValueError("the program has no pipe")
    deadline = time.monotonic() + _SECONDS
    said = b""
    silent = False
    while True:
        ended = process.poll() is not None
        if not silent and select.select([process.stderr], [], [], 0 if ended else 0.05)[0]:
            chunk = os.read(process.stderr.fileno(), _MOST_SAID_BYTES)
            said = (said + chunk)[:_MOST_SAID_BYTES]
            silent = not chunk
        elif ended:
            return said
        elif silent:
            time.sleep(0.05)
        if time.monotonic() > deadline:
            return said if ended else None


def _failed(path: str, what: str) -> MigrationError:
    """Return the error for a driver that could not be removed."""
    fix = f"Nothing depends on it any more. Run again, or do it by hand in that directory: npm uninstall {DRIVER}"
    return MigrationError(f"{DRIVER} could not be removed.", [Problem(path, what, fix)])
