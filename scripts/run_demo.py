#!/usr/bin/env python3
"""Show the whole migration on a throwaway dev host: services on SQLite before, the same services on PostgreSQL after.

Starts a fresh container with the sample estate, runs `site.yml -l dev` on it, and says what was moved, how that is
proven, and how to look around.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.playbooks import INVENTORY, ROOT, ThrowawayHost

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "demo-"))
REPORT = ROOT / "reports" / f"{HOST.prefix}dev" / "latest"
ESTATE = ROOT / "inventory" / "group_vars" / "all" / "estate.yml"

# Runs on the host: prints the body of each address, or why there is none.
READ_ADDRESSES = """
import sys, urllib.error, urllib.request
for address in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(address, timeout=5).read().decode().replace("\\n", " "))
    except urllib.error.URLError as error:
        print(f"no answer: {error.reason}")
"""


class DemoError(Exception):
    """A step of the demo failed; its own output has said why."""


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def run_playbooks(*playbooks: str) -> None:
    """Run playbooks on the throwaway host with their output visible."""
    print(f"$ {' '.join(HOST.command(*playbooks))}", flush=True)
    if not HOST.play(*playbooks, shown=True).succeeded:
        raise DemoError(f"The demo stopped: {' '.join(playbooks)} failed, its output is above.")


def services() -> dict[str, str]:
    """Return the health address of each service of the estate by the service's name, in the order of the cutover."""
    estate = yaml.safe_load(ESTATE.read_text(encoding="utf-8"))
    return {
        service["name"]: service["health_url"]
        for group in estate["estate_cutover_groups"]
        for service in group["services"]
    }


def print_health_answers() -> None:
    """Print what each service itself says about its health and its store."""
    addresses = services()
    answers = HOST.run(["python3", "-c", READ_ADDRESSES, *addresses.values()]).splitlines()
    for (name, address), answer in zip(addresses.items(), answers, strict=True):
        print(f"  {name:<16} {address}  {answer}")


def print_tables(report: dict[str, Any]) -> None:
    """Print every table of the report with its counts and the hashes of both sides."""
    print(f"  {'SQLite':<24}{'PostgreSQL':<30}{'rows':>6}{'rows':>7}  {'hash':<10}{'hash':<10}")
    for group in report["groups"]:
        for table in group["tables"]:
            print(
                f"  {table['source']:<24}{table['target']:<30}{table['source_rows']:>6}{table['target_rows']:>7}  "
                f"{table['source_hash'][:8]:<10}{table['target_hash'][:8]:<10}"
                f"{'equal' if table['equal'] else 'DIFFERENT'}"
            )


def print_exceptions(report: dict[str, Any]) -> None:
    """Print every value that a policy of the inventory changed or refused; its original is kept in the ledger."""
    for group in report["groups"]:
        for row in group["original_values"]["rows"]:
            print(f"  {row['table']} {row['key']}: {row['column']} = {row['value']!r}, {row['reason']}")
        for row in group["rejects"]["rows"]:
            print(f"  refused: {row}")


def print_downtimes(report: dict[str, Any]) -> None:
    """Print how long the services of each cutover group were down."""
    for group in report["groups"]:
        print(f"  {', '.join(group['services']):<32} {group['cutover']['downtime_seconds']:.1f} seconds")


def main() -> int:
    """Run the demo."""
    started = time.monotonic()
    try:
        title("A throwaway dev host with four Node services on three SQLite files")
        run_playbooks("molecule/destroy.yml", "molecule/create.yml", "molecule/prepare.yml")
        title("What the services say before")
        print_health_answers()
        title("The migration")
        run_playbooks("site.yml")
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1

    report = json.loads((REPORT / "report.json").read_text(encoding="utf-8"))
    title("What was moved, and the proof that it all arrived")
    print_tables(report)
    print(f"\n  {report['headline']}")
    for sentence in report["summary"]:
        print(f"  {sentence}")
    title("What has no equal in the new tables: kept in the ledger, migration.original_value")
    print_exceptions(report)
    title("How long the services were down")
    print_downtimes(report)
    title("What the services say now")
    print_health_answers()
    title(f"Done in {time.monotonic() - started:.0f} seconds")
    print(f"""\
  The report:         {(REPORT / "report.html").relative_to(ROOT)}  (the same as JSON: report.json beside it)
  Look into the host: docker exec -it {HOST.container} bash
                      then, for example: sudo -u postgres psql swarm
  Run it once more:   TEST_HOST_PREFIX={HOST.prefix} .venv/bin/ansible-playbook {" ".join(INVENTORY)} site.yml -l dev
                      (it ends with "nothing changed": there is nothing left to do)
  All runs:           reports/index.html
  Remove the host:    docker rm --force {HOST.container}""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
