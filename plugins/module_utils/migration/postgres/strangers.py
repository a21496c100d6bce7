"""Which roles are strangers: what they own may hold code that would run with the rights of whoever uses it."""

from __future__ import annotations

# Whoever may become the owner of the database is as trusted as the owner; a superuser may always.
_IS_STRANGER = """
(SELECT NOT pg_has_role({0}, d.datdba,
                        CASE WHEN current_setting('server_version_num')::int < 160000
                             THEN 'MEMBER' ELSE 'USAGE, SET, MEMBER WITH ADMIN OPTION' END)
        AND {0} <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = 'pg_database_owner')
   FROM pg_database d WHERE d.datname = current_database())
"""


def is_stranger(role: str) -> str:
    """Return the SQL that tells whether a role is neither the owner of the database nor may become it.

    :param role: SQL of the role's oid.
    """
    return _IS_STRANGER.format(role)
