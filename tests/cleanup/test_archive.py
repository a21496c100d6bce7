"""The archive: what is wrong with one is found before anybody relies on it."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.files import sha256_of_open
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import safe_paths
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import archive
from tests.validation.support import Estate

from .support import make_ready


def make_archive(directory: Path) -> dict[str, Any]:
    """Archive the database of a directory, or prove the archive that is there, and return its description."""
    path = directory / "service.db"
    with safe_paths.open_directory(directory) as descriptor, safe_paths.open_file(descriptor, path.name, path) as file:
        piece = archive.Piece("", descriptor, path.name, str(path), path.stat().st_ino, sha256_of_open(file))
        described: dict[str, Any] = archive.make(
            [piece], "service", {}, str(directory / "archives"), str(directory / "work")
        )
    return described


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Return the directory of an archive that is good."""
    with closing(sqlite3.connect(tmp_path / "service.db")) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2)")
    described = make_archive(tmp_path)
    assert (described["rows"], make_archive(tmp_path)) == (3, described)
    return Path(described["directory"])


def of_another_database(directory: Path) -> bytes:
    """Return the same database without its last row."""
    path = directory / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    return path.read_bytes()


def change(made: Path, **facts: Any) -> None:
    """Change facts of a manifest."""
    path = made / archive.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))


def spoil_the_file(made: Path) -> None:
    """Append a byte to the archive, which gzip itself does not mind."""
    with (made / archive.SNAPSHOT).open("ab") as file:
        file.write(b"\0")


def no_archive_at_all(made: Path) -> None:
    """Put something in its place that is none, and say so in the manifest."""
    (made / archive.SNAPSHOT).write_bytes(b"none")
    change(made, archive_sha256=hashlib.sha256(b"none").hexdigest())


def another_content(made: Path) -> None:
    """Put another database into it, and its hash into the manifest."""
    packed = gzip.compress(of_another_database(made.parent))
    (made / archive.SNAPSHOT).write_bytes(packed)
    change(made, archive_sha256=hashlib.sha256(packed).hexdigest())


def another_content_throughout(made: Path) -> None:
    """Put another database into it, and everything that is known of that into the manifest."""
    another_content(made)
    content = (made.parent / "other.db").read_bytes()
    with closing(archive._open(made.parent / "other.db")) as connection:
        tables = archive.describe(connection)
    change(made, snapshot_sha256=hashlib.sha256(content).hexdigest(), tables=tables)


def another_count(made: Path) -> None:
    """Say another number of rows in the manifest."""
    tables = json.loads((made / archive.MANIFEST).read_text())["tables"]
    tables["t"]["rows"] = 1
    change(made, tables=tables)


def no_manifest(made: Path) -> None:
    """Take the manifest away."""
    (made / archive.MANIFEST).unlink()


@pytest.mark.promise("archive-compared")
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_the_file, "is not the file that its manifest names"),
        (no_archive_at_all, "cannot be read back"),
        (another_content, "is not the snapshot that its manifest names"),
        (another_content_throughout, "it is not the same as .*row 2 of table t"),
        (another_count, "its tables are not those that its manifest names"),
        (no_manifest, "its manifest cannot be read"),
    ],
)
def test_an_archive_that_is_not_good_is_refused(
    tmp_path: Path, made: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(made)
    with pytest.raises(MigrationError, match=said):
        make_archive(tmp_path)


def test_an_archive_directory_that_others_may_enter_is_refused_in_the_plan(estate: Estate, tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir(mode=0o755)
    ready = make_ready(estate)
    (reason,) = ready.explain()["entries"][0]["unmet"]
    assert reason == "its archive would not be root's alone: its mode is 0755, not 0700"


def test_a_disk_that_is_full_keeps_the_file_where_it_is(estate: Estate, tmp_path: Path) -> None:
    directory = tmp_path / "archives"
    directory.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=8k,mode=0700", "tmpfs", str(directory)]
    if subprocess.run(small, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        (directory / "of-somebody-else").write_bytes(b"x" * 4000)
        ready = make_ready(estate)
        with pytest.raises(MigrationError, match=f"the archive of {estate.source} cannot be made: No space left"):
            ready.confirm()
        assert [path.name for path in directory.iterdir()] == ["of-somebody-else"]
        assert (ready.state(), ready.steps()) == ("live", {})
        assert estate.source.is_file()
    finally:
        subprocess.run(["umount", str(directory)], check=True)
