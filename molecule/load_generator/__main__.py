"""The commands of the load generator; see README.md."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from . import checker, journal, writer


def main() -> int:
    """Run one command; a check with problems ends with status 1."""
    parser = argparse.ArgumentParser(prog="load_generator", description=__doc__)
    parser.add_argument("command", choices=("write", "check", "outages"))
    parser.add_argument("--journal", type=Path, required=True, help="the journal's file; write makes it")
    parser.add_argument("--seconds", type=float, default=600.0, help="write: end after that time at the latest")
    parser.add_argument("--rate", type=float, default=5.0, help="write: requests a second to each service")
    parser.add_argument("--seed", default="0", help="write: what the choice of rows and values begins with")
    options = parser.parse_args()
    if options.command == "write":
        ended = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        timer = threading.Timer(options.seconds, ended.set)
        timer.daemon = True
        timer.start()
        writer.write_until(options.journal, ended, options.rate, options.seed)
        return 0
    if options.command == "outages":
        print(json.dumps(journal.outages(journal.read(options.journal)), indent=1))
        return 0
    result = checker.check(options.journal)
    print(json.dumps(result, indent=1, ensure_ascii=False))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
