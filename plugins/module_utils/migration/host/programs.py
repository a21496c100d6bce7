"""How a program of the host is called: within a time, as a user, without input, in an environment built from scratch.

Managers of services are called so, and what runs as a service's user. What keeps a program from giving an answer is
told in the same words, whoever calls it.
"""

from __future__ import annotations

import os
import pwd
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.rights import groups_of

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ANSWER_SECONDS = 60.0
# Of what a program prints.
_MOST_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 16


class NoAnswer(Exception):
    """A program cannot be run, does not end in time, or prints more than anybody needs; its text says which."""


@dataclass(frozen=True)
class Answer:
    """What a program has answered that has ended.

    :param status: 0 if all went well; below 0 the signal that has ended it.
    """

    status: int
    output: str
    errors: str


def call(
    command: Sequence[str],
    environment: Mapping[str, str],
    uid: int | None = None,
    directory: str = "/",
    seconds: float = ANSWER_SECONDS,
    umask: int = -1,
) -> Answer:
    """Run a program until it ends.

    :param environment: all that it has; its ``PATH`` is where a program without a directory is looked for.
    :param uid: the user as whom it runs, with all groups of that user; None for the one that we are.
    :param umask: -1 for ours.
    :raises NoAnswer: if it gives none. It is killed if it still runs.
    """
    try:
        with subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=directory,
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **identity_of(uid),
        ) as process:
            output, errors = _printed_by(process, seconds)
    except OSError as error:
        raise NoAnswer(not_run(error)) from None
    return Answer(process.returncode, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


def identity_of(uid: int | None) -> dict[str, Any]:
    """Return the arguments of ``Popen`` that let a program run as a user; none if that is who we are."""
    if uid is None or uid == os.geteuid():
        return {}
    group, groups = groups_of(uid)
    return {"user": uid, "group": group, "extra_groups": groups}


def environment_of(account: pwd.struct_passwd, path: str = "") -> dict[str, str]:
    """Return the environment of what runs as a user: nothing of Ansible's, of the operator's shell or of a secret.

    :param path: its ``PATH``; empty for the common one.
    """
    own = {"HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    return {**own, "PATH": path or PATH, "LANG": "C.UTF-8"}


def not_ended(seconds: float) -> str:
    """Return in words that a program does not end."""
    return f"it did not end within {seconds:g} seconds"


def not_run(error: OSError) -> str:
    """Return in words why a program cannot be started."""
    return f"it cannot be run: {error.strerror}"


def _printed_by(process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bytes]:
    """Return what a process prints until it ends, and what it prints of errors.

    :raises NoAnswer: if it does not end in time, or prints too much.
    """
    deadline = time.monotonic() + seconds
    printed = {stream.fileno(): bytearray() for stream in (process.stdout, process.stderr) if stream is not None}
    try:
        with selectors.DefaultSelector() as waiting:
            for descriptor in printed:
                waiting.register(descriptor, selectors.EVENT_READ)
            while waiting.get_map():
                ready = waiting.select(max(deadline - time.monotonic(), 0))
                if time.monotonic() >= deadline:
                    raise NoAnswer(not_ended(seconds))
                for key, _ in ready:
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    printed[key.fd] += chunk
                    if not chunk:
                        waiting.unregister(key.fd)
                    if sum(map(len, printed.values())) > _MOST_BYTES:
                        raise NoAnswer(f"it printed more than {_MOST_BYTES:,} bytes")
        process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        process.kill()
        raise NoAnswer(not_ended(seconds)) from None
    except BaseException:
        process.kill()
        raise
    output, errors = printed.values()
    return bytes(output), bytes(errors)
