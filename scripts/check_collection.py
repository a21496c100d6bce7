#!/usr/bin/env python3
"""Run `ansible-test sanity` on what the project is as a collection, as far as it needs no network and no container.

For some tests ansible-test makes an environment with pip, which it fetches with a script from the internet. Two of
these are programs that our own Python can call; the others are in LEFT_OUT, each with what does its work here.
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
# Those that ansible-test itself runs.
TESTS = (
    "action-plugin-docs",
    "compile",
    "empty-init",
    "ignores",
    "line-endings",
    "no-assert",
    "no-get-exception",
    "no-illegal-filenames",
    "no-smart-quotes",
    "replace-urlopen",
    "shebang",
    "symlinks",
    "use-argspec-type-path",
    "use-compat-six",
)
# Those whose programs are called here, by their places in ansible-test.
PROGRAMS = {
    "validate-modules": "_util/controller/sanity/validate-modules/validate.py",
    "runtime-metadata": "_util/controller/sanity/code-smell/runtime-metadata.py",
}
LEFT_OUT = {
    "ansible-doc": "tests/foundation/test_documentation.py calls it for each module",
    "changelog": "it looks for fragments of antsibull-changelog, and CHANGELOG.md is written by hand",
    "import": "tests/foundation/test_imports.py imports each module as it arrives on a host",
    "pep8": "ruff has its rules",
    "pslint": "there is no PowerShell",
    "pylint": "ruff and mypy find what it finds",
    "shellcheck": "there is no shell script in the collection",
    "yamllint": "it runs by itself, over the whole project",
}
# Rule of validate-modules → why it does not hold here.
ACCEPTED = {"missing-gplv3-license": "Ansible's own modules are under the GPL, ours under what galaxy.yml names"}


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


def _ansible_test(collection: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call ansible-test in a collection."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-test")), "sanity", *arguments],
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


def unknown_tests(collection: Path) -> list[str]:
    """Return a sentence for each test that ansible-test has and this file does not name, or the other way round."""
    there = set(_ansible_test(collection, "--list-tests").stdout.split())
    named = {*TESTS, *PROGRAMS, *LEFT_OUT}
    return [
        *(f"ansible-test has a test {name}: add it, or say in LEFT_OUT why not" for name in sorted(there - named)),
        *(f"ansible-test has no test {name} any more" for name in sorted(named - there)),
    ]


def run_sanity_tests(collection: Path) -> list[str]:
    """Return what `ansible-test sanity` prints if one of its tests fails."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    chosen = [word for test in TESTS for word in ("--test", test)]
    done = _ansible_test(collection, "--python", python, *chosen)
    return [] if done.returncode == 0 else [done.stdout + done.stderr]


def _run_program(test: str, collection: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call the program of a test with our own Python.

    :raises RuntimeError: if ansible-test is not installed.
    """
    package = importlib.util.find_spec("ansible_test")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("The package ansible_test is not installed.")
    return subprocess.run(
        [sys.executable, str(Path(package.submodule_search_locations[0]) / PROGRAMS[test]), *arguments],
        cwd=collection,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(collection.parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )


def validate_modules(collection: Path, version: str) -> list[str]:
    """Return what validate-modules finds wrong with the modules and their documentation.

    :raises RuntimeError: if it does not run.
    """
    place = collection.relative_to(collection.parents[2])
    options = ["--format", "json", "--arg-spec", "--collection", str(place), "--collection-version", version]
    modules = sorted(str(path.relative_to(collection)) for path in collection.glob("plugins/modules/*.py"))
    done = _run_program("validate-modules", collection, *options, *modules)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"validate-modules has not run:\n{done.stdout}{done.stderr}") from None
    return [
        f"{path}:{error['line']}: {error['code']}: {error['msg']}"
        for path, results in sorted(found.items())
        for error in results["errors"]
        if error["code"] not in ACCEPTED
    ]


def check_runtime_metadata(collection: Path) -> list[str]:
    """Return what is wrong with ``meta/runtime.yml``."""
    done = _run_program("runtime-metadata", collection, "meta/runtime.yml")
    return (done.stdout + (done.stderr if done.returncode else "")).splitlines()


def find_faults(collection: Path, version: str) -> list[str]:
    """Return what any of the tests finds wrong with a collection.

    :param collection: its directory, ``…/ansible_collections/<namespace>/<name>``.
    :raises RuntimeError: if one of them does not run.
    """
    return [
        *unknown_tests(collection),
        *validate_modules(collection, version),
        *check_runtime_metadata(collection),
        *run_sanity_tests(collection),
    ]


def main() -> int:
    """Print what is wrong, and return 1 if anything is."""
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        collection = Path(directory, "ansible_collections", galaxy["namespace"], galaxy["name"])
        copy_content(collection)
        wrong = find_faults(collection, galaxy["version"])
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
