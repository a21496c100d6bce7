"""PostgreSQL's own programs on this host, and of which version they are."""

from __future__ import annotations

import re
import subprocess

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECONDS = 60
# A maker of PostgreSQL may name itself in the parentheses.
_VERSION = re.compile(r"\) ((\d+)\S*)")


class NoVersion(Exception):
    """A program is not there, or does not tell its version; its text says which."""


def version_of(program: str) -> tuple[int, str]:
    """Return the major version of one of PostgreSQL's programs, and its version as it writes it.

    :raises NoVersion: if it is not there or does not work.
    """
    try:
        answer = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise NoVersion(f"it did not end within {_SECONDS} seconds") from None
    except OSError as error:
        raise NoVersion(error.strerror or str(error)) from None
    if answer.returncode != 0:
        raise NoVersion(f"exit code {answer.returncode}")
    found = _VERSION.search(answer.stdout)
    if found is None:
        raise NoVersion(f"its version is {answer.stdout.strip()[:200]}")
    return int(found[2]), found[1]
