"""What an object-relational mapper finds in a database: every row of every model, as plain data for JSON.

Recipes import it: it runs in the application's own environment.
"""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal
from enum import Enum
from typing import Any
from uuid import UUID

# normalize() rounds to 28 digits, unless it is told otherwise.
EXACT = Context(prec=10_000)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it, its type beside it where JSON has no such type."""
    if isinstance(value, Decimal):
        return f"Decimal {value.normalize(EXACT)}"
    if isinstance(value, float):
        return f"float {value!r}"
    if isinstance(value, (datetime, date, time, timedelta, UUID)):
        return f"{type(value).__name__} {value}"
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, (bytes, memoryview)):
        return f"bytes {bytes(value).hex()}"
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return repr(value) if not hasattr(value, "pk") else str(value.pk)


def in_order(rows: list[Any]) -> list[Any]:
    """Return rows in an order that no collation decides."""
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def of_django(*left_out: str) -> dict[str, list[Any]]:
    """Return model → rows of all models of a Django application.

    :param left_out: tables that are not asked for.
    """
    from django.apps import apps

    return {
        model._meta.label: in_order([plain(row) for row in model._base_manager.values()])
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed and not model._meta.proxy and model._meta.db_table not in left_out
    }


def of_sqlalchemy(session: Any, mappers: Any) -> dict[str, list[Any]]:
    """Return class → rows of all classes that SQLAlchemy maps."""
    return {
        mapper.class_.__name__: in_order(
            [
                {attribute.key: plain(getattr(row, attribute.key)) for attribute in mapper.column_attrs}
                for row in session.query(mapper.class_)
            ]
        )
        for mapper in sorted(mappers, key=lambda mapper: mapper.class_.__name__)
    }
