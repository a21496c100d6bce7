"""What the record of an environment says: a pure function of what the validation's modules have just found there."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..migration.core import state
from ..migration.core.commands import playbook_on
from ..migration.core.errors import Problem
from ..migration.validation import functional_checks
from .evidence import FORMAT

_MOST_NAMED = 5


def build(
    environment: str, digest: str, validations: Sequence[Mapping[str, Any]], versions: Mapping[str, Any], now: datetime
) -> dict[str, Any]:
    """Return the record, unsigned.

    :param digest: of the tree.
    :param validations: of each host ``host``, ``groups``, ``checks`` and ``database``; see module promotion_evidence.
    :param versions: of what is installed on the controller, by name.
    """
    groups = [group for host in validations for group in host["groups"]]
    databases = [host["database"] for host in validations]
    played = [check for host in validations for check in host["checks"]]
    checks = {
        "groups_on_postgresql": _groups_on_postgresql(groups),
        "verification": _verification(groups, databases),
        "functional_checks": _functional_checks(played),
        "backup_restored": _backup_restored(groups, databases),
        "rollback_rehearsed": _rollback_rehearsed(groups),
    }
    return {
        "format": FORMAT,
        "environment": environment,
        "tree": digest,
        "collected_at": now.isoformat(timespec="seconds"),
        "soak": _soak(groups, now),
        "hosts": sorted(str(host["host"]) for host in validations),
        "versions": {
            **versions,
            "postgresql": sorted({str(found["server"].get("version", "")) for found in databases}),
        },
        "checks": {name: {"passed": not wrong, "told": wrong or told} for name, (wrong, told) in checks.items()},
    }


def problems_of_hosts(
    environment: str, expected: Iterable[str], seen: Iterable[str], options: Sequence[str] = ()
) -> list[Problem]:
    """Return what keeps a record from being about the whole environment, and about it alone.

    :param expected: the hosts of the environment.
    :param seen: those that were looked at.
    :param options: what names the inventory of the run in a command.
    """
    command = playbook_on(" ".join([shlex.quote(environment), *options]), "evidence")
    fix = f"Collect the evidence of all its hosts: {command}"
    missing, others = set(expected) - set(seen), set(seen) - set(expected)
    return [
        *(Problem(host, f"nobody looked at this host of {environment}", fix) for host in sorted(missing)),
        *(Problem(host, f"it is no service host of {environment}", fix) for host in sorted(others)),
    ]


def _soak(groups: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, Any]:
    """Return since when all groups are on PostgreSQL, by the ledger, and for how many hours: 0 if one is not."""
    at = [(group["cutover"] or {}).get("at") for group in groups if state.is_on_postgresql(group["state"])]
    if not groups or len(at) < len(groups) or not all(at):
        return {"since": None, "hours": 0.0}
    since = max(map(datetime.fromisoformat, map(str, at)))
    hours = (now - since).total_seconds() / 3600
    return {"since": since.isoformat(timespec="seconds"), "hours": max(0.0, round(hours, 1))}


def _groups_on_postgresql(groups: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Return what is wrong, and what is told if nothing is: so do all that follow."""
    elsewhere = [
        f"{group['group']} is {group['state']}" for group in groups if not state.is_on_postgresql(group["state"])
    ]
    if not groups:
        return "the estate has no cutover group", ""
    return _named(elsewhere), f"{len(groups)} cutover groups are on PostgreSQL"


def _verification(groups: Sequence[Mapping[str, Any]], databases: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    findings = [
        f"{finding['where']}: {finding['what']}" for part in (*groups, *databases) for finding in part["findings"]
    ]
    tables = [table for group in groups for table in group["tables"]]
    findings += [f"{table['target']} is not equal on both sides" for table in tables if not table["equal"]]
    if not tables:
        return _named(findings) or "no table was compared", ""
    rows = sum(table["target_rows"] for table in tables)
    return _named(findings), f"{len(tables)} tables with {rows:,} rows were equal on both sides, and nothing was found"


def _functional_checks(played: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if not played:
        return "the inventory declares no functional check", ""
    others = [f"'{check['name']}' {check['result']}" for check in played if check["result"] != functional_checks.PASSED]
    return _named(others), f"{len(played)} functional checks passed"


def _backup_restored(groups: Sequence[Mapping[str, Any]], databases: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    taken = [found["backup"].get("newest_verified_taken_at") for found in databases]
    if not taken or not all(taken):
        return "no backup was proven to restore", ""
    cutovers = [group["cutover"]["at"] for group in groups if group["cutover"] and group["cutover"]["at"]]
    oldest = min(map(datetime.fromisoformat, taken))
    if cutovers and oldest < max(map(datetime.fromisoformat, cutovers)):
        return "the newest backup that was proven to restore is older than the last cutover", ""
    return "", f"the backup of {oldest.isoformat()} was restored and compared"


def _rollback_rehearsed(groups: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    rehearsed = {group["group"]: (group["rehearsal"] or {}).get("way_back") for group in groups}
    missing = [f"{name} has no rehearsed rollback" for name, back in rehearsed.items() if not back]
    if not groups:
        return "the estate has no cutover group", ""
    parts = [f"{name}: {back['rows']:,} rows in {back['seconds']:.1f} s" for name, back in rehearsed.items() if back]
    return _named(missing), f"every row was brought back into a scratch copy: {', '.join(parts)}"


def _named(sentences: Sequence[str]) -> str:
    """Return the first sentences as one, and how many more there are."""
    more = len(sentences) - _MOST_NAMED
    return "; ".join(sentences[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
