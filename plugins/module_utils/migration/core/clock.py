"""One moment on every clock there is: the host's, the server's, and the kernel's count of seconds since the boot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .connection import first_row

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True)
class Clock:
    """One moment on every clock.

    :param host: seconds since 1970 on the host.
    :param server: seconds since 1970 on the database server.
    :param boot: the id of the host's present boot.
    :param uptime: seconds since that boot, those of a suspended host included.
    """

    host: float
    server: float
    boot: str
    uptime: float

    def as_dict(self) -> dict[str, Any]:
        """Return the moment as plain data."""
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, data: Any) -> Clock | None:
        """Return the moment that plain data describe, None if they do not."""
        try:
            return cls(float(data["host"]), float(data["server"]), str(data["boot"]), float(data["uptime"]))
        except (KeyError, TypeError, ValueError):
            return None


def read_clock(connection: Connection) -> Clock:
    """Return the present moment on every clock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
        server = float(first_row(cursor)[0])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Clock(time.time(), server, boot, time.clock_gettime(time.CLOCK_BOOTTIME))
