"""What a draft suggests names tables and columns exactly, and no name in it is a template that Ansible would run."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from hypothesis import example, given
from hypothesis import strategies as st

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.discovery.returned import (
    estate_problems,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.draft import Draft
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.existing import (
    Existing,
    map_onto,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.draft.mapping import group_lines
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.postgres.catalog import (
    TargetColumn,
    TargetTable,
)

# What a name may hold that means something to YAML, to Ansible, or to an editor.
PARTS = (
    "{{ lookup('pipe', 'id') }}", "{% if 1 %}", "{# x #}", "#jinja2:x", "{", "}", "[", "]", ",", "'", '"', "\\", "\n",
    "\r\n", "\x0b", "\x85", "\u2028", "\u2029", "\u00a0", "\u200b", "\ufeff", "\x01", "\x7f", ": ", ":", " #", "#",
    "- ", "- source: evil\n  target: public.accounts", "?", "&", "*", "!unsafe ", "%", "@", "`", "|", ">", "\t", " ",
    "a", "ü", "🦆", "\U000e0001", "null", "1", "~", "=", "<<",
)  # fmt: skip
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map("".join)
# The mapping writes schema.table with one dot.
TABLE_NAMES = NAMES.map(lambda name: name.replace(".", "_"))


def column(name: str, not_null: bool) -> TargetColumn:
    """Return a column of PostgreSQL."""
    return TargetColumn(name, "text", "text", -1, not_null, False, False, None)


def table(name: str, *columns: TargetColumn) -> TargetTable:
    """Return a table of PostgreSQL."""
    return TargetTable(name, {entry.name: entry for entry in columns}, (), (), ())


def drafted(name: str, *columns: str) -> dict[str, Any]:
    """Return a table of a draft that holds one row."""
    details = {"target": "x", "declared": "TEXT", "type": "text", "why": "", "values": 1, "secret": False}
    return {
        "source": name,
        "target": f"app.{name}",
        "rows": 1,
        "columns": [{**details, "source": entry, "generated": False} for entry in columns],
    }


def loaded(lines: list[str]) -> Any:
    """Return a suggestion as Ansible reads it, in a draft that could be adopted."""
    text = "\n".join(["estate_cutover_groups:", *(f"  {line}" for line in lines)])
    assert list(estate_problems(text)) == []
    return DataLoader().load(text)["estate_cutover_groups"]


@pytest.mark.promise("discover-follows-no-trap")
@given(TABLE_NAMES, NAMES, NAMES)
@example("x {{ lookup('pipe','id') }}", "x {{ 1 }}", "y {{ 1 }}")
@example("a\n- source: evil", "a\nb: {target: c}", "b\nc")
def test_a_suggestion_that_is_taken_gives_the_names_exactly_and_no_template(
    unsure: str, source: str, target: str
) -> None:
    # Two that no comparison takes for one.
    source, target = f"{source}x", f"{target}y"
    entry = {"name": "app", "source": {"path": "/app.db"}, "tables": [{"source": name} for name in ("t", unsure)]}
    draft = Draft("app", "", entry, {}, [], [drafted("t", source), drafted(unsure, "id")])
    tables = {
        name: table(name, column("id" if name != "s.t" else target, not_null=True))
        for name in ("s.t", f"a.{unsure}", f"b.{unsure}")
    }
    existing = Existing(("s",), tables, dict.fromkeys(tables, 0), dict.fromkeys(tables, "owner"), "owner")
    mapped = map_onto({"app": draft}, existing)["app"]
    lines = list(group_lines(mapped.mapping, mapped.choices, mapped.notes))
    comments = [line.lstrip()[2:] for line in lines if line.lstrip().startswith("# ")]
    found: dict[str, list[Any]] = {"tables": [], "columns": [], "computed": []}
    for number, line in enumerate(comments):
        if line.startswith("DECIDE: "):
            continue
        if line.startswith("- source: "):
            found["tables"] += loaded([line, comments[number + 1]])
        elif line.startswith("computed: "):
            found["computed"].append(loaded([line])["computed"])
        elif not line.startswith("  target: "):
            found["columns"].append(loaded([line]))
    assert found == {
        "tables": [{"source": unsure, "target": f"{schema}.{unsure}"} for schema in ("a", "b")],
        "columns": [{source: {"target": target}}, {source: {"without_target": "keep"}}],
        "computed": [{target: "an expression of SQLite"}],
    }
