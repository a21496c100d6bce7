"""Triggers and rules of the target tables, which must not act on rows that are moved.

What they would do (set a time, write a row elsewhere) has been done by the service when it wrote the row to SQLite,
or is the service's to do with new rows. Each is disabled by its name and enabled as it was, in the transaction of the
load: that asks only for the ownership of the table, which an owner has on a managed server too. The triggers that
enforce foreign keys are the server's own and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...core.connection import first_row, sql
from ...core.errors import MigrationError, Problem
from ..plan.planner import TablePlan

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.sql import Composable

# Those of a table's partitions too, which have triggers of their own. 'R' acts for a replica alone, 'D' never.
_ACTIVE = """
WITH relations AS (
  SELECT DISTINCT r.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT c.oid UNION SELECT relid::oid FROM pg_partition_tree(c.oid)) AS r (oid)
  WHERE n.nspname || '.' || c.relname = ANY (%s)
)
SELECT found.kind, n.nspname, c.relname, found.name, found.mode, pg_has_role(c.relowner, 'USAGE')
FROM (
  SELECT 'TRIGGER', tgrelid, tgname::text, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL
  SELECT 'RULE', ev_class, rulename::text, ev_enabled::text FROM pg_rewrite WHERE ev_type <> '1'
) AS found (kind, relation, name, mode)
JOIN relations r ON r.oid = found.relation
JOIN pg_class c ON c.oid = r.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE found.mode IN ('O', 'A')
ORDER BY 2, 3, 4
"""
# Most databases have none but the two rules of the server's own, and to plan the statement above takes its time.
_IS_ANY = """
SELECT EXISTS (SELECT FROM pg_trigger WHERE NOT tgisinternal)
       OR EXISTS (SELECT FROM pg_rewrite WHERE ev_type <> '1' AND ev_class <> 'pg_settings'::regclass)
"""
_ENABLE = {"O": "ENABLE", "A": "ENABLE ALWAYS"}


@dataclass(frozen=True)
class Trigger:
    """One trigger or rule that acts when a row is written.

    :param kind: ``TRIGGER`` or ``RULE``.
    :param mode: ``O`` or ``A``, as in ``pg_trigger.tgenabled``.
    :param is_ours: whether we may disable it.
    """

    kind: str
    schema: str
    table: str
    name: str
    mode: str
    is_ours: bool

    def __str__(self) -> str:
        """Return the trigger as a person reads it."""
        return f"{self.kind.lower()} {self.name} of {self.schema}.{self.table}"

    def set_to(self, action: str) -> Composable:
        """Return the statement that disables or enables it, and no other of the same name on a partition."""
        return sql.SQL("ALTER TABLE ONLY {} {} {} {}").format(
            sql.Identifier(self.schema, self.table), sql.SQL(action), sql.SQL(self.kind), sql.Identifier(self.name)
        )


def active_triggers(connection: Connection, plans: Sequence[TablePlan]) -> list[Trigger]:
    """Return the triggers and rules of the target tables that act when a row is written.

    :raises MigrationError: naming those that we may not disable.
    """
    with connection.cursor() as cursor:
        found = _read(cursor, plans)
    problems = [
        Problem(
            f"{trigger.schema}.{trigger.table}",
            f"its {trigger.kind.lower()} {trigger.name} would act on every row that is moved, and only the owner of "
            "the table can disable it",
            "Let the session_role of postgres_migrator_login own the table, or disable it by hand until the cutover",
        )
        for trigger in found
        if not trigger.is_ours
    ]
    if problems:
        raise MigrationError("Triggers of the target tables would change what is moved.", problems)
    return found


@contextmanager
def without_triggers(cursor: Any, plans: Sequence[TablePlan]) -> Iterator[None]:
    """Let no trigger and no rule of the target tables act on what is written meanwhile, in this transaction."""
    found = _read(cursor, plans)
    for trigger in found:
        cursor.execute(trigger.set_to("DISABLE"))
    yield
    if found:
        # A constraint that waits for the commit would keep the table from being altered.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for trigger in found:
        cursor.execute(trigger.set_to(_ENABLE[trigger.mode]))


def _read(cursor: Any, plans: Sequence[TablePlan]) -> list[Trigger]:
    """Read the active triggers and rules from the catalog."""
    cursor.execute(_IS_ANY)
    if not first_row(cursor)[0]:
        return []
    cursor.execute(_ACTIVE, ([plan.target.name for plan in plans],))
    return [Trigger(*row) for row in cursor.fetchall()]
