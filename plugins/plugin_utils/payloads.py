"""Keeps what Ansible sends to a host for a module, so that the next run need not put it together again.

Ansible packs a module with everything that it imports into one archive. It reads and parses each of these files, for
some of our modules nearly two hundred, and forgets the archive when the run ends. Here the archives of a run stay for
the next one, under a name that is made of everything that they were made of: once a file differs, none of them is
taken.

They are as trustworthy as Python's own bytecode beside the sources: only who may change the tree can change them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import ansible
from ansible import constants

from .gated import ROOT

# What Ansible calls the archives of these modules begins so: its own, ours, and those of a collection that the roles
# use. Any other module may come from a file that is not looked at here.
_OURS, _FOREIGN = "swarm.sqlite_to_postgresql", "community.postgresql"
_BEGINNINGS = ("ansible.modules.", *(f"ansible_collections.{name}.plugins.modules." for name in (_OURS, _FOREIGN)))
# Ends so where no extension of Ansible, such as a debugger, is packed with the module.
_END = "-none"
_FOLDERS = ("modules", "module_utils")
_SECONDS_KEPT = 7 * 24 * 3600


def take(kept: Path, local: Path | None = None) -> Path | None:
    """Give a run the archives of earlier ones, and return where its own are to be kept; None if nowhere.

    :param kept: private directory of all that is kept.
    :param local: Ansible's own directory for the archives of this run.
    """
    local = local or of_this_run()
    if has_other_utilities():
        return None
    try:
        _make_private(kept)
        directory = kept / digest()
        _make_private(directory)
        # Shows that it is in use still.
        os.utime(directory)
        local.mkdir(mode=0o700, parents=True, exist_ok=True)
        for archive in directory.iterdir():
            # A second playbook of the same command has them already.
            with suppress(FileExistsError):
                (local / archive.name).symlink_to(archive)
    except OSError:
        # Nothing but time is lost.
        return None
    return directory


def keep(directory: Path, local: Path | None = None) -> None:
    """Keep the archives that a run has made, and remove what no run has asked for in a week.

    :param directory: from :func:`take`.
    :param local: Ansible's own directory for the archives of this run.
    """
    local = local or of_this_run()
    with suppress(OSError):
        if directory.name != digest():
            # Somebody has worked at the sources meanwhile: nobody knows what is in which archive.
            return
        for archive in local.iterdir():
            name = archive.name
            if name.startswith(_BEGINNINGS) and name.endswith(_END) and not archive.is_symlink():
                new = directory / f"{name}.{os.getpid()}.new"
                shutil.copyfile(archive, new)
                new.rename(directory / name)
        for other in directory.parent.iterdir():
            if other.stat().st_mtime < time.time() - _SECONDS_KEPT:
                shutil.rmtree(other, ignore_errors=True)


def of_this_run() -> Path:
    """Return where Ansible has the archives of this run."""
    return Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache"


def _make_private(directory: Path) -> None:
    """Make a directory that nobody else may use.

    :raises OSError: if it is there and is not like that.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{directory} is not private")


def has_other_utilities() -> bool:
    """Return whether files that are not looked at here may take the place of those that Ansible's modules import."""
    given = [Path(path).expanduser() for path in constants.DEFAULT_MODULE_UTILS_PATH]
    beside = [ROOT / "module_utils", ROOT / "playbooks" / "module_utils", *(ROOT / "roles").glob("*/module_utils")]
    return any(path.exists() for path in (*given, *beside))


def digest() -> str:
    """Return what the archives are made of, as one name.

    Of our own files the content counts; an installed file is known by its path, its size and its time.
    """
    whole = hashlib.sha256(f"{ansible.__file__} {ansible.release.__version__} {sys.version}".encode())
    for folder in _FOLDERS:
        for path in _files(ROOT / "plugins" / folder):
            whole.update(f"\0{path}\0".encode() + hashlib.sha256(Path(path).read_bytes()).digest())
    for directory in installed():
        for path in _files(directory):
            found = os.stat(path)
            whole.update(f"\0{path}\0{found.st_size}\0{found.st_mtime_ns}".encode())
    return whole.hexdigest()


def installed() -> list[Path]:
    """Return the directories of what Ansible and the collection that the roles use bring along."""
    parents = [Path(ansible.__file__).parent]
    # Only a run that needs the collection has to have it.
    with suppress(ModuleNotFoundError):
        foreign = find_spec(f"ansible_collections.{_FOREIGN}")
        parents += [Path(location) / "plugins" for location in (foreign and foreign.submodule_search_locations) or ()]
    return [parent / folder for parent in parents for folder in _FOLDERS]


def _files(directory: Path) -> Iterator[str]:
    """Give the paths of the Python files below a directory, in their order."""
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        yield from (os.path.join(folder, name) for name in sorted(names) if name.endswith(".py"))
