"""`make demo-own` as a visitor runs it."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import run_demo_own
from tests.conftest import PROJECT
from tests.engine.support import make_source

NO_DATABASE = {
    "missing": (None, "there is no such file"),
    "empty": (b"", "is empty: it has 0 bytes"),
    "text": (b"id,name\n1,x\n", "is not an SQLite file"),
    "encrypted": (random.Random(1).randbytes(1 << 15), "is encrypted, as it seems"),  # noqa: S311
}


@pytest.mark.parametrize("kind", NO_DATABASE)
def test_what_is_no_database_is_said_so(tmp_path: Path, kind: str) -> None:
    content, said = NO_DATABASE[kind]
    if content is not None:
        (tmp_path / kind).write_bytes(content)
    with pytest.raises(run_demo_own.Stopped, match=re.escape(said)):
        run_demo_own.source_file(str(tmp_path / kind))


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(run_demo_own.Stopped, match="is not a regular file"):
        run_demo_own.source_file(str(tmp_path))


def test_without_a_file_the_program_says_how_to_name_one() -> None:
    command = [sys.executable, str(PROJECT / "scripts" / "run_demo_own.py")]
    environment = {name: value for name, value in os.environ.items() if name not in ("FILE", "DRAFT")}
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Name an SQLite file: make demo-own FILE=path/to/any.db"


@pytest.mark.parametrize(("kind", "said"), [("no table", "it holds no table"), ("damaged", "file is not a database")])
def test_a_database_that_cannot_be_drafted_from_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    path = tmp_path / "a.db"
    if kind == "damaged":
        path.write_bytes(b"SQLite format 3\x00" + b"x" * 2000)
    else:
        make_source(path, "CREATE TABLE t (a); DROP TABLE t")
    monkeypatch.setenv("FILE", str(path))
    assert run_demo_own.main() == 2
    assert said in capsys.readouterr().err


def test_a_file_is_drafted_refused_corrected_moved_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_source(
        tmp_path / "visitor's own.db",
        """CREATE TABLE parent (id INTEGER PRIMARY KEY, doc TEXT);
           CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent);
           INSERT INTO parent VALUES (1, '{}'); INSERT INTO child VALUES (1, 99);""",
    )
    before = path.read_bytes()
    monkeypatch.setattr(run_demo_own, "DRAFTS", tmp_path / "drafts")
    monkeypatch.setenv("FILE", str(path))
    assert run_demo_own.main() == 1
    refused = capsys.readouterr().out
    folder = tmp_path / "drafts" / "visitor_s_own"
    assert "parent_id: refers to a row of parent that does not exist" in refused
    assert f"DRAFT={folder}" in refused
    estate = folder / "estate.yml"
    text = estate.read_text()
    assert "          # parent_id: {orphan: set_null}\n" in text
    assert "does not exist" in (folder / "README.md").read_text()
    estate.write_text(text.replace("# parent_id: {orphan: set_null}", "parent_id: {orphan: set_null}"))

    monkeypatch.setenv("DRAFT", str(folder))
    assert run_demo_own.main() == 0
    assert "every value arrived" in capsys.readouterr().out
    report = json.loads((folder / "report" / "latest" / "report.json").read_text())
    assert [table["equal"] for group in report["groups"] for table in group["tables"]] == [True, True]
    assert (folder / "report" / "latest" / "report.html").exists()
    # Neither what a person has corrected nor an earlier draft is overwritten.
    assert "{orphan: set_null}" in estate.read_text()
    assert run_demo_own.new_folder("visitor_s_own") == folder.with_name("visitor_s_own-2")
    assert path.read_bytes() == before
