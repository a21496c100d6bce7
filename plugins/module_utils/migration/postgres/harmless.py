"""Which objects of a role run none of its code with the rights of whoever restores them.

A restore fills the tables before it makes their triggers, rules and policies, and writes nothing after that. A view is
only made; a materialized view is filled with the rights of its owner. So a function may stand in all of these. It may
not stand where a COPY, a foreign key's check or the planner evaluates it: an expression of a table or a type is
harmless if it is made of what the server itself brings, and calls nothing that could act.
"""

from __future__ import annotations

from .strangers import is_stranger

# Parts of an expression, by the names that the server gives them; some differ between its versions. Others, as those
# that call what they do not name, are taken for code.
_HARMLESS_PARTS = (
    "ARRAY", "ARRAYEXPR", "ARRAYCOERCEEXPR", "BOOLEANTEST", "BOOLEXPR", "CASE", "CASEEXPR", "CASETESTEXPR", "CASEWHEN",
    "COALESCE", "COALESCEEXPR", "COERCETODOMAIN", "COERCETODOMAINVALUE", "COERCEVIAIO", "COLLATE", "COLLATEEXPR",
    "CONST", "DISTINCTEXPR", "FUNCEXPR", "MINMAX", "MINMAXEXPR", "NEXTVALUEEXPR", "NULLIFEXPR", "NULLTEST", "OPEXPR",
    "RELABELTYPE", "SCALARARRAYOPEXPR", "SQLVALUEFUNCTION", "SUBSCRIPTINGREF", "VAR", "WHEN",
)  # fmt: skip

# With each expression whether it is evaluated: the planner evaluates those of indexes, statistics and partition keys
# for every reader, as far as they are constant; a COPY evaluates checks and generated columns. Of a default only what
# is immutable is ever evaluated while rows are copied, and that cannot act if it is the server's own.
_EXPRESSIONS = """
SELECT 'pg_class'::regclass::oid AS classid, k.conrelid AS objid, k.conbin::text AS tree, true AS evaluated
FROM pg_constraint k WHERE k.conrelid <> 0
UNION ALL
SELECT 'pg_type'::regclass, k.contypid, k.conbin::text, true FROM pg_constraint k WHERE k.contypid <> 0
UNION ALL
SELECT 'pg_type'::regclass, t.oid, t.typdefaultbin::text, false FROM pg_type t
UNION ALL
SELECT 'pg_class'::regclass, d.adrelid, d.adbin::text, a.attgenerated <> ''
FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
UNION ALL
SELECT 'pg_class'::regclass, i.indrelid, concat(i.indexprs::text, i.indpred::text), true FROM pg_index i
UNION ALL
SELECT 'pg_class'::regclass, p.partrelid, p.partexprs::text, true FROM pg_partitioned_table p
UNION ALL
SELECT 'pg_statistic_ext'::regclass, s.oid, s.stxexprs::text, true FROM pg_statistic_ext s
"""

# What uses a function or a view, and is itself a stranger's or only made: a trigger and a policy are. What a role that
# is no stranger has made of them, such as a materialized view, would run with the rights of that role.
_IS_USED_HARMLESSLY = f"""
(x.classid IN ('pg_trigger'::regclass, 'pg_policy'::regclass)
 OR x.deptype = 'i'
 OR x.classid = 'pg_rewrite'::regclass
    AND (SELECT {is_stranger("v.relowner")}
           FROM pg_rewrite w JOIN pg_class v ON v.oid = w.ev_class WHERE w.oid = x.objid)
 OR x.classid = 'pg_proc'::regclass AND (SELECT {is_stranger("u.proowner")} FROM pg_proc u WHERE u.oid = x.objid))
"""  # noqa: S608 (constants)

_IS_HARMLESS = f"""
(CASE {{0}} WHEN 'pg_class'::regclass THEN EXISTS (
          SELECT FROM pg_class c
          WHERE c.oid = {{1}}
            AND (c.relkind IN ('r', 'p', 'c')
                 OR c.relkind IN ('v', 'm') AND NOT EXISTS (
                      SELECT FROM pg_depend x
                      WHERE x.refclassid = 'pg_class'::regclass AND x.refobjid = c.oid AND NOT {_IS_USED_HARMLESSLY})))
        WHEN 'pg_proc'::regclass THEN EXISTS (
          SELECT FROM pg_proc p WHERE p.oid = {{1}} AND p.prokind IN ('f', 'p'))
          AND NOT EXISTS (
            SELECT FROM pg_depend x
            WHERE x.refclassid = 'pg_proc'::regclass AND x.refobjid = {{1}} AND NOT {_IS_USED_HARMLESSLY})
        WHEN 'pg_type'::regclass THEN EXISTS (
          SELECT FROM pg_type t WHERE t.oid = {{1}} AND t.typtype IN ('c', 'd', 'e'))
        ELSE {{0}} = 'pg_statistic_ext'::regclass END
 AND NOT EXISTS (
  SELECT FROM ({_EXPRESSIONS}) AS e
  WHERE e.classid = {{0}} AND e.objid = {{1}} AND e.tree <> ''
    AND (EXISTS (SELECT FROM regexp_matches(e.tree, '\\{{{{([A-Z_]+)', 'g') AS part
                 WHERE part[1] <> ALL (ARRAY[{", ".join(f"'{part}'" for part in _HARMLESS_PARTS)}]))
         OR EXISTS (SELECT FROM (
                      SELECT match[1]::oid AS oid
                      FROM regexp_matches(e.tree, ':(?:funcid|opfuncid|hashfuncid|negfuncid) (\\d+)', 'g') AS match
                      UNION
                      SELECT o.oprcode::oid
                      FROM regexp_matches(e.tree, ':opno (\\d+)', 'g') AS match
                      JOIN pg_operator o ON o.oid = match[1]::oid
                    ) AS called LEFT JOIN pg_proc p ON p.oid = called.oid
                    WHERE called.oid <> 0
                      AND (p.oid IS NULL OR e.evaluated AND p.provolatile <> 'i'
                           -- What initdb has made, and what an extension brings from the server's files.
                           OR p.oid >= 16384 AND NOT EXISTS (
                             SELECT FROM pg_depend x
                             WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid AND x.deptype = 'e'))))))
"""  # noqa: S608 (constants)


def is_harmless(catalog: str, object_id: str) -> str:
    """Return the SQL that tells whether a stranger's object runs none of its code in a restore.

    :param catalog: SQL of the oid of the catalog that the object is in.
    :param object_id: SQL of the object's oid there.
    """
    return _IS_HARMLESS.format(catalog, object_id)
