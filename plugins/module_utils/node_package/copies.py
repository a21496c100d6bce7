"""The copies of the package in the services' modules, read and written as each service's user."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..migration.core.errors import MigrationError, Problem
from .source import (
    DIRECTORY_MODE,
    FILE_MODE,
    LOAD_SECONDS,
    SOURCE_HASH,
    Source,
    first_errors,
    first_number,
    output,
    put_in_place,
    remove,
    write,
)

# Where a package.json names what it depends on.
_DEPENDENCIES = ("dependencies", "optionalDependencies", "peerDependencies")
# Far beyond any file, and any copy, of ours.
_MOST_BYTES = 1 << 20
_MOST_BYTES_OF_A_COPY = 16 << 20
_MOST_ENTRIES_OF_A_COPY = 1000


@dataclass(frozen=True)
class Service:
    """A service that gets a copy."""

    name: str
    account: pwd.struct_passwd
    directory: Path

    @property
    def modules(self) -> Path:
        """Return the directory of its modules."""
        return self.directory / "node_modules"


@contextmanager
def acting_as(account: pwd.struct_passwd) -> Iterator[None]:
    """Read and write files as another user: what root does in a user's directory, the user can lead elsewhere."""
    if os.geteuid() == account.pw_uid:
        yield
        return
    identity = (os.getgroups(), os.getegid(), os.geteuid())
    os.setgroups([])
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(identity[2])
        os.setegid(identity[1])
        os.setgroups(identity[0])


def check_host(source: Source, requested: Sequence[Mapping[str, Any]], node: str | None) -> list[Service]:
    """Return the services that depend on the package, after a look at everything that they and the build need.

    :param requested: for each service ``name``, ``user`` and ``directory``, and ``depends``: whether it depends on the
        package, or None if its ``package.json`` tells.
    :raises MigrationError: with every problem on this host.
    """
    problems = []
    services = []
    for entry in requested:
        if entry.get("depends") is False:
            continue
        try:
            account = pwd.getpwnam(entry["user"])
        except KeyError:
            problems.append(
                Problem(entry["name"], f"its user {entry['user']} does not exist", "Correct its user in the estate")
            )
            continue
        service = Service(entry["name"], account, Path(entry["directory"]))
        if not entry.get("depends") and _may_act_as(account) and not _depends_on(service, source.name):
            continue
        found = _check_service(service, source)
        problems.extend(found)
        if not found:
            services.append(service)
    version = "" if node is None else output(node, "--version").removeprefix("v")
    if (services or problems) and first_number(version) < source.node_major:
        what = f"has Node.js {version}" if version else "has no Node.js"
        problems.insert(0, Problem("this host", what, f"Install Node.js {source.node_major} or later"))
    if problems:
        raise MigrationError(f"{source.name} cannot be put into the services.", problems)
    return services


def _may_act_as(account: pwd.struct_passwd) -> bool:
    """Return whether we may act as a user."""
    return os.geteuid() in (0, account.pw_uid)


def _depends_on(service: Service, package: str) -> bool:
    """Return whether a service's ``package.json`` names a package among what it depends on, or it has a copy already.

    Of a service whose directory is not there nobody knows it: then it counts as one that does, so that this is told.
    """
    try:
        with acting_as(service.account):
            if not service.directory.is_dir() or os.path.lexists(service.modules / package):
                return True
            described = json.loads(_read_file(service.directory / "package.json"))
    except (OSError, ValueError, RecursionError):
        return False
    named = [described.get(key) for key in _DEPENDENCIES] if isinstance(described, dict) else []
    return any(package in packages for packages in named if isinstance(packages, dict))


