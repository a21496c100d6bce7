"""What a run keeps of that which it sends to the hosts, and when the next run takes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import payloads

from .support import Bench

_KEPT = (
    "ansible.modules.stat-ZIP_DEFLATED-none",
    "ansible_collections.swarm.sqlite_to_postgresql.plugins.modules.host_state-ZIP_DEFLATED-none",
    "ansible_collections.community.postgresql.plugins.modules.postgresql_query-ZIP_DEFLATED-none",
)
# A module beside a playbook, one of another collection, one with a debugger, and a lock.
_NOT_KEPT = (
    "ansible.legacy.tell-ZIP_DEFLATED-none",
    "ansible_collections.other.one.plugins.modules.tell-ZIP_DEFLATED-none",
    "ansible.modules.stat-ZIP_DEFLATED-debugpy",
    "ansible.modules.stat-ZIP_DEFLATED-none.lock",
)


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, and an Ansible beside it, with a few files each."""
    for path in ("project/plugins/modules/a.py", "project/plugins/module_utils/b/c.py", "ansible/modules/d.py"):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text("1")
    monkeypatch.setattr(payloads, "ROOT", tmp_path / "project")
    monkeypatch.setattr(payloads, "installed", lambda: [tmp_path / "ansible" / "modules"])
    return tmp_path


def made(directory: Path, *names: str) -> Path:
    """Return the directory of a run that has made archives."""
    directory.mkdir(mode=0o700)
    for name in names:
        (directory / name).write_text(name)
    return directory


def taken(kept: Path, run: Path) -> set[str]:
    """Return the names of the archives that a new run is given."""
    payloads.take(kept, run)
    return {path.name for path in run.iterdir() if path.is_symlink() and path.read_text() == path.name}


def test_a_run_gets_what_an_earlier_one_has_made_of_files_that_are_looked_at(sources: Path) -> None:
    kept = sources / "kept"
    directory = payloads.take(kept, sources / "first")
    assert directory is not None
    payloads.keep(directory, made(sources / "made", *_KEPT, *_NOT_KEPT))
    assert taken(kept, sources / "second") == set(_KEPT)
    # What was taken is not kept once more, and a second playbook of the same command finds it there.
    payloads.keep(directory, sources / "second")
    assert taken(kept, sources / "second") == set(_KEPT)


def _write(path: str) -> Callable[[Path], object]:
    return lambda sources: (sources / path).write_text("2")


@pytest.mark.parametrize(
    "change",
    [
        _write("project/plugins/modules/a.py"),
        _write("project/plugins/module_utils/b/c.py"),
        _write("project/plugins/module_utils/b/new.py"),
        lambda sources: (sources / "project/plugins/modules/a.py").rename(sources / "project/plugins/modules/e.py"),
        lambda sources: (sources / "project/plugins/module_utils/b/c.py").unlink(),
        lambda sources: os.utime(sources / "ansible/modules/d.py", (1, 1)),
        _write("ansible/modules/new.py"),
    ],
)
def test_nothing_is_taken_once_a_source_differs(sources: Path, change: Callable[[Path], object]) -> None:
    kept = sources / "kept"
    directory = payloads.take(kept, sources / "first")
    assert directory is not None
    payloads.keep(directory, made(sources / "made", *_KEPT))
    change(sources)
    assert taken(kept, sources / "second") == set()
    # Nor does a run whose sources changed under it keep what it has made of them.
    payloads.keep(directory, made(sources / "changed", "ansible.modules.file-ZIP_DEFLATED-none"))
    assert not (directory / "ansible.modules.file-ZIP_DEFLATED-none").exists()


def test_utilities_of_somebody_else_may_be_in_any_archive(sources: Path) -> None:
    (sources / "project" / "roles" / "one" / "module_utils").mkdir(parents=True)
    assert payloads.take(sources / "kept", sources / "first") is None


def test_a_run_need_not_have_the_collection_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "_FOREIGN", "nobodys.collection")
    assert [path.name for path in payloads.installed()] == ["modules", "module_utils"]


def _open_to_others(kept: Path) -> None:
    kept.mkdir()
    kept.chmod(0o770)


def _link(kept: Path) -> None:
    (kept.parent / "elsewhere").mkdir(mode=0o700)
    kept.symlink_to(kept.parent / "elsewhere")


@pytest.mark.parametrize("make", [_open_to_others, _link])
def test_a_directory_that_is_not_its_owners_alone_is_not_used(sources: Path, make: Callable[[Path], None]) -> None:
    make(sources / "kept")
    assert payloads.take(sources / "kept", sources / "first") is None


def test_what_no_run_has_asked_for_in_a_week_goes(sources: Path) -> None:
    old = sources / "kept" / "old"
    directory = payloads.take(sources / "kept", sources / "first")
    assert directory is not None
    old.mkdir()
    os.utime(old, (1, 1))
    payloads.keep(directory, sources / "first")
    assert (old.exists(), directory.exists()) == (False, True)


def test_ansible_itself_takes_what_was_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    plays = [{"hosts": "one", "gather_facts": False, "tasks": [{"name": "Look", "ansible.builtin.ping": {}}]}]
    kept = tmp_path / "kept"
    environment = {"ANSIBLE_STDOUT_CALLBACK": "default", "SQLITE_TO_POSTGRESQL_PAYLOADS": str(kept)}
    assert bench.run(plays, **environment).status == 0
    (archive,) = kept.glob("*/ansible.modules.ping-*")
    # Only a run that reads it stumbles over what is no archive.
    archive.write_bytes(b"")
    assert bench.run(plays, **environment).status != 0
    assert bench.run(plays, **{**environment, "SQLITE_TO_POSTGRESQL_PAYLOADS": ""}).status == 0
