"""Every link of the documents leads to a file, a heading or a name in a Python file that is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def documents() -> Iterator[Path]:
    """Yield the project's own Markdown files."""
    for top in sorted(PROJECT.iterdir()):
        if top.suffix == ".md":
            yield top
        elif top.is_dir() and not top.name.startswith("."):
            yield from (path for path in sorted(top.rglob("*.md")) if "node_modules" not in path.parts)


def anchors(document: Path) -> set[str]:
    """Return what a link can name behind ``#``: the headings, as GitHub writes them."""
    headings = HEADING.findall(FENCED.sub("", document.read_text(encoding="utf-8")))
    shown = (LINK.sub(r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in shown}


def names(module: Path) -> set[str]:
    """Return the functions, classes and constants of a Python file."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {ast.unparse(target) for target in targets}
    return found


def dead_links(document: Path) -> list[str]:
    """Return the links that lead nowhere; a Python name in backticks must be in the file that its link names."""
    dead = []
    for text, target in LINK.findall(FENCED.sub("", document.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        named = re.fullmatch(r"`(\w+)`", text)
        if (
            not path.exists()
            or (anchor and anchor not in anchors(path))
            or (named and path.suffix == ".py" and named[1] not in names(path))
        ):
            dead.append(f"[{text}]({target})")
    return dead


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert dead_links(document) == []


@pytest.mark.parametrize(
    ("link", "is_dead"),
    [
        ("[code](code.py)", False),
        ("[code](gone.py)", True),
        ("[`bake`](code.py)", False),
        ("[`OVENS`](code.py)", False),
        ("[`fry`](code.py)", True),
        ("[below](#what-s-below)", True),
        ("[below](#whats-below)", False),
        ("[elsewhere](https://example.org/gone.py)", False),
        ("```\n[in an example](gone.py)\n```", False),
    ],
)
def test_a_dead_link_is_found(tmp_path: Path, link: str, is_dead: bool) -> None:
    (tmp_path / "code.py").write_text("OVENS: int = 2\ndef bake(): ...\n")
    document = tmp_path / "page.md"
    document.write_text(f"# Page\n{link}\n\n## What's below\n")
    assert dead_links(document) == ([link] if is_dead else [])
