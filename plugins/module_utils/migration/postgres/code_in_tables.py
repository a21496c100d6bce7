"""When sessions of ours may read tables that a service may change: what in them could run code of somebody else.

A service that migrates itself owns its tables from its cutover on, and can put its own functions into them. So whoever
of us reads one first locks it against every change of its shape, and then looks: nothing in it may call anything but
the server's own functions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..core.connection import connected, first_row, psycopg2, sql
from ..core.errors import Problem
from ..core.sql import table_name
from .harmless import is_harmless
from .strangers import find_strangers_code, is_stranger

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor

    from ..core.connection import Login
    from ..core.estate import Group

_LOCK_SECONDS = 30.0
_ROUNDS = 5
_FIX = "Drop it, as its owner or a superuser; if the service has made it, by the service's own down-migration"

# What gives a value that nobody can misuse. Every other function that is not immutable could read or do something with
# the rights of whoever inserts a row, as query_to_xml does.
_DEFAULTS = (
    "clock_timestamp", "concat", "concat_ws", "date", "date_part", "date_trunc", "extract", "gen_random_bytes",
    "gen_random_uuid", "gen_salt", "interval", "nextval", "now", "random", "statement_timestamp", "text", "time",
    "timeofday", "timestamp", "timestamptz", "timetz", "timezone", "to_char", "to_timestamp", "transaction_timestamp",
    "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "uuidv4", "uuidv7",
)  # fmt: skip

# The tables with their partitions and what they are partitions of, and what their foreign keys refer to: a comparison
# reads it too.
_NAMED = """
WITH named AS (
  SELECT name, to_regclass(name)::oid AS oid FROM unnest(%(tables)s::text[]) AS name
), parts AS (
  SELECT name, oid FROM named WHERE oid IS NOT NULL
  UNION SELECT n.name, t.relid::oid FROM named n CROSS JOIN LATERAL pg_partition_tree(n.oid) AS t
  UNION SELECT n.name, t.relid::oid FROM named n CROSS JOIN LATERAL pg_partition_ancestors(n.oid) AS t
  UNION SELECT n.name, k.confrelid FROM named n JOIN pg_constraint k ON k.conrelid = n.oid WHERE k.contype = 'f'
)
"""

_RELATED = (
    _NAMED
    + f"""
SELECT DISTINCT quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       {is_stranger("c.relowner")} OR {is_stranger("n.nspowner")}
FROM parts p JOIN pg_class c ON c.oid = p.oid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1
"""  # noqa: S608 (SQL of ours)
)

_ACTING = """
SELECT pr.oid::regprocedure::text
FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
CROSS JOIN LATERAL (
  SELECT match[1]::oid AS oid FROM regexp_matches(d.adbin::text, ':(?:funcid|opfuncid) (\\d+)', 'g') AS match
  UNION
  SELECT o.oprcode::oid FROM regexp_matches(d.adbin::text, ':opno (\\d+)', 'g') AS match
  JOIN pg_operator o ON o.oid = match[1]::oid
) AS called JOIN pg_proc pr ON pr.oid = called.oid
WHERE d.adrelid = l.oid AND a.attgenerated = '' AND pr.provolatile <> 'i' AND pr.proname <> ALL (%(defaults)s)
"""

_UNFIT = (
    _NAMED  # noqa: S608 (SQL of ours)
    + f"""
, looked_at AS (
  SELECT p.name, c.oid, c.relkind, c.relispartition, c.relforcerowsecurity, i.type, i.identity
  FROM parts p JOIN pg_class c ON c.oid = p.oid
  CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) AS i
  WHERE %(whosever)s OR {is_stranger("c.relowner")}
)
SELECT l.name, l.type || ' ' || l.identity || ' stands where a table was'
FROM looked_at AS l WHERE l.relkind NOT IN ('r', 'p')
UNION
SELECT l.name, 'table ' || l.identity || ' inherits from another one, or another one from it'
FROM looked_at AS l JOIN pg_inherits h ON l.oid IN (h.inhrelid, h.inhparent)
JOIN pg_class child ON child.oid = h.inhrelid WHERE NOT child.relispartition
UNION
SELECT l.name, 'table ' || l.identity || ' forces row level security on whoever reads it'
FROM looked_at AS l WHERE l.relforcerowsecurity
UNION
SELECT l.name, 'an index, a check, a default or a generated column of table ' || l.identity
               || ' calls a function that is not the server''s own, or not always gives the same'
