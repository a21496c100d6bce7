"""What each playbook has printed, where several run in one command, which spares the start of Ansible."""

from __future__ import annotations

import re

# How every playbook of the phases begins.
_FIRST_PLAY = r"(?m)^PLAY \[Check the inventory before any host is touched\] "


def outputs(output: str) -> list[str]:
    """Return the output of each playbook that began, without its recap, which counts for all that ran before it too.

    :param output: of a command, from Ansible's own callback.
    """
    return [part.partition("\nPLAY RECAP ")[0] for part in re.split(_FIRST_PLAY, output)[1:]]
