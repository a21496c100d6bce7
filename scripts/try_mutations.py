#!/usr/bin/env python3
"""Breaks the product in each way that tests/mutations.yml lists, in a copy, and sees the named test turn red.

python scripts/try_mutations.py --count      # how many guards are shown red so
python scripts/try_mutations.py              # try all of them
python scripts/try_mutations.py gate keys    # those whose names contain one of these words
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutations.yml"
COLLECTION = ".collections/ansible_collections/swarm/sqlite_to_postgresql"
# What pytest returns if tests have failed, and nothing else went wrong.
_TESTS_FAILED = 1
_SECONDS = 900


@dataclass(frozen=True)
class Mutation:
    """One fault that is put into the product.

    :param name: what the product does wrong then.
    :param file: relative to the project.
    :param find: text that stands in the file once.
    :param put: what takes its place.
    :param test: the guard, as arguments of pytest.
    """

    name: str
    file: str
    find: str
    put: str
    test: str

    def applied(self, root: Path) -> str:
        """Return the text of the file with the fault.

        :raises ValueError: if the text does not stand there exactly once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.find) != 1:
            raise ValueError(f"{self.file} holds {self.find!r} {text.count(self.find)} times, not once")
        return text.replace(self.find, self.put)


def read_mutations() -> list[Mutation]:
    """Return the listed mutations."""
    return [Mutation(**entry) for entry in yaml.safe_load(LIST.read_text(encoding="utf-8"))]


@contextmanager
def copied() -> Iterator[Path]:
    """Give a copy of what Git tracks, and of new files that it does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    with tempfile.TemporaryDirectory(prefix="mutations-") as directory:
        copy = Path(directory)
        for name in filter(None, listed):
            if (ROOT / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
        (copy / COLLECTION).parent.mkdir(parents=True)
        (copy / COLLECTION).symlink_to(copy)
        for beside in (ROOT / COLLECTION).parent.parent.iterdir():
            if beside.name != "swarm":
                (copy / COLLECTION).parent.parent.joinpath(beside.name).symlink_to(beside.resolve())
        (copy / ".venv").symlink_to((ROOT / ".venv").resolve())
        yield copy


def is_seen(mutation: Mutation, copy: Path) -> bool:
    """Return whether the guard turns red by a mutation, which is taken back then.

    :raises ValueError: if the text is not there, or pytest ends otherwise than with a failed test.
    """
    file = copy / mutation.file
    before, wrong = file.read_text(encoding="utf-8"), mutation.applied(copy)
    file.write_text(wrong, encoding="utf-8")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.test.split(" ")],
            cwd=copy,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    finally:
        file.write_text(before, encoding="utf-8")
    if done.returncode not in (0, _TESTS_FAILED):
        raise ValueError(f"pytest {mutation.test} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
    return done.returncode == _TESTS_FAILED


def main(words: Sequence[str]) -> int:
    """Try the chosen mutations and print what each has shown; return 1 if a guard has stayed green."""
    mutations = read_mutations()
    if "--count" in words:
        print(len(mutations))
        return 0
    chosen = [mutation for mutation in mutations if not words or any(word in mutation.name for word in words)]
    green = 0
    with copied() as copy:
        for mutation in chosen:
            seen = is_seen(mutation, copy)
            green += not seen
            print(f"{'red  ' if seen else 'GREEN'} {mutation.name} ({mutation.test})", flush=True)
    print(f"{len(chosen) - green} of {len(chosen)} guards turn red")
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
