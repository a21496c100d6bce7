"""What ``make`` says where Docker is missing, in a place where it really is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import PROJECT


def start_docker(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script that every target with a host begins with."""
    return subprocess.run(
        [shutil.which("bash") or "bash", str(PROJECT / "scripts" / "start_docker.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.promise("missing-docker-named")
def test_a_missing_docker_is_named(tmp_path: Path) -> None:
    # Neither docker nor apt-get is to be found here.
    (tmp_path / "id").symlink_to(shutil.which("id") or "/usr/bin/id")
    (tmp_path / "ssh").symlink_to(shutil.which("ssh") or "/usr/bin/ssh")
    result = start_docker(PATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.startswith("Docker is missing. Install Docker Engine")


@pytest.mark.promise("missing-docker-named")
def test_a_missing_client_of_ssh_is_named_where_docker_answers(tmp_path: Path) -> None:
    for name in ("id", "docker"):
        (tmp_path / name).symlink_to(shutil.which("true") or "/usr/bin/true")
    result = start_docker(PATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == "The ssh command is missing. Install OpenSSH's client, then run this again.\n"


@pytest.mark.promise("missing-docker-named")
def test_an_engine_that_does_not_answer_is_named(tmp_path: Path) -> None:
    result = start_docker(PATH=os.environ["PATH"], DOCKER_HOST=f"unix://{tmp_path}/nobody.sock")
    assert result.returncode == 1
    assert "its engine does not answer (its message is above)" in result.stderr
