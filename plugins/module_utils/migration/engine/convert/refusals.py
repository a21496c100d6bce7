"""What every converter of a value is: its types, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...sqlite.tables import Value

if TYPE_CHECKING:
    from ..plan.planner import ColumnPlan

Convert = Callable[[Value], "str | None"]
Note = Callable[[str], None]

TOO_LONG_ROW = "makes its row longer than PostgreSQL can read"
UNCLEAR_ID = (
    "holds an id that stands in two of the tables of 'rewrite_ids_of', or whose UUID has two spellings there: nobody "
    "can tell which row it means"
)


class Refused(Exception):
    """A value that its target column cannot hold as it is.

    :param policy: the policy of :data:`.core.estate.POLICIES` that may answer for it.
    :param what: what is wrong, without the value itself.
    :param text: what PostgreSQL reads if the policy lets the value pass.
    :param characters: length of a text that is too long, 0 for other values.
    """

    def __init__(self, policy: str, what: str, text: str | None = None, characters: int = 0) -> None:
        super().__init__(what)
        self.policy = policy
        self.what = what
        self.text = text
        self.characters = characters

    @property
    def of_this_value(self) -> str:
        """Return what is wrong with this one value."""
        return f"{self.what}: {self.characters:,}" if self.characters else self.what


def storage_class(value: Value) -> str:
    """Return SQLite's name of a value's storage class."""
    if value is None:
        return "null"
    return {int: "integer", float: "real", str: "text", bytes: "blob"}[type(value)]


def needs(column: ColumnPlan, value: Value) -> Refused:
    """Return the refusal of a value whose storage class does not fit the target's type."""
    return Refused("unconvertible", f"holds {storage_class(value)} where {column.display_type} is needed")
