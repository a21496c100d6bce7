"""What names the inventory of a run in the commands that it prints, or they would mean those of another estate."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants as constants


def inventory_options(variables: Mapping[str, Any]) -> list[str]:
    """Return the inventories of a run, each as one option ``-i``; none if the project's configuration names them.

    :param variables: those that Ansible itself sets.
    """
    given, project = _given(variables), _project(variables)
    usual, origin = constants.config.get_config_value_and_origin("DEFAULT_HOST_LIST")
    # A shell in which the command is pasted later may not have the variables of this one, and none of them is needed
    # for the file that Ansible finds in the project by itself.
    if project and given == usual and str(origin) == str(project / "ansible.cfg"):
        return []
    return [f"-i {shlex.quote(_relative(source, project))}" for source in given]


def lasting_inventory_options(variables: Mapping[str, Any]) -> list[str] | None:
    """Return the same for what is written to a host, where it has to stay as it is however the next run is started.

    :return: None if an inventory is not the project's: the next run may see it from another place, by another path.
    """
    given, project = _given(variables), _project(variables)
    if project is None or not all(_is_below(source, project) for source in given):
        return None
    if all(_is_below(source, project / "inventory") for source in given):
        return []
    return [f"-i {shlex.quote(_relative(source, project))}" for source in given]


def _given(variables: Mapping[str, Any]) -> list[str]:
    """Return the inventories of a run that another run could be given.

    One that a tool has written into Ansible's own temporary directory, as Molecule does, is gone with its run.
    """
    temporary = Path(constants.DEFAULT_LOCAL_TMP).parent
    sources = [str(source) for source in variables.get("ansible_inventory_sources") or ()]
    return [source for source in sources if not _is_below(source, temporary)]


def _project(variables: Mapping[str, Any]) -> Path | None:
    """Return the directory in which the commands are run."""
    configuration = variables.get("ansible_config_file")
    return Path(str(configuration)).parent if configuration else None


def _is_below(source: str, directory: Path) -> bool:
    """Return whether an inventory is a file or directory in a directory, or that itself."""
    # A list of hosts is no path: it holds a comma.
    return "," not in source and Path(source).is_relative_to(directory)


def _relative(source: str, project: Path | None) -> str:
    """Return the path of an inventory as seen from the project; else the source as it is."""
    return str(Path(source).relative_to(project)) if project and _is_below(source, project) else source
