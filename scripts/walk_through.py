"""The commands of a page of the docs, in the order in which they stand there, and a shell that runs them.

A page shows commands in blocks without a language, one a line, and what they print in blocks of the language ``text``
below. A command whose comment begins with ``refused`` must fail, every other must succeed. In what is printed, ``…``
stands for anything. Blocks of YAML are for the reader.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(r"^\s*```(?P<language>\S*)\s*$")
_ANYTHING = "…"
# The part of a line that the shell takes for a comment, in the commands of our pages.
_COMMENT = re.compile(r"\s+# (?P<text>.*)$")


@dataclass(frozen=True)
class Command:
    """A command of a page.

    :param section: the heading above it.
    :param text: what a person types.
    :param is_refused: whether it has to fail.
    :param shown: the lines of its output that the page shows.
    """

    section: str
    text: str
    is_refused: bool = False
    shown: tuple[str, ...] = ()


def read_page(text: str) -> list[Command]:
    """Return all commands of a page.

    :raises ValueError: if a block is in a language that means nothing here, is never closed, or shows the output of no
        command.
    """
    found: list[Command] = []
    section, language = "", None
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if language is None:
            if fence:
                language = fence["language"]
                if language not in ("", "text", "yaml"):
                    raise ValueError(f"line {number}: a block of {language} is neither commands, output nor YAML")
                if language == "text" and not (found and found[-1].section == section):
                    raise ValueError(f"line {number}: this is the output of no command of its section")
            elif line.startswith("#"):
                section = line.lstrip("#").strip()
        elif fence:
            language = None
        elif language == "" and line.strip():
            comment = _COMMENT.search(line)
            is_refused = comment is not None and comment["text"].startswith("refused")
            found.append(Command(section, _COMMENT.sub("", line).strip(), is_refused))
        elif language == "text" and line.strip(f" {_ANYTHING}"):
            last = found[-1]
            found[-1] = Command(last.section, last.text, last.is_refused, (*last.shown, " ".join(line.split())))
    if language is not None:
        raise ValueError("the last block is never closed")
    return found


def sections(commands: list[Command]) -> list[str]:
    """Return the headings that have commands below them, in their order."""
    return list(dict.fromkeys(command.section for command in commands))


class WalkError(Exception):
    """A command did not do what the page says; the message holds what it printed."""


@dataclass
class Shell:
    """A shell that remembers its directory and its variables from one command to the next, as a person's does.

    :param state: file that holds them in between.
    :param environment: with which it begins.
    :param answers: files that an editor brings, by the path that the page names.
    :param values: what is typed in place of an example of the page, such as the address of the repository.
    :param learnt: what has to be looked for in what is printed, by the example that it replaces from then on.
    """

    state: Path
    environment: Mapping[str, str]
    answers: Path
    values: dict[str, str]
    learnt: Mapping[str, re.Pattern[str]] = field(default_factory=dict)

    def follow(self, command: Command) -> str:
        """Run a command of a page and return what it printed.

        :raises WalkError: if it fails where it should not, or the other way round, or prints something else than the
            page shows.
        """
        status, output = self.run(command.text)
        if (status != 0) != command.is_refused:
            should = "be refused" if command.is_refused else "succeed"
            raise WalkError(f"This should {should} (status {status}): {command.text}\n{output}")
        printed = " ".join(output.split())
        for line in command.shown:
            if not re.search(_pattern(self._filled(line)), printed):
                raise WalkError(f"'{line}' is not in the output of: {command.text}\n{output}")
        return output

    def run(self, text: str) -> tuple[int, str]:
        """Run a command line; return its exit status and what it printed."""
        typed = self._filled(text)
        words = shlex.split(typed)
        # A file that a person would write now is ready, in the place of what the editor opens.
        editor = f"cp {shlex.quote(str(self.answers / words[-1]))}" if words else ""
        state = shlex.quote(str(self.state))
        script = (
            f"[ ! -e {state} ] || . {state}\nexport EDITOR={shlex.quote(editor)}\n{typed}\nstatus=$?\n"
            f'{{ export -p; printf "cd %q\\n" "$PWD"; }} >{state}\nexit $status\n'
        )
        status, output = _run(["bash", "-c", script], self.environment, words[:2] == ["ansible-vault", "create"])
        for example, pattern in self.learnt.items():
            if found := pattern.findall(output):
                self.values[example] = found[-1]
        return status, output

    def _filled(self, text: str) -> str:
        """Return a text of the page with what is so here in place of its examples."""
        for example, value in self.values.items():
            text = text.replace(example, value)
        return text


def _pattern(line: str) -> str:
    """Return the regular expression of a line that the page shows."""
    return ".*?".join(re.escape(part.strip()) for part in line.split(_ANYTHING))


def _run(command: list[str], environment: Mapping[str, str], has_terminal: bool) -> tuple[int, str]:
    """Run a command; return its exit status and everything that it printed.

    :param has_terminal: whether it prints to a terminal; who opens an editor asks for one.
    """
    if not has_terminal:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        return done.returncode, done.stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        output = b"".join(_read(ours))
        status = process.wait()
    os.close(ours)
    return status, output.decode("utf-8", "replace")


def _read(terminal: int) -> Iterator[bytes]:
    """Give what is printed to a terminal, until nobody has it open."""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is closed
            return
        if not chunk:
            return
        yield chunk
