"""Loads the plugins that most tasks use once for a whole run, and keeps the archives of its modules for the next."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preload
type: notification
short_description: Loads the plugins that most tasks use once for a whole run, and keeps what it sends to the hosts
description:
  - C(ansible-playbook) runs each task in a new process, a copy of itself. A plugin that the first process has not
    loaded is loaded by each of them again, and its documentation is read again.
  - Loads the filters, the tests and the lookups that the roles of this collection use before the first task, and the
    plugins by which each task reaches its host. This saves a seventh of the computing time that the controller spends
    on a run that changes nothing, and more where the inventory names its connection in full, as C(ansible.builtin.ssh).
  - Lets Python look for garbage less often, and not among what it has loaded. This saves another tenth.
  - Keeps the archives in which Ansible sends modules to a host in O(payloads), for their owner alone. The next run
    takes them, unless a file that is in one of them has changed since. This saves another quarter.
  - With O(compiled_payloads) what is kept holds the code of each source beside it. A host whose Python has the version
    of the controller's takes the code, and needs two fifths less computing time until a module begins. Any other host
    compiles the source. Each task sends three times as many bytes. This pays on a local network, and does not on a
    connection of less than 30 Mbit/s.
  - A run over a host of a protected environment takes and keeps none, because the gate's look at the tree covers none.
  - Prints nothing, and changes no result.
options:
  payloads:
    description: Directory of the archives, below the project unless it is absolute. Nothing is kept if it is empty.
    type: str
    default: .cache/payloads
    env:
      - name: SQLITE_TO_POSTGRESQL_PAYLOADS
    ini:
      - section: callback_preload
        key: payloads
  compiled_payloads:
    description: Whether what is kept holds compiled code too.
    type: bool
    default: false
    env:
      - name: SQLITE_TO_POSTGRESQL_COMPILED_PAYLOADS
    ini:
      - section: callback_preload
        key: compiled_payloads
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

import gc
import time
from pathlib import Path
from typing import Any

# Imported for those tasks that convert a result or generate a password.
import ansible.parsing.yaml.dumper
import ansible.utils.encrypt  # noqa: F401
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import (
    become_loader,
    connection_loader,
    filter_loader,
    lookup_loader,
    shell_loader,
    test_loader,
)
from ansible.template import Templar, trust_as_template

from ..plugin_utils import payloads
from ..plugin_utils.gated import ROOT, may_be_protected

_OURS = "swarm.sqlite_to_postgresql"
_FILTER_OF_OURS = f"{_OURS}.estate_access"
_LOOKUPS = (
    *("ansible.builtin.env", "ansible.builtin.file", "ansible.builtin.template"),
    *(f"{_OURS}.promotion_gate", f"{_OURS}.run_limit"),
)
# How a task gets to its host, becomes another user there, and speaks. Ansible keeps what it has read of a plugin's
# documentation under the name by which the plugin was asked for, and has read that of "ssh" and "sudo" already.
_CONNECTIONS = ("ansible.builtin.ssh", "ansible.builtin.local", "local")
_BECOMES = ("ansible.builtin.sudo", "ansible.builtin.su", f"{_OURS}.runuser")
_SHELLS = ("sh",)
# Python's own number is 700: a task makes that many dozens of times.
_OBJECTS_UNTIL_COLLECTED = 50_000


class CallbackModule(CallbackBase):  # type: ignore[misc]  # Ansible ships without types
    """Loads plugins before the first task of a play, and takes what earlier runs have sent to the hosts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = f"{_OURS}.preload"
    CALLBACK_NEEDS_ENABLED = True

    # Where the archives of this run are to be kept; an ad-hoc command keeps none.
    _kept: Path | None = None
    _began = 0.0
    _compiled = False
    _is_protected = False

    def v2_playbook_on_start(self, playbook: object) -> None:
        """Take the archives of earlier runs.

        :param playbook: the one that begins.
        """
        directory = self.get_option("payloads")
        self._began = self._began or time.time()
        self._compiled = bool(self.get_option("compiled_payloads"))
        is_taken = directory and not self._is_protected
        self._kept = payloads.take(ROOT / directory, compiled=self._compiled) if is_taken else None

    def v2_playbook_on_stats(self, stats: object) -> None:
        """Keep the archives of this run.

        :param stats: what has become of the hosts.
        """
        if self._kept is not None:
            payloads.keep(self._kept, since=self._began, compiled=self._compiled)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Load them, unless they are; a role that brings plugins of its own lets Ansible forget what it has loaded.

        What earlier runs have sent is given back before a play over a protected environment.

        :param play: the play that begins.
        """
        if self._kept is not None and _has_protected_host(play):
            self._kept, self._is_protected = None, True
            payloads.give_back()
        self.load_plugins()
        _leave_to_copies()

    def load_plugins(self) -> None:
        """Load what the processes of tasks need, and would each load anew."""
        for loader in (filter_loader, test_loader):
            list(loader.all())
        filter_loader.get(_FILTER_OF_OURS)
        for name in _LOOKUPS:
            lookup_loader.get(name)
        for loader, names in ((connection_loader, _CONNECTIONS), (become_loader, _BECOMES), (shell_loader, _SHELLS)):
            for name in names:
                loader.get(name, class_only=True)
        # With the first template a process makes what reads all of them, and keeps it.
        Templar().template(trust_as_template("{{ 1 }}"))


def _leave_to_copies() -> None:
    """Let the collector of garbage leave alone what is there, and look for more of it less often.

    The process of a task is a copy of this one. Each page that the collector writes to is really copied.
    """
    gc.freeze()
    gc.set_threshold(_OBJECTS_UNTIL_COLLECTED)


def _has_protected_host(play: Any) -> bool:
    """Return whether a host of a play may be protected; also where that cannot be told."""
    try:
        manager = play.get_variable_manager()
        for host in manager._inventory.get_hosts(play.hosts):
            variables = manager.get_vars(play=play, host=host)
            if may_be_protected(variables, Templar(loader=play.get_loader(), variables=variables)):
                return True
    except Exception:  # whatever the inventory holds
        return True
    return False
