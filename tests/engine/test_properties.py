"""Whatever a source holds, each row arrives exactly or is named: searched for counter-examples by Hypothesis."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import empty_again, examples, make_group, make_source, make_target, query, rehearse

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

TYPES = (
    "text", "varchar(5)", "integer", "bigint", "double precision", "numeric", "boolean", "jsonb", "timestamptz",
    "bytea", "uuid",
)  # fmt: skip

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", "null", "5", "0.1", "\\N", "\\.", "a\tb\nc\\", "2025-12-16 05:51:27", "2025-12-16T05:51:27.178Z", "🦆", "\x00"]
)
VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(max_size=12),
    st.sampled_from([0, 1, 1.0, -0.0, 1e308, 5e-324, 2**63 - 1, -(2**63), 2**53 + 1, 1704164645678]),
)
POLICIES = (
    "invalid_json", "nul_character", "invalid_utf8", "empty_string", "fraction", "out_of_range", "sub_microsecond",
    "unconvertible",
)  # fmt: skip


@pytest.mark.promise("nothing-lost")
@settings(
    max_examples=examples(40, 150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(columns=st.lists(st.sampled_from(TYPES), min_size=1, max_size=4), data=st.data())
def test_every_row_arrives_or_is_named(
    connection: Connection, tmp_path: Path, columns: list[str], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.tuples(*[VALUES] * len(columns)), max_size=6))
    names = [f"c{number}" for number in range(len(columns))]
    empty_again(connection)
    typed = ", ".join(f"{name} {kind}" for name, kind in zip(names, columns, strict=True))
    make_target(connection, f"CREATE TABLE t (id integer PRIMARY KEY, {typed})")
    path = tmp_path / f"{uuid.uuid4()}.db"
    make_source(
        path,
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(names)})",
        {"t": [(number, *row) for number, row in enumerate(rows)]},
    )
    options: dict[str, Any] = {
        name: {**dict.fromkeys(POLICIES, "reject"), "references": "things", "epoch_unit": "milliseconds"}
        for name in names
    }
    try:
        report = rehearse(connection, make_group(path, {"source": "t", "columns": options}), tmp_path)["report"]
    except MigrationError as error:
        # Two texts may be one UUID (upper and lower case): the id map could keep but one of them.
        assert "holds a UUID in more than one spelling" in str(error)
        return
    finally:
        connection.rollback()
    table = report["tables"][0]
    assert table["equal"]
    assert table["source_rows"] == len(rows)
    assert table["target_rows"] + table["rejected_rows"] == len(rows)
    assert len(report["rejects"]) == table["rejected_rows"]
    rejected = query(connection, "SELECT count(*) FROM migration.reject")
    assert rejected == [(table["rejected_rows"],)]
