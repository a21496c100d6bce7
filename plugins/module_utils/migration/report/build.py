"""The report of a run: what arrived, how it was proven, and what to do next.

Everything here is a pure function of the results of ``validate_group`` and of the functional checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ..core import state
from ..core.commands import playbook
from ..validation import functional_checks
from . import text

PASSED = "passed"
FAILED = "failed"
INCOMPLETE = "incomplete"


def build(
    environment: str,
    host: str,
    groups: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    database: Mapping[str, Any],
    generated_at: datetime | None = None,
    overrides: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the report of one run.

    :param groups: the results of ``validate_group``, in the order of the cutover.
    :param checks: the results of the functional checks.
    :param database: the result of ``validate_database``.
    :param generated_at: the time of the run; now if not given.
    :param overrides: when the gate of this environment was overridden: ``at``, ``user``, ``reason``, ``passed_over``.
    """
    findings = [dict(finding) for part in (*groups, database) for finding in part["findings"]]
    findings += [
        {
            "where": f"functional check '{check['name']}'",
            "what": check["reason"],
            "fix": "Look at the service's log (pm2 logs or journalctl), correct it, then run "
            f"{playbook('5_validation')} again",
        }
        for check in checks
        if check["result"] == functional_checks.FAILED
    ]
    on_postgresql = [group for group in groups if state.is_on_postgresql(group["state"])]
    not_run = sum(check["result"] == functional_checks.NOT_RUN for check in checks)
    status = PASSED
    if findings:
        status = FAILED
    elif not_run or len(on_postgresql) < len(groups):
        status = INCOMPLETE
    totals = _totals(groups)
    return {
        "environment": environment,
        "host": host,
        "generated_at": (generated_at or datetime.now(UTC)).isoformat(timespec="seconds"),
        "status": status,
        "headline": _headline(findings, groups, totals, not_run),
        "summary": _summary_sentences(groups, checks, totals),
        "findings": findings,
        "next_steps": _next_steps(findings, groups, checks),
        "totals": totals,
        "groups": [dict(group) for group in groups],
        "functional_checks": [dict(check) for check in checks],
        "database": dict(database),
        "overrides": [dict(override) for override in overrides],
    }


