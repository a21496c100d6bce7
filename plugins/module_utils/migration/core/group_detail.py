"""What the ledger's ``detail`` of a cutover group holds, by its keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import ledger

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

# What the last rehearsal found.
REHEARSAL = "rehearsal"
# The last rollback, and how far it came; see :mod:`.window.rollback_record`.
ROLLBACK = "way_back"
OPEN, COMMITTED, DONE, OVER = "open", "committed", "done", "over"


def rights_taken(connection: Connection) -> list[dict[str, Any]]:
    """Return the rights that way backs have taken and no cutover has given back, see :mod:`.postgres.write_lock`."""
    if not ledger.exists(connection):
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT detail -> %s -> 'rights' FROM migration.cutover_group WHERE detail -> %s ->> 'phase' = ANY (%s)",
            (ROLLBACK, ROLLBACK, [COMMITTED, DONE]),
        )
        return [right for (rights,) in cursor.fetchall() for right in rights or ()]