FROM looked_at AS l WHERE l.relkind IN ('r', 'p') AND NOT {is_harmless("'pg_class'::regclass::oid", "l.oid")}
UNION
SELECT l.name, 'statistics on table ' || l.identity || ' call a function that is not the server''s own'
FROM looked_at AS l JOIN pg_statistic_ext st ON st.stxrelid = l.oid
WHERE NOT {is_harmless("'pg_statistic_ext'::regclass::oid", "st.oid")}
UNION
SELECT l.name, 'a default of table ' || l.identity || ' calls ' || acting.called
FROM looked_at AS l CROSS JOIN LATERAL ({_ACTING}) AS acting (called) WHERE %(loaded)s
ORDER BY 1, 2
"""  # noqa: S608 (SQL of ours)
)

# To ask for its last value locks a sequence until the transaction ends, by its oid: nothing else can take its name.
_LOCK_SEQUENCES = (
    _NAMED  # noqa: S608 (SQL of ours)
    + """
SELECT count(pg_sequence_last_value(s.oid)) FROM pg_class s
WHERE s.relkind = 'S' AND s.relnamespace IN (SELECT c.relnamespace FROM parts p JOIN pg_class c ON c.oid = p.oid)
"""
)

_ACTS = f"""
(EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = {{0}} AND w.ev_type <> '1')
 OR EXISTS (SELECT FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
            WHERE t.tgrelid IN (SELECT {{0}} UNION SELECT relid FROM pg_partition_tree({{0}}))
              -- A condition may call what its trigger does not.
              AND NOT t.tgisinternal AND (t.tgqual IS NOT NULL OR {is_stranger("f.proowner")})))
"""  # noqa: S608 (SQL of ours)

_ACTS_THERE = f"SELECT {_ACTS.format('to_regclass(%(table)s)')}"

# What a change of the tables' rows leads to through foreign keys, with whether it acts there or may come to. The server
# changes and reads rows there as the owner, but runs a trigger after the statement or at the commit as whoever began.
_LED_TO = (
    _NAMED.replace("WITH", "WITH RECURSIVE")  # noqa: S608
    + f"""
, led_to (oid) AS (
  SELECT oid FROM named WHERE oid IS NOT NULL
  UNION
  SELECT next.oid FROM led_to CROSS JOIN LATERAL (
    SELECT k.conrelid FROM pg_constraint k WHERE k.confrelid = led_to.oid AND k.contype = 'f'
    UNION ALL SELECT h.inhrelid FROM pg_inherits h WHERE h.inhparent = led_to.oid
  ) AS next (oid)
)
SELECT n.nspname || '.' || c.relname,
       {_ACTS.format("c.oid")}
       OR {is_stranger("c.relowner")} AND c.relowner NOT IN (SELECT o.relowner FROM named JOIN pg_class o USING (oid))
FROM led_to JOIN pg_class c ON c.oid = led_to.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT EXISTS (SELECT FROM named WHERE c.oid = named.oid
                  OR c.oid IN (SELECT relid FROM pg_partition_tree(named.oid)))
