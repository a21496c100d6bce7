"""What one run over one group works with, handed from function to function as one thing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.connection import Login
from ..core.errors import MigrationError
from ..core.estate import Group, access_of
from ..postgres import privileges
from .checks import Handles, Settings

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection


@dataclass(frozen=True)
class WindowContext:
    """One run over one group.

    :param connection: holds the group's lock in the ledger.
    :param login: for further sessions on the server.
    :param handles: what the group's services are taken hold of by.
    :param removed: run state: names of services that we have stopped since.
    """

    connection: Connection
    login: Login
    group: Group
    settings: Settings
    handles: Handles
    removed: set[str] = field(default_factory=set)

    def settle_writing(self, connection: Connection, wait_seconds: float = 10.0) -> None:
        """Let the services write to the group's tables, or not, as the ledger's state says now; the caller commits.

        :param wait_seconds: how long to wait for another run that changes the rights.
        :raises Busy: if that run takes longer.
        """
        access = self.settings.access or access_of([self.group])
        privileges.settle_writing(connection, self.group.name, access, wait_seconds)

    def put_recovery_unit(self, **more: bool) -> None:
        """Let systemd look after the services from here on, should this run die; called before they are stopped.

        :param more: what the unit has to know besides, by the names of :mod:`..recovery.recover`.
        :raises MigrationError: if there is to be such a unit and it cannot be written.
        """
        if self.settings.recovery_unit is not None:
            units = [unit for manager in self.handles.managers.values() for unit in manager.boot_units()]
            self.settings.recovery_unit.put(after=units, **more)

    def keep_recovery_unit(self, **more: bool) -> None:
        """Do the same for a window that an earlier run has left open, perhaps with the services stopped.

        They are brought back whether the unit can be written or not.

        :param more: as of :meth:`put_recovery_unit`.
        """
        with suppress(MigrationError, OSError):
            if self.settings.recovery_unit is not None and not self.settings.recovery_unit.is_there():
                self.put_recovery_unit(**more)
