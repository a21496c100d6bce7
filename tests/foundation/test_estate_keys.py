"""The READMEs describe every key of the estate that the parser knows, and none that it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import (
    POLICIES,
    parse_group,
)
from tests.conftest import PROJECT

# A key that nobody will ever know.
UNKNOWN = {"no_such_key": 1}


def known_keys(place: str) -> set[str]:
    """Return the keys that the parser names when it refuses an unknown one in a table, a column or a service."""
    table: dict[str, Any] = {"source": "a", "target": "s.a"}
    service: dict[str, Any] = {}
    match place:
        case "table":
            table |= UNKNOWN
        case "column":
            table["columns"] = {"c": UNKNOWN}
        case "service":
            service = dict(UNKNOWN)
    group = {"name": "g", "source": {"path": "/a.db"}, "tables": [table], "services": [service] if service else []}
    with pytest.raises(MigrationError) as caught:
        parse_group(group)
    keys = re.search(r"unknown key 'no_such_key'.*?Known keys: ([\w, ]+)", str(caught.value), re.DOTALL)
    assert keys, caught.value
    return set(keys[1].split(", "))


def described(role: str, header: str) -> dict[str, str]:
    """Return key → the last cell of its row, of the table in a role's README whose header begins so."""
    text = (PROJECT / "roles" / role / "README.md").read_text(encoding="utf-8")
    table = re.search(rf"^\| {re.escape(header)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table, f"roles/{role}/README.md has no table that begins with {header}"
    rows = [row.strip("|").split(" | ") for row in table[1].splitlines()]
    return {cells[0].strip().strip("`").partition(":")[0]: cells[-1] for cells in rows}


def test_every_key_of_a_service_is_described() -> None:
    assert set(described("service_env", "key")) == known_keys("service")


def test_every_policy_is_described_with_its_answers() -> None:
    rows = described("sqlite_migrate", "policy")
    assert {name: tuple(re.findall(r"`(\w+)`", answers)) for name, answers in rows.items()} == POLICIES


def test_every_option_of_a_column_is_described() -> None:
    text = (PROJECT / "roles" / "sqlite_migrate" / "README.md").read_text(encoding="utf-8")
    section = text.partition("The options of a column:")[2].partition("Policies say")[0]
    written = {cell.partition(":")[0] for cell in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)}
    assert written == known_keys("column") - set(POLICIES)


def test_every_option_of_a_table_is_described() -> None:
    text = (PROJECT / "roles" / "sqlite_migrate" / "README.md").read_text(encoding="utf-8")
    section = text.partition("The options of a column:")[0]
    rows = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    # The example shows what every table has; the rows tell of the rest.
    example = set(re.findall(r"^ {6,8}(?:- )?(\w+):", section, re.MULTILINE))
    known = known_keys("table")
    assert rows <= known
    assert known <= rows | example
