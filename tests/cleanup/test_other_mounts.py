"""Files on other mounts than the quarantine: real mounts, on which a rename ends at the border (EXDEV)."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import Login
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import safe_paths
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import move_in
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine import (
    place as quarantine_place,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.quarantine.entry import FILE, Move
from tests.validation.support import Estate, make_estate

from .support import Cleaned, make_ready, release
from .test_attacks import move_of
from .test_crash import carry_out, killed_at

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")

NOBODY = 65534
AT_THE_TOP = ".sqlite-migration-quarantine"


@contextmanager
def mounted(directory: Path, *options: str) -> Iterator[Path]:
    """Mount something on a directory for a moment."""
    directory.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(directory)], check=True)
    try:
        yield directory
    finally:
        release(directory)
        subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return another file system."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "mode=0755", "tmpfs") as directory:
        yield directory


def make_ready_on(connection: Connection, directory: Path, base: Path, *legacy: Path) -> Cleaned:
    """Return an estate with its source in a directory, and its private directories in another, that may be cleaned."""
    estate = make_estate(connection, directory)
    estate = Estate(estate.connection, estate.group, estate.source, str(base / "work"))
    estate.cut_over()
    cleaned = make_ready(estate, legacy)
    cleaned.base = base
    return cleaned


@pytest.mark.promise("never-copied-across-mounts")
def test_the_quarantine_comes_to_the_file_which_is_never_copied(
    connection: Connection, tmp_path: Path, disk: Path
) -> None:
    cleaned = make_ready_on(connection, disk, tmp_path)
    source = cleaned.estate.source
    content, inode = source.read_bytes(), source.stat().st_ino
    (entry,) = cleaned.explain()["entries"]
    assert (entry["unmet"], Path(entry["quarantine"]).parent) == ([], disk / AT_THE_TOP)
    cleaned.confirm()
    hidden = cleaned.quarantine_of(source) / "database"
    assert (hidden.read_bytes(), hidden.stat().st_ino) == (content, inode)
    assert (disk / AT_THE_TOP).stat().st_mode & 0o777 == 0o700
    assert os.listdir(source) == ["README"]
    assert not (tmp_path / "quarantine").exists()
    cleaned.restore()
    assert (source.read_bytes(), source.stat().st_ino) == (content, inode)
    assert os.listdir(disk) == ["zoo.db"]
    cleaned.soak()
    cleaned.confirm()
    cleaned.wait_in_quarantine()
    cleaned.confirm()
    assert cleaned.state() == "removed"
    assert os.listdir(disk) == ["zoo.db"]
    assert source.is_dir()


@pytest.mark.parametrize("owner", [NOBODY, 0])
def test_a_disk_without_a_place_of_roots_own_is_refused_in_the_plan(
    connection: Connection, tmp_path: Path, owner: int
) -> None:
    mode = "0755" if owner else "0777"
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", f"mode={mode},uid={owner}", "tmpfs") as disk:
        cleaned = make_ready_on(connection, disk, tmp_path)
        plan = cleaned.explain()
        (reason,) = plan["entries"][0]["unmet"]
        assert "no place for a quarantine that is root's alone" in reason
        assert "never copied" in reason
        with pytest.raises(MigrationError, match="Nothing of cleanup plan"):
            cleaned.confirm(plan["plan_id"])
        assert (cleaned.state(), cleaned.steps()) == ("live", {})
        assert os.listdir(disk) == ["zoo.db"]
        assert not (tmp_path / "archives").exists()


def test_a_bind_mount_of_the_same_file_system_is_another_mount(connection: Connection, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    with mounted(tmp_path / "bound", "--bind", str(tmp_path / "real")) as bound:
        assert bound.stat().st_dev == tmp_path.stat().st_dev
        # The kernel says so, although the device is the same.
        (bound / "probe").write_bytes(b"")
        with pytest.raises(OSError, match="cross-device"):
            os.rename(bound / "probe", tmp_path / "probe")
        (bound / "probe").unlink()
        cleaned = make_ready_on(connection, bound, tmp_path)
        cleaned.confirm()
        assert cleaned.quarantine_of(cleaned.estate.source).parent == bound / AT_THE_TOP
        assert cleaned.state() == "archived"


def test_a_file_that_is_a_mount_of_its_own_is_refused_in_the_plan(estate: Estate, tmp_path: Path) -> None:
    (tmp_path / "real.db").write_bytes(b"")
    (tmp_path / "old.db").write_bytes(b"")
    cleaned = make_ready(estate, [tmp_path / "old.db"])
    subprocess.run(["mount", "--bind", tmp_path / "real.db", tmp_path / "old.db"], check=True)
    try:
        entry = cleaned.explain()["entries"][1]
        assert any("is a mount of its own, which cannot be moved" in reason for reason in entry["unmet"])
        with pytest.raises(MigrationError, match="something is mounted there"):
            move_in.move_in([move_of(tmp_path / "old.db")], str(tmp_path / "quarantine" / "one"), "gone\n")
    finally:
        subprocess.run(["umount", tmp_path / "old.db"], check=True)


def test_a_mount_that_is_read_only_is_refused_in_the_plan(connection: Connection, tmp_path: Path, disk: Path) -> None:
    cleaned = make_ready_on(connection, disk, tmp_path)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    (entry,) = cleaned.explain()["entries"]
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert any("mounted read-only" in reason for reason in entry["unmet"])


@pytest.mark.promise("never-copied-across-mounts")
def test_nothing_is_ever_moved_or_copied_across_mounts(tmp_path: Path, disk: Path) -> None:
    (disk / "old.db").write_bytes(b"the planned file")
    status = (disk / "old.db").stat()
    sha256 = "ca1c5ba2fcb6cc6b2a3d8d3f1f7c6c9d"
    move = Move(FILE, str(disk), disk.stat().st_ino, "old.db", status.st_ino, "database", status.st_size, sha256)
    where = str(tmp_path / "quarantine" / "one")
    with pytest.raises(MigrationError, match="is not on its file system"):
        quarantine_place.prepare(where, move.directory, move.directory_inode, move.path)
    with pytest.raises(MigrationError, match="is not on its file system"):
        move_in.move_in([move], where, "gone\n")
    assert (disk / "old.db").read_bytes() == b"the planned file"
    assert os.listdir(where) == []
    with (
        safe_paths.open_directory(disk) as directory,
        safe_paths.private_directory(where) as hidden,
        pytest.raises(OSError, match="cross-device") as caught,
    ):
        safe_paths.move(directory, "old.db", hidden, "database")
    assert caught.value.errno == errno.EXDEV


def test_a_file_system_that_cannot_exchange_names_is_found_before_anything_is_done(
    estate: Estate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned = make_ready(estate)
    plan_id = cleaned.explain()["plan_id"]

    # As NFS answers.
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(safe_paths, "exchange", refuse)
    with pytest.raises(MigrationError, match="cannot exchange two names"):
        cleaned.confirm(plan_id)
    assert (cleaned.state(), cleaned.steps()) == ("live", {})
    assert cleaned.estate.source.is_file()
    assert not (tmp_path / "archives").exists()
    assert not (tmp_path / "quarantine").exists()


@pytest.mark.promise("never-copied-across-mounts")
def test_a_disk_that_is_not_mounted_loses_no_file(connection: Connection, login: Login, tmp_path: Path) -> None:
    """A crash, and a boot without the disk: what the ledger says must stay true until it is mounted again."""
    real, point = tmp_path / "real", tmp_path / "bound"
    real.mkdir()
    with mounted(point, "--bind", str(real)):
        cleaned = make_ready_on(connection, point, tmp_path)
        source = cleaned.estate.source
        content = source.read_bytes()
        plan_id = cleaned.explain()["plan_id"]
        assert killed_at(cleaned, login, plan_id, 1, carry_out, "require_moved")
        assert list((real / AT_THE_TOP).glob("*/database"))
    # Moved, but not yet noted as such.
    assert cleaned.steps() == {str(source): "confirmed"}
    with pytest.raises(MigrationError, match="is every file system mounted"):
        cleaned.confirm(plan_id)
    assert cleaned.steps() == {str(source): "confirmed"}
    assert os.listdir(point) == []
    with mounted(point, "--bind", str(real)):
        cleaned.confirm(plan_id)
        assert cleaned.steps() == {str(source): "quarantined"}
        cleaned.wait_in_quarantine()
        deletion = cleaned.explain()["plan_id"]
    with pytest.raises(MigrationError, match="is every file system mounted"):
        cleaned.restore()
    with pytest.raises(MigrationError, match="is not the present cleanup plan"):
        cleaned.confirm(deletion)
    assert (cleaned.steps(), cleaned.state()) == ({str(source): "quarantined"}, "archived")
    assert os.listdir(point) == []
    with mounted(point, "--bind", str(real)):
        cleaned.restore()
        assert (source.read_bytes(), cleaned.state()) == (content, "live")


def test_a_deletion_that_was_killed_is_not_called_done_without_its_disk(
    connection: Connection, login: Login, tmp_path: Path
) -> None:
    real, point = tmp_path / "real", tmp_path / "bound"
    real.mkdir()
    with mounted(point, "--bind", str(real)):
        cleaned = make_ready_on(connection, point, tmp_path)
        source = cleaned.estate.source
        cleaned.confirm()
        cleaned.wait_in_quarantine()
        plan_id = cleaned.explain()["plan_id"]
        # Before the second of the ledger's words: the deletion may begin, and has not.
        assert killed_at(cleaned, login, plan_id, 2, carry_out, "write_file")
        assert cleaned.steps() == {str(source): "deleting"}
    with pytest.raises(MigrationError, match="is its file system mounted"):
        cleaned.confirm(plan_id)
    assert (cleaned.steps(), cleaned.state()) == ({str(source): "deleting"}, "archived")
    with mounted(point, "--bind", str(real)):
        cleaned.confirm(plan_id)
        assert cleaned.state() == "removed"
        assert not (real / AT_THE_TOP).exists()
