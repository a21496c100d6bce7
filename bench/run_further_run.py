#!/usr/bin/env python3
"""Measure a run that has nothing to change: site.yml on a finished throwaway host in Docker.

Run by run it alternates with a widely used role that does a part of the same (geerlingguy.postgresql: packages,
settings, database and roles), on a host of its own with the same image, if that role is in the directory that
``--roles-path`` names. Each figure is the median of the runs. Writes docs/benchmark/further_run.json and
further_run.md, which lists the slowest tasks too. The hosts are removed at the end, also after a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import results
from bench.run_benchmark import BenchmarkError, title
from scripts.playbooks import ROOT, ThrowawayHost

DOCUMENT = ROOT / "docs" / "benchmark"
HOST, OTHER_HOST = ThrowawayHost("bench-"), ThrowawayHost("bench-other-")
OTHER_ROLE = "geerlingguy.postgresql"
GOAL_SECONDS, GOAL_RATIO = 20.0, 1.5
SLOWEST = 10
# The same database and roles as ours, with the distribution's PostgreSQL.
OTHER_PLAY = f"""\
- name: The other role
  hosts: database_hosts
  become: true
  roles:
    - role: {OTHER_ROLE}
  vars:
    # A host where root logs in may have no sudo.
    ansible_become_method: ansible.builtin.su
    postgresql_databases:
      - name: "{{{{ postgres_database }}}}"
    postgresql_users: >-
      {{{{ postgres_login_roles | map('community.general.dict_kv', 'name')
         | map('combine', {{'password': 'of-a-test'}}) | list }}}}
    postgresql_auth_method: scram-sha-256
