"""The report as one HTML page, which holds its styles and drawings itself and opens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..validation import functional_checks
from . import charts as drawings
from . import html

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
def render_html(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that needs nothing else."""
    title = f"Migration report: {report['environment']}"
    body = [
        f"<header><h1>{escape(title)}</h1><p class='run'>{escape(report['host'])}, "
        f"{escape(html.moment(report['generated_at']))}</p></header>",
        _render_status(report),
        html.card("Findings", _render_findings(report["findings"])) if report["findings"] else "",
        html.card("What to do next", html.list(report["next_steps"], "ol")),
        html.card("Cutover groups", _render_groups(report["groups"])),
        html.card("Rows of every table", drawings.draw_rows(report["groups"])),
        html.card("Rehearsal", _render_rehearsals(report["groups"])),
        html.card("Downtime", drawings.draw_downtime(report["groups"])),
        html.card("Duration of the last load", drawings.draw_durations(report["groups"])),
        html.card("Functional checks", _render_checks(report["functional_checks"])),
        "<h2>Proof, group by group</h2>",
        *(_render_group(group) for group in report["groups"]),
        html.card("Server", _render_database(report["database"])),
    ]
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _render_status(report: Mapping[str, Any]) -> str:
    """Return the box that says at once whether all is well."""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in report["summary"])
    return (
        f"<div class='status {escape(report['status'])}' role='status'>"
        f"<strong class='headline'>{escape(report['headline'])}</strong>{sentences}</div>"
    )


