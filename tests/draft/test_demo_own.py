"""`make demo-own` as a visitor runs it."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.engine.support import make_source

SCRIPT = PROJECT / "scripts" / "run_demo_own.py"


def demo(file: str, draft: str = "") -> subprocess.CompletedProcess[str]:
    """Run it as make does."""
    return subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "FILE": file, "DRAFT": draft},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folders() -> Iterator[None]:
    """Remove the drafts that a test has made."""
    drafts = PROJECT / "drafts"
    before = set(drafts.glob("*")) if drafts.exists() else set()
    yield
    for folder in set(drafts.glob("*")) - before:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("", None, "Name an SQLite file: make demo-own FILE=path/to/any.db"),
        ("missing.db", None, "there is no such file"),
        ("empty.db", b"", "is empty: it has 0 bytes"),
        ("text.db", b"id,name\n1,x\n", "is not an SQLite file"),
        ("locked.db", random.Random(1).randbytes(1 << 15), "is encrypted, as it seems"),  # noqa: S311
        ("tables.db", None, "it holds no table"),
        ("broken.db", b"SQLite format 3\x00" + b"x" * 2000, "broken.db"),
    ],
)
def test_what_is_no_database_is_said_so(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    if name == "tables.db":
        make_source(path, "CREATE TABLE t (a); DROP TABLE t")
    done = demo(str(path) if name else "")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    done = demo(str(tmp_path))
    assert (done.returncode, "is not a regular file" in done.stderr) == (2, True)


@pytest.mark.usefixtures("folders")
def test_a_file_is_drafted_moved_and_verified_and_a_corrected_draft_is_tried_again(tmp_path: Path) -> None:
    path = make_source(
        tmp_path / "visitor's own.db",
        """CREATE TABLE parent (id INTEGER PRIMARY KEY, doc TEXT);
           CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent);
           INSERT INTO parent VALUES (1, '{}'); INSERT INTO child VALUES (1, 99);""",
    )
    before = path.read_bytes()
    refused = demo(str(path))
    assert refused.returncode == 1, refused.stderr
    assert "parent_id: refers to a row of parent that does not exist" in refused.stdout
    folder = PROJECT / "drafts" / "visitor_s_own"
    assert f"DRAFT={folder.relative_to(PROJECT)}" in refused.stdout
    estate = folder / "estate.yml"
    text = estate.read_text()
    assert "          # parent_id: {orphan: set_null}\n" in text
    estate.write_text(text.replace("# parent_id: {orphan: set_null}", "parent_id: {orphan: set_null}"))

    done = demo(str(path), str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every value arrived" in done.stdout
    report = json.loads((folder / "report" / "latest" / "report.json").read_text())
    assert [table["equal"] for group in report["groups"] for table in group["tables"]] == [True, True]
    assert (folder / "report" / "latest" / "report.html").exists()
    assert "{orphan: set_null}" in estate.read_text()
    # Another run makes another draft.
    assert demo(str(path)).returncode == 1
    assert (folder.parent / "visitor_s_own-2" / "README.md").exists()
    assert path.read_bytes() == before
