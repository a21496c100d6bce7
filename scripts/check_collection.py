#!/usr/bin/env python3
"""Run the parts of `ansible-test sanity` that need no network and no container on what the project is as a collection.

Left out: ansible-doc, changelog, import, pep8, pslint, pylint, runtime-metadata and yamllint. For each of these
ansible-test makes an environment with pip, which it fetches with a script from the internet. What they look for is
found by ruff, mypy, yamllint, ansible-lint and tests/foundation. validate-modules is in the same case, but nothing else
does its work: its program is called here with our own Python.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "ansible-test"
# What belongs to the collection: the rest of the project is not installed with it.
CONTENT = ("README.md", "files", "galaxy.yml", "meta", "playbooks", "plugins", "roles")
TESTS = (
    "action-plugin-docs",
    "compile",
    "empty-init",
    "line-endings",
    "no-assert",
    "no-illegal-filenames",
    "no-smart-quotes",
    "shebang",
    "symlinks",
    "use-argspec-type-path",
)
VALIDATE = "_util/controller/sanity/validate-modules/validate.py"
# Ansible's own modules are under the GPL; ours are under the license that galaxy.yml names.
ACCEPTED = {"missing-gplv3-license"}


def copy_content(to: Path) -> None:
    """Copy what Git tracks of the collection, and new files that it does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *CONTENT],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name, follow_symlinks=False)


def run_sanity_tests(collection: Path) -> list[str]:
    """Return what `ansible-test sanity` prints if one of its tests fails."""
    CACHE.mkdir(parents=True, exist_ok=True)
    program = str(Path(sys.executable).with_name("ansible-test"))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    chosen = [word for test in TESTS for word in ("--test", test)]
    done = subprocess.run(
        [program, "sanity", "--python", python, *chosen],
        cwd=collection,
        env={
            **os.environ,
            # It looks for itself on the PATH, and keeps an environment for its tests below the home directory.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(CACHE),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def validate_modules(collection: Path, version: str) -> list[str]:
    """Return what validate-modules finds wrong with the modules and their documentation.

    :raises RuntimeError: if it does not run.
    """
    package = importlib.util.find_spec("ansible_test")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("The package ansible_test is not installed.")
    program = str(Path(package.submodule_search_locations[0]) / VALIDATE)
    place = collection.relative_to(collection.parents[2])
    options = ["--format", "json", "--arg-spec", "--collection", str(place), "--collection-version", version]
    modules = sorted(str(path.relative_to(collection)) for path in collection.glob("plugins/modules/*.py"))
    above = str(collection.parents[2])
    done = subprocess.run(
        [sys.executable, program, *options, *modules],
        cwd=collection,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": above},
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"{program} has not run:\n{done.stdout}{done.stderr}") from None
    return [
        f"{path}:{error['line']}: {error['code']}: {error['msg']}"
        for path, results in sorted(found.items())
        for error in results["errors"]
        if error["code"] not in ACCEPTED
    ]


def main() -> int:
    """Print what is wrong, and return 1 if anything is."""
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        collection = Path(directory, "ansible_collections", galaxy["namespace"], galaxy["name"])
        copy_content(collection)
        wrong = [*validate_modules(collection, galaxy["version"]), *run_sanity_tests(collection)]
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
