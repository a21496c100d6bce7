"""What is looked at before a backup, a drill or a restore begins: rights, roles and room. All gaps at once."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.commands import playbook
from ..core.connection import first_row
from ..core.errors import MigrationError, Problem
from ..core.ledger import LOCK_CLASS
from ..postgres.foreign_objects import read_foreign_objects
from .content import UNREADABLE
from .settings import Settings

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

_SHOWN = 20
FREE_SPACE = "Free space there, or lower postgres_backup_reserve_megabytes"


def free_bytes(path: Path) -> int:
    """Return how many bytes anybody but root may still write on the disk of a path."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def require_owner(directory: Path) -> None:
    """Refuse to write as anybody but the owner of the directory, who could not read it then.

    :raises MigrationError: naming both.
    """
    owner, own = directory.stat().st_uid, os.geteuid()
    if own != owner:
        what = f"belongs to user {_user(owner)}, and this runs as user {_user(own)}"
        fix = f"Run it as that user: runuser -u {_user(owner)} -- …, or start postgres-backup.service"
        raise MigrationError("This is not the user of the backups.", [Problem(str(directory), what, fix)])


def _user(number: int) -> str:
    """Return the name of an operating system's user, or the number of one without a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def require_room_for_dump(settings: Settings) -> None:
    """Refuse to begin a dump on a disk that has not even its reserve. How large it will be, nobody can say before.

    :raises MigrationError: naming the disk.
    """
    free = free_bytes(settings.directory)
    if free < settings.reserve_bytes:
        what = f"{free:,} bytes are free, and {settings.reserve_bytes:,} are to stay free"
        raise MigrationError("There is no room for a backup.", [Problem(str(settings.directory), what, FREE_SPACE)])


def server_disk(cursor: Cursor) -> Path | None:
    """Return where the server creates databases, None if it is on another host or does not let us see it."""
    cursor.execute("SELECT setting, pg_backend_pid() FROM pg_settings WHERE name = 'data_directory'")
    row = cursor.fetchone()
    if row is None or not row[0]:
        return None
    path = Path(row[0])
    try:
        # A session's process works in the data directory: that proves that it is the one of that name on this host.
        if not os.path.samefile(f"/proc/{row[1]}/cwd", path):
            return None
        free_bytes(path / "base")
    except OSError:
        return None
    return path / "base"


def read_needs(cursor: Cursor) -> dict[str, Any]:
    """Return what a restore of the present database needs of its server.

    These are ``database_bytes``, ``roles``, ``owners`` (the roles that a restore makes owners of something), and
    ``foreign_objects``, see :func:`read_foreign_objects`.
    """
    # An extension and what it brings belong to whoever restores them. What a session has for itself is in no dump.
    cursor.execute(
        """
        WITH this AS (SELECT oid FROM pg_database WHERE datname = current_database()),
        used AS (
          SELECT refobjid AS oid,
                 CASE WHEN deptype = 'o' AND dbid = this.oid
                           AND classid NOT IN ('pg_extension'::regclass, 'pg_user_mapping'::regclass)
                      THEN coalesce((pg_identify_object(classid, objid, 0)).schema, '') !~ '^pg_(toast_)?temp'
                           AND NOT EXISTS (SELECT FROM pg_depend e
                                           WHERE e.classid = s.classid AND e.objid = s.objid AND e.deptype = 'e')
                      ELSE false END AS owns
            FROM pg_shdepend s, this
           WHERE refclassid = 'pg_authid'::regclass
             AND (dbid = this.oid OR dbid = 0 AND classid = 'pg_database'::regclass AND objid = this.oid)
          UNION
          SELECT setrole, false FROM pg_db_role_setting, this WHERE setdatabase = this.oid AND setrole <> 0
        )
        SELECT pg_database_size(current_database()),
               array(SELECT DISTINCT rolname::text FROM pg_roles JOIN used USING (oid) ORDER BY 1),
               array(SELECT DISTINCT rolname::text FROM pg_roles JOIN used USING (oid) WHERE owns ORDER BY 1)
        """
    )
    size, roles, owners = first_row(cursor)
    return {
        "database_bytes": int(size),
        "roles": roles,
        "owners": owners,
        "foreign_objects": read_foreign_objects(cursor),
    }


def require_room_to_restore(settings: Settings, cursor: Cursor, manifest: Mapping[str, Any]) -> Path | None:
    """Return where the restored database will lie, if that is on this host; refuse if it would not fit there.

    A disk that a restore fills takes the whole server down, so the size is the database's when it was backed up, with
    the room that its deleted rows took: more than the restored one needs, never less.

    :raises MigrationError: naming the disk.
    """
    disk, needed = server_disk(cursor), int(manifest.get("database_bytes", 0))
    if disk is None:
        return None
    free = free_bytes(disk)
    if free < needed + settings.reserve_bytes:
        what = (
            f"{free:,} bytes are free; the database had {needed:,} when it was backed up, "
            f"and {settings.reserve_bytes:,} are to stay free"
        )
        raise MigrationError(
            f"There is no room to restore backup {manifest['name']}.", [Problem(str(disk), what, FREE_SPACE)]
        )
    return disk


def require_readable(connection: Connection) -> None:
    """Refuse to take a backup as a role that cannot read everything, in the session that dumps.

    :raises MigrationError: naming every table and sequence.
    """
    with connection.cursor() as cursor:
        cursor.execute(UNREADABLE)
        found = cursor.fetchall()
    connection.rollback()
    if found:
        role = found[0][2]
        fix = f"Give it to the owner of the database, or to {role} the right to read all of it"
        problems = [Problem(name, what, fix) for name, what, _ in found[:_SHOWN]]
        if len(found) > _SHOWN:
            problems.append(Problem("the database", f"{len(found) - _SHOWN} more like these", fix))
        raise MigrationError(f"Role {role} cannot read all that a backup holds.", problems)


def _trusting(name: str, role: str) -> str:
    """Return the command that restores a backup and runs what this role owns in it."""
    return playbook("restore", postgres_backup_restore_name=name, postgres_backup_restore_trusts=role)


def require_rights(cursor: Cursor, manifest: Mapping[str, Any], swapped: str | None = None) -> None:
    """Refuse to restore without the rights or roles it needs, as the role that logs in.

    :param cursor: of a session in the maintenance database.
    :param swapped: the database that the restored one is to replace, None for a drill.
    :raises MigrationError: naming every right and role, with the statement that gives it.
    """
    owner = manifest["properties"]["owner"]
    cursor.execute(
        """
        SELECT r.rolname::text, r.rolsuper, r.rolcreatedb, quote_ident(r.rolname),
               -- Who is to own the database, or something in it.
               array(SELECT quote_ident(s.rolname) FROM pg_roles s
                      WHERE s.rolname = ANY (%(owners)s)
                        AND NOT pg_has_role(s.oid, CASE WHEN current_setting('server_version_num')::int < 160000
                                                        THEN 'MEMBER' ELSE 'SET' END) ORDER BY 1),
               pg_has_role('pg_signal_backend', 'USAGE')
               -- A member of a role may end its sessions too.
               OR NOT EXISTS (SELECT FROM pg_roles s JOIN pg_database d ON d.datname = %(swapped)s
                               WHERE s.rolcanlogin AND NOT s.rolsuper
                                 AND has_database_privilege(s.oid, d.oid, 'CONNECT')
                                 AND NOT pg_has_role(s.oid, 'USAGE')),
               array(SELECT name FROM unnest(%(roles)s::text[]) AS name WHERE to_regrole(quote_ident(name)) IS NULL
                      ORDER BY 1),
               array(SELECT DISTINCT s.rolname::text FROM pg_stat_activity a JOIN pg_roles s ON s.oid = a.usesysid
                      WHERE a.datname = %(swapped)s AND s.rolsuper ORDER BY 1),
               array(SELECT gid FROM pg_prepared_xacts WHERE database = %(swapped)s ORDER BY 1),
               array(SELECT DISTINCT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
                      WHERE d.datname = %(swapped)s AND l.locktype = 'advisory' AND l.classid::bigint = %(class)s
                      ORDER BY 1)
        FROM pg_roles r WHERE r.rolname = current_user
        """,
        {
            "owners": sorted({owner, *manifest.get("owners", ())}),
            "roles": sorted({owner, *manifest.get("roles", ())}),
            "swapped": swapped,
            "class": LOCK_CLASS,
        },
    )
    row = first_row(cursor)
    name, is_super, may_create, quoted, owners, may_end, unknown, supers, prepared, running = row
    problems = [
        Problem(
            f"role {role}",
            "does not exist on this server, and something in the backup is its",
            f"Run {playbook('1_infrastructure')}, or make it as roles.sql of {manifest['name']} does",
        )
        for role in unknown
    ]
    problems += [
        Problem(f"prepared transaction {gid}", f"is open in database {swapped}", "Commit it or roll it back")
        for gid in prepared
    ]
    problems += [
        Problem(f"session {pid}", f"of another run is at work in database {swapped}", "Wait until it has ended")
        for pid in running
    ]
    # A CHECK, a domain or a generated column calls its functions while the rows are loaded, with the rights of our
    # session. A backup without the list is from a version under which no service could make anything of its own.
    problems += [
        Problem(
            str(what),
            f"belongs to {whose}, and a restore would run its code with the rights of {name}",
            f"Read it; if you trust it, give it to {owner} with ALTER … OWNER TO, else drop it; then take a new backup."
            f" To restore this one as it is, name all roles whose code may run: {_trusting(manifest['name'], whose)}",
        )
        for what, whose in manifest.get("foreign_objects", ())
    ]
    if not is_super:
        where = f"role {name}"
        if not may_create:
            problems.append(Problem(where, "may not create databases", f"ALTER ROLE {quoted} CREATEDB;"))
        problems += [
            Problem(where, f"may not make {role} the owner of what is restored", f"GRANT {role} TO {quoted};")
            for role in owners
        ]
        if swapped is not None and not may_end:
            what = "may not end the sessions of other roles"
            problems.append(Problem(where, what, f"GRANT pg_signal_backend TO {quoted};"))
        problems += [
            Problem(f"superuser {role}", f"has sessions in {swapped}, which {name} may not end", "End them, then go on")
            for role in supers
        ]
    if problems:
        raise MigrationError(f"Backup {manifest['name']} cannot be restored as role {name}.", problems)
