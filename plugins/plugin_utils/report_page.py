"""The report as one HTML page, which holds its styles and its script itself and opens anywhere."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..module_utils.migration.core import commands, state
from ..module_utils.migration.report import text
from ..module_utils.migration.validation import functional_checks

# The steps of a load in their order: the ledger keeps them as JSON, which has none.
_LOAD_STEPS = ("snapshot", "profile", "compare", "load", "statistics", "verify", "commit")
# The services run again while these steps of a cutover go on.
_AFTER_WINDOW = ("watch", "save")
_COLOURS = 7
# So many tables stand in the chart of rows, and the others in a list that can be opened.
_TABLES_IN_CHART = 20
# With more tables than that, a group's proof is closed until somebody opens it.
_TABLES_SHOWN_AT_ONCE = 60
_LONGEST_LIST = 50
_RESULTS = {functional_checks.PASSED: "good", functional_checks.FAILED: "bad", functional_checks.NOT_RUN: "wait"}


def render(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML page that needs nothing else, not even its script, to be read.

    :param report: what ``migration.report.build.build`` returns.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": text.count,
        "seconds": lambda value: "-" if value is None else text.seconds(value),
        "moment": text.moment,
        "number": lambda value: f"{value:,}",
        "with_commands": with_commands,
        "first": lambda entries: list(entries)[:_LONGEST_LIST],
    }
    script = environment.get_template("report.js").render()
    tables = [
        {**table, "anchor": anchor_of(group_number, number)}
        for group_number, group in enumerate(report["groups"], 1)
        for number, table in enumerate(group["tables"], 1)
    ]
    return environment.get_template("report.html.j2").render(
        report=report,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tables=_rows_of(tables),
        tables_in_chart=_TABLES_IN_CHART,
        opens_all=len(tables) <= _TABLES_SHOWN_AT_ONCE,
        windows=_windows_of(report["groups"]),
        loads=_loads_of(report["groups"]),
        is_on_postgresql=state.is_on_postgresql,
        result_kinds=_RESULTS,
        after_window=_AFTER_WINDOW,
        longest_list=_LONGEST_LIST,
        conversions_of=conversions_of,
        anchor_of=anchor_of,
        database_notes=_notes_of(report["database"]),
    )


def anchor_of(group_number: int, number: int) -> str:
    """Return the id of the row that proves a table; both numbers count from 1, in the order of the report."""
    return f"table-{group_number}-{number}"


def with_commands(sentence: str) -> Markup:
    """Return a sentence as HTML whose commands can be copied, each as it stands."""
    parts: list[str] = []
    end = 0
    for match in commands.WRITTEN.finditer(sentence):
        parts += [escape(sentence[end : match.start()]), Markup('<code class="command">{}</code>').format(match[0])]
        end = match.end()
    return Markup().join([*parts, escape(sentence[end:])])


def conversions_of(tables: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Return how values were converted, and which were kept for want of a column: column, what was done, rows."""
    rows = []
    for table in tables:
        for entry in table.get("conversions") or ():
            rows.append((f"{table['source']}.{entry['column']}", str(entry["conversion"]), int(entry["rows"])))
        for entry in table.get("kept") or ():
            values = ", ".join(f"{value} ({count:,})" for value, count in (entry.get("values") or {}).items())
            what = "kept in the ledger: the target has no such column" + (f"; values: {values}" if values else "")
            rows.append((f"{table['source']}.{entry['column']}", what, int(entry["rows"])))
    return rows


