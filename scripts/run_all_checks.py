#!/usr/bin/env python3
"""Run every check of the project and show in full the output of those that fail.

Three run at a time: each spends much of its time waiting for a service, a server or a container.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".cache" / "checks"


@dataclass(frozen=True)
class Check:
    """One command that must succeed."""

    name: str
    command: tuple[str, ...]


LANES = (
    (
        Check("linters", ("scripts/lint.sh",)),
        Check(
            "unit tests",
            ("pytest", "tests", *(f"--ignore=tests/{name}" for name in ("crash", "cutover", "random_order"))),
        ),
        Check("random order", ("pytest", "-s", "tests/random_order")),
        Check("validation scenario", ("env", "TEST_HOST_PREFIX=validation-", "molecule", "test", "-s", "validation")),
    ),
    (
        Check("crash tests", ("pytest", "tests/crash")),
        Check("backup scenario", ("env", "TEST_HOST_PREFIX=backup-", "molecule", "test", "-s", "backup")),
        Check("cleanup scenario", ("env", "TEST_HOST_PREFIX=cleanup-", "molecule", "test", "-s", "cleanup")),
    ),
    (
        Check("Molecule scenario", ("molecule", "test", "--no-command-borders")),
        Check("cutover tests", ("pytest", "tests/cutover")),
        Check("scenario under load", ("env", "TEST_HOST_PREFIX=under-load-", "molecule", "test", "-s", "under_load")),
    ),
)

_printing = Lock()


def run(check: Check) -> bool:
    """Run one check with its output in a log, which is printed if it fails; return whether it passed."""
    log = LOGS / f"{check.name.replace(' ', '_')}.log"
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(
            check.command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    seconds = time.monotonic() - started
    text = log.read_text(encoding="utf-8", errors="replace")
    with _printing:
        if status != 0:
            print(f"\n===== {check.name}: the output =====\n{text}")
        verdict = "passed" if status == 0 else f"FAILED (exit code {status})"
        print(f"{check.name}: {verdict} in {seconds:.0f} s, {log.relative_to(ROOT)}", flush=True)
        for summary in test_summaries(text):
            print(f"  {summary}", flush=True)
    return status == 0


def test_summaries(text: str) -> list[str]:
    """Return the last line of every pytest session in this output, such as `12 passed in 3.4s`."""
    return re.findall(r"^=* ?(\d+ (?:passed|failed|error)[^=]* in \d[^=]*?) ?=*$", text, re.MULTILINE)


def run_lane(checks: tuple[Check, ...]) -> list[Check]:
    """Run these checks one after the other, whatever their results, and return those that failed."""
    return [check for check in checks if not run(check)]


def main() -> int:
    """Run all lanes at the same time."""
    LOGS.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    # The logs are for reading.
    os.environ.update(NO_COLOR="1", ANSIBLE_NOCOLOR="1")
    print(
        f"Running {sum(len(lane) for lane in LANES)} checks; their output grows in {LOGS.relative_to(ROOT)}/",
        flush=True,
    )
    with ThreadPoolExecutor(len(LANES)) as executor:
        failed = [check.name for lane in executor.map(run_lane, LANES) for check in lane]
    if failed:
        print(f"These checks failed: {', '.join(failed)}. Their output is above.")
    print(f"Checks: {sum(len(lane) for lane in LANES) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
