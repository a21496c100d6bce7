#!/usr/bin/env python3
"""Start site.yml on the test host as an operator does, and kill it while packages are installed.

A crash is SIGKILL to ansible-playbook with all its children, as when the operator's machine loses power: what already
runs on the host goes on there.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from scripts.playbooks import ThrowawayHost

TASK = "TASK [postgres_install : packages | Install"
# Ends when packages are unpacked or set up.
WAIT = "for n in $(seq 1200); do pgrep -x dpkg >/dev/null && exit 0; sleep 0.1; done; exit 1"


def main() -> int:
    """Return 0 if the run was killed where it should have been; print its output otherwise."""
    host = ThrowawayHost(os.environ["TEST_HOST_PREFIX"])
    process = host.start("site.yml")
    lines: list[str] = []
    is_reached = False
    try:
        for line in process.stdout or ():
            lines.append(line)
            is_reached = line.startswith(TASK)
            if is_reached:
                host.run(["sh", "-c", WAIT])
                break
    finally:
        # Before anybody asks how it ended: until then the id is that of no other process.
        os.killpg(process.pid, signal.SIGKILL)
    if process.wait() == -signal.SIGKILL and is_reached:
        return 0
    print("The run was not killed while packages were installed:", *map(str.rstrip, lines), sep="\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
