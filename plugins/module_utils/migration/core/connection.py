"""One way to open a connection to PostgreSQL, and one translation of its failures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .commands import playbook
from .errors import MigrationError, Problem

# The one guard: on a bare host, before postgres_install has run, everything can be imported without psycopg2, and
# connect() reports that it is missing. Whoever needs a name of psycopg2's takes it from here.
try:
    import psycopg2 as psycopg2
    import psycopg2.extensions
    from psycopg2 import sql as sql
    from psycopg2.extensions import make_dsn as make_dsn
    from psycopg2.extras import Json as Json

    HAS_PSYCOPG2 = True
except ImportError:
    psycopg2 = sql = make_dsn = Json = None  # type: ignore[assignment,misc]
    HAS_PSYCOPG2 = False

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection
    from psycopg2.extensions import cursor as Cursor

# The Ansible arguments that every module of ours takes for its connection. The names are those
# of community.postgresql.
LOGIN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "login_host": {"type": "str", "default": "127.0.0.1"},
    "login_port": {"type": "int", "default": 5432},
    "login_db": {"type": "str", "required": True},
    "login_user": {"type": "str", "required": True},
    "login_password": {"type": "str", "no_log": True},
    "session_role": {"type": "str"},
    "ssl_mode": {
        "type": "str",
        "default": "prefer",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
    },
    "ca_cert": {"type": "path"},
    "connect_timeout": {"type": "int", "default": 10},
}
# The argument that says how the services reach the server.
SERVICES_LOGIN_ARGUMENT: dict[str, Any] = {
    "type": "dict",
    "required": True,
    "options": {
        "host": {"type": "str", "required": True},
        "port": {"type": "int", "default": 5432},
        "database": {"type": "str", "required": True},
        "ssl_mode": {**LOGIN_ARGUMENTS["ssl_mode"]},
        "ca_certificate": {"type": "str"},
    },
}


@dataclass(frozen=True)
class Login:
    """Where the server is and who we are there.

    :param host: host name, address, or directory of the Unix socket.
    :param session_role: role to ``SET ROLE`` to after the login, usually the owner of the tables.
    :param connect_timeout: seconds.
    """

    host: str
    port: int
    database: str
    user: str
    password: str | None = field(default=None, repr=False)
    session_role: str | None = None
    ssl_mode: str = "prefer"
    ca_cert: str | None = None
    connect_timeout: int = 10

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Login:
        """Build a login from module arguments named as in :data:`LOGIN_ARGUMENTS`; an empty text is as none."""
        return cls(
            host=arguments["login_host"],
            port=arguments["login_port"],
            database=arguments["login_db"],
            user=arguments["login_user"],
            password=arguments["login_password"] or None,
            session_role=arguments["session_role"] or None,
            ssl_mode=arguments["ssl_mode"],
            ca_cert=arguments["ca_cert"] or None,
            connect_timeout=arguments["connect_timeout"],
        )

    def __str__(self) -> str:
        """Return the login without its password."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"


class ServerUnreachable(MigrationError):
    """Nothing answers at the address: no server, no psycopg2, or no route to it."""


class LoginRefused(MigrationError):
    """The server answers, and refuses the login: its password, database, access rule or session role."""


def connect(login: Login) -> Connection:
    """Open a connection with UTC, ISO dates, exact floating point output and no limit of time, not in autocommit.

    :raises ServerUnreachable: if nothing answers there, or psycopg2 is missing on this host.
    :raises LoginRefused: if the server does not know the password, the database, the host or the role.
    :raises MigrationError: if it has no connection left.
    """
    if not HAS_PSYCOPG2:
        raise ServerUnreachable(
            f"Cannot connect to PostgreSQL as {login}.",
            [
                Problem(
                    "this host",
                    "the Python library psycopg2 is not installed",
                    f"Run {playbook('1_infrastructure')} first, which installs python3-psycopg2",
                )
            ],
        )
    try:
        connection = psycopg2.connect(
            host=login.host,
            port=login.port,
            dbname=login.database,
            user=login.user,
            password=login.password,
            sslmode=login.ssl_mode,
            sslrootcert=login.ca_cert,
            connect_timeout=login.connect_timeout,
            # A gateway between the hosts forgets a session that is silent for long, as while another one loads.
            keepalives_idle=60,
            application_name="sqlite_to_postgresql",
            # A limit for the sessions of services would end ours in the middle of a large table, and its locks with it.
            options="-c timezone=UTC -c datestyle=ISO -c intervalstyle=postgres -c extra_float_digits=1 "
            "-c client_min_messages=warning -c statement_timeout=0 -c idle_in_transaction_session_timeout=0 "
            "-c idle_session_timeout=0 "
            # Where our host has died, the server has to end our session, or its locks would stay for hours.
            "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
            "-c tcp_user_timeout=60000",
        )
    except psycopg2.OperationalError as error:
        raise _translate(login, str(error).strip()) from None
    if login.session_role:
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(login.session_role)))
            connection.commit()
        except psycopg2.Error as error:
            connection.close()
            raise LoginRefused(
                f"Logged in as {login}, but cannot act as its owner.",
                [
                    Problem(
                        f"role {login.session_role}",
                        str(error).strip().splitlines()[0],
                        f"Run {playbook('1_infrastructure')}, which creates the roles and their memberships",
                    )
                ],
            ) from None
    return connection


