#!/usr/bin/env python3
"""Install the Ansible collections that requirements.yml names, and put the project itself beside them as a collection.

Galaxy is the preferred source. Where it does not answer or fails, the wheel of the PyPI package `ansible` carries the
same collections: it is downloaded with pip and only the collections that requirements.yml names are unpacked. Either
way requirements.yml stays the only list, and the result is compared with it.

The project is a collection of the name that galaxy.yml gives it. Ansible and Python find it through a symbolic link in
the directory of the collections, which leads to the project's root.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.yml"
COLLECTIONS = ROOT / ".collections"
GALAXY_FILE = ROOT / "galaxy.yml"
ANSIBLE_PACKAGE = "ansible==12.3.0"
"""The release of the PyPI package whose collections have the versions that requirements.yml names."""

GALAXY = "https://galaxy.ansible.com/api/"


def required_versions(requirements: Path) -> dict[str, str]:
    """Return the version of each collection that the requirements file names."""
    document = yaml.safe_load(requirements.read_text(encoding="utf-8"))
    return {entry["name"]: str(entry["version"]) for entry in document["collections"]}


def installed_version(collections: Path, name: str) -> str | None:
    """Return the installed version of one collection, or None where it is missing."""
    manifest = collections.joinpath("ansible_collections", *name.split("."), "MANIFEST.json")
    if not manifest.is_file():
        return None
    return str(json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"])


def own_link(collections: Path) -> Path:
    """Return where the link stands that makes the project a collection."""
    names = yaml.safe_load(GALAXY_FILE.read_text(encoding="utf-8"))
    return collections.joinpath("ansible_collections", names["namespace"], names["name"])


def link_project(collections: Path) -> None:
    """Make the link that leads to the project, by a path that stays true when the whole project is moved.

    :raises OSError: if something that is no link stands in its place.
    """
    link = own_link(collections)
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    link.symlink_to(os.path.relpath(ROOT, link.parent.resolve()))


def is_linked(collections: Path) -> bool:
    """Return whether the link leads to this project."""
    link = own_link(collections)
    return link.is_symlink() and link.resolve() == ROOT


def differences(requirements: Path, collections: Path) -> list[str]:
    """Return one sentence for each collection that is not installed as the requirements file says, or not linked."""
    found = []
    if not is_linked(collections):
        found.append(f"{own_link(collections)} does not lead to {ROOT}")
    for name, version in required_versions(requirements).items():
        installed = installed_version(collections, name)
        if installed is None:
            found.append(f"{name}: {version} is required, it is not installed")
        elif installed != version:
            found.append(f"{name}: {version} is required, {installed} is installed")
    return found


def galaxy_answers(timeout_seconds: float = 5.0) -> bool:
    """Tell whether the Galaxy server answers within the timeout."""
    try:
        with urllib.request.urlopen(GALAXY, timeout=timeout_seconds):
            return True
    except (urllib.error.URLError, OSError):
        return False


def install_from_galaxy() -> bool:
    """Let ansible-galaxy install what requirements.yml names; return whether it has succeeded."""
    program = Path(sys.executable).with_name("ansible-galaxy")
    command = [str(program), "collection", "install", "-r", str(REQUIREMENTS), "-p", str(COLLECTIONS)]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode == 0


def install_from_pypi() -> None:
    """Unpack the collections that requirements.yml names from the wheel of the PyPI package `ansible`."""
    with tempfile.TemporaryDirectory() as directory:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            directory,
            ANSIBLE_PACKAGE,
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(directory).glob("*.whl")
        unpack(wheel, COLLECTIONS)


def unpack(wheel: Path, collections: Path) -> None:
    """Unpack the required collections from the wheel, each into place with one rename."""
    collections.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=collections) as unpacked:
        for name in required_versions(REQUIREMENTS):
            relative = Path("ansible_collections", *name.split("."))
            prefix = f"{relative.as_posix()}/"
            archive.extractall(unpacked, [member for member in archive.namelist() if member.startswith(prefix)])
            target = collections / relative
            if target.exists():
                shutil.rmtree(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(unpacked) / relative).rename(target)


def main() -> int:
    """Install the collections, or with --check only compare them with requirements.yml."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit with 1 and name the differences")
    arguments = parser.parse_args()

    if not arguments.check and not is_linked(COLLECTIONS):
        link_project(COLLECTIONS)
    if arguments.check or not differences(REQUIREMENTS, COLLECTIONS):
        pass
    elif not galaxy_answers() or not install_from_galaxy():
        print(f"{GALAXY} does not give them: taking the collections from the PyPI package {ANSIBLE_PACKAGE}")
        install_from_pypi()

    different = differences(REQUIREMENTS, COLLECTIONS)
    for sentence in different:
        print(sentence, file=sys.stderr)
    if different:
        print(f"The collections in {COLLECTIONS} differ from {REQUIREMENTS} and {GALAXY_FILE}.", file=sys.stderr)
        return 1
    print("The collections are installed as requirements.yml and galaxy.yml name them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
