"""The page that leads from a clone to prod, and what its scenario makes of it; the scenario itself needs two hosts."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from scripts.walk_through import Command, Shell, WalkError, read_page, sections
from tests.conftest import PROJECT
from tests.foundation.test_commands_of_pages import BLOCK

PAGE = (PROJECT / "docs" / "from_clone_to_prod.md").read_text(encoding="utf-8")
SCENARIO = (PROJECT / "molecule" / "two_hosts" / "tests" / "test_walk.py").read_text(encoding="utf-8")
EXAMPLE = """
## Look

```
cat notes.txt   # refused: there is nothing yet
echo one   two >notes.txt

cat notes.txt
```

```text
one two
…
```

```yaml
no: command
```
"""


def test_the_scenario_follows_every_section_of_the_page_in_its_order() -> None:
    assert re.findall(r'walk\.follow\(\s*"([^"]+)"\s*\)', SCENARIO) == sections(read_page(PAGE))


def test_every_line_of_a_block_of_commands_is_a_command() -> None:
    assert read_page(EXAMPLE) == [
        Command("Look", "cat notes.txt", is_refused=True),
        Command("Look", "echo one   two >notes.txt"),
        Command("Look", "cat notes.txt", shown=("one two",)),
    ]


def test_no_block_of_the_page_is_left_out() -> None:
    """What stands in a block and is neither YAML nor output is run."""
    blocks = [block["text"] for block in BLOCK.finditer(PAGE) if block["language"] not in ("text", "yaml")]
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert len(lines) > 15
    assert [command.text for command in read_page(PAGE)] == [line.partition("   # ")[0] for line in lines]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("```sh\nls\n```\n", "line 1: a block of sh is neither commands, output nor YAML"),
        ("```\nls\n```\n## Next\n```text\nfile\n```\n", "line 5: this is the output of no command"),
        ("```\nls\n", "never closed"),
    ],
)
def test_a_block_that_nobody_would_run_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_page(text)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Return a shell in a directory of its own."""
    state = tmp_path / "state"
    state.write_text(f"cd {tmp_path}\n")
    learnt = {"2026": re.compile(r"the year (\d+)")}
    return Shell(state, dict(os.environ), tmp_path / "answers", {"example.org": "here"}, learnt)


def test_a_page_is_followed_as_a_person_does(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "notes.txt").write_text("written in an editor")
    for text in ("mkdir example.org", "cd example.org", "export YEAR=1999", 'echo "the year $YEAR"', "touch 2026"):
        shell.follow(Command("", text))
    shell.follow(Command("", "$EDITOR notes.txt"))
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["1999", "notes.txt"]
    assert (tmp_path / "here" / "notes.txt").read_text() == "written in an editor"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (Command("", "exit 3"), r"should succeed \(status 3\)"),
        (Command("", "true", is_refused=True), "should be refused"),
        (Command("", "echo two of 3 files", shown=("1 of … files",)), "'1 of … files' is not in the output"),
    ],
)
def test_a_command_that_does_something_else_than_its_page_says_is_named(
    shell: Shell, command: Command, told: str
) -> None:
    shell.follow(Command("", "echo 1 of 3 files", shown=("1 of … files",)))
    shell.follow(Command("", "false", is_refused=True))
    with pytest.raises(WalkError, match=told):
        shell.follow(command)
