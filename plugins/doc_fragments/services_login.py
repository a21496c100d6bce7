"""How services reach PostgreSQL, as modules document it; the argument is the engine's ``SERVICES_LOGIN_ARGUMENT``."""

from __future__ import annotations


class ModuleDocFragment:
    """The services' way to the server, for ``extends_documentation_fragment``."""

    DOCUMENTATION = r"""
options:
  services_login:
    description: How the services reach the server.
    type: dict
    required: true
    suboptions:
      host:
        description: Address of the server, or the directory of its Unix socket.
        type: str
        required: true
      port:
        description: Port of the server.
        type: int
        default: 5432
      database:
        description: The database.
        type: str
        required: true
      ssl_mode:
        description: How the connection is protected, as in libpq. One that demands TLS is written to C(.env).
        type: str
        default: prefer
        choices: [disable, allow, prefer, require, verify-ca, verify-full]
      ca_certificate:
        description: File with the certificate authorities that may have signed the server's certificate.
        type: str
"""
