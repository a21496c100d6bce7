"""The forward mapping, value by value, and its agreement with the inverse one."""

from __future__ import annotations

import tracemalloc
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import ColumnOptions
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert.policies import (
    repair,
    repair_name,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert.refusals import (
    Refused,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.convert.values import (
    converter,
    id_namespace,
    name_based_id,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.engine.plan.planner import ColumnPlan


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


@pytest.mark.promise("value-exact-or-violation")
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
        (column("timestamp", "timestamptz"), "2025-12-16 05:51:27.100000000+0530", "2025-12-16 05:51:27.100000+0530"),
        (column("timestamp", "timestamp", scale=0), "2025-12-16 05:51:27.000", "2025-12-16 05:51:27.000"),
        (
            column("timestamp", "timestamp", epoch_unit="julian_days"),
            2460311.6278434955,  # what julianday('2024-01-02 03:04:05.678') gives
            "2024-01-02 03:04:05.678000",
        ),
        (column("timestamp", "timestamptz", epoch_unit="julian_days"), 2440588, "1970-01-01 12:00:00+00:00"),
        (column("timestamp", "timestamptz"), "0001-01-01T00:00Z", "0001-01-01 00:00+00"),
        (column("timestamp", "timestamptz"), "9999-12-31 23:59:59.999999+01", "9999-12-31 23:59:59.999999+01"),
        (column("date", "date"), "2024-02-29", "2024-02-29"),
        (column("date", "date"), "2024-02-29T00:00:00.000Z", "2024-02-29"),
        (column("date", "date"), "2024-02-29 00:00", "2024-02-29"),
        (column("date", "date", epoch_unit="seconds"), 1704153600, "2024-01-02"),
        (column("date", "date", epoch_unit="julian_days"), 2460311.5, "2024-01-02"),
        (column("time", "time", scale=6), "23:59", "23:59"),
        (column("time", "time", scale=6), "23:59:59", "23:59:59"),
        (column("time", "time", scale=6), "03:04:05.123456000", "03:04:05.123456"),
        (column("time", "time", scale=3), "03:04:05.1230", "03:04:05.1230"),
        (column("numeric", "numeric"), "-007.50", "-007.50"),
        (column("numeric", "numeric"), "+5", "+5"),
        (column("numeric", "numeric"), "1e5", "1e5"),
        (column("numeric", "numeric"), 0.1, "0.1"),
        (column("numeric", "numeric"), 5e-324, "5e-324"),
        (column("numeric", "numeric", precision=40, scale=2), "9" * 38 + ".25", "9" * 38 + ".25"),
        (column("numeric", "numeric", precision=2, scale=-3), 99000, "99000"),
        (column("numeric", "numeric", precision=3, scale=5), "0.00999", "0.00999"),
        (column("other", "public.citext"), "", ""),
        (column("other", "interval"), "1 day", "1 day"),
        (column("double", "float8"), -0.0, "-0.0"),
        (column("double", "float8"), 1e308, "1e+308"),
        (column("real", "float4"), 0.5, "0.5"),
        (column("bytes", "bytea"), bytes(range(256)), "\\x" + bytes(range(256)).hex()),
        (column("numeric", "numeric", display_type="numeric(10,2)", precision=10, scale=2), 1.25, "1.25"),
        (column("uuid", "uuid"), "6f1c2a34-0000-4000-8000-000000000001", "6f1c2a34-0000-4000-8000-000000000001"),
        (column("uuid", "uuid", namespace="n"), "6F1C2A34" + "0" * 24, "6f1c2a34-0000-0000-0000-000000000000"),
        (
            column("uuid", "uuid", namespace="n", text_ids=False),
            "6F1C2A34-0000-4000-8000-00000000000A",
            "6f1c2a34-0000-4000-8000-00000000000a",
        ),
    ],
)
def test_values_arrive_exactly(plan: ColumnPlan, value: Any, expected: str) -> None:
    assert convert(plan, value) == expected


@pytest.mark.promise("value-exact-or-violation")
@pytest.mark.parametrize(
    ("plan", "value", "policy"),
    [
        (column("text", "text"), "\x00", "nul_character"),
        (column("text", "text"), "a\x00b", "nul_character"),
        (column("text", "text"), b"\xff".decode("utf-8", "surrogateescape"), "invalid_utf8"),
        (column("text", "text"), b"blob", "unconvertible"),
        (column("text", "varchar", max_length=3), "abcd", "unconvertible"),
        (column("char", "bpchar", max_length=3), "a ", "unconvertible"),
        (column("integer", "int4"), 2**31, "out_of_range"),
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
        (column("timestamp", "timestamptz"), "2025-02-03 00:00:00.1234567", "sub_microsecond"),
        (column("timestamp", "timestamptz"), 5, "unconvertible"),
        (
            column("timestamp", "timestamptz", options=ColumnOptions("c", "c", time_zone="Europe/Berlin")),
            "2025-10-26 02:30:00",
            "unconvertible",
        ),
        (column("timestamp", "timestamp"), "2025-02-03T00:00:00+01:00", "unconvertible"),
        (column("timestamp", "timestamptz"), "2025-02-03T00:00:00+16:00", "unconvertible"),
        (column("timestamp", "timestamptz"), "2025-02-03T24:00:00Z", "unconvertible"),
        (column("timestamp", "timestamptz"), "0001-01-01 00:00:00+0100", "out_of_range"),
        (column("timestamp", "timestamptz"), "9999-12-31 23:30-01", "out_of_range"),
        (
            column("timestamp", "timestamptz", options=ColumnOptions("c", "c", time_zone="Asia/Tokyo")),
            "0001-01-01",
            "out_of_range",
        ),
        (column("timestamp", "timestamptz", scale=0), "2025-02-03 00:00:00.5", "sub_microsecond"),
        (column("timestamp", "timestamp", scale=3, epoch_unit="microseconds"), 1704164645678901, "sub_microsecond"),
        (column("timestamp", "timestamp", epoch_unit="seconds"), 2**63 - 1, "out_of_range"),
        (column("timestamp", "timestamp", epoch_unit="seconds"), 1704164645.1234567, "sub_microsecond"),
        (column("timestamp", "timestamp", epoch_unit="julian_days"), 1.7e308, "out_of_range"),
        (column("date", "date"), "2023-02-29", "unconvertible"),
        (column("date", "date"), "29.02.2024", "unconvertible"),
        (column("date", "date"), "2024-02-29 00:00:01", "unconvertible"),
        (column("date", "date"), "2024-02-29 00:00:00.000001", "unconvertible"),
        (column("date", "date"), "2024-02-29T00:00:00+01:00", "unconvertible"),
        (column("date", "date", epoch_unit="seconds"), 1704153601, "unconvertible"),
        (column("date", "date", epoch_unit="julian_days"), 2460311, "unconvertible"),
        (column("date", "date"), b"2024-02-29", "unconvertible"),
        (column("date", "date"), "", "empty_string"),
        (column("time", "time", scale=6), "24:00", "unconvertible"),
        (column("time", "time", scale=6), "7:30", "unconvertible"),
        (column("time", "time", scale=6), "23:59:60", "unconvertible"),
        (column("time", "time", scale=6), "03:04:05.1234567", "sub_microsecond"),
        (column("time", "time", scale=0), "03:04:05.5", "sub_microsecond"),
        (column("time", "time", scale=6), "03:04:05+01", "unconvertible"),
        (column("time", "time", scale=6), 11045, "unconvertible"),
        (column("integer", "int8"), "9" * 5000, "out_of_range"),
        (column("numeric", "numeric"), " 5 ", "unconvertible"),
        (column("numeric", "numeric"), "NaN", "unconvertible"),
        (column("numeric", "numeric"), "Infinity", "unconvertible"),
        (column("numeric", "numeric"), "1e200000", "out_of_range"),
        (column("numeric", "numeric"), "1e-20000", "fraction"),
        (column("numeric", "numeric"), "9" * 200_000, "unconvertible"),
        (column("numeric", "numeric"), float("inf"), "unconvertible"),
        (column("numeric", "numeric", precision=10, scale=2), 100_000_000, "out_of_range"),
        (column("numeric", "numeric", precision=10, scale=2), "1" + "0" * 40 + ".5", "out_of_range"),
        (column("numeric", "numeric", precision=2, scale=-3), 1500, "fraction"),
        (column("numeric", "numeric", precision=3, scale=5), "0.01", "out_of_range"),
        (column("double", "float8"), "NaN", "unconvertible"),
        (column("json", "jsonb"), "1e99999999999999999999999", "invalid_json"),
        (column("json", "jsonb"), '{"a": {"\\u0000": 1}}', "nul_character"),
        (column("json", "jsonb"), '["\\u0000", nope', "invalid_json"),
        (column("other", "app.mood"), "", "empty_string"),
        (column("other", "inet"), b"::1", "unconvertible"),
        (column("double", "float8"), 2**53 + 1, "unconvertible"),
        (column("real", "float4"), 0.1, "unconvertible"),
        (column("real", "float4"), 1e39, "out_of_range"),
        (column("timestamp", "timestamptz"), "2025-02-03 04:05.5", "unconvertible"),
        (column("bytes", "bytea"), "aGVsbG8=", "unconvertible"),
        (column("numeric", "numeric", display_type="numeric(10,2)", precision=10, scale=2), 1.255, "fraction"),
        (column("uuid", "uuid"), "role-admin", "unconvertible"),
        (column("uuid", "uuid", namespace="n", text_ids=False), "role-admin", "unconvertible"),
        (column("uuid", "uuid", namespace="n", text_ids=False), "{" + "0" * 32 + "}", "unconvertible"),
    ],
)
def test_what_the_type_cannot_hold_is_refused(plan: ColumnPlan, value: Any, policy: str) -> None:
    with pytest.raises(Refused) as refused:
        convert(plan, value)
    assert refused.value.policy == policy


def test_json_with_a_nul_character_is_refused_in_words() -> None:
    with pytest.raises(Refused, match="inside JSON, which jsonb cannot"):
        convert(column("json", "jsonb"), '"\\u0000"')


@pytest.mark.promise("same-id-everywhere")
def test_text_ids_become_the_same_uuid_on_every_host() -> None:
    plan = column("uuid", "uuid", namespace="auth.roles")
    assert convert(plan, "role-admin") == str(uuid.uuid5(id_namespace("auth.roles"), "role-admin"))
    # A constant that must never change: rows migrated by an older release refer to it.
    assert convert(plan, "role-admin") == "317a85f2-08b4-502b-83e8-b51f13e168ea"
    assert convert(column("uuid", "uuid", namespace="auth.users"), "role-admin") != convert(plan, "role-admin")


def test_conversions_that_change_the_form_are_counted() -> None:
    noted: list[str] = []
    for plan, value in (
        (column("numeric", "numeric"), "1e5"),
        (column("numeric", "numeric"), "15"),
        (column("date", "date"), "2024-02-29T00:00:00Z"),
        (column("date", "date"), "2024-02-29"),
    ):
        converter(plan, noted.append)(value)
    assert noted == ["text with an exponent to numeric", "text to numeric", "time at midnight to date"]


def test_a_number_is_rounded_to_the_digits_that_its_column_holds() -> None:
    assert repair(8.5, "round") == 9
    assert repair(-8.5, "round", 0) == -9
    assert repair(19.990000000000002, "round", 2) == "19.99"
    assert repair("9" * 40 + ".995", "round", 2) == "1" + "0" * 40 + ".00"
    assert repair(1250, "round", -2) == 1300


@pytest.mark.parametrize(
    ("plan", "value", "rounded", "truncated"),
    [
        (column("timestamp", "timestamp", scale=6), "2025-02-03 00:00:00.1234565", ".123456", ".123456"),
        (column("timestamp", "timestamp", scale=6), "2025-02-03 00:00:00.1234575", ".123458", ".123457"),
        (column("timestamp", "timestamp", scale=3), "2025-02-03 00:00:00.1236", ".124", ".123"),
        (column("timestamp", "timestamp", scale=0), "2025-02-03 00:00:00.5", "", ""),
        (column("timestamp", "timestamptz", scale=6), "2025-02-03 00:00:00.12345678+01", ".123457+01", ".123456+01"),
    ],
)
def test_digits_of_a_second_that_a_text_has_too_many(
    plan: ColumnPlan, value: str, rounded: str, truncated: str
) -> None:
    for answer, expected in (("round", rounded), ("truncate", truncated)):
        name = repair_name("sub_microsecond", answer, plan)
        assert convert(plan, repair(value, name, plan.scale)) == f"2025-02-03 00:00:00{expected}"


@pytest.mark.parametrize(
    ("unit", "scale", "value", "rounded", "truncated"),
    [
        ("seconds", 6, 1704164645.1234567, "2024-01-02 03:04:05.123457", "2024-01-02 03:04:05.123456"),
        ("seconds", 6, "1704164645.9999999", "2024-01-02 03:04:06", "2024-01-02 03:04:05.999999"),
        ("seconds", 0, -0.5, "1970-01-01 00:00:00", "1969-12-31 23:59:59"),
        ("seconds", 2, -1.125, "1969-12-31 23:59:58.880000", "1969-12-31 23:59:58.870000"),
        ("milliseconds", 3, 1704164645678.5, "2024-01-02 03:04:05.678000", "2024-01-02 03:04:05.678000"),
        ("milliseconds", 0, 1704164645678, "2024-01-02 03:04:06", "2024-01-02 03:04:05"),
        ("milliseconds", 6, "1704164645678.1239", "2024-01-02 03:04:05.678124", "2024-01-02 03:04:05.678123"),
        ("microseconds", 6, 1704164645678901.5, "2024-01-02 03:04:05.678902", "2024-01-02 03:04:05.678901"),
        ("microseconds", 3, 1704164645678901, "2024-01-02 03:04:05.679000", "2024-01-02 03:04:05.678000"),
        ("julian_days", 0, 2460311.6278434955, "2024-01-02 03:04:06", "2024-01-02 03:04:05"),
        ("julian_days", 1, 2460311.6278434955, "2024-01-02 03:04:05.700000", "2024-01-02 03:04:05.600000"),
    ],
)
def test_digits_of_a_second_that_a_number_has_too_many(
    unit: str, scale: int, value: Any, rounded: str, truncated: str
) -> None:
    plan = column("timestamp", "timestamp", scale=scale, epoch_unit=unit)
    with pytest.raises(Refused) as refused:
        convert(plan, value)
    assert refused.value.policy == "sub_microsecond"
    for answer, expected in (("round", rounded), ("truncate", truncated)):
        name = repair_name("sub_microsecond", answer, plan)
        repaired = repair(value, name, plan.scale)
        assert convert(plan, repaired) == expected
        assert repair(repaired, name, plan.scale) == repaired


@pytest.mark.parametrize(
    ("plan", "value", "expected"),
    [
        (column("timestamp", "timestamp", scale=0), "2024-12-31T23:59:59.5Z", "2025-01-01 00:00:00"),
        (column("timestamp", "timestamptz", scale=3), "0999-12-31 23:59:59.9999", "1000-01-01 00:00:00 UTC"),
        (column("time", "time", scale=6), "03:59:59.9999999", "04:00:00"),
        (column("time", "time", scale=6), "23:59:59.9999999", None),
        (column("timestamp", "timestamp", scale=6), "9999-12-31 23:59:59.9999999", None),
    ],
)
def test_rounding_up_to_the_next_second(plan: ColumnPlan, value: str, expected: str | None) -> None:
    repaired = repair(value, repair_name("sub_microsecond", "round", plan), plan.scale)
    if expected is None:
        with pytest.raises(Refused):
            convert(plan, repaired)
    else:
        assert convert(plan, repaired) == expected


def test_a_large_json_document_is_not_turned_into_a_tree_of_objects() -> None:
    text = '{"rows": [' + '{"id": 123456789, "name": "x"},' * 100_000 + "0]}"
    check = converter(column("json", "jsonb"), lambda _: None)
    tracemalloc.start()
    try:
        assert check(text) is text
        assert tracemalloc.get_traced_memory()[1] < len(text)
    finally:
        tracemalloc.stop()


@given(st.uuids(), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_based_id_is_that_of_the_standard_library(namespace: uuid.UUID, name: str) -> None:
    assert name_based_id(namespace.bytes, name) == str(uuid.uuid5(namespace, name))
