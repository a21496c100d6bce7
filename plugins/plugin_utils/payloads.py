"""Keeps what Ansible sends to a host for a module, so that the next run need not put it together again.

Ansible packs a module with everything that it imports into one archive. It reads and parses each of these files, for
some of our modules nearly two hundred, and forgets the archive when the run ends. Here the archives of a run stay for
the next one, if that is asked for with the code of the sources in them, under a name that is made of everything that
they were made of: once a file differs, none of them is taken.

They are as trustworthy as Python's own bytecode beside the sources: only who may change the tree can change them. But
no digest of the tree covers them, so nothing that is kept is sent to a protected environment.
"""

from __future__ import annotations

import hashlib
import os
import re
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
from ansible.plugins.loader import module_utils_loader

from . import payload_code
from .gated import ROOT

# What Ansible calls the archives of these modules begins so: its own, ours, and those of a collection that the roles
# use. Any other module may come from a file that is not looked at here.
_OURS, _FOREIGN = "swarm.sqlite_to_postgresql", "community.postgresql"
_BEGINNINGS = ("ansible.modules.", *(f"ansible_collections.{name}.plugins.modules." for name in (_OURS, _FOREIGN)))
# Ends so where no extension of Ansible, such as a debugger, is packed with the module.
_END = "-none"
_FOLDERS = ("modules", "module_utils")
_SECONDS_KEPT = 7 * 24 * 3600
# What a directory of archives is called, as :func:`digest` makes it: nothing else is removed.
_DIGEST = re.compile(r"[0-9a-f]{64}")


def take(kept: Path, local: Path | None = None, *, compiled: bool = False) -> Path | None:
    """Give a run the archives of earlier ones, and return where its own are to be kept; None if nowhere.

    :param kept: private directory of all that is kept.
    :param local: Ansible's own directory for the archives of this run.
    :param compiled: those with the code of the sources in them.
    """
    local = local or of_this_run()
    if has_other_utilities():
        return None
    try:
        _make_private(kept)
        directory = kept / digest(compiled)
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


def give_back(local: Path | None = None) -> None:
    """Take from a run what :func:`take` has given to it: Ansible makes these archives anew.

    :param local: Ansible's own directory for the archives of this run.
    :raises OSError: if one cannot be removed.
    """
    local = local or of_this_run()
    for archive in local.iterdir() if local.is_dir() else ():
        if archive.is_symlink():
            archive.unlink()


def keep(directory: Path, local: Path | None = None, since: float = float("inf"), *, compiled: bool = False) -> None:
    """Keep the archives that a run has made, and remove what no run has asked for in a week.

    :param directory: from :func:`take`.
    :param local: Ansible's own directory for the archives of this run.
    :param since: when the run has begun, in seconds since 1970.
    :param compiled: as for :func:`take`.
    """
    local = local or of_this_run()
    with suppress(OSError):
        made = [archive for archive in local.iterdir() if _is_to_be_kept(archive)]
        # Most runs make none, and need not look at the sources once more.
        if made and (directory.name != digest(compiled) or _newest() >= since or has_other_utilities()):
            # Somebody has worked at the sources meanwhile, if only for a moment: nobody knows what is in which archive.
            return
        for archive in made:
            new = directory / f"{archive.name}.{os.getpid()}.new"
            content = archive.read_bytes()
            _write_durably(new, payload_code.with_code(content) if compiled else content)
            new.rename(directory / archive.name)
        for other in directory.parent.iterdir():
            # A person may have named a directory that holds other things too.
            if _DIGEST.fullmatch(other.name) and other.lstat().st_mtime < time.time() - _SECONDS_KEPT:
                shutil.rmtree(other, ignore_errors=True)


def of_this_run() -> Path:
    """Return where Ansible has the archives of this run."""
    return Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache"


def _is_to_be_kept(archive: Path) -> bool:
    """Return whether a run has made an archive, of files that are looked at here alone."""
    return archive.name.startswith(_BEGINNINGS) and archive.name.endswith(_END) and not archive.is_symlink()


def _write_durably(new: Path, content: bytes) -> None:
    """Write a file; where the machine stops behind this, no empty one is left under a name that later runs read."""
    with new.open("wb") as target:
        target.write(content)
        target.flush()
        os.fsync(target.fileno())


def _make_private(directory: Path) -> None:
    """Make a directory that nobody else may use.

    :raises OSError: if it is there and is not like that.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"{directory} is not private")


def has_other_utilities() -> bool:
    """Return whether files that are not looked at here may be in archives that are called like those that are kept.

    These are utilities in place of those that Ansible's modules import, and collections on the path of modules.
    """
    own = Path(ansible.__file__).parent
    given = [Path(path).expanduser() for path in constants.DEFAULT_MODULE_UTILS_PATH]
    # Those beside a playbook and in the roles that a run has loaded, wherever they are.
    loaded = [Path(path) for path in module_utils_loader._get_paths()]
    beside = [ROOT / "module_utils", ROOT / "playbooks" / "module_utils", *(ROOT / "roles").glob("*/module_utils")]
    others = [path for path in (*given, *loaded, *beside) if not path.is_relative_to(own)]
    libraries = [Path(path) for path in constants.DEFAULT_MODULE_PATH]
    return any(path.exists() for path in others) or any("ansible_collections" in path.parts for path in libraries)


def digest(compiled: bool = False) -> str:
    """Return what the archives are made of, as one name.

    :param compiled: with the code of the sources in them.

    Of our own files the content counts; an installed file is known by its path, its size and its times.
    """
    whole = hashlib.sha256(f"{ansible.__file__} {ansible.release.__version__} {sys.version}".encode())
    if compiled:
        whole.update(Path(payload_code.__file__).read_bytes())
    for folder in _FOLDERS:
        for path in _files(ROOT / "plugins" / folder):
            whole.update(f"\0{path}\0".encode() + hashlib.sha256(Path(path).read_bytes()).digest())
    for directory in installed():
        for path in _files(directory):
            found = os.stat(path)
            # The time of change too: who puts a file into the place of another may set the other one.
            whole.update(f"\0{path}\0{found.st_size}\0{found.st_mtime_ns}\0{found.st_ctime_ns}".encode())
    return whole.hexdigest()


def _newest() -> float:
    """Return when a file that may be in an archive was last changed, in seconds since 1970."""
    directories = [*(ROOT / "plugins" / folder for folder in _FOLDERS), *installed()]
    return max((os.stat(path).st_ctime for directory in directories for path in _files(directory)), default=0.0)


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