@contextmanager
def connected(login: Login, read_only: bool = False) -> Iterator[Connection]:
    """Open a connection and close it at the end, whatever happens. Commits are the caller's.

    :param read_only: let the server itself refuse to write.
    """
    connection = connect(login)
    try:
        if read_only:
            connection.rollback()
            connection.set_session(readonly=True)
        yield connection
    finally:
        connection.close()


def _translate(login: Login, text: str) -> MigrationError:
    """Return the error for a failed login, with what to do about it."""
    summary = f"Cannot connect to PostgreSQL as {login}."
    # libpq explains a line in the next one, which begins with a tab; for several addresses the last one counts.
    said = [line for line in text.splitlines() if line.strip() and not line.startswith("\t")]
    what = said[-1] if said else "the connection was refused"
    lower = text.lower()
    if "password authentication failed" in lower or "no password supplied" in lower:
        fix = (
            f"Check the password of role {login.user} in postgres_role_passwords (Ansible Vault), "
            f"then run {playbook('1_infrastructure')}"
        )
        return LoginRefused(summary, [Problem(f"role {login.user}", what, fix)])
    if "does not exist" in lower:
        return LoginRefused(
            summary,
            [Problem(f"database {login.database}", what, f"Run {playbook('1_infrastructure')}, which creates it")],
        )
    if "no pg_hba.conf entry" in lower:
        return LoginRefused(
            summary,
            [Problem("pg_hba.conf", what, f"Run {playbook('1_infrastructure')}, which writes the rule for this host")],
        )
    if "too many clients" in lower or "remaining connection slots" in lower:
        return MigrationError(
            summary,
            [Problem("max_connections", what, "Close idle sessions or raise postgres_config_max_connections")],
        )
    return ServerUnreachable(
        summary,
        [
            Problem(
                f"{login.host}:{login.port}",
                what,
                "Check that the server runs and accepts connections from this host",
            )
        ],
    )


def first_row(cursor: Cursor) -> tuple[Any, ...]:
    """Return the next row of a query that always has one.

    :raises LookupError: if there is none.
    """
    row = cursor.fetchone()
    if row is None:
        raise LookupError("the query returned no row")
    return row


def as_server_error(error: BaseException) -> psycopg2.Error:
    """Return the error of the server in what psycopg2 raised.

    A connection that is cut during a COPY makes psycopg2 2.9 raise SystemError, caused by the error of the server.

    :raises BaseException: ``error`` itself, if there is none of the server in it.
    """
    for candidate in (error, error.__cause__):
        if isinstance(candidate, psycopg2.Error):
            return candidate
    raise error


CONNECTION_LOST = "Look at the server's log for why it ended the connection, then run again"


def next_step(error: psycopg2.Error) -> str:
    """Return what to do about an error that nothing nearer has explained.

    The server logs why it ends a session, but nothing of our statements: they hold values of secret columns.
    """
    if error.pgcode is None or error.pgcode.startswith(("08", "57P")):
        return CONNECTION_LOST
    return "Correct what the server says here (its log holds nothing of our statements), then run again"


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an error of PostgreSQL that nothing nearer has explained into one that a person can act on.

    :param doing: what was being done, for example ``applying the SQL files``.
    """
    try:
        yield
    except MigrationError:
        # Before psycopg2 is named below: on a bare host there is none, and connect() has said so.
        raise
    except (psycopg2.Error, SystemError) as raised:
        error = as_server_error(raised)
        code = f" (SQLSTATE {error.pgcode})" if error.pgcode else ""
        what = error.diag.message_primary or str(error).strip().partition("\n")[0] or "the connection was lost"
        fix = next_step(error)
        if isinstance(error, psycopg2.errors.LockNotAvailable):
            fix = "Another session has a table locked: wait until it has ended (pg_stat_activity), then run again"
        elif isinstance(error, psycopg2.errors.InsufficientPrivilege):
            fix = (
                "Log in as in postgres_migrator_login, whose session_role owns the database and the schema migration; "
                f"{playbook('1_infrastructure')} sets these rights"
            )
        raise MigrationError(
            f"PostgreSQL refused while {doing}.", [Problem("target database", f"{what}{code}", fix)]
        ) from None
