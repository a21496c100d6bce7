#!/usr/bin/python
"""Build the library that the services share, once for each source, and put a copy of it into each service."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: shared_library
short_description: Build a Node.js package from source and put a copy of it into each service
description:
  - Compiles and packs the source in a directory of its own, unless this very source is built already. The new build
    takes the place of the old one whole, or not at all.
  - Puts a copy of the package into C(node_modules) of each service, acting as the service's user. Each copy is loaded
    with the service's own modules first; if one cannot be loaded, no service gets a new copy.
  - Nothing else in C(node_modules) is touched, and no service is restarted.
options:
  files:
    description: The source. C(package.json) names the package, its version, and what it needs.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Path in the package, for example C(src/index.ts).
        type: str
        required: true
      content:
        description: Text of the file.
        type: str
        required: true
  directory:
    description: Where the package is built. What an earlier build has left there is replaced whole.
    type: path
    required: true
  services:
    description: The services that get a copy.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      user:
        description: User that the service runs as, and that owns its modules.
        type: str
        required: true
      directory:
        description: Directory of the service.
        type: path
        required: true
attributes:
  check_mode:
    description: Says whether the package would be built and which services would get a copy, and writes nothing.
    support: full
  diff_mode:
    description: Lists the build and each copy, with version and source, before and after.
    support: full
requirements:
  - Node.js on the host; for a build also npm and a registry that it reaches
author:
  - The maintainers of this project
"""

EXAMPLES = r"""
- name: Build the library and put it into a service
  shared_library:
    files:
      - path: package.json
        content: "{{ lookup('ansible.builtin.file', 'db/package.json') }}"
      - path: src/index.ts
        content: "{{ lookup('ansible.builtin.file', 'db/src/index.ts') }}"
    directory: /opt/swarm-shared/db
    services:
      - name: swarm-registry
        user: swarm
        directory: /opt/swarm-registry
"""

RETURN = r"""
package:
  description: Name and version of the package.
  returned: success
  type: str
  sample: swarm-shared-db@1.0.0
built:
  description: Whether it was built, or in check mode would be.
  returned: success
  type: bool
installed:
  description: The services that got a copy, or in check mode would get one.
  returned: success
  type: list
  elements: str
problems:
  description: Every offender, as where, what and fix.
  returned: failure
  type: list
  elements: dict
"""

import hashlib
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.migration.errors import MigrationError, Problem

# In the package: the hash of the source that it was made from.
SOURCE_HASH = "source.sha256"
BUILD_SECONDS = 300
LOAD_SECONDS = 60
_PREFIX = "package/"  # of every path in an archive that npm makes
_DIRECTORY_MODE = 0o755
_FILE_MODE = 0o644


@dataclass(frozen=True)
class Source:
    """The source of the package.

    :param files: content by path.
    """

    files: Mapping[str, bytes]

    @property
    def description(self) -> dict[str, Any]:
        """Return what ``package.json`` says."""
        described: dict[str, Any] = json.loads(self.files["package.json"])
        return described

    @property
    def name(self) -> str:
        """Return the name that services require the package by."""
        return str(self.description["name"])

    @property
    def version(self) -> str:
        """Return the version of the package."""
        return str(self.description["version"])

    @property
    def digest(self) -> str:
        """Return one hash of all files and their paths."""
        lines = (f"{hashlib.sha256(self.files[path]).hexdigest()}  {path}\n" for path in sorted(self.files))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def archive(self) -> str:
        """Return the name of the file that ``npm pack`` makes."""
        return f"{self.name}-{self.version}.tgz"

    @property
    def node_major(self) -> int:
        """Return the oldest major version of Node.js that will do."""
        return _first_number(self.description["engines"]["node"])

    @property
    def needed_modules(self) -> dict[str, int]:
        """Return the major version of each module that the services must have, by its name."""
        needed: dict[str, str] = self.description.get("peerDependencies", {})
        return {name: _first_number(version) for name, version in needed.items()}


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


@dataclass(frozen=True)
class Programs:
    """Where the programs are that we run; None if they are missing."""

    node: str | None
    npm: str | None


