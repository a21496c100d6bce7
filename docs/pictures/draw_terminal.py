#!/usr/bin/env python3
"""Draw what a terminal showed as an SVG picture, for the README.

    script -qfec "ansible-playbook site.yml -l dev" shown.txt
    docs/pictures/draw_terminal.py shown.txt picture.svg --title "ansible-playbook site.yml -l dev" [--until TEXT]

The typescript is drawn as it stood at its end, or just after the last line that holds TEXT. Lines that were written
over in place are drawn once, as on the screen.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

# An address of a font is a request to somebody else's server by whoever looks at the picture.
_FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
_OF_SCRIPT = re.compile(r"^Script (started|done) on .*$\n?", re.MULTILINE)


def on_the_screen(typescript: str, until: str = "") -> str:
    """Return the lines that a terminal shows after this typescript, with their colours.

    :param until: leaves out what came after the last piece of output that holds this text.
    :raises ValueError: if no piece of output holds it.
    """
    text = _OF_SCRIPT.sub("", typescript.replace("\r\n", "\n"))
    if until:
        if until not in text:
            raise ValueError(f"Nothing that was shown holds {until!r}")
        end = text.rindex(until) + len(until)
        text = text[:end] + re.split(r"[\r\n]", text[end:], maxsplit=1)[0]
    # Each piece after a carriage return stands in the place of the one before.
    lines = (line.rstrip("\r").rpartition("\r")[2].replace("\x1b[K", "") for line in text.split("\n"))
    return "\n".join(lines).strip("\n")


def draw(shown: str, title: str, width: int) -> str:
    """Return the picture of lines with colours."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for line in shown.split("\n"):
        console.print(Text.from_ansi(line), soft_wrap=False)
    return _FONTS.sub("", console.export_svg(title=title, unique_id="terminal"))


def main() -> None:
    """Draw one typescript."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("typescript", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--until", default="", help="leave out what came after the last line that holds this text")
    parser.add_argument("--width", type=int, default=120, help="of the terminal, in characters")
    options = parser.parse_args()
    # Its carriage returns are kept: they say what was written over.
    typescript = options.typescript.read_bytes().decode(errors="replace")
    picture = draw(on_the_screen(typescript, options.until), options.title, options.width)
    options.picture.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
