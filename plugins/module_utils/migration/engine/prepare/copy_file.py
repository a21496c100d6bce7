"""A private file of lines that COPY reads as they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_ESCAPES = {ord("\\"): "\\\\", ord("\t"): "\\t", ord("\n"): "\\n", ord("\r"): "\\r"}
PIECE = 1 << 20  # characters


class Spool:
    """A private file of COPY lines."""

    def __init__(self, path: Path, wanted: bool = True) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        if wanted:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(descriptor, "wb", buffering=1 << 20)

    def write(self, fields: Iterable[str | bytes | None]) -> None:
        """Write one line; a large value goes in pieces, so that it is never copied whole.

        :param fields: texts as PostgreSQL parses them; bytes for a bytea as it is.
        """
        if self._file is None:
            return
        separator = b""
        for text in fields:
            self._file.write(separator)
            separator = b"\t"
            if text is None:
                self._file.write(b"\\N")
            elif isinstance(text, bytes):
                self._file.write(b"\\\\x")
                for start in range(0, len(text), PIECE):
                    self._file.write(text[start : start + PIECE].hex().encode())
            else:
                for start in range(0, len(text), PIECE):
                    self._file.write(text[start : start + PIECE].translate(_ESCAPES).encode())
        self._file.write(b"\n")

    def write_lines(self, lines: bytes) -> None:
        """Write lines that are escaped already."""
        if self._file is not None:
            self._file.write(lines)

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            self._file.close()
