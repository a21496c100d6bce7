"""The report of a run: what arrived, how it was proven, and what to do next, as JSON and as HTML.

Everything here is a pure function of the results of ``validate_group`` and of the functional
checks, except :func:`write`. The HTML holds its styles and drawings itself and opens anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from . import functional_checks, state

PASSED = "passed"
FAILED = "failed"
INCOMPLETE = "incomplete"

# What differs between two runs over the same state. A report that differs only here is not new.
_VOLATILE_KEYS = frozenset({"generated_at", "started_at", "finished_at", "seconds", "next_value"})
_LATEST = "latest"
_LONGEST_LIST = 50


def build(
    environment: str,
    host: str,
    groups: Sequence[Mapping[str, Any]],
    checks: Sequence[Mapping[str, Any]],
    generated_at: datetime | None = None,
) -> dict[str, Any]:
    """Return the report of one run.

    :param groups: the results of ``validate_group``, in the order of the cutover.
    :param checks: the results of the functional checks.
    :param generated_at: the time of the run; now if not given.
    """
    findings = [dict(finding) for group in groups for finding in group["findings"]]
    findings += [
        {
            "where": f"functional check '{check['name']}'",
            "what": check["reason"],
            "fix": "Look at the service's log (pm2 logs), correct it, then run playbooks/5_validation.yml again",
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
        "server": next((dict(group["server"]) for group in groups if group.get("server")), {}),
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
        return f"Validation failed: {_count(len(findings), 'finding')}"
    if totals["tables"] == 0:
        return "Nothing has been moved yet"
    exception = ""
    if totals["rejected_rows"]:
        exception = f", except {_count(totals['rejected_rows'], 'row')} that a policy of the inventory rejected"
    if not_run:
        exception += f"; {_count(not_run, 'functional check')} not run"
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
        f"{totals['groups_on_postgresql']} of {_count(len(groups), 'cutover group')} "
        f"{'is' if totals['groups_on_postgresql'] == 1 else 'are'} on PostgreSQL.",
    ]
    if totals["tables"]:
        sentences.append(
            f"{totals['tables_equal']} of {_count(totals['tables'], 'table')} equal on both sides by row count and "
            f"content hash: {totals['source_rows']:,} rows in SQLite, {totals['target_rows']:,} in PostgreSQL."
        )
    if totals["original_values"]:
        sentences.append(
            f"{_count(totals['original_values'], 'original value')} that a policy changed or that "
            "no target column holds: kept in the ledger and listed in the report."
        )
    if checks:
        passed = sum(check["result"] == functional_checks.PASSED for check in checks)
        not_run = sum(check["result"] == functional_checks.NOT_RUN for check in checks)
        sentences.append(
            f"{passed} of {_count(len(checks), 'functional check')} passed"
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
        steps.append("See when the SQLite files may go: ansible-playbook playbooks/6_cleanup.yml")
    written = [group["group"] for group in live if any(table["written_since"] for table in group["tables"])]
    unchanged = [group["group"] for group in live if group["group"] not in written and not group["findings"]]
    if unchanged:
        steps.append(
            "To go back to SQLite, while nothing is written to PostgreSQL: ansible-playbook playbooks/rollback.yml "
            f"-e service_env_rollback_groups={','.join(unchanged)}"
        )
    if written:
        steps.append(
            f"Written to in PostgreSQL since the cutover: {', '.join(written)}. playbooks/rollback.yml refuses to put "
            "these back, because what was written is in PostgreSQL alone"
        )
    return steps


def summary_lines(report: Mapping[str, Any], path: str, is_there: bool = True) -> list[str]:
    """Return the summary that the playbook prints: a table with one line for each group.

    :param path: directory of the report.
    :param is_there: whether the report is written, or only would be.
    """
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
        "-" if downtime is None else _seconds(downtime),
    )


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
        )
    if previous is not None and (latest / "report.html").exists() and _lasting(previous) == _lasting(candidate):
        return {"changed": False, "path": str(base / os.readlink(latest)) if latest.is_symlink() else str(latest)}
    moment = datetime.fromisoformat(report["generated_at"])
    directory = base / moment.astimezone(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    if not check_mode:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        _write_file(directory / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        _write_file(directory / "report.html", render_html(report))
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
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


# --- HTML ---------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #14181f; --soft: #57606f; --line: #dfe3e9;
  --good: #116b3c; --good-soft: #e3f4ea; --bad: #a3151f; --bad-soft: #fde8e8; --wait: #7a4b00; --wait-soft: #fdf1dc;
  --source: #8d99ab; --target: #2a6fd6; --one: #2a6fd6; --two: #12927c; --three: #c77700; --four: #8a55c9;
  --five: #b8396f; --six: #5d6b7c; --seven: #8a6d1f; }
@media (prefers-color-scheme: dark) { :root {
  --page: #11151b; --card: #1a2029; --text: #e8ecf2; --soft: #a4afbe; --line: #303945;
  --good: #6fd59c; --good-soft: #15301f; --bad: #ff9a98; --bad-soft: #3a181b; --wait: #f3c272; --wait-soft: #352812;
  --source: #77859a; --target: #6aa5f7; --one: #6aa5f7; --two: #45c4ad; --three: #eda84a; --four: #b992ec;
  --five: #e884ad; --six: #97a5b7; --seven: #d9b95c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header p.run { color: var(--soft); margin: 0 0 .75rem; }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .5rem; }
section.card, .status, details { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
section.card { padding: .25rem 1.25rem 1.25rem; margin: 1rem 0; }
section.card > h2 { margin-top: 1rem; }
.status { padding: 1.1rem 1.25rem; border-left-width: .5rem; }
.status strong.headline { display: block; font-size: 1.6rem; line-height: 1.25; }
.status p { margin: .35rem 0 0; }
.status.passed { border-left-color: var(--good); } .status.passed .headline { color: var(--good); }
.status.failed { border-left-color: var(--bad); } .status.failed .headline { color: var(--bad); }
.status.incomplete { border-left-color: var(--wait); } .status.incomplete .headline { color: var(--wait); }
.badge { display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap; }
.badge.good { color: var(--good); background: var(--good-soft); }
.badge.bad { color: var(--bad); background: var(--bad-soft); }
.badge.wait { color: var(--wait); background: var(--wait-soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
caption { text-align: left; font-weight: 600; padding: 1rem 0 .3rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.number + :not(.number) { padding-left: .6rem; }
code { font: .88em ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", monospace; overflow-wrap: break-word; }
.hash { font-size: .8em; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
details { margin: .75rem 0; padding: .6rem 1.25rem; }
details > summary { cursor: pointer; font-weight: 600; font-size: 1.05rem; }
details[open] > summary { margin-bottom: .5rem; }
figure { margin: .5rem 0 0; }
figcaption { color: var(--soft); font-size: .93rem; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--text); font-size: 13px; font-family: inherit; }
svg .quiet { fill: var(--soft); }
svg .track { stroke: var(--line); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin: 0 .35em 0 .9em; }
.key:first-child { margin-left: 0; }
ul, ol { padding-left: 1.2rem; margin: .4rem 0; }
li { margin: .25rem 0; overflow-wrap: anywhere; }
"""
# The steps of a load in their order: the ledger keeps them as JSON, which has none.
_STEPS = ("snapshot", "profile", "compare", "load", "statistics", "verify", "commit")
_STEP_COLOURS = ("--one", "--two", "--three", "--four", "--five", "--six", "--seven")
_WIDTH = 1000
_LABEL_WIDTH = 250
_VALUE_WIDTH = 150


