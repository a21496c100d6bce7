"""One shell on a throwaway host that runs command after command.

A ``docker exec`` for each of them takes 0.1 s of processor time, most of it Docker's. Through a shell that stays open a
command takes what it takes itself.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from typing import IO, cast


@dataclass(frozen=True)
class Answer:
    """What became of a command.

    :param status: its exit status.
    """

    status: int
    stdout: str
    stderr: str


class HostShell:
    """A shell of root's in a container, started for the first command, and anew after it has ended.

    :param container: its name. It may be started again, or made anew, between two commands.
    """

    def __init__(self, container: str) -> None:
        self._container = container
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, command: str) -> Answer:
        """Run a command of the shell's language, without input, and return what became of it.

        Nobody waits for what it leaves running in the background, which must not write to its output.

        :raises RuntimeError: if the container does not run, or ends meanwhile.
        """
        process = self._started()
        orders, answers = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
        # In a shell of its own, which it may leave, and whose variables and directory are no other command's.
        order = f"sh -c {shlex.quote(command)} </dev/null >$own/stdout 2>$own/stderr; "
        order += "echo $? $(stat -c %s $own/stdout $own/stderr); cat $own/stdout $own/stderr\n"
        try:
            orders.write(order.encode())
            orders.flush()
            status, *sizes = map(int, answers.readline().split())
            stdout, stderr = (answers.read(size).decode(errors="replace") for size in sizes)
        except (OSError, ValueError) as error:
            self.close()
            raise RuntimeError(f"{self._container} ended, or its shell, while it ran: {command}") from error
        return Answer(status, stdout, stderr)

    def close(self) -> None:
        """End the shell, with the directory that it keeps."""
        if self._process is not None:
            # It ends at the end of its input.
            self._process.communicate()
            self._process = None

    def _started(self) -> subprocess.Popen[bytes]:
        """Return the shell, which keeps the output of a command in a directory of its own."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                ["docker", "exec", "--interactive", self._container, "sh"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            # Not in /tmp, which systemd empties while it boots.
            directory = b"own=$(mktemp -d ${TMPDIR:-/run}/shell.XXXXXX); trap 'rm -r $own' EXIT\n"
            cast(IO[bytes], self._process.stdin).write(directory)
        return self._process
