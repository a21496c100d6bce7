"""The forward mapping, value by value, and its agreement with the inverse one."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from ansible.module_utils.migration.convert import Refused, converter, id_namespace
from ansible.module_utils.migration.estate import ColumnOptions
from ansible.module_utils.migration.plan import ColumnPlan


def column(kind: str, type_name: str, **more: Any) -> ColumnPlan:
    """Return the plan of a nullable column called c."""
    options = more.pop("options", ColumnOptions("c", "c"))
    display = more.pop("display_type", type_name)
    plan: dict[str, Any] = {"not_null": False, **more}
    return ColumnPlan("c", "c", kind, type_name, display, options=options, **plan)


def convert(plan: ColumnPlan, value: Any) -> str | None:
    """Convert one value."""
    text: str | None = converter(plan, lambda _: None)(value)
    return text


@pytest.mark.parametrize(
    ("plan", "value", "expected"),
    [
        (column("text", "text"), "α\t\\ \n", "α\t\\ \n"),
        (column("text", "text"), 12, "12"),
        (column("text", "text"), 0.1 + 0.2, "0.30000000000000004"),
        (column("text", "text"), "", ""),
        (column("integer", "int4"), 2**31 - 1, "2147483647"),
        (column("integer", "int4"), 7.0, "7"),
        (column("integer", "int8"), "-12", "-12"),
        (column("boolean", "bool"), 1, "t"),
        (column("boolean", "bool"), 0.0, "f"),
        (column("json", "jsonb"), "null", "null"),
        (column("json", "jsonb"), 5, "5"),
        (column("json", "jsonb"), '{"a": [1e2, "\\u00e9"]}', '{"a": [1e2, "\\u00e9"]}'),
        (column("timestamp", "timestamptz"), "2025-12-16 05:51:27", "2025-12-16 05:51:27 UTC"),
        (column("timestamp", "timestamptz"), "2025-12-16T05:51:27.178Z", "2025-12-16 05:51:27.178+00"),
        (
            column("timestamp", "timestamptz", epoch_unit="milliseconds"),
            "1704164645678.0",
            "2024-01-02 03:04:05.678000+00:00",
        ),
        (column("timestamp", "timestamp", epoch_unit="seconds"), 0, "1970-01-01 00:00:00"),
        (column("double", "float8"), -0.0, "-0.0"),
        (column("double", "float8"), 1e308, "1e+308"),
        (column("real", "float4"), 0.5, "0.5"),
        (column("bytes", "bytea"), bytes(range(256)), "\\x" + bytes(range(256)).hex()),
        (column("numeric", "numeric", display_type="numeric(10,2)"), 1.25, "1.25"),
        (column("uuid", "uuid"), "6f1c2a34-0000-4000-8000-000000000001", "6f1c2a34-0000-4000-8000-000000000001"),
    ],
)
def test_values_arrive_exactly(plan: ColumnPlan, value: Any, expected: str) -> None:
    assert convert(plan, value) == expected


@pytest.mark.parametrize(
    ("plan", "value", "policy"),
    [
        (column("text", "text"), "a\x00b", "nul_character"),
        (column("text", "text"), b"\xff".decode("utf-8", "surrogateescape"), "invalid_utf8"),
        (column("text", "text"), b"blob", "unconvertible"),
        (column("text", "varchar", max_length=3), "abcd", "unconvertible"),
        (column("char", "bpchar", max_length=3), "a ", "unconvertible"),
        (column("integer", "int4"), 2**31, "unconvertible"),
        (column("integer", "int4"), "abc", "unconvertible"),
        (column("integer", "int4"), "007", "unconvertible"),
        (column("integer", "int4"), "-0", "unconvertible"),
        (column("integer", "int4"), 8.5, "fraction"),
        (column("integer", "int4"), "", "empty_string"),
        (column("integer", "int4", not_null=True), None, "null_value"),
        (column("boolean", "bool"), 2, "unconvertible"),
        (column("json", "jsonb"), "{nope", "invalid_json"),
        (column("json", "jsonb"), "NaN", "invalid_json"),
        (column("json", "jsonb"), '{"a": "\\u0000"}', "nul_character"),
        (column("json", "jsonb"), '"\\ud800"', "invalid_json"),
        (column("json", "jsonb"), "1e400000", "invalid_json"),
        (column("json", "jsonb"), "[" * 100_000, "invalid_json"),
        (column("timestamp", "timestamptz"), "yesterday", "unconvertible"),
        (column("timestamp", "timestamptz"), "2025-02-30 00:00:00", "unconvertible"),
        (column("timestamp", "timestamptz"), "2025-02-03 00:00:00.1234567", "unconvertible"),
        (column("timestamp", "timestamptz"), 5, "unconvertible"),
        (
            column("timestamp", "timestamptz", options=ColumnOptions("c", "c", time_zone="Europe/Berlin")),
            "2025-10-26 02:30:00",
            "unconvertible",
        ),
        (column("timestamp", "timestamp"), "2025-02-03T00:00:00+01:00", "unconvertible"),
        (column("double", "float8"), 2**53 + 1, "unconvertible"),
        (column("real", "float4"), 0.1, "unconvertible"),
        (column("bytes", "bytea"), "aGVsbG8=", "unconvertible"),
        (column("numeric", "numeric", display_type="numeric(10,2)"), 1.255, "fraction"),
        (column("uuid", "uuid"), "role-admin", "unconvertible"),
    ],
)
def test_what_the_type_cannot_hold_is_refused(plan: ColumnPlan, value: Any, policy: str) -> None:
    with pytest.raises(Refused) as refused:
        convert(plan, value)
    assert refused.value.policy == policy


def test_text_ids_become_the_same_uuid_on_every_host() -> None:
    plan = column("uuid", "uuid", namespace="auth.roles")
    assert convert(plan, "role-admin") == str(uuid.uuid5(id_namespace("auth.roles"), "role-admin"))
    # A constant that must never change: rows migrated by an older release refer to it.
    assert convert(plan, "role-admin") == "317a85f2-08b4-502b-83e8-b51f13e168ea"
    assert convert(column("uuid", "uuid", namespace="auth.users"), "role-admin") != convert(plan, "role-admin")