"""


def play(host: ThrowawayHost, *arguments: str) -> None:
    """Run playbooks on a host.

    :raises BenchmarkError: with their output, if they fail.
    """
    done = host.play(*arguments)
    if not done.succeeded:
        raise BenchmarkError(f"{done.output}\nThis failed: {' '.join(arguments)}")


def measure(host: ThrowawayHost, playbook: str) -> dict[str, Any]:
    """Run a playbook that has nothing to change, and return what it took.

    :return: ``seconds``, ``controller_cpu_seconds`` (of ansible-playbook and what it started on this machine) and
        ``tasks``, a list of name and seconds, the slowest first.
    :raises BenchmarkError: if it fails or changes anything.
    """
    environment = {
        **os.environ,
        **host.environment,
        "ANSIBLE_CALLBACKS_ENABLED": "swarm.sqlite_to_postgresql.preload,ansible.posix.profile_tasks",
        "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "all",
    }
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        host.command(playbook), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    changed = re.search(r"changed=(\d+)", done.stdout)
    if done.returncode != 0 or changed is None or changed.group(1) != "0":
        raise BenchmarkError(f"{done.stdout}{done.stderr}\nThis failed, or changed something: {playbook}")
    return {
        "seconds": round(seconds, 2),
        "controller_cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "tasks": slowest_first(done.stdout),
    }


def slowest_first(output: str) -> list[dict[str, Any]]:
    """Return name and seconds of each task from the list that the callback profile_tasks has printed."""
    lines = re.findall(r"^(.+?) -{2,} +(\d+\.\d+)s$", output.partition("TASKS RECAP")[2], re.MULTILINE)
    return [{"name": name.strip(), "seconds": float(seconds)} for name, seconds in lines]


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of several runs, the number of tasks, and the slowest of the run in the middle."""
    middle = sorted(runs, key=lambda run: float(run["seconds"]))[len(runs) // 2]
    return {
        "runs": len(runs),
        "seconds": round(median(run["seconds"] for run in runs), 2),
        "controller_cpu_seconds": round(median(run["controller_cpu_seconds"] for run in runs), 2),
        "tasks": len(middle["tasks"]),
        "slowest": middle["tasks"][:SLOWEST],
    }


def page(figures: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    ours, other = figures["site"], figures["other_role"]
    lines = [
        "# A run that has nothing to change",
        "",
        f"Measured on {figures['date']} by `bench/run_further_run.py`, which writes this page; the figures are in "
        "[further_run.json](further_run.json). On throwaway hosts in Docker, the median of "
        f"{ours['runs']} runs; the machine has {figures['cores']} cores.",
        "",
        "| what runs | seconds | the controller's CPU seconds | tasks |",
        "| --- | --- | --- | --- |",
        f"| `site.yml`, every phase | {_cells(ours)} |",
    ]
    if other:
        lines.append(f"| {OTHER_ROLE}, server and database only | {_cells(other)} |")
    lines += [
        "",
        "| goal | limit | measured |  |",
        "| --- | --- | --- | --- |",
        _goal("`site.yml` on a finished host", GOAL_SECONDS, ours["seconds"], "seconds"),
    ]
    if other:
        ratio = ours["seconds"] / other["seconds"]
        lines.append(_goal(f"`site.yml` / {OTHER_ROLE}", GOAL_RATIO, ratio, "ratio"))
    else:
        lines += ["", f"{OTHER_ROLE} was not measured: {figures['other_role_missing']}."]
    lines += ["", "## Where the time goes", "", "| task | seconds |", "| --- | --- |"]
    lines += [f"| {task['name'].replace('|', chr(92) + '|')} | {task['seconds']:.2f} |" for task in ours["slowest"]]
    return "\n".join(lines) + "\n"


def _cells(figures: dict[str, Any]) -> str:
    """Return the cells of one line of the table."""
    return f"{figures['seconds']:.1f} | {figures['controller_cpu_seconds']:.1f} | {figures['tasks']}"


def _goal(name: str, limit: float, measured: float, unit: str) -> str:
    """Return the line of one goal."""
    verdict = "reached" if measured <= limit else "**missed**"
    return f"| {name} | {results.show(limit, unit)} | {results.show(measured, unit)} | {verdict} |"


def measure_both(runs: int, roles_path: Path | None) -> dict[str, Any]:
    """Make the hosts, measure in turn, and return the figures."""
    missing = ""
    if roles_path is None:
        missing = "no --roles-path was given"
    elif not (roles_path / OTHER_ROLE / "tasks").is_dir():
        missing = f"it is not in {roles_path}"
    with tempfile.TemporaryDirectory() as directory:
        other_play = Path(directory) / "other.yml"
        other_play.write_text(OTHER_PLAY, encoding="utf-8")
        if roles_path:
            # Where Ansible looks beside the playbook.
            (Path(directory) / "roles").symlink_to(roles_path.resolve())
        title("A finished host")
        play(HOST, "molecule/destroy.yml", "molecule/create.yml", "molecule/prepare.yml", "site.yml")
        if not missing:
            title(f"Another one, of {OTHER_ROLE}")
            play(OTHER_HOST, "molecule/destroy.yml", "molecule/create.yml")
            play(OTHER_HOST, str(other_play))
        ours: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []
        for number in range(1, runs + 1):
            title(f"Further run {number} of {runs}")
            ours.append(measure(HOST, "site.yml"))
            print(f"site.yml: {ours[-1]['seconds']:.1f} s", flush=True)
            if not missing:
                others.append(measure(OTHER_HOST, str(other_play)))
                print(f"{OTHER_ROLE}: {others[-1]['seconds']:.1f} s", flush=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "site": summary(ours),
        "other_role": summary(others) if others else None,
        "other_role_missing": missing,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write the page; the exit status is 0 if every run succeeded, however long it took."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--roles-path", type=Path, help=f"directory that holds the role {OTHER_ROLE}")
    options = parser.parse_args(arguments)
    try:
        try:
            figures = measure_both(max(1, options.runs), options.roles_path)
        finally:
            for host in (HOST, OTHER_HOST):
                play(host, "molecule/destroy.yml")
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    (DOCUMENT / "further_run.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    (DOCUMENT / "further_run.md").write_text(page(figures), encoding="utf-8")
    print((DOCUMENT / "further_run.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
