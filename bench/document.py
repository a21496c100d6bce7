#!/usr/bin/env python3
"""Write the benchmark's report, a README with plots, from the JSON of its figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parent.parent / name) for name in ("", ".collections"))

from bench import charts, results
from bench.contestants import ENGINE

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "reports" / "benchmark.json"
DOCUMENT = ROOT / "docs" / "benchmark"

# For each dataset and contestant of the stacked plot, the name that a reader sees.
STEP_BARS = (
    ("step_executions", ENGINE, "step_executions"),
    ("step_executions_text_ids", ENGINE, "with text ids"),
    (results.CHANGES, results.ENGINE_UNCHANGED, "nothing changed"),
    (results.CHANGES, results.ENGINE_CHANGED, "1 % changed"),
    ("narrow", ENGINE, "narrow"),
)

HOW = """\
## How it is measured

- Every run is a process of its own and meets a database fresh from a template: the same empty tables with the same
  indexes, constraints and server settings. The contestants take turns (A B C D, A B C D, …); the tables show medians.
- Seconds are those of the whole process, from its start to its end. Of the sample estate alone it is the engine's own
  time, as its report tells it, summed over the groups.
- Memory is the kernel's own peak (VmHWM), summed over the processes that live at the same time, without the server's.
- The files are read once before each run, so that nobody reads them from the disk.
- After each run all rows are counted, their hashes are compared with those of `\\copy`, and the indexes and constraints
  must be there again. A run that fails one of these does not count and is listed.
- The engine loads the tables that `step_executions` references itself; for the others they are there before the clock
  starts.
- pgloader is told to pass the texts on as they are, its fastest way. Its figure is the better of its two ways.
"""


def write_document(figures: dict[str, Any], directory: Path) -> None:
    """Write README.md and the plots into a directory, and remove plots of an earlier report."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.svg"):
        old.unlink()
    plots = draw(figures)
    for name, text in plots.items():
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "README.md").write_text(readme(figures, plots), encoding="utf-8")


def draw(figures: dict[str, Any]) -> dict[str, str]:
    """Return each plot by the name of its file; a plot without figures is left out."""
    found = figures["medians"]
    plots = {}
    for dataset in figures["datasets"]:
        name = dataset["name"]
        entries = [entry for entry in found if entry["dataset"] == name]
        if name not in results.COMPARED or len(entries) < 2:
            continue
        title = f"{name}, {dataset['rows']:,} rows"
        plots[f"{name}_seconds.svg"] = charts.bar_chart(
            f"{title}: seconds",
            [_bar(entry, entry["seconds"], results.show(entry["seconds"], "seconds")) for entry in entries],
        )
        plots[f"{name}_memory.svg"] = charts.bar_chart(
            f"{title}: peak memory",
            [
                _bar(entry, entry["peak_memory_bytes"], results.show(entry["peak_memory_bytes"], "bytes"))
                for entry in entries
            ],
        )
    bars = []
    for name, contestant, label in STEP_BARS:
        entry = _find(found, name, contestant)
        if entry and entry["steps"]:
            bars.append(charts.StackedBar(label, _parts(entry), results.show(entry["seconds"], "seconds")))
    if bars:
        plots["engine_steps.svg"] = charts.stacked_chart("The engine's steps, in seconds", bars)
    points = results.linear_points(found, figures["datasets"])
    if len(points) > 1:
        plots["linearity_seconds.svg"] = charts.log_log_chart(
            "The engine: seconds by rows of step_executions; dashed: linear growth",
            "rows",
            [
                charts.Point(point["rows"], point["seconds"], results.show(point["seconds"], "seconds"))
                for point in points
            ],
        )
        plots["linearity_memory.svg"] = charts.bar_chart(
            "The engine: peak memory by rows of step_executions",
            [
                charts.Bar(
                    f"{point['rows']:,} rows",
                    point["peak_memory_bytes"],
                    results.show(point["peak_memory_bytes"], "bytes"),
                    True,
                )
                for point in points
            ],
        )
    return plots


def _measured_again(figures: dict[str, Any]) -> list[str]:
    """Return which datasets are from a later run than the others, if any."""
    again = figures.get("measured_again", {})
    if not again:
        return []
    names = ", ".join(f"{name} ({date})" for name, date in again.items())
    return [f"Measured again by themselves, with a later state of the engine than the others: {names}."]


def readme(figures: dict[str, Any], plots: Iterable[str]) -> str:
    """Return the report as Markdown."""
    machine = figures["machine"]
    sections = [
        "# Benchmark",
        f"Measured on {machine['date']} by `make bench`, which writes this page; its figures are in "
        "[benchmark.json](benchmark.json), whose shape [bench/README.md](../../bench/README.md) describes.",
        *_measured_again(figures),
        _machine(machine),
        "## Goals",
        _table(
            ("goal", "at most", "measured", ""),
            [
                (
                    goal["name"],
                    results.show(goal["goal"], goal["unit"]),
                    "" if goal["measured"] is None else results.show(goal["measured"], goal["unit"]),
                    {True: "reached", False: "**missed**", None: "not measured"}[goal["reached"]],
                )
                for goal in figures["goals"]
            ],
        ),
        "## Contestants",
        _table(
            ("name", "what it does", "program"),
            [(name, entry["description"], entry["program"]) for name, entry in figures["contestants"].items()],
        ),
    ]
    available = set(plots)
    for dataset in figures["datasets"]:
        sections += _dataset_section(figures, dataset, available)
    sections += _growth_section(figures, available)
    if "engine_steps.svg" in available:
        sections += ["## Where the engine's time goes", *_pictures(available, ("engine_steps.svg",))]
    sections += _problem_section(figures)
    sections.append(HOW.strip())
    return "\n\n".join(sections) + "\n"