ORDER BY 1
"""  # noqa: S608 (SQL of ours)
)


def own_tables(group: Group) -> list[str]:
    """Return the target tables of a group that lie in a schema of a service that migrates itself."""
    schemas = {schema for service in group.services if service.migrates_itself for schema in service.schemas}
    return sorted({mapping.target for mapping in group.tables if mapping.target_schema in schemas})


def find_code(cursor: Cursor, tables: Iterable[str], whosever: bool = False, loaded: bool = False) -> list[Problem]:
    """Return what in some tables could run code of whoever owns them, each named with its table.

    Only what is locked against a change of its shape stays as it was found.

    :param tables: their names as ``schema.table``; what is not there is left out.
    :param whosever: look at those of ours too, because they are to be given away.
    :param loaded: rows are to be inserted with our rights, which evaluates defaults.
    """
    names = {table_name(name).as_string(cursor): name for name in tables}
    cursor.execute(
        "SELECT DISTINCT pg_get_userbyid(c.relowner)::text FROM pg_class c "
        "WHERE c.oid = ANY (SELECT to_regclass(name)::oid FROM unnest(%s::text[]) AS name)",
        (list(names),),
    )
    owners = [role for (role,) in cursor.fetchall()]
    found = find_strangers_code(cursor, names.values(), table_owners=owners)
    cursor.execute(_UNFIT, {"tables": list(names), "whosever": whosever, "loaded": loaded, "defaults": list(_DEFAULTS)})
    told = {problem.where for problem in found}
    found += [
        Problem(names[name], f"{what}, and would run with our rights", f"{_FIX}. Then run again")
        for name, what in cursor.fetchall()
        # A function that is named is the one that such a line speaks of.
        if not (names[name] in told and "calls a function" in what)
    ]
    return found


def find_reacting(cursor: Cursor, tables: Collection[str]) -> list[Problem]:
    """Return what could run code of others where rows of some tables are deleted: foreign keys lead to more tables.

    :param tables: their names as ``schema.table``; their own triggers are disabled while they are loaded.
    """
    names = [table_name(name).as_string(cursor) for name in tables]
    cursor.execute(_LED_TO, {"tables": names})
    led_to = cursor.fetchall()
    what = "it has a trigger, a rule or another owner, and a foreign key leads to it from a table that we write to"
    return [
        *(
            Problem(name, f"{what}: its code would run with our rights", f"{_FIX}. Then run again")
            for name, is_acting in led_to
            if is_acting
        ),
        *find_code(cursor, [name for name, _ in led_to], loaded=True),
    ]


def look(cursor: Cursor, group: Group, seconds: float = _LOCK_SECONDS, loaded: bool = False) -> list[Problem]:
    """Lock a group's tables that a service may change, until the transaction ends, and return what code is in them.

    The tables of other groups are ours, and nothing is locked.

    :param seconds: how long to wait for a change that is under way.
    :param loaded: they are to be ours again, as before a rollback.
    """
    tables = [mapping.target for mapping in group.tables]
    own = set(own_tables(group))
    related = _related(cursor, tables)
    if not own and not any(is_strange for _, is_strange in related):
        return []
    cursor.execute("SAVEPOINT look")
    try:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", (f"{int(seconds * 1000)}ms",))
        # With the tables that a foreign key has come to refer to meanwhile.
        for _ in range(_ROUNDS):
            for name, _ in related:
                cursor.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(sql.SQL(name)))
            cursor.execute(_LOCK_SEQUENCES, {"tables": [table_name(name).as_string(cursor) for name in tables]})
            before, related = related, _related(cursor, tables)
            if related == before:
                break
        else:
            raise psycopg2.errors.LockNotAvailable
        cursor.execute("SELECT set_config('lock_timeout', '0', true)")
        # No snapshot can be exported from within it.
        cursor.execute("RELEASE SAVEPOINT look")
    except (
        psycopg2.errors.LockNotAvailable,
        psycopg2.errors.DeadlockDetected,
        psycopg2.errors.UndefinedTable,
        psycopg2.errors.WrongObjectType,
    ):
        cursor.execute("ROLLBACK TO SAVEPOINT look")
        what = "its tables are changed at this moment: they could not be locked against a change of their shape"
        return [Problem(f"cutover group {group.name}", what, "Wait until the service has migrated, then run again")]
    return find_code(cursor, tables, loaded=loaded) + (find_reacting(cursor, tables) if loaded else [])


class Held(NamedTuple):
    """What a session that holds a group's tables has found.

    :param code: what in them could run code of their owners; then nobody of us may read them.
    :param is_services: whether a service owns some of them, so that they may have another shape than at the cutover.
    """

    code: list[Problem]
    is_services: bool


@contextmanager
def held_still(login: Login, group: Group, loaded: bool = False) -> Iterator[Held]:
    """Keep the tables that a service may change as they are, in a session of its own, and give what is in them.

    Whoever reads them does so inside, and only if no code was found.

    :param loaded: as that of :func:`look`.
    """
    with connected(login) as connection, connection.cursor() as cursor:
        code = look(cursor, group, loaded=loaded)
        related = _related(cursor, [mapping.target for mapping in group.tables])
        yield Held(code, any(is_strange for _, is_strange in related))
        connection.rollback()


def _related(cursor: Cursor, tables: Iterable[str]) -> list[tuple[str, bool]]:
    """Return each table that is there or is read along with one, by its name in SQL, and whether it is a stranger's."""
    cursor.execute(_RELATED, {"tables": [table_name(name).as_string(cursor) for name in tables]})
    return cursor.fetchall()


def acts(cursor: Cursor, table: str) -> bool:
    """Return whether a row that is written to a table starts a rule, or a trigger with code of a stranger."""
    cursor.execute(_ACTS_THERE, {"table": table_name(table).as_string(cursor)})
    return bool(first_row(cursor)[0])
