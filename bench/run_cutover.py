#!/usr/bin/env python3
"""Measure the downtime of a cutover and of the rollback on a throwaway host in Docker, with a large source.

The sample estate's registry gets a million rows, is rehearsed by our own playbook, changes by 1 %, and is cut over.
Then 1 % changes in PostgreSQL, and the group goes back to SQLite with these rows.
The figures are those that the run itself reports: what an HTTP client saw that asked the service all the time, and the
seconds of each step. Writes docs/benchmark/cutover.json and cutover.md. The host is removed at the end, also after a
failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import results
from bench.run_benchmark import (
    HOST,
    HOST_DIRECTORY,
    BenchmarkError,
    copy_to_host,
    run_playbooks,
    title,
)
from scripts.playbooks import ROOT

DOCUMENT = ROOT / "docs" / "benchmark"
SOURCE = "/opt/swarm-registry/registry.db"
# What is promised of a million rows, and of the sample estate's own groups.
GOAL_SECONDS, SAMPLE_GOAL_SECONDS = 15.0, 4.0
STEPS = {
    "stop": "pm2 stops the service",
    "freeze": "nobody has the file open, its log is brought in, it is write-protected",
    "final sync": "snapshot of the file, what changed, the changed rows moved and proven",
    "hash": "what is left of the file's SHA-256, computed beside the final sync",
    "settings": "the `.env` is written",
    "go live": "the ledger's commit",
    "start": "pm2 starts the service, and it is proven healthy",
}
STEPS_BACK = {
    "stop": "pm2 stops the service",
    "write lock": "its sessions have ended, and a lock keeps everybody from writing",
    "compare": "whether anything was written since the cutover",
    "export": "a copy of the frozen file gets the rows that differ, and is proven equal to PostgreSQL",
    "dump": "what is left of `pg_dump`, which runs beside the export",
    "swap": "the copy is hashed, brought to the disk, and takes the place of the frozen file",
    "commit": "the ledger's commit, and the right to write to the tables is taken",
    "start": "the `.env` is written, pm2 starts the service, and it is proven healthy",
    "read the dump back": "while the service runs, every row of the dump is compared with the server",
}
# What a service may have done since the cutover: of a thousand rows some are updated, deleted and new.
CHANGES_BACK = """
WITH chosen AS (SELECT id, row_number() OVER (ORDER BY id) AS number FROM registry.step_executions)
UPDATE registry.step_executions AS step SET status = 'failed', error = 'changed after the cutover'
FROM chosen WHERE chosen.id = step.id AND chosen.number % 1000 < 8;
WITH chosen AS (SELECT id, row_number() OVER (ORDER BY id) AS number FROM registry.step_executions)
DELETE FROM registry.step_executions AS step USING chosen WHERE chosen.id = step.id AND chosen.number % 1000 = 8;
INSERT INTO registry.step_executions (run_id, step_id, agent_name, status, inputs, outputs, duration_ms)
SELECT run_id, step_id, agent_name, status, inputs, outputs, duration_ms FROM registry.step_executions
LIMIT (SELECT count(*) / 1000 FROM registry.step_executions);
"""


def prepare_host(rows: int) -> None:
    """Make a host with the sample estate whose registry has a million rows more, and rehearse it."""
    run_playbooks("molecule/destroy.yml", "molecule/create.yml", "molecule/prepare.yml")
    run_playbooks("playbooks/1_infrastructure.yml", "playbooks/2_shared_library.yml")
    copy_to_host()
    on_source(f"datasets.grow_step_executions(path, {rows})")
    run_playbooks("playbooks/3_data_migration.yml")


def on_source(statement: str) -> None:
    """Run a statement of Python on the host, with ``path`` of the source, as another process that writes to it."""
    code = f"import pathlib; from bench import datasets; path = pathlib.Path({SOURCE!r}); {statement}"
    command = ["docker", "exec", "--workdir", HOST_DIRECTORY, HOST.container, "python3", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(done.stderr)


def on_server(statement: str) -> str:
    """Return what the server answers to its administrator."""
    command = ["docker", "exec", "--user", "postgres", HOST.container, "psql", "-d", "swarm", "-v", "ON_ERROR_STOP=1"]
    done = subprocess.run([*command, "-Atqc", statement], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(done.stderr)
    return done.stdout


def query(statement: str) -> Any:
    """Return the JSON that the server answers with."""
    return json.loads(on_server(statement))


def read_figures(rows: int) -> dict[str, Any]:
    """Return what the ledger holds of the cutovers."""
    runs = query(
        "SELECT json_object_agg(c.group_name, c.report || jsonb_build_object('final_sync', f.report -> 'seconds', "
        "'way', f.report -> 'way', 'rehearsal', g.detail -> 'rehearsal')) "
        "FROM migration.run c JOIN migration.run f ON f.group_name = c.group_name AND f.kind = 'final' "
        "JOIN migration.cutover_group g ON g.name = c.group_name WHERE c.kind = 'cutover'"
    )
    back = query("SELECT report FROM migration.run WHERE kind = 'rollback' AND group_name = 'registry'")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "rows": rows,
        "goal_seconds": GOAL_SECONDS,
        "groups": runs,
        "way_back": back,
    }


def page(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    large = figures["groups"]["registry"]
    seconds = {step["name"]: step["seconds"] for step in large["steps"]}
    parts = ", ".join(f"{name} {taken:.1f} s" for name, taken in large["final_sync"].items() if name != "total")
    downtime, goal = large["downtime_seconds"], figures["goal_seconds"]
    lines = [
        "# Downtime of a cutover",
        "",
        f"Measured on {figures['date']} by `bench/run_cutover.py`, which writes this page; the figures are in "
        "[cutover.json](cutover.json). On a throwaway host in Docker, with PostgreSQL, Node and pm2 side by side, an "
        "HTTP client asked the services all the time; the downtime is from their last answer to the next.",
        "",
        "| what moves | goal | downtime |  |",
        "| --- | --- | --- | --- |",
        f"| registry with {figures['rows']:,} more rows, 1 % changed since the rehearsal "
        f"| {results.show(goal, 'seconds')} | {results.show(downtime, 'seconds')} | {_verdict(downtime, goal)} |",
    ]
    for name, group in sorted(figures["groups"].items()):
        if name != "registry":
            taken = group["downtime_seconds"]
            lines.append(
                f"| {name}, as in the sample estate | {results.show(SAMPLE_GOAL_SECONDS, 'seconds')} "
                f"| {results.show(taken, 'seconds')} | {_verdict(taken, SAMPLE_GOAL_SECONDS)} |"
            )
    lines += [
        "",
        "## Where the time of the large one goes",
        "",
        "| step | seconds | what happens |",
        "| --- | --- | --- |",
        *(f"| {step} | {seconds[step]:.2f} | {what} |" for step, what in STEPS.items() if step in seconds),
        "",
        f"The final sync ({large['way']}): {parts}. pm2 and the service: {large['services_seconds']:.1f} s; our own "
        f"steps: {large['own_seconds']:.1f} s. The rehearsal had expected a downtime of "
        f"{large['rehearsal']['expected_downtime_seconds']:.1f} s, and its rollback took "
        f"{large['rehearsal']['way_back']['seconds']:.1f} s.",
        *_rollback(figures),
    ]
    return "\n".join(lines) + "\n"


def _rollback(figures: dict[str, Any]) -> list[str]:
    """Return the lines about the rollback of the large group."""
    back = figures["way_back"]
    seconds = {step["name"]: step["seconds"] for step in back["steps"]}
    changed = {kind: sum(table[kind] for table in back["tables"]) for kind in ("inserted", "updated", "deleted")}
    rows = ", ".join(f"{count:,} {kind}" for kind, count in changed.items())
    return [
        "",
        "## The rollback of the large one",
        "",
        f"With every row that was written to PostgreSQL since the cutover ({rows}), after a trial while the service "
        f"ran: it was down for **{results.show(back['downtime_seconds'], 'seconds')}**. The dump of its tables has "
        f"{back['dump']['size_bytes'] / 1e6:,.0f} MB.",
        "",
        "| step | seconds | what happens |",
        "| --- | --- | --- |",
        *(f"| {step} | {seconds[step]:.2f} | {what} |" for step, what in STEPS_BACK.items() if step in seconds),
    ]


def _verdict(measured: float, goal: float) -> str:
    """Return whether a goal is reached."""
    return "reached" if measured <= goal else "**missed**"


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the page; the exit status is 0 if both ways succeeded, however long they took."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows that the registry gets (1000000)")
    rows = parser.parse_args(arguments).rows
    try:
        title("A throwaway host with the sample estate, whose registry grows and is rehearsed")
        try:
            prepare_host(rows)
            on_source(f"datasets.change_step_executions(path, {rows})")
            title("The cutover")
            run_playbooks("playbooks/4_service_cutover.yml")
            title("The rollback")
            on_server(CHANGES_BACK)
            run_playbooks("playbooks/rollback.yml", "-e", "service_env_rollback_groups=registry")
            figures = read_figures(rows)
        finally:
            run_playbooks("molecule/destroy.yml")
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    (DOCUMENT / "cutover.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (DOCUMENT / "cutover.md").write_text(page(figures), encoding="utf-8")
    print((DOCUMENT / "cutover.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
