"""Keeps the list of full test runs in docs/full-test-runs.md, which git tracks."""

from __future__ import annotations

import subprocess
from datetime import UTC, date, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "docs" / "full-test-runs.md"
HEADING = """\
# Full test runs

`make test-all` adds a line here: the newest stands last. A commit that ends in + had changes that were not committed.

| date | commit | minutes | result |
|---|---|---|---|
"""


def note(minutes: float, failed: list[str]) -> None:
    """Add a run to the list.

    :param failed: names of the checks that failed.
    """
    text = RUNS.read_text(encoding="utf-8") if RUNS.exists() else HEADING
    result = f"failed: {', '.join(failed)}" if failed else "passed"
    RUNS.write_text(f"{text}| {datetime.now(UTC).date()} | {commit()} | {minutes:.0f} | {result} |\n", encoding="utf-8")


def commit() -> str:
    """Return the short id of the present commit, with a + if files differ from it."""
    found = _git("rev-parse", "--short=10", "HEAD")
    return f"{found or 'unknown'}{'+' if _git('status', '--porcelain', '--untracked-files=no') else ''}"


def age() -> str:
    """Return a line that says how old the last full run is."""
    runs = RUNS.read_text(encoding="utf-8").removeprefix(HEADING).splitlines() if RUNS.exists() else []
    if not runs:
        return "The long searches (make test-all) have not been noted yet."
    day, found, minutes, result = (cell.strip() for cell in runs[-1].strip("|").split("|"))
    days = (datetime.now(UTC).date() - date.fromisoformat(day)).days
    commits = _git("rev-list", "--count", f"{found.rstrip('+')}..HEAD")
    since = f", {commits} commits ago" if commits else ""
    return f"The last full run (make test-all) is {days} days old{since}: {found}, {minutes} minutes, {result}."


def _git(*arguments: str) -> str:
    """Return what git says, or nothing where it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
