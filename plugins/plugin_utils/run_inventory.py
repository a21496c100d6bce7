"""What names the inventory of a run in the commands that it prints, or they would mean those of another estate."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants as constants


def inventory_options(variables: Mapping[str, Any], stays: bool = False) -> list[str]:
    """Return the inventories of a run, each as one option ``-i``; none if the project's configuration names them.

    :param variables: those that Ansible itself sets.
    :param stays: whether the text is written to a host, where it is to be the same however a run names the project's
        own inventory.
    """
    given = [str(source) for source in variables.get("ansible_inventory_sources") or ()]
    configuration = variables.get("ansible_config_file")
    project = Path(str(configuration)).parent if configuration else None
    usual, origin = constants.config.get_config_value_and_origin("DEFAULT_HOST_LIST")
    # A shell in which the command is pasted later may not have the variables of this one, and none of them is needed
    # for the file that Ansible finds in the project by itself.
    if project and given == usual and str(origin) == str(project / "ansible.cfg"):
        return []
    if stays and project and given == [str(project / "inventory")]:
        return []
    return [f"-i {shlex.quote(_relative(source, project))}" for source in given]


def _relative(source: str, project: Path | None) -> str:
    """Return the path of an inventory as seen from the project, where commands are run; else the source as it is."""
    # A list of hosts is no path: it holds a comma.
    if project is None or "," in source:
        return source
    return str(Path(source).relative_to(project)) if Path(source).is_relative_to(project) else source
