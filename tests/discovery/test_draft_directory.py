"""Drafts on the controller: written once, and never again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import draft_directory

FILES = {"facts.txt": "a\nb\n", "README.md": "# 2 rows\n", "sql/001_app.sql": "-- SQL\n"}


@pytest.mark.promise("draft-never-overwritten")
def test_an_edited_draft_stays_and_a_later_one_stands_beside_it(tmp_path: Path) -> None:
    first = draft_directory.write(str(tmp_path / "drafts" / "host"), FILES)
    directory = tmp_path / "drafts" / "host"
    assert first == draft_directory.Written(str(directory), True, ())
    assert {name: (directory / name).read_text() for name in FILES} == FILES
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    (directory / "README.md").write_text("edited")
    # Only rows have changed.
    again = draft_directory.write(str(directory), {**FILES, "README.md": "# 3 rows\n"})
    assert again == draft_directory.Written(str(directory), False, ())
    changed = {**FILES, "facts.txt": "a\nc\n"}
    announced = draft_directory.write(str(directory), changed, check_mode=True)
    assert not (tmp_path / "drafts" / "host-2").exists()
    later = draft_directory.write(str(directory), changed)
    assert announced == later == draft_directory.Written(f"{directory}-2", True, ("- b", "+ c"))
    assert (directory / "README.md").read_text() == "edited"
    # The newest one counts.
    assert not draft_directory.write(str(directory), changed).changed


@pytest.mark.promise("draft-never-overwritten")
def test_what_is_no_draft_or_a_half_written_one_stays(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "mine").touch()
    (tmp_path / "host-2").symlink_to("nowhere")
    assert draft_directory.write(str(tmp_path / "host"), FILES).directory == str(tmp_path / "host-3")
    assert [path.name for path in (tmp_path / "host").iterdir()] == ["mine"]


def test_a_place_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(MigrationError, match="somebody else may write to it"):
        draft_directory.write(str(tmp_path / "host"), FILES)
    assert list(tmp_path.iterdir()) == []
