"""The program that makes test hosts, with a command in Docker's place that notes what it is asked."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import PROJECT

DOCKER = """#!/bin/sh
cd "$(dirname "$0")"
echo "$*" | head -1 >>asked
[ ! -e fails ] || { echo "no engine answers" >&2; exit 1; }
case $1 in
  ps) cat containers 2>/dev/null || true ;;
  info) cat version ;;
  exec) cat archive ;;
esac
"""


@pytest.fixture(scope="module")
def host() -> ModuleType:
    """The program; molecule/ is no package."""
    specification = importlib.util.spec_from_file_location("host", PROJECT / "molecule/test_host/host.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    # Where dataclasses look for the module of a class.
    sys.modules["host"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the command, on a machine with control groups of version 2, and what a host hands out."""
    directory = tmp_path / "docker"
    directory.mkdir()
    (directory / "docker").write_text(DOCKER)
    (directory / "docker").chmod(0o755)
    (directory / "version").write_text("2\n")
    with tarfile.open(directory / "archive", "w") as archive:
        for name in ("etc/ssh/test_host_key", "var/lib/test-host/secrets/swarm_deploy"):
            member = tarfile.TarInfo(name)
            member.mode, member.size = 0o644, len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return directory


def test_a_host_is_started_once_and_what_opens_it_is_for_its_owner_alone(
    host: ModuleType, docker: Path, tmp_path: Path
) -> None:
    a_host = host.Host("a-host", tmp_path / "keys/a-host", tmp_path / "secrets/a-dev", "swarm-dev", ["NET_ADMIN"])
    assert a_host.create("live", "image:tag")
    (started,) = [line for line in (docker / "asked").read_text().splitlines() if line.startswith("run ")]
    assert started.endswith("--cap-add=NET_ADMIN --cgroupns=private image:tag /usr/local/sbin/start-test-host remount")
    for path, content in (
        (a_host.key, "etc/ssh/test_host_key"),
        (a_host.secrets / "swarm_deploy", "var/lib/test-host/secrets/swarm_deploy"),
    ):
        assert path.read_text() == content
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700

    (docker / "containers").write_text("image:tag\n")
    assert not a_host.create("live", "image:tag")
    assert (docker / "asked").read_text().splitlines()[-2] == "start a-host"

    assert a_host.create("live", "image:other")
    assert [line.split()[0] for line in (docker / "asked").read_text().splitlines()[-5:]] == [
        *("ps", "rm", "info", "run", "exec")
    ]


def test_removing_a_host_leaves_nothing_of_it(host: ModuleType, docker: Path, tmp_path: Path) -> None:
    a_host = host.Host("a-host", tmp_path / "keys/a-host", tmp_path / "secrets/a-dev")
    a_host.create("live", "image:tag")
    (docker / "containers").write_text("image:tag\n")
    assert a_host.remove()
    assert (docker / "asked").read_text().splitlines()[-1] == "rm --force a-host"
    (docker / "containers").unlink()
    assert not a_host.key.exists()
    assert not a_host.secrets.exists()
    assert not a_host.remove()


def test_a_missing_docker_is_told(host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    a_host = host.Host("a-host", tmp_path / "keys/a-host", tmp_path / "secrets/a-dev")
    with pytest.raises(host.HostError, match=r"No such file[\s\S]*This command failed: docker ps"):
        a_host.remove()


def test_what_docker_says_of_a_failure_is_told(host: ModuleType, docker: Path, tmp_path: Path) -> None:
    (docker / "fails").touch()
    a_host = host.Host("a-host", tmp_path / "keys/a-host", tmp_path / "secrets/a-dev")
    with pytest.raises(host.HostError, match=r"no engine answers\n\nThis command failed: docker ps"):
        a_host.create("live", "image:tag")
