"""What follows from the measurements: medians, ratios, and whether the goals are reached. All functions are pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from bench.contestants import COPY_WITH_INDEXES, ENGINE, PGLOADER, PGLOADER_DROP_INDEXES

ENGINE_FULL = "engine_full"
ENGINE_UNCHANGED = "engine_nothing_changed"
ENGINE_CHANGED = "engine_one_percent_changed"

# Names of what is measured: see measure.py.
COMPARED = ("step_executions", "narrow")
CHANGES = "step_executions_changes"
SAMPLE_ESTATE = "sample_estate"
LARGE_VALUES = ("large_text", "large_blob")
STEP_EXECUTIONS_SHAPE = "step_executions"

LOAD_LIMIT = 1.15
MEMORY_LIMIT_BYTES = 100 * 10**6
# "A small multiple" of a single large value.
VALUE_MULTIPLE = 5.0
SEED_ESTATE_SECONDS = 1.0
CHANGED_SHARE = 1 / 3
UNCHANGED_SHARE = 1 / 5
# Time that grows as rows^1 is linear; what is above it, measured on a busy machine, may be noise.
LINEAR_EXPONENT = 1.1

Plain = dict[str, Any]


def medians(measurements: Sequence[Plain]) -> list[Plain]:
    """Return the median of every figure over the runs of each contestant on each dataset, in the order of measuring."""
    together: dict[tuple[str, str], list[Plain]] = {}
    for measurement in measurements:
        together.setdefault((measurement["dataset"], measurement["contestant"]), []).append(measurement)
    result = []
    for (dataset, contestant), runs in together.items():
        steps = {step: None for run in runs for step in run["steps"]}
        result.append(
            {
                "dataset": dataset,
                "contestant": contestant,
                "runs": len(runs),
                "rows": runs[0]["rows"],
                "seconds": round(median(run["seconds"] for run in runs), 4),
                "peak_memory_bytes": round(median(run["peak_memory_bytes"] for run in runs)),
                "steps": {step: round(median(run["steps"].get(step, 0.0) for run in runs), 4) for step in steps},
            }
        )
    return result


def ratios(found: Sequence[Plain]) -> dict[str, dict[str, float]]:
    r"""Return for each dataset the time of each contestant, divided by that of the first.

    The first is ``\copy`` with indexes where contestants are compared, and the full run where the source changes.
    """
    result: dict[str, dict[str, float]] = {}
    for dataset in dict.fromkeys(entry["dataset"] for entry in found):
        entries = {entry["contestant"]: entry for entry in found if entry["dataset"] == dataset}
        basis = entries.get(COPY_WITH_INDEXES) or entries.get(ENGINE_FULL)
        if basis and len(entries) > 1:
            result[dataset] = {name: round(entry["seconds"] / basis["seconds"], 3) for name, entry in entries.items()}
    return result


def goals(found: Sequence[Plain], datasets: Sequence[Plain]) -> list[Plain]:
    """Return each goal with its figure; ``measured`` and ``reached`` are None where nothing was measured."""
    entries = {(entry["dataset"], entry["contestant"]): entry for entry in found}
    shapes = {dataset["name"]: dataset for dataset in datasets}
    result = []

    for name in COMPARED:
        copy, engine = entries.get((name, COPY_WITH_INDEXES)), entries.get((name, ENGINE))
        load = engine["steps"].get("load") if engine else None
        result.append(
            _goal(
                f"{name}: the engine's load / \\copy of a ready file, both with indexes",
                LOAD_LIMIT,
                load / copy["seconds"] if load is not None and copy else None,
                "ratio",
            )
        )
    for name in COMPARED:
        engine, rival = entries.get((name, ENGINE)), best_pgloader(found, name)
        result.append(
            _goal(
                f"{name}: the engine's whole time but the snapshot / pgloader's, which verifies nothing",
                1.0,
                time_without_snapshot(engine) / rival["seconds"] if engine and rival else None,
                "ratio",
            )
        )

    sizes = linear_points(found, datasets)
    for entry in [entry for entry in sizes if entry["rows"] >= 10**6] or sizes[-1:]:
        name = f"peak memory of the engine at {entry['rows']:,} rows"
        result.append(_goal(name, MEMORY_LIMIT_BYTES, entry["peak_memory_bytes"], "bytes"))
    for name in LARGE_VALUES:
        value = entries.get((name, ENGINE))
        size = shapes.get(name, {}).get("value_bytes", 0)
        result.append(
            _goal(
                f"{name}: peak memory of the engine / the single value of {size:,} bytes",
                VALUE_MULTIPLE,
                value["peak_memory_bytes"] / size if value else None,
                "ratio",
            )
        )

    estate = entries.get((SAMPLE_ESTATE, ENGINE))
    name = "the sample estate, 3 groups with 17 tables: from snapshot to verified"
    result.append(_goal(name, SEED_ESTATE_SECONDS, estate["seconds"] if estate else None, "seconds"))

    full = entries.get((CHANGES, ENGINE_FULL))
    for contestant, limit, what in (
        (ENGINE_CHANGED, CHANGED_SHARE, "one row of a hundred changed"),
        (ENGINE_UNCHANGED, UNCHANGED_SHARE, "nothing changed"),
    ):
        again = entries.get((CHANGES, contestant))
        share = again["seconds"] / full["seconds"] if again and full else None
        result.append(_goal(f"run again, {what} / the full run, both verified", limit, share, "ratio"))

    exponent = growth_exponent(sizes)
    name = "exponent with which the engine's time grows with the rows (1 is linear)"
    result.append(_goal(name, LINEAR_EXPONENT, exponent, "exponent"))
    return result


def merged(earlier: Plain, later: Plain) -> Plain:
    """Return figures in which the datasets that were measured again take the place of the earlier ones.

    ``measured_again`` names them; all others, and the machine, are those of the earlier run.
    """
    again = {entry["dataset"] for entry in later["measurements"]}
    measurements = [entry for entry in earlier["measurements"] if entry["dataset"] not in again]
    measurements += later["measurements"]
    datasets = {dataset["name"]: dataset for dataset in (*earlier["datasets"], *later["datasets"])}
    found = medians(measurements)
    return {
        **earlier,
        "contestants": {**earlier["contestants"], **later["contestants"]},
        "datasets": list(datasets.values()),
        "measurements": measurements,
        "medians": found,
        "ratios": ratios(found),
        "goals": goals(found, list(datasets.values())),
        "failures": [*earlier["failures"], *later["failures"]],
        "measured_again": {
            **earlier.get("measured_again", {}),
            **dict.fromkeys(sorted(again), later["machine"]["date"]),
        },
    }


def best_pgloader(found: Sequence[Plain], dataset: str) -> Plain | None:
    """Return the faster of pgloader's two ways, or None if it was not measured."""
    ways = [
        entry
        for entry in found
        if entry["dataset"] == dataset and entry["contestant"] in (PGLOADER, PGLOADER_DROP_INDEXES)
    ]
    return min(ways, key=lambda entry: float(entry["seconds"]), default=None)


