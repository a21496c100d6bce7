#!/usr/bin/env python3
"""Start site.yml on the test host as an operator does, and kill it while packages are installed.

A crash is SIGKILL to ansible-playbook with all its children, as when the operator's machine loses power: what already
runs on the host goes on there.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from scripts.playbooks import ThrowawayHost

TASK = "TASK [postgres_install : packages | Install"
# How long the task goes on: apt has begun by then, and is not done.
SECONDS = 2.0


def main() -> int:
    """Return 0 if the run was killed where it should have been; print its output otherwise."""
    process = ThrowawayHost(os.environ["TEST_HOST_PREFIX"]).start("site.yml")
    lines: list[str] = []
    is_reached = False
    for line in process.stdout or ():
        lines.append(line)
        is_reached = line.startswith(TASK)
        if is_reached:
            time.sleep(SECONDS)
            break
    # Before anybody asks how it ended: until then the id is that of no other process.
    os.killpg(process.pid, signal.SIGKILL)
    if process.wait() == -signal.SIGKILL and is_reached:
        return 0
    print("The run was not killed while packages were installed:", *map(str.rstrip, lines), sep="\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
