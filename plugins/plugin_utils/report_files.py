"""The report on the controller's disk, as JSON and as HTML: written once for each state of the migration."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..module_utils.migration.report.build import build
from .report_page import render

# What differs between two runs over the same state. A report that differs only here is not new.
_VOLATILE_KEYS = frozenset({"generated_at", "started_at", "finished_at", "seconds", "next_value"})
_LATEST = "latest"


def write(base: Path, report: Mapping[str, Any], check_mode: bool = False) -> dict[str, Any]:
    """Write the report below ``base`` unless the latest one already says the same.

    The directory is named for the time of the run in UTC, and ``latest`` leads to it. Times
    of the run itself do not make a report new; see :data:`_VOLATILE_KEYS`.

    :param check_mode: say what would be written, write nothing. Functional checks are not run
        then, so they are taken from the latest report for the comparison.
    :return: ``changed``, and ``path`` of the directory that holds the valid report.
    :raises OSError: if the directory cannot be written.
    """
    latest = base / _LATEST
    previous = _read_json(latest / "report.json")
    candidate = report
    if check_mode and previous is not None:
        candidate = build(
            report["environment"],
            report["host"],
            report["groups"],
            previous.get("functional_checks", []),
            report["database"],
            overrides=report["overrides"],
        )
    if previous is not None and (latest / "report.html").exists() and _lasting(previous) == _lasting(candidate):
        return {"changed": False, "path": str(base / os.readlink(latest)) if latest.is_symlink() else str(latest)}
    moment = datetime.fromisoformat(report["generated_at"])
    directory = base / moment.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    if not check_mode:
        content, page = json.dumps(report, indent=2, ensure_ascii=False) + "\n", render(report)
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        _write_file(directory / "report.json", content)
        _write_file(directory / "report.html", page)
        temporary = base / f".{_LATEST}-{os.getpid()}"
        temporary.symlink_to(directory.name)
        temporary.replace(latest)
    return {"changed": True, "path": str(directory)}


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the report at ``path``, or None if there is no readable one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _lasting(value: Any) -> Any:
    """Return a report without what differs between two runs over the same state."""
    if isinstance(value, Mapping):
        return {key: _lasting(entry) for key, entry in value.items() if key not in _VOLATILE_KEYS}
    if isinstance(value, (list, tuple)):
        return [_lasting(entry) for entry in value]
    return value


def _write_file(path: Path, text: str) -> None:
    """Write a file of mode 0640 that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    # Half a surrogate pair, as a service may have stored it, has no UTF-8; JSON reads its escape as what it was.
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    temporary.replace(path)