def _rows_of(tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of every table with the lengths of their bars in percent; what differs comes first.

    Ten times as many rows make a bar longer by the same piece: a table of a million rows leaves the others visible.
    """
    most = max([1, *(max(table["source_rows"], table["target_rows"]) for table in tables)])

    def length(rows: int) -> float:
        return round(100 * math.log10(rows + 1) / math.log10(most + 1), 1)

    return sorted(
        (
            {
                "name": table["target"],
                "anchor": table["anchor"],
                "source_rows": table["source_rows"],
                "target_rows": table["target_rows"],
                "source_length": length(table["source_rows"]),
                "target_length": length(table["target_rows"]),
                "equal": bool(table["equal"]),
            }
            for table in tables
        ),
        key=lambda row: (row["equal"], -row["source_rows"], row["name"]),
    )


def _windows_of(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the window of each group that was cut over: its steps as parts of a bar, and its downtime."""
    moved = [group for group in groups if group["cutover"] and group["cutover"].get("downtime_seconds") is not None]
    steps_of = {
        str(group["group"]): {step["name"]: float(step["seconds"]) for step in group["cutover"]["steps"]}
        for group in moved
    }
    inside = {
        name: {step: value for step, value in steps.items() if step not in _AFTER_WINDOW}
        for name, steps in steps_of.items()
    }
    downtimes = {str(group["group"]): float(group["cutover"]["downtime_seconds"]) for group in moved}
    longest = max([*downtimes.values(), *(sum(steps.values()) for steps in inside.values())], default=0.0) or 1.0
    colours = _colours(step for steps in inside.values() for step in steps)
    return {
        "colours": colours,
        "bars": [
            {
                "name": name,
                "parts": _parts(steps, colours, longest),
                "seconds": downtimes[name],
                "length": round(100 * downtimes[name] / longest, 1),
            }
            for name, steps in inside.items()
        ],
        "names": list(steps_of),
        "heads": [f"#{name}" for name in steps_of],
        "rows": [
            (step, [steps.get(step) for steps in steps_of.values()])
            for step in dict.fromkeys(step for steps in steps_of.values() for step in steps)
        ],
        "totals": [
            (title, [group["cutover"].get(key) for group in moved])
            for key, title in (("services_seconds", "the services' stop and start"), ("own_seconds", "our own steps"))
            if any(group["cutover"].get(key) is not None for group in moved)
        ],
        "services": [
            {"group": group["group"], **service}
            for group in moved
            for service in group["cutover"].get("services") or ()
            if service.get("downtime_seconds") is not None and service.get("start_seconds") is not None
        ],
    }


def _loads_of(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the last load of each group: its steps as parts of a bar, and their seconds."""
    timed = [group for group in groups if group["seconds"]]
    found = dict.fromkeys(step for group in timed for step in group["seconds"] if step != "total")
    steps = [step for step in _LOAD_STEPS if step in found] + [step for step in found if step not in _LOAD_STEPS]
    seconds_of = {str(group["group"]): {step: group["seconds"].get(step, 0.0) for step in steps} for group in timed}
    longest = max((sum(seconds.values()) for seconds in seconds_of.values()), default=0.0) or 1.0
    colours = _colours(steps)
    return {
        "colours": colours,
        "steps": steps,
        "heads": [f"#{step}" for step in steps],
        "bars": [
            {
                "name": group["group"],
                "loaded_by": group["loaded_by"],
                "parts": _parts(seconds_of[str(group["group"])], colours, longest),
                "total": sum(seconds_of[str(group["group"])].values()),
                "seconds": list(seconds_of[str(group["group"])].values()),
            }
            for group in timed
        ]
        if steps
        else [],
    }


def _colours(steps: Iterable[str]) -> dict[str, int]:
    """Return the number of the colour of each step."""
    return {step: number % _COLOURS for number, step in enumerate(dict.fromkeys(steps))}


def _parts(seconds: Mapping[str, float], colours: Mapping[str, int], longest: float) -> list[dict[str, Any]]:
    """Return the parts of a bar, of which ``longest`` seconds fill the width."""
    return [
        {
            "colour": colours[step],
            "length": round(100 * taken / longest, 2),
            "title": f"{step}: {text.seconds(taken)}",
        }
        for step, taken in seconds.items()
        if taken > 0
    ]


def _notes_of(database: Mapping[str, Any]) -> list[str]:
    """Return what all groups share: the schema, privileges and backups."""
    notes = list(database["information"])
    if database["privileges"]:
        roles = ", ".join(f"{role} ({', '.join(schemas)})" for role, schemas in database["privileges"]["roles"].items())
        notes.append(f"Roles with privileges on the tables of these schemas, and on no other: {roles}")
        for role, rights in database["privileges"].get("rights", {}).items():
            less = ", ".join(f"{name}: {word}" for name, word in rights.items())
            notes.append(f"Where the rights of {role} differ from reading and writing all of these: {less}")
    if database["server"] and not database["drift"]:
        notes.append("The tables are as the applied SQL files left them")
    return notes
