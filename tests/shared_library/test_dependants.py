"""Who gets the library: a service that depends on it, and nobody else."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.node_package.copies import (
    check_host,
    install,
    read_copy,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.node_package.source import (
    Source,
    put_in_place,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.node_package.synchronise import (
    Programs,
    synchronise,
)

SOURCE = Source(
    {
        "package.json": json.dumps(
            {"name": "shared", "version": "1.0.0", "engines": {"node": ">=18"}, "peerDependencies": {"pg": "8"}}
        ).encode()
    }
)


@pytest.fixture
def node(tmp_path: Path) -> str:
    """A program that says the version of Node.js: nothing else of it is asked for."""
    program = tmp_path / "node"
    program.write_text("#!/bin/sh\necho v18.0.0\n")
    program.chmod(0o755)
    return str(program)


def make_service(place: Path, name: str, package: str | None, **more: Any) -> dict[str, Any]:
    """Return a service with a package.json and the module that the library needs."""
    directory = place / name
    (directory / "node_modules" / "pg").mkdir(parents=True)
    (directory / "node_modules" / "pg" / "package.json").write_text('{"version": "8.1.0"}')
    if package is not None:
        (directory / "package.json").write_text(package)
    return {"name": name, "user": getpass.getuser(), "directory": str(directory), **more}


def test_a_service_that_depends_on_it_gets_it(tmp_path: Path, node: str) -> None:
    naming = json.dumps({"dependencies": {"shared": "1"}})
    services = [
        make_service(tmp_path, "named", naming),
        make_service(tmp_path, "optional", json.dumps({"optionalDependencies": {"shared": "1"}})),
        make_service(tmp_path, "said", "{}", depends=True),
        make_service(tmp_path, "denied", naming, depends=False),
        make_service(tmp_path, "other", json.dumps({"dependencies": {"pg": "8"}, "devDependencies": {"shared": "1"}})),
        make_service(tmp_path, "bare", None),
        make_service(tmp_path, "broken", "{"),
        make_service(tmp_path, "strange", json.dumps({"dependencies": ["shared"]})),
        make_service(tmp_path, "list", '["shared"]'),
    ]
    assert [service.name for service in check_host(SOURCE, services, node)] == ["named", "optional", "said"]


def test_a_directory_that_is_not_there_is_told(tmp_path: Path, node: str) -> None:
    service = {"name": "gone", "user": getpass.getuser(), "directory": str(tmp_path / "gone")}
    with pytest.raises(MigrationError, match="gone is no directory"):
        check_host(SOURCE, [service], node)


def test_what_stands_in_the_place_of_package_json_keeps_nobody_waiting(tmp_path: Path, node: str) -> None:
    pipe, huge = (make_service(tmp_path, name, None) for name in ("pipe", "huge"))
    os.mkfifo(Path(pipe["directory"]) / "package.json")
    with open(Path(huge["directory"]) / "package.json", "wb") as file:
        file.write(b'{"dependencies": {"shared": "1"}}')
        file.truncate(1 << 40)
    assert check_host(SOURCE, [pipe, huge], node) == []


def test_nothing_is_built_or_needed_if_no_service_depends_on_it(tmp_path: Path) -> None:
    service = make_service(tmp_path, "other", "{}")
    result = synchronise(SOURCE, tmp_path / "built", [service], Programs(None, None), False)
    assert (result["changed"], result["built"], result["installed"]) == (False, False, [])
    assert not (tmp_path / "built").exists()
    assert not (tmp_path / "other" / "node_modules" / "shared").exists()
    with pytest.raises(MigrationError, match=r"has no Node\.js"):
        synchronise(SOURCE, tmp_path / "built", [{**service, "depends": True}], Programs(None, None), False)


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_what_stands_in_the_place_of_a_modules_package_json_keeps_nobody_waiting(
    tmp_path: Path, node: str, kind: str
) -> None:
    service = make_service(tmp_path, "service", "{}", depends=True)
    path = tmp_path / "service" / "node_modules" / "pg" / "package.json"
    put_in_the_way(path, kind)
    with pytest.raises(MigrationError, match="has no pg in"):
        check_host(SOURCE, [service], node)


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_what_stands_in_a_copy_keeps_nobody_waiting(tmp_path: Path, node: str, kind: str) -> None:
    """A copy that holds anything else than regular files of a usual size counts as one that is to be replaced."""
    service = make_service(tmp_path, "service", "{}", depends=True)
    copy = tmp_path / "service" / "node_modules" / "shared"
    copy.mkdir()
    put_in_the_way(copy / "index.js", kind)
    (found,) = check_host(SOURCE, [service], node)
    assert read_copy(found, "shared") == {}
    install([found], {"package.json": b"{}"}, "shared", node)
    assert content_of(copy) == {"package.json": "{}"}


@pytest.mark.parametrize(("files", "size"), [(2000, 0), (20, 1 << 20)])
def test_a_copy_of_many_files_fills_no_memory(tmp_path: Path, node: str, files: int, size: int) -> None:
    service = make_service(tmp_path, "service", "{}", depends=True)
    copy = tmp_path / "service" / "node_modules" / "shared"
    copy.mkdir()
    for path in (copy / f"{number}.js" for number in range(files)):
        path.touch()
        os.truncate(path, size)
        path.chmod(0o644)
    copy.chmod(0o755)
    (found,) = check_host(SOURCE, [service], node)
    assert read_copy(found, "shared") == {}


def test_a_file_that_becomes_a_pipe_while_the_copy_is_read_keeps_nobody_waiting(
    tmp_path: Path, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(tmp_path, "service", "{}", depends=True)
    copy = tmp_path / "service" / "node_modules" / "shared"
    copy.mkdir()
    copy.chmod(0o755)
    (copy / "index.js").write_text("")
    (copy / "index.js").chmod(0o644)
    (found,) = check_host(SOURCE, [service], node)
    assert read_copy(found, "shared") == {"index.js": b""}
    call = os.open

    def exchanging(path: Any, *arguments: Any, **named: Any) -> int:
        if os.path.basename(path) == "index.js":
            put_in_the_way(copy / "index.js", "pipe")
        return call(path, *arguments, **named)

    monkeypatch.setattr(os, "open", exchanging)
    assert read_copy(found, "shared") == {}


@pytest.fixture
def attacked(reachable: Path) -> Iterator[tuple[dict[str, Any], str, Path]]:
    """A service of somebody with fewer rights, a node that this user may run, and root's own modules, which stay."""
    if os.geteuid() != 0:
        pytest.skip("only root can be attacked by somebody with fewer rights")
    program = reachable / "node"
    program.write_text("#!/bin/sh\necho v18.0.0\n")
    program.chmod(0o755)
    service = make_service(reachable, "service", "{}", depends=True, user="nobody")
    make_service(reachable, "root", "{}")
    theirs = reachable / "root" / "node_modules"
    (theirs / "shared").mkdir()
    (theirs / "shared" / "kept.js").write_text("root's own")
    for path in (reachable / "service", *(reachable / "service").rglob("*")):
        shutil.chown(path, "nobody")
    before = content_of(theirs)
    yield service, str(program), theirs
    assert content_of(theirs) == before
    assert sorted(os.listdir(theirs)) == ["pg", "shared"]
    assert (theirs / "shared" / "kept.js").stat().st_uid == 0


