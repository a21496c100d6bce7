"""Becomes another user by runuser, where root has logged in."""

from __future__ import annotations

DOCUMENTATION = r"""
name: runuser
short_description: Become another user by runuser, where root has logged in
description:
  - Root becomes another user by C(runuser) of util-linux, which every Debian has and which asks for no password.
  - Unlike P(ansible.builtin.su#become) it lets Ansible pipeline modules. A task then takes one command on the host in
    place of eight, and its arguments are never on the disk there.
options:
  become_user:
    description: The user to become.
    type: str
    default: root
    ini:
      - section: privilege_escalation
        key: become_user
    vars:
      - name: ansible_become_user
      - name: ansible_runuser_user
    env:
      - name: ANSIBLE_BECOME_USER
    keyword:
      - name: become_user
  become_exe:
    description: The program.
    type: str
    default: runuser
    ini:
      - section: privilege_escalation
        key: become_exe
    vars:
      - name: ansible_become_exe
      - name: ansible_runuser_exe
    env:
      - name: ANSIBLE_BECOME_EXE
    keyword:
      - name: become_exe
  become_flags:
    description: Options for the program.
    type: str
    default: ''
    ini:
      - section: privilege_escalation
        key: become_flags
    vars:
      - name: ansible_become_flags
      - name: ansible_runuser_flags
    env:
      - name: ANSIBLE_BECOME_FLAGS
    keyword:
      - name: become_flags
notes:
  - Nobody but root may call C(runuser). Somebody else who logs in uses P(ansible.builtin.sudo#become).
author:
  - The maintainers of this project (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Read the server's version
  community.postgresql.postgresql_query:
    query: SELECT version()
    login_db: postgres
  become: true
  become_user: postgres
  become_method: swarm.sqlite_to_postgresql.runuser
"""

import shlex
from typing import Any

from ansible.plugins.become import BecomeBase


class BecomeModule(BecomeBase):  # type: ignore[misc]  # Ansible ships without types
    """Puts runuser before a command; it never asks for anything."""

    name = "swarm.sqlite_to_postgresql.runuser"
    pipelining = True

    def build_become_command(self, cmd: str, shell: Any) -> str:
        """Return the command as the other user runs it.

        :param cmd: command line for the shell; an empty one stays empty.
        :param shell: the shell plugin of the host.
        """
        super().build_become_command(cmd, shell)
        if not cmd:
            return cmd
        before = [self.get_option("become_exe"), self.get_option("become_flags"), self.get_option("become_user")]
        command = shlex.quote(self._build_success_command(cmd, shell))
        return f"{' '.join(filter(None, before))} -c {command}"
