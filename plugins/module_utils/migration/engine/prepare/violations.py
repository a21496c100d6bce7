"""The values that stop a run, gathered by column and reason, so that all are named at once."""

from __future__ import annotations

from collections import Counter

from ...core.errors import Problem
from ...core.estate import DURATION_UNITS
from ..convert.refusals import Refused

SHOWN_KEYS = 5

_FIXES = {
    "orphan": "Repair the row, or set 'orphan: set_null' or 'orphan: reject' for the column",
    "invalid_json": "Repair the value, or set 'invalid_json' for the column: as_json_string, set_null or reject",
    "nul_character": "Repair the value, or set 'nul_character: remove' or 'nul_character: reject' for the column",
    "invalid_utf8": "Repair the value, or set 'invalid_utf8: replace' or 'invalid_utf8: reject' for the column",
    "empty_string": "Repair the value, or set 'empty_string: set_null' or 'empty_string: reject' for the column",
    "fraction": "Repair the value, or set 'fraction: round' or 'fraction: reject' for the column",
    "null_value": "Repair the value, or set 'null_value: reject' for the column",
    "unconvertible": "Repair the value, or set 'unconvertible: set_null' or 'unconvertible: reject' for the column",
    "out_of_range": "Repair the value, or set 'out_of_range: set_null' or 'out_of_range: reject' for the column",
    "sub_microsecond": "Repair the value, or set 'sub_microsecond' for the column: round, truncate, set_null or reject",
    "duplicate": "Repair the rows, or set 'duplicate: reject' for the column: all but the first are rejected",
    "repeated_key": "Repair the value, or set 'repeated_key' for the column: keep_last, set_null or reject",
    "rewritten": "Repair the value, or set 'rewritten' for the column: keep, set_null or reject",
    "duration_unit": f"Name 'duration_unit' for the column: {', '.join(DURATION_UNITS)}",
    "spelling": "Write it the same way in every row of the source",
}


class Offenders:
    """Collects the values that stop the run, by column and reason."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._found: dict[tuple[str, str, str], list[str]] = {}
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def add(self, table: str, columns: str, refused: Refused, key: str, shown: str | None) -> None:
        """Note one value; ``shown`` is None for a secret."""
        entry = (f"{table}.{columns}", refused.policy, refused.what)
        self._counts[entry] += 1
        examples = self._found.setdefault(entry, [])
        if len(examples) < SHOWN_KEYS:
            examples.append(key if shown is None else f"{key}: {shown}")

    def problems(self) -> list[Problem]:
        """Return one problem for each column and reason."""
        problems = []
        for (column, policy, what), examples in self._found.items():
            count = self._counts[(column, policy, what)]
            more = "" if count == len(examples) else f" and {count - len(examples):,} more"
            rows = "1 row" if count == 1 else f"{count:,} rows"
            problems.append(
                Problem(f"{self._file_name}: {column}", f"{what} ({rows}: {'; '.join(examples)}{more})", _FIXES[policy])
            )
        return problems