@pytest.mark.promise("library-leads-root-nowhere")
@pytest.mark.parametrize("moment", ["before", "between"])
def test_modules_that_lead_into_a_directory_of_roots_get_no_copy(
    attacked: tuple[dict[str, Any], str, Path], moment: str
) -> None:
    service, node, theirs = attacked
    modules = Path(service["directory"]) / "node_modules"

    def lead_away() -> None:
        modules.rename(modules.with_name("moved"))
        modules.symlink_to(theirs)

    if moment == "before":
        lead_away()
    found = check_host(SOURCE, [service], node)
    if moment == "between":
        lead_away()
    with pytest.raises(MigrationError, match="Permission denied"):
        install(found, {"package.json": b"{}"}, "shared", node)


@pytest.mark.promise("library-leads-root-nowhere")
@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_a_copy_that_leads_to_files_of_roots_is_replaced_and_they_stay(
    attacked: tuple[dict[str, Any], str, Path], kind: str
) -> None:
    service, node, theirs = attacked
    copy = Path(service["directory"]) / "node_modules" / "shared"
    if kind == "symlink":
        copy.symlink_to(theirs / "shared")
    else:
        copy.mkdir()
        os.link(theirs / "shared" / "kept.js", copy / "kept.js")
        shutil.chown(copy, "nobody")
    (found,) = check_host(SOURCE, [service], node)
    assert read_copy(found, "shared") == {}
    install([found], {"package.json": b"{}"}, "shared", node)
    assert content_of(copy) == {"package.json": "{}"} and not copy.is_symlink()


