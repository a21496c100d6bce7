"""What is asked of a busy pm2 is asked again, a bounded number of times.

Nobody can make the real pm2 fail at the right moment: a program in its place does.
"""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import pm2

# Notes each call; fails as often as the file `failures` has lines, each time with the first line's words.
PROGRAM = """#!/bin/sh
here={here}
echo "$*" >>"$here/calls"
if [ -s "$here/failures" ]; then
  head -n 1 "$here/failures" >&2
  sed -i 1d "$here/failures"
  exit 1
fi
case "$*" in
  *jlist) cat "$here/list" ;;
  delete*) echo '[]' >"$here/list" ;;
esac
"""
LISTED = '[{"name": "a", "pid": 1, "pm2_env": {"status": "online"}}]'


class Place:
    """A directory with a pm2 that can be told to fail."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        program = directory / "pm2"
        program.write_text(PROGRAM.format(here=directory))
        program.chmod(0o755)
        (directory / "list").write_text(LISTED)

    def fail(self, *said: str) -> None:
        """Let so many calls fail with these words."""
        (self._directory / "failures").write_text("".join(f"{words}\n" for words in said))

    @property
    def calls(self) -> list[str]:
        """Return the commands that were called."""
        return [line.split()[-1] for line in (self._directory / "calls").read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(pm2, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(pm2, "_SECONDS_BETWEEN_TRIES", 0.0)
    return Place(tmp_path)


@pytest.fixture
def daemon() -> pm2.Pm2:
    return pm2.Pm2(getpass.getuser())


def test_a_list_is_asked_for_again(place: Place, daemon: pm2.Pm2) -> None:
    place.fail("", "")
    assert [process.name for process in daemon.processes()] == ["a"]
    assert place.calls == ["jlist"] * 3


@pytest.mark.parametrize("known", [(), ("a",)])
def test_a_service_is_deleted_again_and_not_if_it_is_gone_meanwhile(
    place: Place, daemon: pm2.Pm2, known: tuple[str, ...]
) -> None:
    if known:
        place.fail("")
    daemon.delete(["a"], known)
    assert place.calls == (["a", "jlist", "a"] if known else ["jlist", "a"])
    daemon.delete(["a"])
    assert place.calls[-1] == "jlist"


def test_what_pm2_says_last_is_told_in_the_end(place: Place, daemon: pm2.Pm2) -> None:
    place.fail(*(f"[PM2][ERROR] try {number}" for number in range(1, 20)))
    with pytest.raises(MigrationError, match="try 4"):
        daemon.processes()
    assert place.calls == ["jlist"] * 4


def test_a_start_is_not_tried_twice(place: Place, daemon: pm2.Pm2, tmp_path: Path) -> None:
    place.fail("[PM2][ERROR] no")
    with pytest.raises(MigrationError, match="no"):
        daemon.start(str(tmp_path / "ecosystem.config.js"), "a")
    assert place.calls == ["a"]


def test_no_name_means_no_call(place: Place, daemon: pm2.Pm2, tmp_path: Path) -> None:
    daemon.delete([])
    assert not (tmp_path / "calls").exists()