def _totals(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums over all groups."""
    tables = [table for group in groups for table in group["tables"]]
    return {
        "groups": len(groups),
        "groups_on_postgresql": sum(state.is_on_postgresql(group["state"]) for group in groups),
        "tables": len(tables),
        "tables_equal": sum(bool(table["equal"]) for table in tables),
        "source_rows": sum(table["source_rows"] for table in tables),
        "target_rows": sum(table["target_rows"] for table in tables),
        "rejected_rows": sum(group["rejects"]["total"] for group in groups),
        "original_values": sum(group["original_values"]["total"] for group in groups),
        "downtime_seconds": round(sum((group["cutover"] or {}).get("downtime_seconds") or 0.0 for group in groups), 3),
    }


def _headline(
    findings: Sequence[Any], groups: Sequence[Mapping[str, Any]], totals: Mapping[str, Any], not_run: int
) -> str:
    """Return the one sentence that a reader in a hurry needs."""
    if findings:
        return f"Validation failed: {text.count(len(findings), 'finding')}"
    if totals["tables"] == 0:
        return "Nothing has been moved yet"
    exception = ""
    if totals["rejected_rows"]:
        exception = f", except {text.count(totals['rejected_rows'], 'row')} that a policy of the inventory rejected"
    if not_run:
        exception += f"; {text.count(not_run, 'functional check')} not run"
    if totals["groups_on_postgresql"] == len(groups):
        return f"Every value arrived{exception}"
    if totals["groups_on_postgresql"] == 0:
        return f"The rehearsal holds: every value arrived{exception}"
    return f"Every value moved so far arrived{exception}"


def _summary_sentences(
    groups: Sequence[Mapping[str, Any]], checks: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]
) -> list[str]:
    """Return the few sentences that stand under the headline."""
    sentences = [
        f"{totals['groups_on_postgresql']} of {text.count(len(groups), 'cutover group')} "
        f"{'is' if totals['groups_on_postgresql'] == 1 else 'are'} on PostgreSQL.",
    ]
    if totals["tables"]:
        sentences.append(
            f"{totals['tables_equal']} of {text.count(totals['tables'], 'table')} equal on both sides by row count and "
            f"content hash: {totals['source_rows']:,} rows in SQLite, {totals['target_rows']:,} in PostgreSQL."
        )
    written = [table.get("written_rows") or {} for group in groups for table in group["tables"]]
    parts = [f"{sum(rows.get(what, 0) for rows in written):,} {what}" for what in ("added", "changed", "gone")]
    if any(written):
        sentences.append(f"Rows written to PostgreSQL since the cutover: {', '.join(parts)}; listed by table below.")
    if totals["original_values"]:
        sentences.append(
            f"{text.count(totals['original_values'], 'original value')} that a policy changed or that "
            "no target column holds: kept in the ledger and listed in the report."
        )
    if checks:
        passed = sum(check["result"] == functional_checks.PASSED for check in checks)
        not_run = sum(check["result"] == functional_checks.NOT_RUN for check in checks)
        sentences.append(
            f"{passed} of {text.count(len(checks), 'functional check')} passed"
            + (f", {not_run} not run." if not_run else ".")
        )
    return sentences


def _next_steps(
    findings: Sequence[Mapping[str, Any]],
    groups: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return what to do next, the most urgent first."""
    steps = list(dict.fromkeys(f"{finding['where']}: {finding['fix']}" for finding in findings))
    by_reason: dict[str, list[str]] = {}
    for check in checks:
        if check["result"] == functional_checks.NOT_RUN:
            by_reason.setdefault(check["reason"], []).append(f"'{check['name']}'")
    steps += [f"Functional checks not run: {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    by_advice: dict[str, list[str]] = {}
    for group in groups:
        if not state.is_on_postgresql(group["state"]):
            by_advice.setdefault(group["next_step"], []).append(group["group"])
    steps += [f"{', '.join(names)}: {advice}" for advice, names in by_advice.items()]
    live = [group for group in groups if group["state"] == state.LIVE]
    if live:
        steps.append(f"See when the SQLite files may go: {playbook('6_cleanup')}")
    written = [group["group"] for group in live if any(table["written_since"] for table in group["tables"])]
    unchanged = [group["group"] for group in live if group["group"] not in written and not group["findings"]]
    if unchanged:
        steps.append(
            f"To go back to SQLite, while nothing is written to PostgreSQL: "
            f"{playbook('rollback', service_env_rollback_groups=','.join(unchanged))}"
        )
    if written:
        steps.append(
            f"Written to in PostgreSQL since the cutover: {', '.join(written)}. These rows go back too: "
            f"{playbook('rollback', service_env_rollback_groups=','.join(written))} "
            "(with --check it is only tried)"
        )
    return steps


def summary_lines(report: Mapping[str, Any], path: str, is_there: bool = True, is_new: bool = True) -> list[str]:
    """Return the summary that the playbook prints: a table with one line for each group.

    Of a passed validation that has found nothing new it is two lines: all the rest stands in the report already.

    :param path: directory of the report.
    :param is_there: whether the report is written, or only would be.
    :param is_new: whether the report says anything that the one before did not say.
    """
    if not is_new and report["status"] == PASSED:
        totals, checks = report["totals"], len(report["functional_checks"])
        played = f", and {text.count(checks, 'functional check')} passed" if checks else ""
        equal = f"{text.count(totals['tables'], 'table')} with {totals['target_rows']:,} rows equal on both sides"
        where = f"{path}/report.html, with the commands that go back to SQLite"
        return [f"{report['headline']}: {equal}{played}.", f"Nothing is new since the report {where}."]
    header = ("group", "state", "tables", "rows", "equal", "downtime")
    rows = [header, *(_summary_row(group) for group in report["groups"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [str(report["headline"]), *report["summary"], ""]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", f"Report: {path}/report.html" + ("" if is_there else " (would be written)")]
    lines += [f"Next: {step}" for step in report["next_steps"]]
    return lines


def _summary_row(group: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one line of the printed table."""
    tables = group["tables"]
    equal = sum(bool(table["equal"]) for table in tables)
    downtime = (group["cutover"] or {}).get("downtime_seconds")
    return (
        str(group["group"]),
        str(group["state"]),
        str(len(tables)),
        f"{sum(table['target_rows'] for table in tables):,}",
        "-" if not tables else "yes" if equal == len(tables) else f"{equal} of {len(tables)}",
        "-" if downtime is None else text.seconds(downtime),
    )