def put_in_the_way(path: Path, kind: str) -> None:
    """Put something in the place of a file that would keep whoever reads it waiting, or fill the memory."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path, 0o644)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
        path.chmod(0o644)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that another user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="library-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def layers(reachable: Path) -> Iterator[Path]:
    """Return a root on overlayfs, as a container has it: what its image holds cannot be renamed if it is a directory.

    The image holds a service with an old copy of the library.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    disk, root = reachable / "disk", reachable / "root"
    for directory in (disk, root):
        directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(disk)], check=True)
    try:
        for name in ("image", "upper", "work"):
            (disk / name).mkdir()
        make_service(disk / "image", "service", "{}")
        old = disk / "image" / "service" / "node_modules" / "shared"
        for path in ("package.json", "gone.js", "dist/index.js", "dist/gone.js", "a_file", "a_directory/file"):
            (old / path).parent.mkdir(parents=True, exist_ok=True)
            (old / path).write_text("old")
        options = f"lowerdir={disk}/image,upperdir={disk}/upper,workdir={disk}/work,redirect_dir=off"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", str(root)], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", str(root)], check=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def content_of(directory: Path) -> dict[str, str]:
    """Return the text of each file below a directory."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in files}


NEW = {
    "package.json": "{}",
    "dist/index.js": "new",
    "added/index.js": "new",
    "a_file/is_a_directory": "new",
    "a_directory": "is a file",
}


@pytest.mark.promise("library-loaded-before-replaced")
def test_a_copy_that_came_with_an_image_is_replaced(layers: Path, node: str) -> None:
    modules = layers / "service" / "node_modules"
    with pytest.raises(OSError, match="cross-device"):
        (modules / "shared").rename(modules / "elsewhere")
    service = {"name": "service", "user": getpass.getuser(), "directory": str(layers / "service"), "depends": True}
    services = check_host(SOURCE, [service], node)
    install(services, {path: text.encode() for path, text in NEW.items()}, "shared", node)
    assert content_of(modules / "shared") == NEW
    assert sorted(os.listdir(modules)) == ["pg", "shared"]


@pytest.mark.promise("library-leads-root-nowhere")
def test_a_copy_of_roots_that_came_with_an_image_is_named_with_what_to_do(layers: Path, reachable: Path) -> None:
    """Its user cannot rename or write it, and root does not do so in a directory of this user."""
    node = reachable / "node"
    node.write_text("#!/bin/sh\necho v18.0.0\n")
    node.chmod(0o755)
    home, modules = layers / "service", layers / "service" / "node_modules"
    for path in (home, modules):
        shutil.chown(path, "nobody")
    before = content_of(modules)
    service = {"name": "service", "user": "nobody", "directory": str(home), "depends": True}
    services = check_host(SOURCE, [service], str(node))
    with pytest.raises(MigrationError) as refused:
        install(services, {path: text.encode() for path, text in NEW.items()}, "shared", str(node))
    (problem,) = refused.value.problems
    assert (problem.where, problem.what) == (
        "service",
        f"nobody cannot replace the old copy {modules}/shared: Permission denied",
    )
    assert content_of(modules) == before
    # What it says helps.
    subprocess.run(["sh", "-c", problem.fix.partition(": ")[2]], check=True)
    install(services, {path: text.encode() for path, text in NEW.items()}, "shared", str(node))
    assert content_of(modules / "shared") == NEW


def test_a_build_that_came_with_an_image_is_never_without_its_name(
    layers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed on the way leaves a directory that the next one knows for ours, and fills again."""
    place, new = layers / "service" / "node_modules" / "shared", layers / "new"
    moves, fails_at = 0, 0
    replace = Path.replace

    def killed(source: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == fails_at:
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", killed)
    for move in range(1, len(NEW) + 1):
        moves, fails_at = 0, move
        for path, text in NEW.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_text(text)
        try:
            put_in_place(new, place)
        except KeyboardInterrupt:
            assert (place / "package.json").read_text() in ("old", "{}")
            subprocess.run(["rm", "-r", str(new)], check=True)
    monkeypatch.undo()
    new.mkdir()
    (new / "package.json").write_text("{}")
    put_in_place(new, place)
    assert content_of(place) == {"package.json": "{}"}
