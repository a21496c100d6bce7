"""Drafts on the controller: written once, and never again."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery import draft_directory
from tests.conftest import PROJECT
from tests.terminal.support import Bench

FILES = {
    "facts.txt": "a\nb\n",
    "README.md": "# 2 rows\n",
    "inventory/group_vars/all/estate.yml": "---\nestate_name: host\n",
    "sql/001_app.sql": "-- SQL\n",
}
# Each runs something on the controller, or sets what is none of a draft's business.
HOSTILE_ESTATES = [
    "estate_name: \"{{ lookup('pipe', 'id') }}\"",
    'estate_name: "{\\x7b 1 }}"',
    "estate_name: !!str '{% set a = 1 %}'",
    "estate_name: '{# a #}'",
    "estate_name: |\n  #jinja2:variable_start_string:'[['\n  [[ 1 ]]",
    "estate_cutover_groups: [{name: a, tables: [{'{{ 1 }}': 1}]}]",
    "estate_cutover_groups: !unsafe [{{ 1 }}, '{{ 1 }}']",
    "estate_name: a\nansible_connection: local",
    "estate_name: a\n<<: {ansible_connection: local}",
    "- estate_name",
    "estate_name: [",
    "estate_name: '\x07'",
]


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


@pytest.mark.promise("discover-trusts-no-host")
@pytest.mark.parametrize(
    "returned",
    [
        {**FILES, "{root}/outside": "x"},
        {**FILES, "../outside": "x"},
        {**FILES, "sql/../../outside": "x"},
        {**FILES, "sql/001_app.sql\n": "x"},
        {**FILES, "hosts.yml": "x"},
        {**FILES, "README.md": ["x"]},
        {**FILES, "README.md": "\ud800"},
        {**FILES, "README.md": "x" * (64 << 20)},
        {name: text for name, text in FILES.items() if name != "facts.txt"},
        {name: text for name, text in FILES.items() if not name.endswith("estate.yml")},
        ["facts.txt"],
        *({**FILES, "inventory/group_vars/all/estate.yml": text} for text in HOSTILE_ESTATES),
    ],
    ids=lambda returned: ascii(list(returned)[-1]),
)
def test_what_a_host_returns_is_written_only_if_it_is_a_draft(tmp_path: Path, returned: Any) -> None:
    if isinstance(returned, dict):
        returned = {name.replace("{root}", str(tmp_path)): text for name, text in returned.items()}
    with pytest.raises(MigrationError, match="The draft was not written"):
        draft_directory.write(str(tmp_path / "drafts" / "host"), returned)
    assert list(tmp_path.iterdir()) == []


def test_what_was_found_is_shown_on_the_console(tmp_path: Path) -> None:
    (tell,) = [
        task
        for task in yaml.safe_load((PROJECT / "roles/discovery/tasks/main.yml").read_text())
        if task["name"] == "Tell what was found"
    ]
    found = {"summary": ["/opt/app.db: 2 rows, used by app", "Decisions for a person: 0"]}
    play = {"hosts": "one", "gather_facts": False, "vars": {"discovery_result": found}, "tasks": [tell]}
    output = Bench(tmp_path).run([play]).output
    assert all(line in output for line in found["summary"]), output