def _machine(machine: dict[str, Any]) -> str:
    """Return what was measured on."""
    rows = [
        ("machine", f"{machine['cores']} cores of {machine['processor']}, {machine['memory_bytes'] / 2**30:.1f} GiB"),
        ("system", f"{machine['system']}, Linux {machine['kernel']}"),
        ("PostgreSQL", machine["postgresql"]),
        ("its settings", ", ".join(f"{name} {value}" for name, value in machine["postgresql_settings"].items())),
        ("Python, SQLite, psycopg2", f"{machine['python']}, {machine['sqlite']}, {machine['psycopg2']}"),
        ("pgloader", machine["pgloader"] or "not installed"),
        ("psql", machine["psql"] or "not installed"),
    ]
    return _table(("", ""), rows)


def _dataset_section(figures: dict[str, Any], dataset: dict[str, Any], plots: set[str]) -> list[str]:
    """Return the part about one dataset: what it is, its table, its plots."""
    entries = [entry for entry in figures["medians"] if entry["dataset"] == dataset["name"]]
    is_a_point_of_growth = dataset.get("shape") == results.STEP_EXECUTIONS_SHAPE and len(entries) == 1
    if not entries or is_a_point_of_growth:
        return []
    ratios = figures["ratios"].get(dataset["name"], {})
    rows = []
    for entry in entries:
        name = entry["contestant"]
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in entry["steps"].items() if step != "total")
        rows.append(
            (
                name,
                f"{entry['seconds']:.2f}",
                f"{ratios[name]:.2f}" if name in ratios else "",
                f"{entry['peak_memory_bytes'] / 10**6:.1f}",
                entry["runs"],
                steps,
            )
        )
    rows_text = "1 row" if dataset["rows"] == 1 else f"{dataset['rows']:,} rows"
    size = f"{dataset['source_bytes'] / 10**6:,.1f} MB"
    return [
        f"## {dataset['name']}",
        f"{dataset['description'][0].upper()}{dataset['description'][1:]}: {rows_text}, {size} in SQLite.",
        _table(("", "seconds", "ratio", "peak MB", "runs", "steps, in seconds"), rows),
        *_pictures(plots, (f"{dataset['name']}_seconds.svg", f"{dataset['name']}_memory.svg")),
    ]


def _problem_section(figures: dict[str, Any]) -> list[str]:
    """Return what was not measured and what failed, if anything."""
    lines = [f"- {entry['contestant']}: not measured, {entry['reason']}." for entry in figures["skipped"]]
    lines += [
        f"- {entry['dataset']}, {entry['contestant']}, run {entry['run']}: does not count, "
        + " ".join(entry["reason"].split())
        for entry in figures["failures"]
    ]
    return ["## What does not count", "\n".join(lines)] if lines else []


def _growth_section(figures: dict[str, Any], plots: set[str]) -> list[str]:
    """Return how the engine's time and memory grow with the rows, if several sizes were measured."""
    points = results.linear_points(figures["medians"], figures["datasets"])
    if len(points) < 2:
        return []
    rows = [
        (
            f"{point['rows']:,}",
            f"{point['seconds']:.2f}",
            f"{point['seconds'] / point['rows'] * 10**6:.1f}",
            f"{point['peak_memory_bytes'] / 10**6:.1f}",
            point["runs"],
        )
        for point in points
    ]
    return [
        "## How the engine's time and memory grow with the rows",
        _table(("rows of step_executions", "seconds", "µs a row", "peak MB", "runs"), rows),
        *_pictures(plots, ("linearity_seconds.svg", "linearity_memory.svg")),
    ]


def _pictures(plots: set[str], names: Sequence[str]) -> list[str]:
    """Return the links to those plots that were drawn."""
    return [f"![{name.removesuffix('.svg').replace('_', ' ')}]({name})" for name in names if name in plots]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _find(found: Sequence[dict[str, Any]], dataset: str, contestant: str) -> dict[str, Any] | None:
    """Return the medians of one contestant on one dataset."""
    return next((entry for entry in found if entry["dataset"] == dataset and entry["contestant"] == contestant), None)


def _bar(entry: dict[str, Any], value: float, text: str) -> charts.Bar:
    """Return the bar of one contestant; the engine's stands out."""
    return charts.Bar(entry["contestant"], value, text, entry["contestant"] == ENGINE)


def _parts(entry: dict[str, Any]) -> dict[str, float]:
    """Return the engine's steps, and the rest of its process's time as a step of its own."""
    parts = {step: seconds for step, seconds in entry["steps"].items() if step != "total"}
    return {**parts, "other": max(0.0, entry["seconds"] - sum(parts.values()))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report as the command line says."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("figures", type=Path, nargs="?", default=FIGURES, help="JSON that measure.py wrote")
    parser.add_argument("--directory", type=Path, default=DOCUMENT, help="where the report goes")
    parser.add_argument("--merge", action="store_true", help="keep what was not measured again of an earlier report")
    options = parser.parse_args(arguments)
    try:
        figures = json.loads(options.figures.read_text(encoding="utf-8"))
    except FileNotFoundError:
        print(f"There are no figures yet: {options.figures} is missing. Run `make bench`.", file=sys.stderr)
        return 1
    kept = options.directory / "benchmark.json"
    if options.merge and kept.exists():
        figures = results.merged(json.loads(kept.read_text(encoding="utf-8")), figures)
    write_document(figures, options.directory)
    kept.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    readme_path = (options.directory / "README.md").resolve()
    print(f"Report: {readme_path.relative_to(ROOT) if readme_path.is_relative_to(ROOT) else readme_path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