def render_html(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that needs nothing else."""
    title = f"Migration report: {report['environment']}"
    body = [
        f"<header><h1>{escape(title)}</h1><p class='run'>{escape(report['host'])}, "
        f"{escape(_moment(report['generated_at']))}</p></header>",
        _render_status(report),
        _card("Findings", _render_findings(report["findings"])) if report["findings"] else "",
        _card("What to do next", _list(report["next_steps"], "ol")),
        _card("Cutover groups", _render_groups(report["groups"])),
        _card("Rows of every table", _draw_rows(report["groups"])),
        _card("Downtime", _draw_downtime(report["groups"])),
        _card("Duration of the last load", _draw_durations(report["groups"])),
        _card("Functional checks", _render_checks(report["functional_checks"])),
        "<h2>Proof, group by group</h2>",
        *(_render_group(group) for group in report["groups"]),
        _card("Server", _render_server(report["server"])),
    ]
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _card(heading: str, content: str) -> str:
    """Return a section with a heading, or nothing if it would be empty."""
    return f"<section class='card'><h2>{escape(heading)}</h2>{content}</section>" if content else ""


def _render_status(report: Mapping[str, Any]) -> str:
    """Return the box that says at once whether all is well."""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in report["summary"])
    return (
        f"<div class='status {escape(report['status'])}' role='status'>"
        f"<strong class='headline'>{escape(report['headline'])}</strong>{sentences}</div>"
    )


def _render_findings(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return what failed, one line for each finding."""
    return _table(
        ("Where", "What is wrong", "What to do"),
        [(_text(finding["where"]), _text(finding["what"]), _text(finding["fix"])) for finding in findings],
    )


def _render_groups(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the overview: a line for each group."""
    rows = []
    for group in groups:
        tables = group["tables"]
        downtime = (group["cutover"] or {}).get("downtime_seconds")
        rows.append(
            (
                f"<strong>{_text(group['group'])}</strong><br><span class='soft'>"
                f"{_text(', '.join(group['services']))}</span>",
                _state_badge(group["state"]),
                _number(len(tables)),
                _number(sum(table["source_rows"] for table in tables)),
                _number(sum(table["target_rows"] for table in tables)),
                _number(group["rejects"]["total"]),
                _equal_badge([bool(table["equal"]) for table in tables]),
                _number_text("-" if downtime is None else _seconds(downtime)),
            )
        )
    heads = ("Group", "State", "#Tables", "#Rows in SQLite", "#Rows in PostgreSQL", "#Rejected", "Equal", "#Downtime")
    return _table(heads, rows)


def _render_checks(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the functional checks."""
    badges = {functional_checks.PASSED: "good", functional_checks.FAILED: "bad", functional_checks.NOT_RUN: "wait"}
    return _table(
        ("Check", "Result", "Requests", "#Time"),
        [
            (
                _text(check["name"]),
                _badge(check["result"], badges[check["result"]])
                + (f"<br><span class='soft'>{_text(check['reason'])}</span>" if check["reason"] else ""),
                "<br>".join(
                    f"<code>{_text(step['method'])} {_text(step['url'])}</code> {step['status']}"
                    for step in check["steps"]
                )
                or "-",
                _number_text(_seconds(check["seconds"]) if check["steps"] else "-"),
            )
            for check in checks
        ],
    )


def _render_group(group: Mapping[str, Any]) -> str:
    """Return everything that was compared in one group."""
    parts = [
        f"<p>Source <code>{_text(group['source_path'])}</code>, state {_state_badge(group['state'])}. "
        f"{_text(group['basis'])}</p>",
        _list(group["information"], "ul"),
        _render_tables(group["tables"]),
        _render_conversions(group["tables"]),
        _render_originals(group["original_values"]),
        _render_rejects(group["rejects"]),
        _render_constraints(group),
    ]
    opened = " open" if group["findings"] or len(group["tables"]) else ""
    return (
        f"<details{opened}><summary>{_text(group['group'])}</summary>"
        + "".join(part for part in parts if part)
        + "</details>"
    )


def _render_tables(tables: Sequence[Mapping[str, Any]]) -> str:
    """Return the counts and content hashes of both sides."""
    is_live = any(table["written_since"] is not None for table in tables)
    rows = []
    for table in tables:
        cells = [
            f"<code>{_text(table['source'])}</code>",
            f"<code>{_text(table['target'])}</code>",
            _number(table["source_rows"]),
            _number(table["target_rows"]),
            _hashes(table["source_hash"], table["target_hash"]),
            _equal_badge([bool(table["equal"])]),
        ]
        if is_live:
            cells.append(f"written to ({table['rows_now']:,} rows now)" if table["written_since"] else "unchanged")
        rows.append(cells)
    heads = ["SQLite table", "PostgreSQL table", "#Source rows", "#Target rows", "Content hash", "Equal"]
    if is_live:
        heads.append("Since cutover")
    return _table(heads, rows, "Counts and content hashes of both sides, read back through the inverse mapping")


def _hashes(source: str, target: str) -> str:
    """Return one hash if both sides agree, else both."""
    if source == target:
        return f"<code class='hash'>{_text(source)}</code>"
    return f"<code class='hash'>SQLite {_text(source)}<br>PostgreSQL {_text(target)}</code>"


def _render_conversions(tables: Sequence[Mapping[str, Any]]) -> str:
    """Return how values were converted, and which values were kept for want of a column."""
    rows = []
    for table in tables:
        for entry in table.get("conversions") or ():
            rows.append(
                (
                    f"<code>{_text(table['source'])}.{_text(entry['column'])}</code>",
                    _text(entry["conversion"]),
                    _number(entry["rows"]),
                )
            )
        for entry in table.get("kept") or ():
            values = ", ".join(f"{value} ({count:,})" for value, count in (entry.get("values") or {}).items())
            rows.append(
                (
                    f"<code>{_text(table['source'])}.{_text(entry['column'])}</code>",
                    "kept in the ledger: the target has no such column"
                    + (f"; values: {_text(values)}" if values else ""),
                    _number(entry["rows"]),
                )
            )
    return _table(("Column", "Conversion", "#Rows"), rows, "Conversions")


def _render_originals(originals: Mapping[str, Any]) -> str:
    """Return the values that a policy changed, as they were."""
    rows = [
        (
            f"<code>{_text(entry['table'])}.{_text(entry['column'])}</code>",
            f"<code>{_text(entry['key'])}</code>",
            _text(entry["reason"]),
            f"<code>{_text(entry['value'])}</code>",
        )
        for entry in originals["rows"]
    ]
    caption = f"Original values in the ledger{_of_total(originals)}"
    return _table(("Column", "Row", "Reason", "Original value"), rows, caption)


def _render_rejects(rejects: Mapping[str, Any]) -> str:
    """Return the rows that were refused."""
    rows = [
        (f"<code>{_text(entry['table'])}</code>", f"<code>{_text(entry['key'])}</code>", _text(entry["reason"]))
        for entry in rejects["rows"]
    ]
    return _table(("Table", "Row", "Reason"), rows, f"Rejected rows{_of_total(rejects)}")


def _of_total(listing: Mapping[str, Any]) -> str:
    """Return a remark if a list shows only its first entries."""
    shown, total = len(listing["rows"]), listing["total"]
    return f" (the first {shown} of {total:,}; all stand in schema migration)" if shown < total else ""


def _render_constraints(group: Mapping[str, Any]) -> str:
    """Return sequences, foreign keys and indexes."""
    sequences = [
        (
            f"<code>{_text(entry['name'])}</code>",
            _number(entry["next_value"]),
            _number(entry["required"]),
            _badge("ahead", "good") if entry["correct"] else _badge("behind", "bad"),
        )
        for entry in group["sequences"]
    ]
    keys = [
        (
            f"<code>{_text(entry['name'])}</code>",
            _badge("valid", "good") if entry["valid"] else _badge("not validated", "bad"),
            _number(entry["orphans"]),
        )
        for entry in group["foreign_keys"]
    ]
    invalid = [entry for entry in group["indexes"] if not entry["valid"]]
    indexes = ""
    if group["indexes"]:
        indexes = f"<h3>Indexes</h3><p>{_count(len(group['indexes']), 'index', 'indexes')}, "
        indexes += (
            "not valid: " + ", ".join(f"<code>{_text(entry['name'])}</code>" for entry in invalid)
            if invalid
            else "all valid"
        ) + ".</p>"
    return (
        _table(("Sequence", "#Next value", "#At least", "Result"), sequences, "Sequences")
        + _table(("Foreign key", "Result", "#Orphans"), keys, "Foreign keys")
        + indexes
    )


def _render_server(server: Mapping[str, Any]) -> str:
    """Return the settings of the server that matter to what comes next."""
    if not server:
        return ""
    rows = [
        (
            f"<code>{_text(entry['name'])}</code>",
            f"<code>{_text(entry['value'])}</code>",
            _text(entry.get("note") or ""),
        )
        for entry in server["settings"]
    ]
    return f"<p>PostgreSQL {_text(server['version'])}</p>" + _table(("Setting", "Value", "Note"), rows)


# --- drawings -----------------------------------------------------------------------------------


def _draw_rows(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return bars with the rows of every table: SQLite above, PostgreSQL below."""
    tables = [table for group in groups for table in group["tables"]]
    if not tables:
        return ""
    most = max(1, *(max(table["source_rows"], table["target_rows"]) for table in tables))
    parts = []
    height = 30
    for number, table in enumerate(tables):
        top = number * height
        counts = f"{table['source_rows']:,}"
        if table["source_rows"] != table["target_rows"]:
            counts = f"{table['source_rows']:,} → {table['target_rows']:,}"
        parts += [
            _svg_text(0, top + 19, str(table["target"])),
            _bar(_LABEL_WIDTH, top + 5, table["source_rows"] / most, 8, "--source"),
            _bar(_LABEL_WIDTH, top + 14, table["target_rows"] / most, 8, "--target"),
            _svg_text(_bar_end(max(table["source_rows"], table["target_rows"]) / most), top + 19, counts, "quiet"),
        ]
    return _figure(
        "<span class='key' style='background:var(--source)'></span>rows in SQLite"
        "<span class='key' style='background:var(--target)'></span>rows in PostgreSQL at the last load",
        f"Rows of {len(tables)} tables in SQLite and in PostgreSQL; the numbers stand in the tables below",
        len(tables) * height,
        parts,
    )


def _draw_downtime(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return a bar for each group that has been cut over: from the stop of its services to their health."""
    downtimes = [
        (str(group["group"]), float(group["cutover"]["downtime_seconds"]))
        for group in groups
        if group["cutover"] and group["cutover"].get("downtime_seconds") is not None
    ]
    if not downtimes:
        return ""
    longest = max(seconds for _, seconds in downtimes) or 1.0
    parts = []
    height = 32
    for number, (name, seconds) in enumerate(downtimes):
        top = number * height
        parts += [
            _svg_text(0, top + 20, name),
            _bar(_LABEL_WIDTH, top + 7, seconds / longest, 18, "--target"),
            _svg_text(_bar_end(seconds / longest), top + 20, _seconds(seconds), "quiet"),
        ]
    label = "; ".join(f"{name} {_seconds(seconds)}" for name, seconds in downtimes)
    caption = "From the stop of a group's services until they answered again on PostgreSQL"
    return _figure(caption, f"Downtime: {label}", len(downtimes) * height, parts) + _render_windows(groups)


def _render_windows(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return how long each step of each cutover window took."""
    windows = {
        str(group["group"]): {step["name"]: step["seconds"] for step in group["cutover"]["steps"]}
        for group in groups
        if group["cutover"] and group["cutover"].get("steps")
    }
    steps = list(dict.fromkeys(step for window in windows.values() for step in window))
    rows = [
        (_text(step), *(_number_text(_seconds(window[step]) if step in window else "-") for window in windows.values()))
        for step in steps
    ]
    return _table(("Step of the window", *(f"#{name}" for name in windows)), rows, "The cutover window, step by step")


def _draw_durations(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return a bar for each group, divided into the steps of its last load, and the same as a table."""
    found = dict.fromkeys(step for group in groups for step in group["seconds"] if step != "total")
    steps = [step for step in _STEPS if step in found] + [step for step in found if step not in _STEPS]
    timed = [group for group in groups if group["seconds"]]
    if not steps or not timed:
        return ""
    totals = {group["group"]: sum(group["seconds"].get(step, 0.0) for step in steps) for group in timed}
    longest = max(totals.values()) or 1.0
    colours = {step: _STEP_COLOURS[number % len(_STEP_COLOURS)] for number, step in enumerate(steps)}
    parts = []
    height = 32
    room = _WIDTH - _LABEL_WIDTH - _VALUE_WIDTH
    for number, group in enumerate(timed):
        top = number * height
        left = float(_LABEL_WIDTH)
        parts.append(_svg_text(0, top + 20, str(group["group"])))
        for step in steps:
            seconds = group["seconds"].get(step, 0.0)
            width = seconds / longest * room
            if width > 0:
                parts.append(
                    f"<rect x='{left:.1f}' y='{top + 7}' width='{max(width - 2, 0.5):.1f}' height='18' rx='2' "
                    f"style='fill:var({colours[step]})'><title>{_text(step)}: {_seconds(seconds)}</title></rect>"
                )
            left += width
        parts.append(_svg_text(left + 8, top + 20, _seconds(totals[group["group"]]), "quiet"))
    legend = "".join(
        f"<span class='key' style='background:var({colours[step]})'></span>{_text(step)}" for step in steps
    )
    label = "Durations: " + "; ".join(f"{name} {_seconds(seconds)}" for name, seconds in totals.items())
    rows = [
        (
            _text(group["group"]),
            _text(group["loaded_by"]),
            *(_number_text(_seconds(group["seconds"].get(step, 0.0))) for step in steps),
        )
        for group in timed
    ]
    return _figure(legend, label, len(timed) * height, parts) + _table(
        ("Group", "Run", *(f"#{step}" for step in steps)), rows
    )


def _figure(caption: str, label: str, height: int, parts: Iterable[str]) -> str:
    """Return one drawing with its caption; ``label`` is what a screen reader says."""
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {height}' role='img' aria-label='{escape(label, quote=True)}'>"
        f"<line class='track' x1='{_LABEL_WIDTH - 1}' y1='0' x2='{_LABEL_WIDTH - 1}' y2='{height}'/>"
        + "".join(parts)
        + "</svg></figure>"
    )


def _bar(left: float, top: float, share: float, height: int, colour: str) -> str:
    """Return a bar; what is not zero stays visible."""
    width = share * (_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH)
    if share > 0:
        width = max(width, 2.0)
    return f"<rect x='{left}' y='{top}' width='{width:.1f}' height='{height}' rx='2' style='fill:var({colour})'></rect>"


def _bar_end(share: float) -> float:
    """Return where the label behind a bar begins."""
    return _LABEL_WIDTH + share * (_WIDTH - _LABEL_WIDTH - _VALUE_WIDTH) + 8


def _svg_text(left: float, base: float, text: str, css_class: str = "") -> str:
    """Return a text in a drawing."""
    attribute = f" class='{css_class}'" if css_class else ""
    return f"<text x='{left:.1f}' y='{base:.1f}'{attribute}>{escape(text)}</text>"


# --- small pieces -------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """Return a table of ready HTML cells, or nothing without rows. A head that begins with # is of numbers."""
    if not rows:
        return ""
    head = "".join(
        f"<th scope='col'{' class=number' if name.startswith('#') else ''}>{escape(name.lstrip('#'))}</th>"
        for name in heads
    )
    lines = []
    for row in rows:
        cells = [cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row[1:]]
        lines.append(f"<tr><th scope='row'>{row[0]}</th>{''.join(cells)}</tr>")
    top = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f"<div class='scroll'><table>{top}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _list(entries: Sequence[str], kind: str) -> str:
    """Return a list of plain texts, or nothing if it is empty."""
    if not entries:
        return ""
    shown = [f"<li>{_text(entry)}</li>" for entry in entries[:_LONGEST_LIST]]
    if len(entries) > _LONGEST_LIST:
        shown.append(f"<li>and {len(entries) - _LONGEST_LIST} more in report.json</li>")
    return f"<{kind}>{''.join(shown)}</{kind}>"


def _text(value: Any) -> str:
    """Return a value as HTML text."""
    return escape(str(value))


def _number(value: int) -> str:
    """Return a cell with a number."""
    return _number_text(f"{value:,}")


def _number_text(text: str) -> str:
    """Return a cell that is aligned as a number."""
    return f"<td class='number'>{escape(text)}</td>"


def _badge(text: str, kind: str) -> str:
    """Return a coloured word; the word itself says it without the colour."""
    return f"<span class='badge {kind}'>{escape(text)}</span>"


def _state_badge(name: str) -> str:
    """Return the state of a group."""
    return _badge(name.replace("_", " "), "good" if state.is_on_postgresql(name) else "wait")


def _equal_badge(equal: Sequence[bool]) -> str:
    """Return whether all of the tables are equal."""
    if not equal:
        return "-"
    if all(equal):
        return _badge("equal", "good")
    return _badge("differs" if len(equal) == 1 else f"{len(equal) - sum(equal)} differ", "bad")


def _count(number: int, singular: str, plural: str | None = None) -> str:
    """Return a number with its noun."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def _seconds(seconds: float) -> str:
    """Return a duration for a person."""
    if seconds < 0.0005:
        return "0 s"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _moment(text: str) -> str:
    """Return an ISO time as a person reads it, in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
