"""One call of the module cutover_group: what it was told, for the module itself and for the recovery unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core import commands
from ..core.connection import Login
from ..core.estate import Access, Group, parse_group
from ..host.recovery_unit import RecoveryUnit
from ..host.service_health import ServicesLogin
from ..rollback.checks import Options
from ..window.checks import Settings

ROLLBACK, STAY = "rollback", "stay"


@dataclass(frozen=True)
class Call:
    """Which group is to be moved, and how."""

    login: Login
    group: Group
    settings: Settings
    options: Options

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], of_recovery_unit: bool = False) -> Call:
        """Return the call in the module's arguments, which are described there.

        :param of_recovery_unit: whether the recovery unit makes it, and not the module.
        :raises MigrationError: if the group is not described as it should be.
        """
        group = parse_group(arguments["group"])
        settings = Settings(
            services_login=ServicesLogin(**arguments["services_login"]),
            role_passwords=arguments["role_passwords"],
            stop_timeout=arguments["stop_timeout"],
            health_timeout=arguments["health_timeout"],
            stable_seconds=arguments["stable_seconds"],
            estate_connections={str(role): int(count) for role, count in arguments["estate_connections"].items()},
            access=Access(**arguments["estate_access"]) if arguments["estate_access"] else None,
            work_directory=arguments["work_directory"],
            roll_back_on_failure=arguments["on_failure"] == ROLLBACK,
            recovery_unit=RecoveryUnit(
                group.name,
                group.source_path,
                arguments["recovery_program"] or "",
                {"arguments": dict(arguments), "run_limit": commands.limit()},
                arguments["work_directory"],
                of_recovery_unit,
            ),
        )
        options = Options(arguments["rollback_directory"], arguments["lose_rows"])
        return cls(Login.from_arguments(arguments), group, settings, options)