def time_without_snapshot(engine: Plain) -> float:
    """Return the seconds of the engine's process without those of its snapshot.

    Profile, load and verification are in it, and whatever stands between them, so that nothing is left out.
    """
    return float(engine["seconds"] - engine["steps"].get("snapshot", 0.0))


def linear_points(found: Sequence[Plain], datasets: Sequence[Plain]) -> list[Plain]:
    """Return the engine's medians on the same kind of rows in different numbers, the smallest first."""
    names = {dataset["name"] for dataset in datasets if dataset.get("shape") == STEP_EXECUTIONS_SHAPE}
    points = [entry for entry in found if entry["dataset"] in names and entry["contestant"] == ENGINE]
    return sorted(points, key=lambda entry: int(entry["rows"]))


def growth_exponent(points: Sequence[Plain]) -> float | None:
    """Return the steepest slope between neighbours in the log-log plot, or None with fewer than two points."""
    slopes = [
        math.log(after["seconds"] / before["seconds"]) / math.log(after["rows"] / before["rows"])
        for before, after in pairwise(points)
    ]
    return max(slopes, default=None)


def show(value: float, unit: str) -> str:
    """Return a figure as a reader wants to see it."""
    if unit == "bytes":
        return f"{value / 10**6:,.1f} MB"
    if unit == "seconds":
        return f"{value:,.2f} s"
    return f"{value:,.3f}"


def _goal(name: str, goal: float, measured: float | None, unit: str) -> Plain:
    """Return one goal; it is reached if what was measured is not above it."""
    return {
        "name": name,
        "goal": round(goal, 4),
        "measured": None if measured is None else round(measured, 4),
        "unit": unit,
        "reached": None if measured is None else measured <= goal,
    }
