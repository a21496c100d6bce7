"""What is known of single rows and may be as many as there are rows: SQLite keeps it, so that memory does not grow.

These are the values of a foreign key that lead nowhere, and what policies did to which row. Both lie in temporary
databases of SQLite, which only this process can open and which vanish with it; it holds a few pages of them in memory.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from itertools import zip_longest

from ...sqlite.tables import Value

# Rows whose changes are held in memory: below this no file is made.
_MOST_IN_MEMORY = 2_000


class MissingValues:
    """Values of a foreign key whose row does not exist, none of them NULL."""

    def __init__(self, columns: int, values: Iterable[Sequence[Value]]) -> None:
        """Note values.

        :param columns: number of columns of the key.
        """
        names = ", ".join(f"c{number}" for number in range(columns))
        marks = ", ".join("?" * columns)
        self._file = _private_file()
        # Without types, so that no value becomes another one.
        self._file.execute(f"CREATE TABLE missing ({names}, PRIMARY KEY ({names})) WITHOUT ROWID")
        self._insert = f"INSERT OR IGNORE INTO missing VALUES ({marks})"  # noqa: S608 (only question marks)
        self._find = f"SELECT 1 FROM missing WHERE ({names}) = ({marks})"  # noqa: S608 (our own names)
        self.update(values)

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return self._file.execute("SELECT 1 FROM missing LIMIT 1").fetchone() is not None

    def __contains__(self, values: Sequence[Value]) -> bool:
        """Return whether these are the values of a row that does not exist; NULL leads nowhere by itself."""
        return self._file.execute(self._find, [_marked(value) for value in values]).fetchone() is not None

    def update(self, more: Iterable[Sequence[Value]]) -> None:
        """Add values; a key with a NULL in it refers to nothing and is left out."""
        self._file.execute("BEGIN")
        self._file.executemany(
            self._insert, ([_marked(value) for value in values] for values in more if None not in values)
        )
        self._file.execute("COMMIT")

    def is_same(self, other: MissingValues) -> bool:
        """Return whether another file lacks the same rows."""
        rows = (each._file.execute("SELECT * FROM missing") for each in (self, other))
        return all(one == another for one, another in zip_longest(*rows))


class Changes(MutableMapping[str, dict[str, tuple[str, ...]]]):
    """Key of a row → source column → the policies' answers, in the order they were applied.

    What a mapping of it returns is a copy: a change of that is to be assigned again.
    """

    def __init__(self) -> None:
        """Begin with no row."""
        self._recent: dict[str, dict[str, tuple[str, ...]]] = {}
        self._file: sqlite3.Connection | None = None

    def __getitem__(self, key: str) -> dict[str, tuple[str, ...]]:
        """Return what was done to one row."""
        if key in self._recent:
            return dict(self._recent[key])
        found = None
        if self._file is not None:
            found = self._file.execute("SELECT answers FROM changes WHERE row_key = ?", (_raw(key),)).fetchone()
        if found is None:
            raise KeyError(key)
        return {column: tuple(answers) for column, answers in json.loads(found[0]).items()}

    def __setitem__(self, key: str, answers: dict[str, tuple[str, ...]]) -> None:
        """Note what was done to one row."""
        self._recent[key] = dict(answers)
        if len(self._recent) > _MOST_IN_MEMORY:
            self._spill()

    def __delitem__(self, key: str) -> None:
        """Forget one row."""
        known = self._recent.pop(key, None) is not None
        if self._file is not None:
            known |= self._file.execute("DELETE FROM changes WHERE row_key = ?", (_raw(key),)).rowcount > 0
        if not known:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        """Yield the key of every row, in no order."""
        self._spill()
        if self._file is not None:
            for (key,) in self._file.execute("SELECT row_key FROM changes"):
                yield key.decode("utf-8", "surrogateescape")

    def __len__(self) -> int:
        """Return the number of rows."""
        self._spill()
        return 0 if self._file is None else int(self._file.execute("SELECT count(*) FROM changes").fetchone()[0])

    def __bool__(self) -> bool:
        """Return whether there is any row."""
        found = bool(self._recent)
        if not found and self._file is not None:
            # Asked once for each row: it must not count them.
            found = self._file.execute("SELECT 1 FROM changes LIMIT 1").fetchone() is not None
        return found

    def _spill(self) -> None:
        """Move what is in memory into the file."""
        if not self._recent:
            return
        if self._file is None:
            self._file = _private_file()
            self._file.execute("CREATE TABLE changes (row_key BLOB PRIMARY KEY, answers TEXT) WITHOUT ROWID")
        self._file.execute("BEGIN")
        self._file.executemany(
            "INSERT OR REPLACE INTO changes VALUES (?, ?)",
            ((_raw(key), json.dumps(answers)) for key, answers in self._recent.items()),
        )
        self._file.execute("COMMIT")
        self._recent.clear()


def _private_file() -> sqlite3.Connection:
    """Return a database without a name: a private file that SQLite itself removes, of which it holds a few pages."""
    return sqlite3.connect("", isolation_level=None, check_same_thread=False)


def _marked(value: Value) -> Value:
    """Return a text as bytes, for it may hold some that are not UTF-8, and tell it from a BLOB."""
    if isinstance(value, str):
        return b"t" + value.encode("utf-8", "surrogateescape")
    return b"b" + value if isinstance(value, bytes) else value


def _raw(key: str) -> bytes:
    """Return a key as bytes: a text may hold some that are not UTF-8."""
    return key.encode("utf-8", "surrogateescape")
