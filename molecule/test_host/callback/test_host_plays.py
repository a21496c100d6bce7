"""Asks ready.py before each play whether it may begin.

Writes the file of the play to a socket, whose number the environment gives, and goes on when a line comes back.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible ships without types
    """Waits between the plays for whoever has started the run."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "test_host_plays"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        with socket.socket(fileno=int(os.environ["TEST_HOST_PLAYS"])) as asked:
            self._plays = asked.makefile("rw", encoding="utf-8")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Wait until the play may begin.

        :raises SystemExit: if nobody answers. Of other exceptions Ansible makes warnings.
        """
        path, _, _ = play.get_path().rpartition(":")
        answer = ""
        # Who has started the run may have ended before this play, or while it waits.
        with suppress(OSError):
            print(path, file=self._plays, flush=True)
            answer = self._plays.readline()
        if not answer:
            raise SystemExit(f"Nobody says that {path} may begin.")