def _read_file(path: Path) -> bytes:
    """Return what a regular file holds, whatever its user puts in its place.

    A pipe would keep us waiting, and a huge file would fill the memory.

    :raises OSError: if it is missing, no regular file, or larger than any that we read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError(errno.EINVAL, "it is no regular file, or too large", str(path))
        return file.read(_MOST_BYTES)


def _check_service(service: Service, source: Source) -> list[Problem]:
    """Return what keeps a service from using the package."""
    if not _may_act_as(service.account):
        return [Problem(service.name, "only root can act as its user", "Run the play with become: true")]
    problems = []
    with acting_as(service.account):
        if not service.directory.is_dir():
            return [
                Problem(service.name, f"{service.directory} is no directory", "Correct its directory in the estate")
            ]
        for module, major in source.needed_modules.items():
            path = service.modules / module / "package.json"
            try:
                found = str(json.loads(_read_file(path))["version"])
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                found = ""
            if first_number(found) != major:
                what = f"has {module} {found}" if found else f"has no {module} in {service.modules}"
                fix = f"As {service.account.pw_name}, in {service.directory}: npm install {module}@{major}"
                problems.append(Problem(service.name, what, fix))
    return problems


def _unfinished_copies(service: Service, name: str) -> list[Path]:
    """Return what installations that were killed have left in a service."""
    return list(service.modules.glob(f".{name}-copy-*"))


def read_copy(service: Service, name: str) -> dict[str, bytes] | None:
    """Return the content of a service's copy: None if there is none, nothing if it is not as we would install it."""
    content: dict[str, bytes] = {}
    left = _MOST_BYTES_OF_A_COPY
    if _unfinished_copies(service, name):
        return {}
    root = service.modules / name
    with acting_as(service.account):
        try:
            for number, path in enumerate(chain([root], root.rglob("*"))):
                status = path.lstat()
                kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
                expected = {stat.S_IFDIR: DIRECTORY_MODE, stat.S_IFREG: FILE_MODE}
                left -= status.st_size
                if status.st_uid != service.account.pw_uid or expected.get(kind) != mode:
                    return {}
                if left < 0 or number > _MOST_ENTRIES_OF_A_COPY:
                    return {}
                if kind == stat.S_IFREG:
                    content[path.relative_to(root).as_posix()] = _read_file(path)
        except FileNotFoundError:
            return None
        except OSError:
            return {}
    return content


def label_of(content: Mapping[str, bytes] | None) -> str:
    """Return version and source of a package in a few words."""
    if content is None:
        return "none"
    try:
        version = json.loads(content["package.json"])["version"]
    except (KeyError, TypeError, ValueError):
        return "not as it was built"
    return f"{version}, source {content.get(SOURCE_HASH, b'unknown').decode(errors='replace')[:12]}"


def install(services: Sequence[Service], content: Mapping[str, bytes], name: str, node: str) -> None:
    """Put a copy into each service, once all of them have been seen to load.

    :raises MigrationError: with every service in which it cannot be written or loaded; none is changed then.
    """
    staged: dict[Service, Path] = {}
    problems = []
    try:
        for service in services:
            try:
                staged[service] = _stage(service, content, name)
            except OSError as error:
                fix = f"Let {service.account.pw_name} write there, then run again"
                problems.append(Problem(service.name, f"{service.modules}: {error.strerror}", fix))
                continue
            problems.extend(_load(service, staged[service], node))
        if problems:
            raise MigrationError(f"{name} cannot be put into the services; none was changed.", problems)
        for service, path in staged.items():
            _swap(service, path, name)
    finally:
        for path in staged.values():
            remove(path)


def _stage(service: Service, content: Mapping[str, bytes], name: str) -> Path:
    """Write the copy beside its place, under a name that neither Node.js nor npm looks at."""
    for unfinished in _unfinished_copies(service, name):
        remove(unfinished)
    with acting_as(service.account):
        path = Path(tempfile.mkdtemp(prefix=f".{name}-copy-", dir=service.modules))
        try:
            write(path, content)
        except OSError:
            remove(path)
            raise
    return path


def _load(service: Service, path: Path, node: str) -> list[Problem]:
    """Load the copy as the service would, with the service's own modules; return what is wrong."""
    account = service.account
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        result = subprocess.run(
            [node, "--eval", "require(process.argv[1])", str(path)],
            cwd=service.directory,
            env={"HOME": account.pw_dir, "PATH": "/usr/local/bin:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=LOAD_SECONDS,
            **identity,
        )
        what = first_errors(result.stderr) if result.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        what = str(error)
    fix = f"As {account.pw_name}, in {service.directory}: npm ls pg"
    return [Problem(service.name, f"cannot load it: {what}", fix)] if what else []


def _swap(service: Service, path: Path, name: str) -> None:
    """Put the new copy in the place of the old one, if there is one.

    :raises MigrationError: if the service's user may not replace the old one.
    """
    place = service.modules / name
    try:
        with acting_as(service.account):
            replaced = put_in_place(path, place)
    except OSError as error:
        user = service.account.pw_name
        what = f"{user} cannot replace the old copy {place}: {error.strerror}"
        fix = f"Give it to the service's user, then run again: chown -hR {user}: {shlex.quote(str(place))}"
        raise MigrationError(f"{name} cannot be put into a service.", [Problem(service.name, what, fix)]) from None
    # As root, if we are: somebody may have installed the old copy as root. What it links to stays.
    remove(replaced)
