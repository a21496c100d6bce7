"""What a run keeps of that which it sends to the hosts, and when the next run takes it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible import constants
from ansible.plugins.loader import module_utils_loader

from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import payloads

from .support import Bench, Load

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


def test_utilities_beside_a_playbook_elsewhere_may_be_in_any_archive(sources: Path) -> None:
    directory = payloads.take(sources / "kept", sources / "first")
    assert directory is not None
    elsewhere = sources / "elsewhere" / "module_utils"
    elsewhere.mkdir(parents=True)
    module_utils_loader.add_directory(str(elsewhere))
    try:
        payloads.keep(directory, made(sources / "made", *_KEPT))
        assert list(directory.iterdir()) == []
        assert payloads.take(sources / "kept", sources / "second") is None
    finally:
        module_utils_loader._extra_dirs.remove(str(elsewhere))
        module_utils_loader._clear_caches()


def test_a_library_of_modules_may_be_called_like_a_collection(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = str(sources / "ansible_collections" / "community" / "postgresql" / "plugins" / "modules")
    monkeypatch.setattr(constants, "DEFAULT_MODULE_PATH", [library])
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
    old, of_a_person = sources / "kept" / ("0" * 64), sources / "kept" / "notes"
    directory = payloads.take(sources / "kept", sources / "first")
    assert directory is not None
    for other in (old, of_a_person):
        other.mkdir()
        os.utime(other, (1, 1))
    payloads.keep(directory, sources / "first")
    # The option may name a directory in which a person keeps other things.
    assert (old.exists(), of_a_person.exists(), directory.exists()) == (False, True, True)


def test_what_was_made_while_a_source_was_another_for_a_moment_is_not_kept(sources: Path) -> None:
    began = time.time()
    directory = payloads.take(sources / "kept", sources / "first")
    assert directory is not None
    source = sources / "project/plugins/modules/a.py"
    for content in ("2", "1"):
        source.write_text(content)
    os.utime(source, (1, 1))
    payloads.keep(directory, made(sources / "made", *_KEPT), since=began)
    assert list(directory.iterdir()) == []


def test_an_installed_file_that_took_the_size_and_time_of_another_is_another(sources: Path) -> None:
    source = sources / "ansible/modules/d.py"
    before, found = payloads.digest(), source.stat()
    time.sleep(0.02)  # as coarse as the clock of a file system is
    source.write_text("2")
    os.utime(source, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert payloads.digest() != before


def test_nothing_that_was_kept_is_sent_to_a_protected_environment(tmp_path: Path, load: Load) -> None:
    bench = Bench(tmp_path, load)
    # As a run begins: with a play over a host that is not protected.
    plays = [
        {"hosts": host, "gather_facts": False, "tasks": [{"name": "Look", "ansible.builtin.ping": {}}]}
        for host in ("two", "one")
    ]
    kept, inventory = tmp_path / "kept", tmp_path / "inventory"
    inventory.write_text("[prod]\none\n")
    environment = {"ANSIBLE_STDOUT_CALLBACK": "default", "SQLITE_TO_POSTGRESQL_PAYLOADS": str(kept)}
    assert bench.run(plays[:1], **environment).status == 0
    (archive,) = kept.glob("*/ansible.modules.ping-*")
    # Only a run that reads it stumbles over what is no archive.
    archive.write_bytes(b"")
    assert bench.run(plays[:1], **environment).status != 0
    assert bench.run(plays[1:], "-i", str(inventory), **environment).status == 0
    # Nor is anything kept of such a run.
    archive.unlink()
    assert bench.run(plays, "-i", str(inventory), **environment).status == 0
    assert not archive.exists()
