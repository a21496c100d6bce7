"""One line at the bottom of a terminal that is written over in place, below everything else that is printed.

It is drawn without the package rich, even where that is installed. Rich's ``Live`` hides the cursor, which stays hidden
behind a run that is killed. It puts objects of its own in the place of stdout and stderr, and takes a lock in a thread
that Ansible's workers would inherit: they are copies of this process, made for each task at any time.
"""

from __future__ import annotations

import os
import shutil
import threading
import unicodedata
from collections.abc import Callable
from typing import Any, TextIO

from .messages import printable, read_progress

_INTERVAL_SECONDS = 1.0
_ERASE = "\r\x1b[K"


class StatusLine:
    """Draws a text once a second, and after each message that Ansible prints meanwhile.

    :param display: Ansible's own display. Its method ``display`` is wrapped: every message of Ansible, of its workers
        and of other plugins goes through it, and must not be mixed with the line.
    :param stream: the terminal.
    :param text: returns what the line says now, an empty text for nothing. It is called in a thread of its own.
    :param progress: is told the host and the text of each progress message, which is not printed then.
    """

    def __init__(
        self, display: Any, stream: TextIO, text: Callable[[], str], progress: Callable[[str, str], None]
    ) -> None:
        self._owner = display
        self._print = display.display
        self._stream = stream
        self._text = text
        self._progress = progress
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._ended = threading.Event()
        display.display = self._display
        threading.Thread(target=self._redraw, daemon=True).start()

    def close(self) -> None:
        """Erase the line, and leave the display as it was."""
        # A worker is a copy of this process, but the line is not its own.
        if os.getpid() == self._process and not self._ended.is_set():
            with self._lock:
                self._ended.set()
                self._write(_ERASE)
            self._owner.display = self._print

    def _display(self, msg: str, *arguments: Any, **options: Any) -> None:
        """Print a message above the line, as Ansible would."""
        if os.getpid() != self._process or self._ended.is_set():
            self._print(msg, *arguments, **options)
            return
        with self._lock:
            if (told := read_progress(msg)) is not None:
                self._progress(*told)
                self._print(msg, *arguments, **{**options, "log_only": True})
            else:
                self._write(_ERASE)
                self._print(msg, *arguments, **options)
            # What has no end of line yet, such as a question, stays the last on the terminal.
            if options.get("newline", True):
                self._draw()

    def _redraw(self) -> None:
        while not self._ended.wait(_INTERVAL_SECONDS):
            with self._lock:
                if not self._ended.is_set():
                    self._draw()

    def _draw(self) -> None:
        text = printable(self._text()).replace("\n", " ").replace("\t", " ")
        self._write(_ERASE + _cut(text, shutil.get_terminal_size().columns - 1))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # The terminal is gone; the run goes on.
            self._ended.set()


def _cut(text: str, cells: int) -> str:
    """Return the beginning of a text that takes no more than so many cells of a terminal."""
    taken = 0
    for position, letter in enumerate(text):
        is_wide = unicodedata.east_asian_width(letter) in ("F", "W")
        taken += 0 if unicodedata.combining(letter) else 2 if is_wide else 1
        if taken > cells:
            return text[:position]
    return text
