"""Where the settings of a service stand, and how they are written there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ..core.errors import Problem
from ..core.estate import COMPOSE, SYSTEMD, Service
from . import dotenv_file
from .unit_settings import DropIn, EnvironmentFile


class Settings(Protocol):
    """The settings of one service, as one text that our lines are put into and taken out of."""

    def read(self) -> str:
        """Return the text.

        :raises MigrationError: if it cannot be used.
        """

    def write(self, text: str) -> None:
        """Replace the text in one step, readable by its owner alone; nothing is written where it already stands so.

        :raises MigrationError: if it cannot be written.
        """

    def is_private(self) -> bool:
        """Return whether its owner alone may read it."""

    def with_values(self, text: str, values: Mapping[str, str]) -> str:
        """Return a text with our lines."""

    def without_values(self, text: str) -> str:
        """Return a text without our lines, as it was before."""

    def values_of(self, text: str) -> dict[str, str]:
        """Return the keys and values of a text as the service reads them."""

    def problems_of_values(self, where: str, values: Mapping[str, str]) -> list[Problem]:
        """Return a problem for each value that cannot be written, without showing it."""


@dataclass(frozen=True)
class Dotenv:
    """A dotenv file, which the service reads itself.

    :param or_root: whether root may own it instead of the service's user.
    """

    service: Service
    or_root: bool = False

    def read(self) -> str:
        """Return its text."""
        return dotenv_file.read(self.service.env_path, self.service.user, self.or_root)

    def write(self, text: str) -> None:
        """Replace it in one step."""
        dotenv_file.write(self.service.env_path, text, self.service.user, self.or_root)

    def is_private(self) -> bool:
        """Return whether its owner alone may read it."""
        return dotenv_file.is_private(self.service.env_path, self.service.user, self.or_root)

    def with_values(self, text: str, values: Mapping[str, str]) -> str:
        """Return a text with our lines."""
        return dotenv_file.set_keys(text, values)

    def without_values(self, text: str) -> str:
        """Return a text without our lines, as it was before."""
        return dotenv_file.remove_keys(text)

    def values_of(self, text: str) -> dict[str, str]:
        """Return the keys and values of a text."""
        return dotenv_file.read_values(text)

    def problems_of_values(self, where: str, values: Mapping[str, str]) -> list[Problem]:
        """Return a problem for each value that cannot be written."""
        return dotenv_file.problems_of_values(where, values.items())


def settings_of(service: Service) -> Settings:
    """Return the settings of a service."""
    if service.manager == SYSTEMD:
        return EnvironmentFile(service) if service.env_file else DropIn(service)
    # Compose reads such a file as root does, or as the user who owns it.
    return Dotenv(service, or_root=service.manager == COMPOSE)
