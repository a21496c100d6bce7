"""Runs a command in a process of its own and measures its time and its peak memory."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.1
PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """What a command needed.

    :param seconds: from the start of its process to its end.
    :param peak_memory_bytes: the sum of the peaks of the processes that lived at the same time, so never too little.
    """

    seconds: float
    peak_memory_bytes: int


class CommandFailed(Exception):
    """A measured command did not succeed; the message holds the end of its output."""


def run_measured(command: Sequence[str], environment: Mapping[str, str]) -> Usage:
    """Run a command to its end.

    :raises CommandFailed: if it cannot be started or its exit status is not 0.
    """
    with tempfile.TemporaryFile() as output:
        start = time.monotonic()
        try:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        except OSError as error:
            raise CommandFailed(f"{command[0]} cannot be started: {error}") from None
        sampler = _MemorySampler(process.pid)
        sampler.start()
        status = process.wait()
        seconds = time.monotonic() - start
        sampler.stop()
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    if status != 0:
        raise CommandFailed(f"{Path(command[0]).name} ended with exit status {status}:\n{text[-4000:]}")
    return Usage(seconds, sampler.peak)


def peak_memory_of(pid: int | str = "self") -> int:
    """Return the peak resident memory of a process in bytes, or 0 if it has ended.

    The kernel keeps this figure (VmHWM) for each process. ``getrusage`` would not do: there a program inherits the
    peak of the process that started it.
    """
    try:
        status = (PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


class _MemorySampler(threading.Thread):
    """Looks at a process and its descendants until told to stop. A peak that has passed is still seen: VmHWM stays."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._pid = pid
        self._stopped = threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        # A short process is looked at more often, so that it is not missed.
        pause = SAMPLE_SECONDS / 20
        while not self._stopped.wait(pause):
            self.peak = max(self.peak, sum(peak_memory_of(pid) for pid in _family(self._pid)))
            pause = min(pause * 1.5, SAMPLE_SECONDS)

    def stop(self) -> None:
        """End the sampling."""
        self._stopped.set()
        self.join()


def _family(pid: int) -> set[int]:
    """Return the ids of a process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The program's name stands in parentheses and may hold anything; the state and the parent follow it.
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    family, found = set(), [pid]
    while found:
        member = found.pop()
        family.add(member)
        found.extend(children.get(member, ()))
    return family
