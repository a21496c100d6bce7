#!/usr/bin/env python3
"""Measure on a throwaway host in Docker, with PostgreSQL installed by our own playbook, and write the report.

Arguments are those of measure.py, such as ``--rows 100000 --runs 1`` or ``--large``. Writes reports/benchmark.json and
docs/benchmark/. The host is removed at the end, also after a failure.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

sys.path.extend(str(Path(__file__).resolve().parent.parent / name) for name in ("", ".collections"))

from bench import document, measure
from scripts.playbooks import ROOT, ThrowawayHost

HOST = ThrowawayHost("bench-")
FIGURES = document.FIGURES

# What measure.py needs on the host, at the same places below a directory of its own. /tmp is in the host's memory.
# The engine by the path at which Python finds it.
NEEDED = (
    "bench",
    ".collections/ansible_collections/swarm/sqlite_to_postgresql/plugins/module_utils/migration",
    "files/sql",
    "molecule/sample_estate/create_databases.py",
)
HOST_DIRECTORY = "/opt/benchmark"
HOST_FILES = "/var/tmp"  # noqa: S108 (on a host that is ours alone)
HOST_FIGURES = f"{HOST_FILES}/benchmark.json"


class BenchmarkError(Exception):
    """A step before or after the measuring failed; the message says which."""


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def run_playbooks(*playbooks: str) -> None:
    """Run playbooks on the throwaway host; show their output only if they fail."""
    done = HOST.play(*playbooks)
    if not done.succeeded:
        raise BenchmarkError(f"{done.output}\nThis failed: {' '.join(playbooks)}")


def run_quietly(command: Sequence[str]) -> None:
    """Run a command.

    :raises BenchmarkError: with its output, if it fails.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"{done.stdout}\nThis failed: {' '.join(command)}")


def install_pgloader() -> None:
    """Install Debian's pgloader on the host."""
    run_quietly(["docker", "exec", HOST.container, "apt-get", "update", "--quiet=2"])
    command = ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", "pgloader"]
    run_quietly(["docker", "exec", "--env", "DEBIAN_FRONTEND=noninteractive", HOST.container, *command])


def copy_to_host() -> None:
    """Put what measure.py needs on the host."""
    with tempfile.TemporaryDirectory() as directory:
        staged = Path(directory)
        for name in NEEDED:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, staged / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(ROOT / name, staged / name)
        # The host has no library for YAML.
        estate = yaml.safe_load(measure.ESTATE.read_text(encoding="utf-8"))
        (staged / "estate.json").write_text(json.dumps(estate), encoding="utf-8")
        # The user postgres reads it.
        for path in staged.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        run_quietly(["docker", "exec", HOST.container, "mkdir", "--parents", HOST_DIRECTORY])
        run_quietly(["docker", "cp", f"{staged}/.", f"{HOST.container}:{HOST_DIRECTORY}"])


def measure_on_host(options: Sequence[str]) -> bool:
    """Measure as the server's superuser through its socket; return whether every run did what it should.

    :raises BenchmarkError: if there are no figures.
    """
    # fmt: off
    command = [
        "docker", "exec", "--user", "postgres", "--env", "PYTHONDONTWRITEBYTECODE=1", "--workdir", HOST_DIRECTORY,
        HOST.container, "python3", "bench/measure.py", *options, "--host", "/var/run/postgresql", "--port", "5432",
        "--user", "postgres", "--estate", "estate.json", "--work-directory", HOST_FILES, "--output", HOST_FIGURES,
    ]
    # fmt: on
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.unlink(missing_ok=True)
    copied = subprocess.run(["docker", "cp", "--quiet", f"{HOST.container}:{HOST_FIGURES}", str(FIGURES)], check=False)
    if copied.returncode != 0:
        raise BenchmarkError("The measuring ended without figures; its output is above.")
    return status == 0


def main() -> int:
    """Run the benchmark; the exit status is 0 if all measurements are complete, whatever they are."""
    options = sys.argv[1:]
    # A mistake is told before anything is started.
    chosen = measure.parse_arguments(options).scenarios
    started = time.monotonic()
    try:
        title("A throwaway host with PostgreSQL as our playbook installs it, and pgloader")
        run_playbooks("molecule/destroy.yml", "molecule/create.yml", "playbooks/1_infrastructure.yml")
        try:
            install_pgloader()
            copy_to_host()
            title("The measurements")
            complete = measure_on_host(options)
        finally:
            run_playbooks("molecule/destroy.yml")
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    title("The report")
    print(f"Figures: {FIGURES.relative_to(ROOT)}")
    # A part of the scenarios leaves the figures of the others as they are.
    document.main([] if set(chosen) == set(measure.SCENARIOS) else ["--merge"])
    print(f"Done in {(time.monotonic() - started) / 60:.0f} minutes")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
