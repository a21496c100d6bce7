#!/usr/bin/env python3
"""Measure the engine against its peers on a PostgreSQL server, and write what was found as JSON.

Needs Python 3.11 or later and psycopg2; measures psql and pgloader where they are installed. Makes databases of its own
on the server, whose names begin with ``sqlite_to_postgresql_benchmark``, and removes them. The role needs the right to
create databases and to ask for a checkpoint. Its password is read from PGPASSWORD. The JSON is described in README.md
beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.extend(str(Path(__file__).resolve().parent.parent / name) for name in ("", ".collections"))

import psycopg2

from bench import datasets, results, target
from bench.contestants import (
    ENGINE,
    Contestant,
    Setting,
    available_contestants,
    engine_command,
    engine_command_of,
)
from bench.datasets import Dataset
from bench.processes import CommandFailed, Usage, run_measured
from bench.target import Server

ROOT = Path(__file__).resolve().parent.parent
ESTATE = ROOT / "inventory" / "group_vars" / "all" / "estate.yml"
CREATE_SAMPLE_ESTATE = ROOT / "molecule" / "sample_estate" / "create_databases.py"
SCENARIOS = ("step_executions", "narrow", "text_ids", "linearity", "changes", "large_values", "sample_estate")

# Fewer rows say nothing of how the time grows.
LEAST_ROWS = 10


class RunFailed(Exception):
    """One run did not do what it should; its figures do not count."""


class Benchmark:
    """Runs the scenarios one after the other and collects what they find."""

    def __init__(self, server: Server, options: argparse.Namespace, directory: Path) -> None:
        self.server = server
        self.options = options
        self.directory = directory
        self.datasets: list[dict[str, Any]] = []
        self.measurements: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.contestants, self.skipped = available_contestants()
        self._engine = next(contestant for contestant in self.contestants if contestant.name == ENGINE)

    def run(self) -> dict[str, Any]:
        """Measure every scenario that was asked for and return everything as plain data."""
        target.make_template(self.server)
        try:
            for scenario in self.options.scenarios:
                getattr(self, f"measure_{scenario}")()
        finally:
            target.drop_databases(self.server)
        found = results.medians(self.measurements)
        return {
            "machine": describe_machine(self.server),
            "contestants": {
                contestant.name: {"program": contestant.program, "description": contestant.description}
                for contestant in self.contestants
            },
            "datasets": self.datasets,
            "measurements": self.measurements,
            "medians": found,
            "ratios": results.ratios(found),
            "goals": results.goals(found, self.datasets),
            "failures": self.failures,
            "skipped": self.skipped,
        }

    # ------------------------------------------------------------ the scenarios

    def measure_step_executions(self) -> None:
        """Measure all contestants on the plan's largest table."""
        rows = self.options.rows
        dataset = datasets.make_step_executions("step_executions", self.directory / "steps.db", rows)
        self._compare(dataset, self.contestants, self.options.runs, shape=results.STEP_EXECUTIONS_SHAPE)

    def measure_narrow(self) -> None:
        """Measure all contestants on a table of many short rows."""
        dataset = datasets.make_narrow(self.directory / "narrow.db", self.options.narrow_rows or 2 * self.options.rows)
        self._compare(dataset, self.contestants, self.options.runs)

    def measure_text_ids(self) -> None:
        """Measure the engine where every id must become a UUID, which only the engine does."""
        path = self.directory / "text-ids.db"
        dataset = datasets.make_step_executions("step_executions_text_ids", path, self.options.rows, text_ids=True)
        self._compare(dataset, [self._engine], self.options.runs)

    def measure_linearity(self) -> None:
        """Measure the engine on fewer rows and, if asked for, on ten times as many; only once on those."""
        rows = self.options.rows
        sizes = [(rows // 100, self.options.runs), (rows // 10, self.options.runs)]
        if self.options.large:
            sizes.append((rows * 10, 1))
        for size, runs in sizes:
            if size < LEAST_ROWS:
                continue
            path = self.directory / f"steps-{size}.db"
            dataset = datasets.make_step_executions(f"step_executions_{size}", path, size)
            self._compare(dataset, [self._engine], runs, shape=results.STEP_EXECUTIONS_SHAPE)

    def measure_changes(self) -> None:
        """Measure a second run with nothing changed, and a third with one row of a hundred changed."""
        rows = self.options.rows
        original = datasets.make_step_executions(results.CHANGES, self.directory / "original.db", rows)
        dataset = Dataset(**{**vars(original), "path": self.directory / "changing.db"})
        self._describe(dataset, original.path)
        for run in range(1, self.options.runs + 1):
            shutil.copyfile(original.path, dataset.path)
            setting = self._prepare(dataset, self._engine)
            command = engine_command(setting)
            before = datasets.count_source(dataset.path, dataset.table)
            for name, changes in ((results.ENGINE_FULL, True), (results.ENGINE_UNCHANGED, False)):
                self._measure(setting, name, run, command, before, changes=changes)
            datasets.change_step_executions(dataset.path, rows)
            after = datasets.count_source(dataset.path, dataset.table)
            self._measure(setting, results.ENGINE_CHANGED, run, command, after, changes=True)
            condition = f"status = '{datasets.CHANGED_STATUS}'"
            expected = datasets.count_source(dataset.path, dataset.table, condition)
            arrived = target.count_target(self.server, dataset, condition)
            if arrived != expected:
                self._fail(dataset.name, results.ENGINE_CHANGED, run, f"{arrived:,} of {expected:,} changes arrived")
            shutil.rmtree(setting.directory)
        original.path.unlink()
        dataset.path.unlink()

    def measure_large_values(self) -> None:
        """Measure the engine with a single value of many megabytes."""
        size = self.options.value_megabytes * 10**6
        for name, as_blob in zip(results.LARGE_VALUES, (False, True), strict=True):
            dataset = datasets.make_large_value(name, self.directory / f"{name}.db", size, as_blob)
            self._compare(dataset, [self._engine], self.options.runs, value_bytes=size)

    def measure_sample_estate(self) -> None:
        """Measure the engine on the sample's three databases: its own time, as each group's report tells it."""
        root = self.directory / "estate"
        subprocess.run(
            [sys.executable, str(CREATE_SAMPLE_ESTATE), "--root", str(root)], check=True, stdout=subprocess.DEVNULL
        )
        groups = read_estate(self.options.estate, root)
        name = results.SAMPLE_ESTATE
        tables = sum(len(group["tables"]) for group in groups)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        self.datasets.append(
            {
                "name": name,
                "description": f"the estate of the sample: {len(groups)} cutover groups, {tables} tables",
                "rows": 0,
                "source_bytes": size,
            }
        )
        for run in range(1, self.options.runs + 1):
            self._measure_estate(groups, run)
        shutil.rmtree(root)

    def _measure_estate(self, groups: Sequence[dict[str, Any]], run: int) -> None:
        """Move every group of the estate in a process of its own, as Ansible does."""
        name = results.SAMPLE_ESTATE
        target.make_database(self.server, "public")
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        steps: dict[str, float] = {}
        peak = rows = 0
        try:
            for group in groups:
                result_path = directory / "result.json"
                command = engine_command_of(self.server, group, directory, result_path)
                peak = max(peak, run_measured(command, os.environ).peak_memory_bytes)
                result = json.loads(result_path.read_text(encoding="utf-8"))
                for step, seconds in result["steps"].items():
                    steps[step] = steps.get(step, 0.0) + seconds
                rows += sum(table["target_rows"] for table in result["tables"])
                wrong = [table["target"] for table in result["tables"] if not table["equal"]]
                if wrong:
                    self._fail(name, ENGINE, run, f"not equal: {', '.join(wrong)}")
                    return
        except CommandFailed as error:
            self._fail(name, ENGINE, run, str(error))
            return
        finally:
            shutil.rmtree(directory)
        self.datasets[-1]["rows"] = rows
        self._record(name, ENGINE, run, Usage(steps["total"], peak), rows, steps)

    # ------------------------------------------------------------ one run

    def _compare(self, dataset: Dataset, contestants: Sequence[Contestant], runs: int, **more: Any) -> None:
        """Measure contestants in turn on one dataset, and remove its files afterwards."""
        copy_path = dataset.path.with_suffix(".copy")
        if len(contestants) > 1:
            datasets.write_copy_file(dataset.path, dataset.table, copy_path)
        self._describe(dataset, dataset.path, **more)
        content: target.Content | None = None
        for run in range(1, runs + 1):
            for contestant in contestants:
                setting = self._prepare(dataset, contestant)
                if self._measure(setting, contestant.name, run, contestant.command(setting), dataset.rows):
                    found = target.read_content(self.server, dataset)
                    # All must have brought the same values; the first of them is \copy itself.
                    content = content or found
                    if found != content:
                        self.measurements.pop()
                        self._fail(dataset.name, contestant.name, run, "the rows arrived with other values")
                shutil.rmtree(setting.directory)
        for path in (dataset.path, copy_path):
            path.unlink(missing_ok=True)

    def _prepare(self, dataset: Dataset, contestant: Contestant) -> Setting:
        """Give a contestant a fresh database and a source that is in the machine's memory, as it is for the others."""
        target.make_database(self.server, dataset.schema)
        if not contestant.loads_parents:
            target.load_parents(self.server, dataset)
        copy_path = dataset.path.with_suffix(".copy")
        for path in (dataset.path, copy_path):
            if path.exists():
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        return Setting(self.server, dataset, directory, copy_path, target.read_rules(self.server, dataset))

    def _measure(
        self,
        setting: Setting,
        contestant: str,
        run: int,
        command: Sequence[str],
        expected_rows: int,
        changes: bool | None = None,
    ) -> bool:
        """Measure one run and look at what it left; return whether it did what it should.

        :param changes: whether the engine must say that it changed something; None if it is not asked.
        """
        dataset = setting.dataset
        setting.result_path.unlink(missing_ok=True)
        try:
            usage = run_measured(command, {**os.environ, "PGTZ": "UTC"})
            result: dict[str, Any] = {}
            if setting.result_path.exists():
                result = json.loads(setting.result_path.read_text(encoding="utf-8"))
            rows = target.read_content(self.server, dataset).rows
            if rows != expected_rows:
                raise RunFailed(f"{rows:,} of {expected_rows:,} rows arrived")
            if target.read_rules(self.server, dataset).meaning() != setting.rules.meaning():
                raise RunFailed("indexes or constraints of the target table are missing afterwards")
            if changes is not None and result["changed"] != changes:
                raise RunFailed(f"the engine says changed={result['changed']}")
        except (CommandFailed, RunFailed) as error:
            self._fail(dataset.name, contestant, run, str(error))
            return False
        self._record(dataset.name, contestant, run, usage, rows, result.get("steps", {}))
        return True

    def _describe(self, dataset: Dataset, path: Path, **more: Any) -> None:
        """Note what a dataset is."""
        self.datasets.append(
            {
                "name": dataset.name,
                "description": dataset.description,
                "rows": dataset.rows,
                "source_bytes": path.stat().st_size,
                **more,
            }
        )

    def _record(
        self, dataset: str, contestant: str, run: int, usage: Usage, rows: int, steps: dict[str, float]
    ) -> None:
        """Note one measurement and show it."""
        self.measurements.append(
            {
                "dataset": dataset,
                "contestant": contestant,
                "run": run,
                "seconds": round(usage.seconds, 4),
                "peak_memory_bytes": usage.peak_memory_bytes,
                "rows": rows,
                "steps": {step: round(seconds, 4) for step, seconds in steps.items()},
            }
        )
        print(
            f"{dataset:<28}{contestant:<28}run {run}{usage.seconds:>10.2f} s"
            f"{usage.peak_memory_bytes / 10**6:>10.1f} MB{rows:>13,} rows",
            flush=True,
        )

    def _fail(self, dataset: str, contestant: str, run: int, reason: str) -> None:
        """Note a run that does not count, and show it."""
        self.failures.append({"dataset": dataset, "contestant": contestant, "run": run, "reason": reason})
        print(f"{dataset:<28}{contestant:<28}run {run}: FAILED: {reason}", flush=True)


# ---------------------------------------------------------------- what is around it


def read_estate(path: Path, root: Path) -> list[dict[str, Any]]:
    """Return the estate's cutover groups with their sources below ``root``.

    :param path: the inventory's YAML file, or the same as JSON for a machine that cannot read YAML.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        estate = json.loads(text)
    else:
        import yaml  # not on every machine, and not needed for JSON

        estate = yaml.safe_load(text)
    return [
        {
            "name": group["name"],
            "source": {"path": f"{root}{group['source']['path']}"},
            "tables": group["tables"],
        }
        for group in estate["estate_cutover_groups"]
    ]


def describe_machine(server: Server) -> dict[str, Any]:
    """Return what the figures depend on: the machine, the versions and the server's settings."""
    postgresql = target.read_versions(server)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _first_match("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int((_first_match("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) * 1024,
        "system": (_first_match("/etc/os-release", "PRETTY_NAME", "=") or platform.system()).strip('"'),
        "kernel": platform.release().partition("-")[0],
        "postgresql": postgresql["version"],
        "postgresql_settings": postgresql["settings"],
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "psycopg2": str(vars(psycopg2)["__version__"]).partition(" ")[0],
        "pgloader": _version_of("pgloader"),
        "psql": _version_of("psql"),
    }


def _first_match(path: str, name: str, separator: str = ":") -> str | None:
    """Return the value of the first line ``name: value`` of a file."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(separator)
        if key.strip() == name:
            return value.strip()
    return None


def _version_of(program: str) -> str | None:
    """Return the first line of what a program says of its version, or None if it is not installed."""
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    return output.strip().partition("\n")[0]


def print_goals(goals: Sequence[dict[str, Any]]) -> None:
    """Print each goal with its figure."""
    print("\nGoals")
    for goal in goals:
        verdict = {True: "reached", False: "MISSED", None: "not measured"}[goal["reached"]]
        measured = "" if goal["measured"] is None else results.show(goal["measured"], goal["unit"])
        print(f"  {verdict:<14}{measured:>10} ≤ {results.show(goal['goal'], goal['unit']):<10}  {goal['name']}")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=str(__doc__).partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1", help="address of the server, or directory of its socket")
    parser.add_argument("--port", type=int, default=5432)
    parser.add_argument("--user", default="postgres", help="role that may create databases")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), help="where the figures go")
    parser.add_argument("--rows", type=_positive, default=1_000_000, help="rows of step_executions")
    parser.add_argument("--narrow-rows", type=_positive, help="rows of the narrow table; twice --rows if not given")
    parser.add_argument("--runs", type=_positive, default=3, help="runs of each contestant")
    parser.add_argument("--large", action="store_true", help="also the engine with ten times as many rows")
    parser.add_argument("--value-megabytes", type=_positive, default=100, help="size of the single large value")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--estate", type=Path, default=ESTATE, help="the sample's estate, as YAML or JSON")
    parser.add_argument("--work-directory", type=Path, help="for the files that are made; a temporary one if not given")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    """Return a whole number above 0; underscores may group its digits."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; the exit status is 1 only if a run failed, not if a goal is missed."""
    options = parse_arguments(arguments)
    server = Server(options.host, options.port, options.user)
    try:
        with tempfile.TemporaryDirectory(
            prefix="benchmark-", dir=options.work_directory, ignore_cleanup_errors=True
        ) as directory:
            found = Benchmark(server, options, Path(directory)).run()
    except psycopg2.OperationalError as error:
        print(f"PostgreSQL at {options.host}:{options.port} refuses {options.user}: {error}", file=sys.stderr)
        return 1
    options.output.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print_goals(found["goals"])
    for skipped in found["skipped"]:
        print(f"Not measured: {skipped['contestant']}: {skipped['reason']}.")
    for failure in found["failures"]:
        print(f"FAILED: {failure['dataset']}, {failure['contestant']}, run {failure['run']}: {failure['reason']}")
    return 1 if found["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
