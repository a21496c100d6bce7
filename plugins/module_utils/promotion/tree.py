"""Which files decide what a run does, their digest, and whether they are those of the last commit.

The content on the disk counts, and every file in the folders that Ansible reads: no rule of .gitignore and no mark in
Git's index can hide one.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..migration.core.errors import MigrationError, Problem

# The playbook of all phases.
WHOLE_PLAYBOOK = "site.yml"
# What decides, by its path: files, and folders with everything below them. Hosts, secrets, and what differs between
# environments are in other places of inventory/.
_FILES = (
    "ansible.cfg",
    "galaxy.yml",
    "inventory/group_vars/all.yml",
    "keys/allowed_signers",
    "meta/runtime.yml",
    "pyproject.toml",
    "requirements.yml",
    WHOLE_PLAYBOOK,
)
_FOLDERS = (
    "files",
    "inventory/group_vars/all",
    "playbooks",
    "plugins",
    "roles",
    # The project has none of these. Ansible would load them, because they are beside site.yml.
    *("group_vars", "host_vars", "library", "module_utils", "handlers", "tasks", "templates", "vars"),
    *(f"{kind}_plugins" for kind in ("action", "cache", "callback", "connection", "filter", "inventory", "lookup")),
    *(f"{kind}_plugins" for kind in ("become", "cliconf", "doc_fragment", "httpapi", "netconf", "shell", "strategy")),
    *(f"{kind}_plugins" for kind in ("terminal", "test", "vars")),
)
_BELOW = tuple(f"{folder}/" for folder in _FOLDERS)
# No run reads them.
_LEFT_OUT_FOLDERS = frozenset({"__pycache__", "node_modules"})
_LEFT_OUT_ENDINGS = (".md", ".pyc")
# Secrets of all environments. The gate looks whether the first holds anything else; Ansible does not read the others.
SECRETS = "inventory/group_vars/all/vault.yml"
_PLACE_OF_SECRETS, _OTHER_SECRETS = SECRETS.rpartition("/")[0], ".vault"
_GIT_LINK = "120000"


@dataclass(frozen=True)
class Tree:
    """The files that decide what a run does.

    :param digest: SHA-256 of their paths and contents, in hexadecimal digits.
    :param differences: how they differ from the last commit, one sentence each; none if the tree is clean.
    """

    digest: str
    differences: tuple[str, ...]


def read_tree(root: Path) -> Tree:
    """Return the tree below the project's folder.

    :raises MigrationError: if Git cannot say what the last commit holds.
    """
    committed = {path: entry for path, entry in _read_commit(root) if _decides(path)}
    whole = hashlib.sha256()
    differences = []
    for path, (mode, object_id) in sorted(committed.items()):
        content = _read(root / path, mode)
        if content is None:
            differences.append(f"{path} is missing")
            continue
        if _object_id(content, len(object_id)) != object_id:
            differences.append(f"{path} differs from the last commit")
        whole.update(f"{path}\0{mode}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    differences += [f"{path} is in no commit" for path in sorted(_on_disk(root)) if path not in committed]
    return Tree(whole.hexdigest(), tuple(differences))


def is_playbook(root: Path, path: Path) -> bool:
    """Return whether a file is a playbook of the tree."""
    return path == root / WHOLE_PLAYBOOK or path.parent == root / "playbooks"


def _decides(path: str) -> bool:
    """Return whether a file decides what a run does, by its path below the project's folder.

    It is asked of every file several times a run, and so takes the path as text.
    """
    if path not in _FILES and not path.startswith(_BELOW):
        return False
    *folders, name = path.split("/")
    if name.endswith(_LEFT_OUT_ENDINGS) or not _LEFT_OUT_FOLDERS.isdisjoint((*folders, name)):
        return False
    return path != SECRETS and not (name.endswith(_OTHER_SECRETS) and "/".join(folders) == _PLACE_OF_SECRETS)


def _read_commit(root: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Give each file of the last commit below the folder: its path, and its mode and object id as Git has them.

    :raises MigrationError: if Git cannot tell.
    """
    # Variables such as GIT_DIR would show another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        listed = subprocess.run(
            # Root may read a clone that belongs to a user, as with sudo: nothing of its configuration is run.
            ["git", "-c", f"safe.directory={root}", "-C", str(root), "ls-tree", "-r", "-z", "HEAD"],
            env={**environment, "LC_ALL": "C"},
            capture_output=True,
            check=True,
        ).stdout.decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        raise _unreadable(root, "git is not installed on this machine", "Install git") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip().partition("\n")[0] or f"status {error.returncode}"
        fix = "Run from a clone of the project's repository that has a commit"
        raise _unreadable(root, f"git ls-tree HEAD says: {said}", fix) from None
    for line in filter(None, listed.split("\0")):
        description, _, path = line.partition("\t")
        mode, _, object_id = description.split(" ")
        yield path, (mode, object_id)


def _unreadable(root: Path, what: str, fix: str) -> MigrationError:
    """Return the error that nobody knows what the last commit holds."""
    return MigrationError("The tree cannot be compared with its last commit.", [Problem(str(root), what, fix)])


def _read(path: Path, mode: str) -> bytes | None:
    """Return the content of a file, or where a symbolic link leads; None if it is not there, or of another kind."""
    try:
        if (mode == _GIT_LINK) != path.is_symlink():
            return None
        return os.fsencode(os.readlink(path)) if mode == _GIT_LINK else path.read_bytes()
    except OSError:
        return None


def _object_id(content: bytes, digits: int) -> str:
    """Return the id that Git gives to this content: a SHA-1, or a SHA-256 in a repository whose ids are longer."""
    named = b"blob %d\0" % len(content) + content
    return (hashlib.sha256(named) if digits == 64 else hashlib.sha1(named, usedforsecurity=False)).hexdigest()


def _on_disk(root: Path) -> Iterator[str]:
    """Give the path of every file on the disk that decides what a run does."""
    yield from (path for path in _FILES if os.path.lexists(root / path))
    for folder in _FOLDERS:
        if (root / folder).is_symlink():
            yield folder
        for directory, inner, names in os.walk(root / folder):
            inner[:] = [name for name in inner if name not in _LEFT_OUT_FOLDERS]
            below = os.path.relpath(directory, root)
            yield from (path for name in names if _decides(path := f"{below}/{name}"))
            yield from (f"{below}/{name}" for name in inner if os.path.islink(os.path.join(directory, name)))
