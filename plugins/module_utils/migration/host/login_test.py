"""Whether the services can reach a server on another host, tried with the library that they use, before anything stops.

The library verifies the certificate of a server on another host. PostgreSQL's own client, which our modules use, does
not do so by itself: with a certificate that nobody has signed all our checks would pass, and no service would start.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.errors import Problem
from . import open_files, programs

if TYPE_CHECKING:
    from ..core.estate import Service
    from .service_health import ServicesLogin

LIBRARY = "swarm-shared-db"
# As the library itself tells its own host from others.
THIS_HOST = r"^(/|127\.|\[?::1\]?$)"

# What decides whom Node.js trusts, where pm2 has handed it to the service.
_TRUST = ("NODE_EXTRA_CA_CERTS", "NODE_TLS_REJECT_UNAUTHORIZED", "SSL_CERT_FILE", "SSL_CERT_DIR")
_OF_TLS = re.compile(r"certificate|CERT|SSL|TLS|no encryption")
_LONGEST_TEXT = 200
_TRY = f"""
const pool = require('{LIBRARY}').createPool({{ size: 1, report: () => {{}} }});
pool.query('SELECT 1').then(() => '', (error) => `${{error.message}}${{error.code ? ` (${{error.code}})` : ''}}`)
  .then((text) => {{ console.log(JSON.stringify(text)); process.exit(0); }});
"""
_FIX = (
    "Set postgres_ssl_mode to verify-full, and postgres_ca_certificate to the file on the service hosts that holds the "
    "authority of the server's certificate (postgres_config_ssl_certificate); or, in a network that you trust, set "
    "postgres_ssl_mode to disable, and let postgres_config_hba_extra_rules admit the services without TLS"
)


def is_this_host(host: str) -> bool:
    """Return whether the library takes a server for one on its own host, which is reached without TLS."""
    return host in ("", "localhost") or re.search(THIS_HOST, host) is not None


def problems(
    services_login: ServicesLogin, values_by_service: Mapping[Service, Mapping[str, str]], pids: Mapping[str, list[int]]
) -> list[Problem]:
    """Log in as each service will, and return what keeps it from that.

    A server on the services' own host is reached without TLS and not tried, nor is a service without the library.

    :param values_by_service: the lines that each service's ``.env`` will have.
    :param pids: the processes of each service that run now, by its name.
    """
    if is_this_host(services_login.host):
        return []
    refused: dict[str, list[str]] = {}
    for service, values in values_by_service.items():
        if (Path(service.directory) / "node_modules" / LIBRARY).is_dir():
            reason = _try(service, values, pids.get(service.name, []))
            if reason:
                refused.setdefault(reason, []).append(service.name)
    server = f"{services_login.host}:{services_login.port}"
    found = []
    for reason, names in refused.items():
        what = f"{', '.join(names)} cannot log in to {server}: {reason}"
        if _OF_TLS.search(reason):
            found.append(Problem("postgres_ssl_mode", f"it is {services_login.ssl_mode}, and with it {what}", _FIX))
        else:
            fix = "Correct postgres_host and postgres_port, or what keeps this host from the server"
            found.append(Problem("postgres_host", what, fix))
    return found


def _try(service: Service, values: Mapping[str, str], pids: list[int]) -> str:
    """Log in as a service does, as its user and with its own modules; return why that fails, or an empty text."""
    account = pwd.getpwnam(service.user)
    trust: dict[str, str] = {}
    path = f"{service.pm2_path}:{programs.PATH}" if service.pm2_path else programs.PATH
    for pid in pids[:1]:
        with suppress(OSError):
            # Its own node: nvm's is in no common PATH.
            path = f"{os.path.dirname(os.readlink(f'/proc/{pid}/exe'))}:{path}"
        trust = {name: value for name, value in open_files.environment_of(pid).items() if name in _TRUST}
    # The password is in the environment alone, which only this user can read.
    environment = {"HOME": account.pw_dir, "PATH": path, **trust, **values}
    try:
        answer = programs.call(["node", "--eval", _TRY], environment, account.pw_uid, service.directory)
        if answer.status == 0:
            return str(json.loads(answer.output))[:_LONGEST_TEXT]
        lines = [line.strip() for line in answer.errors.splitlines() if "Error" in line]
        reason = lines[0] if lines else f"node ended with status {answer.status}"
    except programs.NoAnswer as error:
        reason = f"node: {error}"
    except ValueError as error:
        reason = str(error)
    return reason[:_LONGEST_TEXT]