def _first_number(version: str) -> int:
    """Return the first whole number in a version or a range of versions, 0 if there is none."""
    match = re.search(r"\d+", version)
    return int(match.group()) if match else 0


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


def _remove(path: Path) -> None:
    """Remove a file, a symlink or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files, readable for everybody, into an empty directory."""
    for path, content in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    # Said for each: the directory above may hand down other rights.
    directory.chmod(_DIRECTORY_MODE)
    for entry in directory.rglob("*"):
        entry.chmod(_DIRECTORY_MODE if entry.is_dir() else _FILE_MODE)


# ---------------------------------------------------------------- what is there


def check_host(source: Source, requested: Sequence[Mapping[str, str]], node: str | None) -> list[Service]:
    """Return the services, after a look at everything that they and the build need.

    :raises MigrationError: with every problem on this host.
    """
    problems = []
    version = "" if node is None else _output(node, "--version").removeprefix("v")
    if _first_number(version) < source.node_major:
        what = f"has Node.js {version}" if version else "has no Node.js"
        problems.append(Problem("this host", what, f"Install Node.js {source.node_major} or later"))
    services = []
    for entry in requested:
        try:
            account = pwd.getpwnam(entry["user"])
        except KeyError:
            problems.append(
                Problem(entry["name"], f"its user {entry['user']} does not exist", "Correct its user in the estate")
            )
            continue
        service = Service(entry["name"], account, Path(entry["directory"]))
        found = _check_service(service, source)
        problems.extend(found)
        if not found:
            services.append(service)
    if problems:
        raise MigrationError(f"{source.name} cannot be put into the services.", problems)
    return services


def _check_service(service: Service, source: Source) -> list[Problem]:
    """Return what keeps a service from using the package."""
    if os.geteuid() not in (0, service.account.pw_uid):
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
                found = str(json.loads(path.read_text(encoding="utf-8"))["version"])
            except (OSError, ValueError, KeyError, TypeError):
                found = ""
            if _first_number(found) != major:
                what = f"has {module} {found}" if found else f"has no {module} in {service.modules}"
                fix = f"As {service.account.pw_name}, in {service.directory}: npm install {module}@{major}"
                problems.append(Problem(service.name, what, fix))
    return problems


def read_build(directory: Path, source: Source) -> dict[str, bytes] | None:
    """Return the content of the package if exactly this source is built there, else None."""
    try:
        content = _read_archive(directory / source.archive)
        if content.get(SOURCE_HASH) != source.digest.encode():
            return None
        expected = {**source.files, **content}
        intact = all((directory / path).read_bytes() == data for path, data in expected.items())
        intact = intact and not _unfinished_builds(directory)
    except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError):
        return None
    return content if intact else None


def _read_archive(path: Path) -> dict[str, bytes]:
    """Return the content of the regular files in an archive that npm has made.

    :raises ValueError: if it holds anything else.
    """
    content = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            reader = archive.extractfile(member) if member.isreg() else None
            if reader is None or not member.name.startswith(_PREFIX) or ".." in PurePosixPath(member.name).parts:
                raise ValueError(f"unexpected member {member.name}")
            content[member.name.removeprefix(_PREFIX)] = reader.read()
    return content


def _unfinished_builds(directory: Path) -> list[Path]:
    """Return what builds that were killed have left beside the directory."""
    return list(directory.parent.glob(f".{directory.name}-build-*"))


def _unfinished_copies(service: Service, name: str) -> list[Path]:
    """Return what installations that were killed have left in a service."""
    return list(service.modules.glob(f".{name}-copy-*"))


def read_copy(service: Service, name: str) -> dict[str, bytes] | None:
    """Return the content of a service's copy: None if there is none, nothing if it is not as we would install it."""
    content = {}
    if _unfinished_copies(service, name):
        return {}
    root = service.modules / name
    with acting_as(service.account):
        try:
            for path in (root, *root.rglob("*")):
                status = path.lstat()
                kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
                expected = {stat.S_IFDIR: _DIRECTORY_MODE, stat.S_IFREG: _FILE_MODE}
                if status.st_uid != service.account.pw_uid or expected.get(kind) != mode:
                    return {}
                if kind == stat.S_IFREG:
                    content[path.relative_to(root).as_posix()] = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            return {}
    return content


