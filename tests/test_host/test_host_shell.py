"""The shell that runs command after command on a test host, here on this machine in Docker's place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.host_shell import Answer, HostShell

DOCKER = """#!/bin/sh
[ "$1 $2 $3" = "exec --interactive some-host" ] || exit 1
[ ! -e "$0.fails" ] || exit 1
shift 3
exec "$@"
"""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostShell]:
    """A shell whose directory is made in the test's own."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "own"))
    Path(tmp_path, "own").mkdir()
    shell = HostShell("some-host")
    yield shell
    shell.close()
    assert not list(Path(tmp_path, "own").iterdir())


def test_each_command_has_its_own_status_and_output(shell: HostShell) -> None:
    for command, answer in (
        ("echo 'one\ntwo'; printf three >&2", Answer(0, "one\ntwo\n", "three")),
        ("printf '%s' \"it's\"; exit 3", Answer(3, "it's", "")),
        ("cd /usr; kept=this; cat", Answer(0, "", "")),
        ('printf "$kept%s" "$(pwd)"', Answer(0, str(Path.cwd()), "")),
        ("python3 -c 'print(\"ä\" * 300000)'", Answer(0, "ä" * 300000 + "\n", "")),
        ("sleep 600 >/dev/null 2>&1 & kill $!", Answer(0, "", "")),
    ):
        assert shell.run(command) == answer
    assert shell.run("kill -9 $$").status == 137
    assert shell.run("if").status != 0
    assert shell.run("echo goes on").stdout == "goes on\n"


def test_a_shell_that_has_ended_is_named_and_the_next_command_starts_another(shell: HostShell, tmp_path: Path) -> None:
    first = shell.run("echo $PPID").stdout
    with pytest.raises(RuntimeError, match=r"some-host ended, or its shell, while it ran: kill -9 \$PPID"):
        shell.run("kill -9 $PPID")
    second = shell.run("echo $PPID").stdout
    assert first != second
    # The shell that was killed has left its directory, as a container that ends does.
    shell.close()
    [left] = (tmp_path / "own").iterdir()
    shutil.rmtree(left)
    (tmp_path / "bin" / "docker.fails").touch()
    with pytest.raises(RuntimeError, match="some-host ended"):
        shell.run("true")
