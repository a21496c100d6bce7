"""What the modules that log in to PostgreSQL document alike; their arguments are ``LOGIN_ARGUMENTS`` of the engine."""

from __future__ import annotations


class ModuleDocFragment:
    """The login, for ``extends_documentation_fragment``."""

    DOCUMENTATION = r"""
options:
  login_host:
    description: Address of the PostgreSQL server, or the directory of its Unix socket.
    type: str
    default: 127.0.0.1
  login_port:
    description: Port of the server.
    type: int
    default: 5432
  login_db:
    description: Target database.
    type: str
    required: true
  login_user:
    description: Role to log in as, the one for migrations. It must be a member of O(session_role), if that is given.
    type: str
    required: true
  login_password:
    description: Password of that role.
    type: str
  session_role:
    description: Role to become after the login, the owner of the tables.
    type: str
  ssl_mode:
    description: How the connection is protected, as in libpq.
    type: str
    default: prefer
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  ca_cert:
    description: File with the certificate authorities that may have signed the server's certificate.
    type: path
  connect_timeout:
    description: Seconds to wait for the server.
    type: int
    default: 10
requirements:
  - psycopg2 on the host
"""