def _render_findings(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return what failed, one line for each finding."""
    return html.table(
        ("Where", "What is wrong", "What to do"),
        [(html.text(finding["where"]), html.text(finding["what"]), html.text(finding["fix"])) for finding in findings],
    )


def _render_groups(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return the overview: a line for each group."""
    rows = []
    for group in groups:
        tables = group["tables"]
        downtime = (group["cutover"] or {}).get("downtime_seconds")
        rows.append(
            (
                f"<strong>{html.text(group['group'])}</strong><br><span class='soft'>"
                f"{html.text(', '.join(group['services']))}</span>",
                html.state_badge(group["state"]),
                html.number(len(tables)),
                html.number(sum(table["source_rows"] for table in tables)),
                html.number(sum(table["target_rows"] for table in tables)),
                html.number(group["rejects"]["total"]),
                html.equal_badge([bool(table["equal"]) for table in tables]),
                html.number_text("-" if downtime is None else html.seconds(downtime)),
            )
        )
    heads = ("Group", "State", "#Tables", "#Rows in SQLite", "#Rows in PostgreSQL", "#Rejected", "Equal", "#Downtime")
    return html.table(heads, rows)


def _render_rehearsals(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return what the rehearsal of each group has shown."""
    rows = []
    for group in groups:
        found = group.get("rehearsal")
        if not found:
            continue
        back, downtime = found["way_back"], (group["cutover"] or {}).get("downtime_seconds")
        rows.append(
            (
                html.text(group["group"]),
                html.number_text("-" if found["load_seconds"] is None else html.seconds(found["load_seconds"])),
                html.number_text(html.seconds(found["final_sync_seconds"])),
                html.number_text(html.seconds(found["expected_downtime_seconds"])),
                html.number_text("-" if downtime is None else html.seconds(downtime)),
                "not rehearsed"
                if back is None
                else f"{html.seconds(back['seconds'])}: nothing to change, {back['rows']:,} rows of equal content",
            )
        )
    heads = ("Group", "#All rows", "#Final sync", "#Expected downtime", "#Downtime", "Rollback into a scratch copy")
    return html.table(heads, rows)


def _render_checks(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the functional checks."""
    badges = {functional_checks.PASSED: "good", functional_checks.FAILED: "bad", functional_checks.NOT_RUN: "wait"}
    return html.table(
        ("Check", "Result", "Requests", "#Time"),
        [
            (
                html.text(check["name"]),
                html.badge(check["result"], badges[check["result"]])
                + (f"<br><span class='soft'>{html.text(check['reason'])}</span>" if check["reason"] else ""),
                "<br>".join(
                    f"<code>{html.text(step['method'])} {html.text(step['url'])}</code> {step['status']}"
                    for step in check["steps"]
                )
                or "-",
                html.number_text(html.seconds(check["seconds"]) if check["steps"] else "-"),
            )
            for check in checks
        ],
    )


def _render_group(group: Mapping[str, Any]) -> str:
    """Return everything that was compared in one group."""
    parts = [
        f"<p>Source <code>{html.text(group['source_path'])}</code>, state {html.state_badge(group['state'])}. "
        f"{html.text(group['basis'])}</p>",
        html.list(group["information"], "ul"),
        _render_tables(group["tables"]),
        _render_conversions(group["tables"]),
        _render_originals(group["original_values"]),
        _render_rejects(group["rejects"]),
        _render_constraints(group),
        _render_services(group),
    ]
    opened = " open" if group["findings"] or len(group["tables"]) else ""
    return (
        f"<details{opened}><summary>{html.text(group['group'])}</summary>"
        + "".join(part for part in parts if part)
        + "</details>"
    )


def _render_tables(tables: Sequence[Mapping[str, Any]]) -> str:
    """Return the counts and content hashes of both sides."""
    is_live = any(table["written_since"] is not None for table in tables)
    rows = []
    for table in tables:
        cells = [
            f"<code>{html.text(table['source'])}</code>",
            f"<code>{html.text(table['target'])}</code>",
            html.number(table["source_rows"]),
            html.number(table["target_rows"]),
            _hashes(table["source_hash"], table["target_hash"]),
            html.equal_badge([bool(table["equal"])]),
        ]
        if is_live:
            cells.append(_since_cutover(table))
        rows.append(cells)
    heads = ["SQLite table", "PostgreSQL table", "#Source rows", "#Target rows", "Content hash", "Equal"]
    if is_live:
        heads.append("Since cutover")
    return html.table(heads, rows, "Counts and content hashes of both sides, read back through the inverse mapping")


def _hashes(source: str, target: str) -> str:
    """Return one hash if both sides agree, else both."""
    if source == target:
        return f"<code class='hash'>{html.text(source)}</code>"
    return f"<code class='hash'>SQLite {html.text(source)}<br>PostgreSQL {html.text(target)}</code>"


def _render_conversions(tables: Sequence[Mapping[str, Any]]) -> str:
    """Return how values were converted, and which values were kept for want of a column."""
    rows = []
    for table in tables:
        for entry in table.get("conversions") or ():
            rows.append(
                (
                    f"<code>{html.text(table['source'])}.{html.text(entry['column'])}</code>",
                    html.text(entry["conversion"]),
                    html.number(entry["rows"]),
                )
            )
        for entry in table.get("kept") or ():
            values = ", ".join(f"{value} ({count:,})" for value, count in (entry.get("values") or {}).items())
            rows.append(
                (
                    f"<code>{html.text(table['source'])}.{html.text(entry['column'])}</code>",
                    "kept in the ledger: the target has no such column"
                    + (f"; values: {html.text(values)}" if values else ""),
                    html.number(entry["rows"]),
                )
            )
    return html.table(("Column", "Conversion", "#Rows"), rows, "Conversions")


def _render_originals(originals: Mapping[str, Any]) -> str:
    """Return the values that a policy changed, as they were."""
    rows = [
        (
            f"<code>{html.text(entry['table'])}.{html.text(entry['column'])}</code>",
            f"<code>{html.text(entry['key'])}</code>",
            html.text(entry["reason"]),
            f"<code>{html.text(entry['value'])}</code>",
        )
        for entry in originals["rows"]
    ]
    caption = f"Original values in the ledger{_of_total(originals)}"
    return html.table(("Column", "Row", "Reason", "Original value"), rows, caption)


def _render_rejects(rejects: Mapping[str, Any]) -> str:
    """Return the rows that were refused."""
    rows = [
        (
            f"<code>{html.text(entry['table'])}</code>",
            f"<code>{html.text(entry['key'])}</code>",
            html.text(entry["reason"]),
        )
        for entry in rejects["rows"]
    ]
    return html.table(("Table", "Row", "Reason"), rows, f"Rejected rows{_of_total(rejects)}")


def _of_total(listing: Mapping[str, Any]) -> str:
    """Return a remark if a list shows only its first entries."""
    shown, total = len(listing["rows"]), listing["total"]
    return f" (the first {shown} of {total:,}; all stand in schema migration)" if shown < total else ""


def _render_constraints(group: Mapping[str, Any]) -> str:
    """Return sequences, constraints and indexes."""
    sequences = [
        (
            f"<code>{html.text(entry['name'])}</code>",
            html.number(entry["next_value"]),
            html.number(entry["required"]),
            html.badge("ahead", "good") if entry["correct"] else html.badge("behind", "bad"),
        )
        for entry in group["sequences"]
    ]
    keys = [
        (
            f"<code>{html.text(entry['name'])}</code>",
            html.badge("valid", "good") if entry["valid"] else html.badge("not validated", "bad"),
            html.number(entry["orphans"]),
        )
        for entry in group["foreign_keys"]
    ]
    invalid = [entry for entry in group["indexes"] if not entry["valid"]]
    indexes = ""
    if group["constraints"]:
        broken = [entry for entry in group["constraints"] if not entry["valid"]]
        indexes += f"<h3>Other constraints</h3><p>{html.count(len(group['constraints']), 'constraint')}, "
        names = ", ".join(f"<code>{html.text(entry['name'])}</code>" for entry in broken)
        indexes += f"not valid: {names}.</p>" if broken else "all valid.</p>"
    if group["indexes"]:
        indexes += f"<h3>Indexes</h3><p>{html.count(len(group['indexes']), 'index', 'indexes')}, "
        indexes += (
            "not valid: " + ", ".join(f"<code>{html.text(entry['name'])}</code>" for entry in invalid)
            if invalid
            else "all valid"
        ) + ".</p>"
    return (
        html.table(("Sequence", "#Next value", "#At least", "Result"), sequences, "Sequences")
        + html.table(("Foreign key", "Result", "#Orphans"), keys, "Foreign keys")
        + indexes
    )


def _render_database(database: Mapping[str, Any]) -> str:
    """Return what all groups share: settings, the schema, privileges and backups."""
    server = database["server"]
    notes = list(database["information"])
    if database["privileges"]:
        roles = ", ".join(f"{role} ({', '.join(schemas)})" for role, schemas in database["privileges"]["roles"].items())
        notes.append(f"Roles with privileges on the tables of these schemas, and on no other: {roles}")
        for role, rights in database["privileges"].get("rights", {}).items():
            less = ", ".join(f"{name}: {word}" for name, word in rights.items())
            notes.append(f"Where the rights of {role} differ from reading and writing all of these: {less}")
    if server and not database["drift"]:
        notes.append("The tables are as the applied SQL files left them")
    rows = [
        (
            f"<code>{html.text(entry['name'])}</code>",
            f"<code>{html.text(entry['value'])}</code>",
            html.text(entry.get("note") or ""),
        )
        for entry in server.get("settings", ())
    ]
    version = f"<p>PostgreSQL {html.text(server['version'])}</p>" if server else ""
    return version + html.list(notes, "ul") + html.table(("Setting", "Value", "Note"), rows)


def _render_services(group: Mapping[str, Any]) -> str:
    """Return what each service says of its health."""
    return html.table(
        ("Service", "Health address", "Result"),
        [
            (
                html.text(service["name"]),
                f"<code>{html.text(service['health_url'])}</code>",
                html.badge("not well", "bad") + f" {html.text(service['shortcoming'])}"
                if service["shortcoming"]
                else html.badge("well", "good"),
            )
            for service in group["service_health"]
        ],
        "Services",
    )


def _since_cutover(table: Mapping[str, Any]) -> str:
    """Return what has become of a table since the cutover."""
    if not table["written_since"]:
        return "unchanged"
    counted = table.get("written_rows") or {}
    parts = [f"{number:,} {what}" for what, number in counted.items() if number]
    return f"{', '.join(parts) or 'written to'} ({table['rows_now']:,} rows now)"
