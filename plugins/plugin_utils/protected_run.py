"""The record that a run on a protected environment leaves for its auditor, made of the events that the run recorded.

It is ``reports/ENVIRONMENT/runs/NAME.json``, for its owner alone, and can be made again at any time from the events in
``reports/runs/NAME.jsonl``. Its signature is for another purpose than that of evidence, so neither counts as the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import run_record

FORMAT = 1
NAMESPACE = "sqlite-to-postgresql-run"


def environment_of(run: run_record.Run) -> str:
    """Return the protected environment that the gate has let a run change; empty if there is none."""
    return next((str(said["environment"]) for said in run.gates.values() if said.get("environment")), "")


def path_of(reports: Path, environment: str, run: run_record.Run) -> Path:
    """Return where the record of a run is."""
    return reports / environment / "runs" / f"{run.path.stem}.json"


def source_of(path: Path) -> Path:
    """Return where the events are of which a record was made."""
    return path.parents[2] / run_record.DIRECTORY / f"{path.stem}.jsonl"


def _goes_back(run: run_record.Run) -> bool:
    """Return whether a run takes back what an earlier one has done, which the gate never refuses."""
    return all(gate.get("goes_back") for gate in run.gates.values())


def _where_it_stopped(host: str, run: run_record.Run) -> str:
    """Return the task in which a host stopped: the one that failed, if others have tidied up behind it."""
    counts = run.totals.get(host, {})
    if counts.get("failures") or counts.get("unreachable"):
        failed = [task for failed_host, task, _ in run.failures if failed_host == host]
        return failed[-1] if failed else run.started[host]
    return run.started[host]


def build(run: run_record.Run) -> dict[str, Any]:
    """Return what a run did in a protected environment, as plain data."""
    gate = next(iter(run.gates.values()))
    # A command gives one reason.
    override = [{"reason": reason, "passed_over": told} for reason, told in run.overrides.items()]
    has_ended = run.verdict == run_record.PASSED
    downtimes: dict[tuple[str, str], list[float]] = {}
    for host, group, seconds in run.downtimes:
        downtimes.setdefault((host, group), []).append(seconds)
    groups = [
        {
            **dict(run.arrived.get(key, {"host": key[0], "group": key[1]})),
            **({"went_back": run.went_back[key]} if key in run.went_back else {}),
            "downtime_seconds": downtimes.get(key, []),
        }
        for key in sorted({*run.arrived, *run.went_back, *downtimes})
    ]
    return {
        "format": FORMAT,
        "kind": "run",
        "run": run.path.stem,
        "environment": environment_of(run),
        "by": run.about.get("user", ""),
        "begun_at": run.begun,
        "seconds": run.seconds,
        "verdict": run.verdict,
        "playbooks": run.about.get("playbooks", []),
        "limit": run.about.get("limit", ""),
        "inventory_sha256": run.about.get("inventory_sha256", ""),
        "versions": run.about.get("versions", {}),
        **{name: gate.get(name) for name in ("tree", "tree_is_clean", "plan", "evidence")},
        "override": override[0] if override else None,
        "goes_back": _goes_back(run),
        "named": run.named,
        "hosts": sorted({*run.gates, *run.started}),
        "stopped_in": {} if has_ended else {host: _where_it_stopped(host, run) for host in sorted(run.started)},
        # The lines after the first may quote values of rows, and this record is given away.
        "failures": [
            {"host": host, "task": task, "message": message.partition("\n")[0]} for host, task, message in run.failures
        ],
        "groups": groups,
    }


def write(reports: Path, run: run_record.Run) -> Path | None:
    """Write the record of a run, and return its path.

    There is none, and None is returned, if the run was on no protected environment, a dry one, or one that takes
    something back and has found nothing to do.

    A signature of what it said before is removed.

    :raises OSError: if it cannot be written.
    """
    environment = environment_of(run)
    # What leads back is mostly asked first what it would do.
    has_done_nothing = _goes_back(run) and run.verdict == run_record.PASSED and not run.changed
    if not environment or run.about.get("check_mode") or has_done_nothing:
        return None
    path = path_of(reports, environment, run)
    text = json.dumps(build(run), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return path
    path.with_name(f"{path.name}.sig").unlink(missing_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)
    return path


def lines(content: Mapping[str, Any]) -> list[str]:
    """Return what a record says, for a person who is about to sign it."""
    evidence, override = content.get("evidence") or {}, content.get("override") or {}
    told = [
        f"run {content['run']} on {content['environment']} by {content['by']}: {content['verdict']}",
        f"tree {str(content['tree'])[:12]}, plan {content['plan'] or 'none'}",
        f"evidence {evidence.get('path')}, signed by {evidence.get('signer')}" if evidence else "no evidence",
    ]
    if content.get("goes_back"):
        told[1:] = [f"tree {str(content['tree'])[:12]}; what takes something back needs neither a plan nor evidence"]
    told += [f"-e {name}={value}" for name, value in (content.get("named") or {}).items()]
    if override:
        told.append(f"override: {override.get('reason')}")
        told += [f"  overridden: {problem}" for problem in override.get("passed_over", ())]
    told += [f"{host} stopped in: {task}" for host, task in content["stopped_in"].items()]
    for group in content["groups"]:
        down = ", ".join(f"{seconds:.1f} s" for seconds in group["downtime_seconds"]) or "none"
        if back := group.get("went_back"):
            told.append(f"{group['host']}: {group['group']} went back to SQLite: {_way(back)}, downtime: {down}")
            continue
        tables = group.get("tables", [])
        equal = sum(bool(table["equal"]) for table in tables)
        rows = sum(table["rows"] for table in tables)
        told.append(
            f"{group['host']}: {group['group']}: {equal} of {len(tables)} tables equal, {rows:,} rows, downtime: {down}"
        )
    return told


def _way(back: Mapping[str, Any]) -> str:
    """Return how a group went back, for a person."""
    if back.get("lost_rows"):
        return f"{back['lost_rows']:,} rows were given up"
    rows = sum(int(table[kind]) for table in back.get("tables") or () for kind in ("inserted", "updated", "deleted"))
    return f"{rows:,} rows were brought back" if rows else "no row had changed since"
