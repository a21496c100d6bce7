"""The statements that the library's runner shares with schema_apply, by their path in the package."""

from __future__ import annotations

from ..migration.core.ledger import CREATE_LEDGER
from ..migration.postgres.schema import DESCRIBE_CATALOG

# From the one place where they stand, so that both runners write the same ledger.
SHARED_STATEMENTS = {
    "ledger/create_ledger.sql": CREATE_LEDGER,
    "ledger/describe_catalog.sql": DESCRIBE_CATALOG,
}
