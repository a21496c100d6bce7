"""The tables of variables in the roles' READMEs are what their argument_specs and defaults say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import list_role_variables


@pytest.mark.parametrize("role", list_role_variables.roles(), ids=lambda role: role.name)
def test_the_readme_of_a_role_is_what_its_argument_specs_say(role: Path) -> None:
    written = (role / "README.md").read_text(encoding="utf-8")
    assert written == list_role_variables.readme(role), "Run: python scripts/list_role_variables.py"


@pytest.mark.parametrize("role", list_role_variables.roles(), ids=lambda role: role.name)
def test_every_default_of_a_role_is_declared_and_no_declared_default_differs(role: Path) -> None:
    path = role / "defaults" / "main.yml"
    defaults: dict[str, Any] = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}
    declared = {
        name: option for options in list_role_variables.entry_points(role).values() for name, option in options.items()
    }
    assert set(defaults) <= set(declared)
    plain = {name: value for name, value in defaults.items() if "{{" not in str(value)}
    both = {name: option["default"] for name, option in declared.items() if "default" in option and name in plain}
    assert both == {name: plain[name] for name in both}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (30, "`30`"),
        (True, "`true`"),
        ("", "empty"),
        ([], "none"),
        (None, "none"),
        (["/opt", "/srv"], "`/opt, /srv`"),
        ("{{ postgres_database }}", "`postgres_database`"),
        ("{{ postgres_port | default(5432) }}", "`postgres_port`, or else `5432`"),
        ("{{ postgres_existing | default('refuse') }}", "`postgres_existing`, or else `refuse`"),
        ("{{ ansible_config_file | dirname }}/files/sql", "`files/sql` beside `ansible.cfg`"),
        ("/usr/lib/postgresql/{major}/bin", "`/usr/lib/postgresql/{major}/bin`"),
        ("{{ groups['a'] | map('extract', hostvars) | list }}", "[computed](defaults/main.yml)"),
        ({"host": "{{ postgres_host }}"}, "[computed](defaults/main.yml)"),
    ],
)
def test_a_default_is_shown_without_its_template(written: Any, shown: str) -> None:
    assert list_role_variables.default(written) == shown


def test_a_readme_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    for name in ("example", list_role_variables.LOGIN_ROLE):
        (tmp_path / name / "meta").mkdir(parents=True)
        option = {"type": "dict", "description": "A login.", "options": {"login_db": {"description": "A name."}}}
        specification = {"argument_specs": {"main": {"options": {f"{name}_login": option}}}}
        (tmp_path / name / "meta" / "argument_specs.yml").write_text(yaml.safe_dump(specification), encoding="utf-8")
    (tmp_path / "example" / "README.md").write_text("# example\n\n## Variables\n\nNo table.\n", encoding="utf-8")
    with pytest.raises(ValueError, match="the section Variables must hold once"):
        list_role_variables.readme(tmp_path / "example")
