"""The functional checks of cutover groups that have moved, before the next group does.

A check belongs to the groups whose services it asks: those with a ``health_url`` at the address, host and port, of one
of its requests. It is due once all of them live on PostgreSQL and have not all passed it there yet; the ledger keeps
which groups have passed theirs. So each runs once after its group has moved, and again in a later run for as long as it
fails.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core import ledger
from ..core.commands import playbook
from ..core.connection import Login, ServerUnreachable, connected
from ..core.decide import Cutover, decide
from ..core.errors import MigrationError, Problem
from ..core.group_detail import changes
from . import functional_checks
from .functional_checks import Check

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection

_PORTS = {"http": 80, "https": 443}
# Names of this host, at which a service may be asked as at any other.
_THIS_HOST = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class GroupChecks:
    """The functional checks of an estate, and the groups that they belong to.

    :param secrets: values for their placeholders that appear in no result.
    :param health_urls: by cutover group, the ``health_url`` of each of its services.
    """

    checks: Sequence[Check]
    secrets: Mapping[str, Any]
    health_urls: Mapping[str, Collection[str]]

    @classmethod
    def from_inventory(
        cls, checks: Sequence[Mapping[str, Any]], secrets: Mapping[str, Any], health_urls: Mapping[str, Collection[str]]
    ) -> GroupChecks:
        """Return them as the inventory declares them.

        :raises MigrationError: if a check is not described as it should be.
        """
        try:
            return cls(functional_checks.parse(checks), secrets, health_urls)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fix = "Describe each check as roles/validation/README.md does"
            problem = Problem("validation_functional_checks", f"a check is not described as it should be: {error}", fix)
            raise MigrationError("The functional checks cannot be read; nothing was changed.", [problem]) from None

    def groups_of(self, check: Check) -> frozenset[str]:
        """Return the cutover groups whose services a check asks."""
        asked = {_address(step.url) for step in (*check.steps, *check.cleanup)} - {None}
        return frozenset(
            group for group, urls in self.health_urls.items() if asked.intersection(_address(url) for url in urls)
        )

    def due(self, on_postgresql: Collection[str], passed: Collection[str]) -> list[Check]:
        """Return the checks that have to be run.

        :param on_postgresql: the groups whose services live there.
        :param passed: those among them that have passed their checks there.
        """
        moved = frozenset(on_postgresql)
        return [
            check
            for check in self.checks
            if (groups := self.groups_of(check)) and groups <= moved and groups - frozenset(passed)
        ]

    # ---------------------------------------------------------------- around the cutover of one group

    def before(self, login: Login, group: str) -> None:
        """Let a group be moved if those that moved before it have passed their checks.

        A group that is not at its beginning is never kept waiting: its services may be down.

        :raises MigrationError: naming each check that has failed; nothing was changed.
        """
        if not self.checks:
            return
        try:
            with connected(login) as connection:
                if not ledger.exists(connection):
                    return
                if decide(ledger.read_group(connection, group)).cutover is Cutover.MOVE:
                    said = f"Cutover group {group} was not moved, because a functional check of an earlier group fails."
                    self._run_due(connection, said)
        except ServerUnreachable:
            # The cutover itself says so, in its own words.
            return

    def after(self, login: Login, result: Mapping[str, Any]) -> dict[str, Any]:
        """Run the checks of a group that was moved, and return its result with what they said.

        :param result: of the cutover.
        :raises MigrationError: naming each check that has failed. The group stays on PostgreSQL, running: its services
            have accepted rows there, and whether the check or the service is wrong only a person can tell.
        """
        if not self.checks or not result["changed"]:
            return dict(result)
        with connected(login) as connection:
            results = self._run_due(connection, f"{result['msg']} But a functional check has failed.")
        passed = sum(found["result"] == functional_checks.PASSED for found in results)
        checks = "1 functional check" if passed == 1 else f"{passed} functional checks"
        not_run = [
            f"The functional check '{found['name']}' was not run: {found['reason']}."
            for found in results
            if found["result"] == functional_checks.NOT_RUN
        ]
        said = f"{result['msg']} {checks} passed." if passed else result["msg"]
        return {**result, "msg": said, "warnings": [*result.get("warnings", ()), *not_run]}

    def would_run(self, group: str) -> str:
        """Return what a dry run says of the checks that belong to a group; empty if there are none."""
        names = [f"'{check.name}'" for check in self.checks if group in self.groups_of(check)]
        return f"Then these functional checks would be run: {', '.join(names)}." if names else ""

    def _run_due(self, connection: Connection, said: str) -> list[dict[str, Any]]:
        """Run the checks that are due, note the groups that have passed them, and return the results.

        :param said: what is said before the checks that have failed.
        :raises MigrationError: if one has failed.
        """
        records = [ledger.read_group(connection, name) for name in self.health_urls]
        connection.rollback()
        # One whose window is still open has services that may be down.
        moved = {
            record.name: record.detail.checked
            for record in records
            if decide(record).on_postgresql and not decide(record).window_is_open
        }
        due = self.due(moved, [name for name, checked in moved.items() if checked])
        results = functional_checks.run(due, self.secrets)
        failed = {found["name"]: found["reason"] for found in results if found["result"] == functional_checks.FAILED}
        if failed:
            problems = [self._problem(check, failed[check.name], moved) for check in due if check.name in failed]
            raise MigrationError(f"{said} No further group is moved, and all services are left running.", problems)
        for name, checked in moved.items():
            if not checked:
                ledger.merge_detail(connection, name, changes(checked=True))
        connection.commit()
        return results

    def _problem(self, check: Check, reason: str, moved: Mapping[str, bool]) -> Problem:
        """Return what is wrong with a check, and what to do."""
        groups = self.groups_of(check)
        # Those that were well with it before are not the ones to go back.
        back = sorted(name for name in groups if not moved[name])
        return Problem(
            f"functional check '{check.name}' of cutover group {' and '.join(sorted(groups))}",
            reason,
            "Look at the service and its log, correct the service or the check, then run again: "
            f"{playbook('4_service_cutover')}. To go back to SQLite with every row instead: "
            f"{playbook('rollback', service_env_rollback_groups=','.join(back))}",
        )


def _address(url: str) -> tuple[str, int] | None:
    """Return the host and the port that a request goes to, None if the inventory does not say them."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None or "${" in parts.netloc:
        return None
    return ("localhost" if parts.hostname in _THIS_HOST else parts.hostname), port