def _label(content: Mapping[str, bytes] | None) -> str:
    """Return version and source of a package in a few words."""
    if content is None:
        return "none"
    try:
        version = json.loads(content["package.json"])["version"]
    except (KeyError, TypeError, ValueError):
        return "not as it was built"
    return f"{version}, source {content.get(SOURCE_HASH, b'unknown').decode(errors='replace')[:12]}"


# ---------------------------------------------------------------- build


def _output(*command: str) -> str:
    """Return what a command prints, nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=LOAD_SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def check_build(directory: Path, source: Source, npm: str | None) -> None:
    """Refuse a build that cannot work, or that would remove what is not ours.

    :raises MigrationError: with every problem.
    """
    problems = []
    if npm is None:
        problems.append(Problem("this host", "has no npm, which the build needs", "Install npm"))
    if os.path.lexists(directory):
        try:
            ours = not any(directory.iterdir()) or _name_in(directory / "package.json") == source.name
        except OSError:
            ours = False
        if not ours:
            fix = "Move it away, or set shared_library_directory to another directory"
            problems.append(Problem(str(directory), f"holds something else than {source.name}", fix))
    if problems:
        raise MigrationError(f"{source.name} cannot be built.", problems)


def _name_in(path: Path) -> str:
    """Return the name in a ``package.json``, nothing if it cannot be read."""
    try:
        return str(json.loads(path.read_bytes())["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def build(directory: Path, source: Source, npm: str) -> dict[str, bytes]:
    """Build the package beside its directory, put it in the directory's place, and return the package's content.

    :raises MigrationError: if it cannot be built; what was there before is untouched then.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    for unfinished in _unfinished_builds(directory):
        _remove(unfinished)
    staged = Path(tempfile.mkdtemp(prefix=f".{directory.name}-build-", dir=directory.parent))
    try:
        _write(staged, {**source.files, SOURCE_HASH: source.digest.encode()})
        _run_npm(staged, source, npm, "ci", "--ignore-scripts", "--prefer-offline")
        _run_npm(staged, source, npm, "run", "build")
        _run_npm(staged, source, npm, "pack", "--ignore-scripts")
        # The compiler and what it reads: 30 MB that nobody needs until the source changes.
        shutil.rmtree(staged / "node_modules")
        replaced = staged.with_name(f"{staged.name}-replaced")
        if os.path.lexists(directory):
            directory.rename(replaced)
        staged.rename(directory)
        _remove(replaced)
    finally:
        _remove(staged)
    content = read_build(directory, source)
    if content is None:
        fix = "Compare its package.json with those of a release of this project"
        raise MigrationError("The build is not complete.", [Problem(str(directory / source.archive), "is amiss", fix)])
    return content


def _run_npm(directory: Path, source: Source, npm: str, *arguments: str) -> None:
    """Run npm in a directory.

    :raises MigrationError: with what it says.
    """
    options = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
    command = f"npm {arguments[0]}"
    try:
        result = subprocess.run(
            [npm, *arguments, *options],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=BUILD_SECONDS,
        )
        what = _first_errors(result.stdout) if result.returncode else ""
    except subprocess.TimeoutExpired:
        what = f"is not done after {BUILD_SECONDS} s"
    if what:
        fix = "Check that this host reaches the npm registry (npm ping), then run again"
        if arguments[0] != "ci":
            fix = "Correct the source in roles/shared_library/files/db, then run again"
        raise MigrationError(f"{source.name} cannot be built.", [Problem(command, what, fix)])


