"""What the ledger's ``detail`` of a cutover group holds: the one place that knows its keys.

Everybody reads a :class:`GroupDetail`, and writes by the names of its fields through :func:`changes`. The keys in the
database stay as they are, so that a ledger which an earlier version has written can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from .clock import Clock


class Phase(StrEnum):
    """How far the last rollback of a group has come; the group's state says the rest, see :mod:`.core.decide`."""

    # There was none, or it did not come about.
    NONE = ""
    # Committed before the services stop. As long as the state is ``live``, PostgreSQL is the store.
    OPEN = "open"
    # Committed together with the state ``rolled_back`` and the write lock: SQLite is the store, its file is in place.
    COMMITTED = "committed"
    # The services have been seen healthy on SQLite.
    DONE = "done"
    # A later cutover has made PostgreSQL the store again.
    OVER = "over"


@dataclass(frozen=True)
class GroupDetail:
    """What the ledger knows of a group beside its state. Each field names its key in the database.

    :param loaded: target table → what our last run left in it: ``rows``, ``hash``, ``writers``.
    :param baseline: ``token`` of the baseline snapshot, and ``digest`` of how it was moved.
    :param ledger_content: sums of the rejected rows and original values in the ledger; None if no run
        has recorded them.
    :param rewritten_ids: source table → column → hash of the ids that the last run has rewritten in its texts.
    :param rehearsal: what the last rehearsal found.
    :param file_before: owner and mode of the SQLite file before its write protection.
    :param stopped_at: when a cutover stopped the services.
    :param proven: whether the services have been seen healthy on PostgreSQL since the cutover.
    :param checked: whether its functional checks have passed on PostgreSQL since the cutover.
    :param fingerprint: target table → what it held at the cutover: ``rows``, ``writers``, mostly ``hash``.
    :param clock: the cutover on every clock.
    :param restored_at: when the file came back from quarantine, as text in ISO 8601.
    :param rollback: the last rollback: ``phase``, ``stopped_at``, ``old_file``, ``exported_sha256``, ``rights``, and
        what its report takes over.
    :param archive: where cleanup has archived the file.
    :param own_schemas: the schemas that its services have ever owned: what is changed in these is theirs to change.
    """

    loaded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata={"key": "loaded"})
    baseline: Mapping[str, Any] = field(default_factory=dict, metadata={"key": "kept_snapshot"})
    ledger_content: Mapping[str, Any] | None = field(default=None, metadata={"key": "ledger_content"})
    rewritten_ids: Mapping[str, Mapping[str, str]] = field(default_factory=dict, metadata={"key": "rewritten_ids"})
    rehearsal: Mapping[str, Any] = field(default_factory=dict, metadata={"key": "rehearsal"})
    file_before: Mapping[str, Any] = field(default_factory=dict, metadata={"key": "fence"})
    stopped_at: datetime | None = field(default=None, metadata={"key": "stopped_at"})
    proven: bool = field(default=False, metadata={"key": "proven"})
    checked: bool = field(default=False, metadata={"key": "checked"})
    fingerprint: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, metadata={"key": "fingerprint"})
    clock: Clock | None = field(default=None, metadata={"key": "clock"})
    restored_at: str | None = field(default=None, metadata={"key": "restored_at"})
    rollback: Mapping[str, Any] = field(default_factory=dict, metadata={"key": "way_back"})
    archive: Mapping[str, Any] = field(default_factory=dict, metadata={"key": "archive"})
    own_schemas: tuple[str, ...] = field(default=(), metadata={"key": "own_schemas"})

    @classmethod
    def from_ledger(cls, data: Any) -> GroupDetail:
        """Return what the ledger's jsonb says; a key of another kind than it should be is as if it were not there."""
        found = data if isinstance(data, Mapping) else {}
        values: dict[str, Any] = {name: _mapping(found.get(key)) for name, key in KEYS.items()}
        restored_at = found.get(KEYS["restored_at"])
        values["ledger_content"] = values["ledger_content"] if KEYS["ledger_content"] in found else None
        values["stopped_at"] = _moment(found.get(KEYS["stopped_at"]))
        values["proven"] = bool(found.get(KEYS["proven"]))
        values["checked"] = bool(found.get(KEYS["checked"]))
        values["clock"] = Clock.from_dict(found.get(KEYS["clock"]))
        values["restored_at"] = str(restored_at) if restored_at else None
        schemas = found.get(KEYS["own_schemas"])
        values["own_schemas"] = tuple(map(str, schemas)) if isinstance(schemas, list) else ()
        return cls(**values)

    @property
    def phase(self) -> Phase:
        """Return how far the last rollback has come."""
        try:
            return Phase(self.rollback.get("phase", ""))
        except ValueError:
            return Phase.NONE


KEYS: Mapping[str, str] = {entry.name: entry.metadata["key"] for entry in fields(GroupDetail)}


def changes(**values: Any) -> dict[str, Any]:
    """Return fields of a :class:`GroupDetail` as the keys that are merged into the ledger's ``detail``.

    :raises KeyError: for a name that is no field.
    """
    return {KEYS[name]: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Clock):
        return value.as_dict()
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _moment(value: Any) -> datetime | None:
    """Return the moment that a text in ISO 8601 names, None if it names none."""
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
