"""The page that lists every recorded run, host by host."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import run_record

INDEX = "index.html"


def write(reports: Path) -> None:
    """Write the page anew from all records.

    :param reports: directory of the reports; the records are in its ``runs/``.
    :raises OSError: if it cannot be written.
    """
    text = page(run_record.read_all(reports), sorted(reports.glob("*/latest/report.html")), reports)
    descriptor, name = tempfile.mkstemp(dir=reports, prefix=".index-")  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(name, reports / INDEX)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def page(runs: Sequence[run_record.Run], reports: Sequence[Path], root: Path) -> str:
    """Return the page as HTML.

    :param runs: the newest first.
    :param reports: the latest report of each environment's validation.
    :param root: directory in which the page will be.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    hosts = sorted({host for run in runs for host in _hosts(run)})
    return environment.get_template("run_index.html.j2").render(
        hosts=[(host, [_row(run, host, root) for run in runs if host in _hosts(run)]) for host in hosts],
        without_hosts=[_row(run, "", root) for run in runs if not _hosts(run)],
        reports=[(path.relative_to(root).parts[0], path.relative_to(root).as_posix()) for path in reports],
    )


def _hosts(run: run_record.Run) -> set[str]:
    return {*run.started, *run.totals}


def _row(run: run_record.Run, host: str, root: Path) -> dict[str, Any]:
    """Return what the page says of a run on one host."""
    failures = [f"{task}: {message}" for where, task, message in run.failures if where == host]
    overrides = ["\n".join([f"The gate was overridden: {why}", *what]) for why, what in run.overrides.items()]
    downtimes = [(group, seconds) for where, group, seconds in run.downtimes if where == host]
    stopped = run.verdict in (run_record.STOPPED, run_record.RUNNING)
    verdict = run.verdict
    if not stopped and host in run.totals:
        verdict = run_record.FAILED if failed(run.totals[host]) else run_record.PASSED
    return {
        "begun": _minute(run.begun),
        "playbooks": " ".join(run.about.get("playbooks", [])),
        "is_dry": bool(run.about.get("check_mode")),
        "verdict": verdict,
        "seconds": run.seconds,
        # Ansible counts no failed task, whatever it had changed.
        "changed": max(run.totals.get(host, {}).get("changed", 0), run.changed.get(host, 0)),
        "downtimes": downtimes,
        "place": run.started.get(host, "") if stopped else "",
        "overrides": overrides,
        "failures": failures,
        "record": run.path.relative_to(root).as_posix(),
    }


def failed(counts: dict[str, Any]) -> bool:
    """Return whether a host has failed, by Ansible's counts of its tasks."""
    return bool(counts.get("failures") or counts.get("unreachable"))


def _minute(at: str) -> str:
    """Return a time as date and minute."""
    try:
        return datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return at