def _first_errors(output: str) -> str:
    """Return the first lines of what a program says when it fails, in one line."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and "complete log of this run" not in line]
    telling = [line for line in lines if re.search(r"\berror\b|Error:", line)] or lines
    return "; ".join(telling[:4]) or "failed without a word"


# ---------------------------------------------------------------- install


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
            _remove(path)


def _stage(service: Service, content: Mapping[str, bytes], name: str) -> Path:
    """Write the copy beside its place, under a name that neither Node.js nor npm looks at."""
    for unfinished in _unfinished_copies(service, name):
        _remove(unfinished)
    with acting_as(service.account):
        path = Path(tempfile.mkdtemp(prefix=f".{name}-copy-", dir=service.modules))
        try:
            _write(path, content)
        except OSError:
            _remove(path)
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
        what = _first_errors(result.stderr) if result.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        what = str(error)
    fix = f"As {account.pw_name}, in {service.directory}: npm ls pg"
    return [Problem(service.name, f"cannot load it: {what}", fix)] if what else []


def _swap(service: Service, path: Path, name: str) -> None:
    """Put the new copy in the place of the old one, if there is one."""
    target = service.modules / name
    replaced = path.with_name(f"{path.name}-replaced")
    with acting_as(service.account):
        if os.path.lexists(target):
            target.rename(replaced)
        path.rename(target)
    # As root, if we are: somebody may have installed the old copy as root. What it links to stays.
    _remove(replaced)


# ---------------------------------------------------------------- the whole


def synchronise(
    source: Source, directory: Path, requested: Sequence[Mapping[str, str]], programs: Programs, check_mode: bool
) -> dict[str, Any]:
    """Build the package and put it into the services, as far as that is not done yet; return the module's result.

    :raises MigrationError: with every offender.
    """
    services = check_host(source, requested, programs.node)
    copies = {service: read_copy(service, source.name) for service in services}
    content = read_build(directory, source)
    missing = content is None
    if content is None:
        check_build(directory, source, programs.npm)
    if check_mode and content is None:
        # The same source gives the same package.
        outdated = [
            service for service in services if (copies[service] or {}).get(SOURCE_HASH) != source.digest.encode()
        ]
    else:
        if content is None:
            content = build(directory, source, str(programs.npm))
        outdated = [service for service in services if copies[service] != content]
        if outdated and not check_mode:
            install(outdated, content, source.name, str(programs.node))
    wanted = f"{source.version}, source {source.digest[:12]}"
    before = [f"{directory}: {'to be built' if missing else wanted}"]
    after = [f"{directory}: {wanted}"]
    for service in services:
        label = _label(copies[service])
        changed = service in outdated
        before.append(f"{service.name}: {'edited' if changed and label == wanted else label}")
        after.append(f"{service.name}: {wanted if changed else label}")
    return {
        "changed": missing or bool(outdated),
        "package": f"{source.name}@{source.version}",
        "built": missing,
        "installed": [service.name for service in outdated],
        "diff": {"before": "\n".join([*before, ""]), "after": "\n".join([*after, ""])},
    }


def main() -> None:
    """Read the arguments, bring build and copies up to date, and report."""
    text = {"type": "str", "required": True}
    path = {"type": "path", "required": True}
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": {"path": text, "content": text}},
            "directory": path,
            "services": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {"name": text, "user": text, "directory": path},
            },
        },
        supports_check_mode=True,
    )
    parameters = module.params
    places = ["/usr/local/bin"]
    programs = Programs(module.get_bin_path("node", opt_dirs=places), module.get_bin_path("npm", opt_dirs=places))
    os.umask(0o022)
    try:
        result = synchronise(
            Source({file["path"]: file["content"].encode() for file in parameters["files"]}),
            Path(parameters["directory"]),
            parameters["services"],
            programs,
            module.check_mode,
        )
    except MigrationError as error:
        module.fail_json(msg=str(error), problems=error.as_dicts())
    except OSError as error:
        problem = Problem(str(error.filename or "this host"), str(error.strerror), "Put that right, then run again")
        failure = MigrationError("The library could not be written.", [problem])
        module.fail_json(msg=str(failure), problems=failure.as_dicts())
    module.exit_json(**result)


if __name__ == "__main__":
    main()
