"""What a person is told of many cutover groups with which nothing was done."""

from __future__ import annotations

from typing import Any

import pytest
from jinja2 import Environment

from ansible_collections.swarm.sqlite_to_postgresql.plugins.filter.group_lines import FilterModule, group_lines
from tests.conftest import PROJECT

pytestmark = pytest.mark.promise("run-readable")


def result(name: str, state: str = "live", changed: bool = False, **more: Any) -> dict[str, Any]:
    """Return the result of a module for a group, as an item of a loop over the names."""
    return {"item": name, "state": state, "changed": changed, "msg": f"{name} is {state}.", **more}


def test_groups_with_which_nothing_was_done_take_one_line_behind_the_others() -> None:
    results = [result("a"), result("b", changed=True), result("c", "rehearsed"), result("d", "archived")]
    assert group_lines(results, "on PostgreSQL.") == ["b is live.", "c is rehearsed.", "a and d are on PostgreSQL."]
    assert group_lines([result("a")], "on PostgreSQL.") == ["a is on PostgreSQL."]
    assert group_lines([result("b", changed=True)], "on PostgreSQL.") == ["b is live."]


def test_of_hundreds_only_the_first_are_named() -> None:
    (line,) = group_lines([result(f"group_{number}") for number in range(300)], "on PostgreSQL.")
    assert line == "group_0, group_1, group_2, group_3, group_4 and 295 more groups are on PostgreSQL."


def test_phase_3_tells_the_tables_of_those_that_were_moved_alone() -> None:
    tables = [{"source": "t", "target": "app.t", "source_rows": 3}]
    moved = result("b", "rehearsed", changed=True, report={"tables": tables})
    # A group may have moved between the look at all of them and its own turn.
    results = [{**one, "item": {"name": one["item"]}} for one in (moved, result("c"))]
    template = (PROJECT / "roles" / "sqlite_migrate" / "templates" / "summary.j2").read_text()
    # As Ansible sets it up.
    environment = Environment(trim_blocks=True, autoescape=False)  # noqa: S701 - for a terminal
    prefix = "swarm.sqlite_to_postgresql."
    environment.filters.update({f"{prefix}{name}": one for name, one in FilterModule().filters().items()})
    variables = {"__sqlite_migrate_left_alone": [result("a")], "__sqlite_migrate_result": {"results": results}}
    told = environment.from_string(template).render(variables)
    assert [line for line in told.splitlines() if line] == [
        "a and c are on PostgreSQL already; no table was touched.",
        "b is rehearsed.",
        "b: t → app.t: 3 rows",
    ]
