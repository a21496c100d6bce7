"""Where the processor time of a machine goes while checks run: into containers, other processes, or nothing."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

# Where the control groups of containers stand, for versions 1 and 2 and for both of Docker's drivers.
_CONTAINERS = tuple(
    Path("/sys/fs/cgroup") / place
    for place in (
        "cpuacct/docker/*/cpuacct.usage",
        "cpuacct/system.slice/docker-*.scope/cpuacct.usage",
        "docker/*/cpu.stat",
        "system.slice/docker-*.scope/cpu.stat",
    )
)
_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_BETWEEN_QUESTIONS = 0.1


def wait_for(process: subprocess.Popen[bytes], limit: float) -> float:
    """Wait for a process, and return the processor time that it and those that it waited for took, in seconds.

    :param limit: seconds to wait at most.
    :raises subprocess.TimeoutExpired: if it has not ended by then.
    """
    deadline = time.monotonic() + limit
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired(process.args, limit)
        time.sleep(_SECONDS_BETWEEN_QUESTIONS)


def machine_seconds(text: str | None = None) -> tuple[float, float]:
    """Return the seconds that all processors of this machine have worked and been idle since its start.

    :param text: content of ``/proc/stat``; that of this machine by default. Zero where there is no such file.
    """
    path = Path("/proc/stat")
    if text is None:
        text = path.read_text(encoding="ascii") if path.exists() else "cpu 0 0 0 0 0 0 0 0"
    # user, nice, system, idle, iowait, irq, softirq, steal. What guests take is part of user.
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in text.splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, idle


class ContainerTimes:
    """The processor time of every container while this is open, looked up again and again, because containers go away.

    :param places: patterns of the files in which the system counts it, by default those of Docker on Linux. Nothing
        is found where Docker runs in a virtual machine.
    """

    def __init__(self, places: Sequence[Path] = _CONTAINERS) -> None:
        self._places = places
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._names: dict[str, str] = {}
        self._stopped = Event()
        self._thread = Thread(target=self._look_again_and_again, daemon=True)

    def __enter__(self) -> ContainerTimes:
        # Containers of others may be here already.
        self._first = self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.look()

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of each container by its name; one that was gone before it was named is "others"."""
        found: dict[str, float] = {}
        for identifier, seconds in list(self._last.items()):
            name = self._names.get(identifier, "others")
            found[name] = found.get(name, 0.0) + seconds - self._first.get(identifier, 0.0)
        return found

    def look(self) -> None:
        """Note the time of each container that is there."""
        found = self._look()
        self._last.update(found)
        if found.keys() - self._names.keys():
            self._names.update(_names())

    def _look(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for place in self._places:
            for path in Path("/").glob(str(place).removeprefix("/")):
                identifier = path.parent.name.removeprefix("docker-").removesuffix(".scope")
                try:
                    text = path.read_text(encoding="ascii")
                except OSError:
                    # It has just gone.
                    continue
                found[identifier] = _seconds_in(text)
        return found

    def _look_again_and_again(self) -> None:
        while not self._stopped.wait(_SECONDS_BETWEEN_LOOKS):
            self.look()


def _seconds_in(text: str) -> float:
    """Return the seconds that stand in a control group's file: of version 1 in nanoseconds, of 2 in microseconds."""
    words = text.split()
    return int(words[words.index("usage_usec") + 1]) / 1e6 if "usage_usec" in words else int(words[0]) / 1e9


def _names() -> dict[str, str]:
    """Return the name of each container that runs, by its id."""
    command = ["docker", "ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return {}
    return dict(line.split(" ", 1) for line in listed.splitlines() if " " in line)
