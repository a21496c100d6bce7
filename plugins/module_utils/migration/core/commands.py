"""The commands that we tell an operator to run: each names the hosts, and the inventory, of the run that tells it.

A command without a limit means the hosts of every environment, and one without the run's inventory those of another
estate.
"""

from __future__ import annotations

import os
import re
import shlex

# The plays, and the units of programs that run without Ansible, set it to what the lookup run_limit gives: the hosts of
# the run as one word for a shell, and behind it the options "-i" of a run that was started with another inventory.
LIMIT_VARIABLE = "MIGRATION_RUN_LIMIT"
# No host and no group is called so: a command with it is refused and touches nothing.
UNKNOWN_LIMIT = "ENVIRONMENT"
# The playbooks whose runs keep to a plan. Every other one names by itself what it does, or needs no leave.
PLANNED = ("1_infrastructure", "2_shared_library", "3_data_migration", "4_service_cutover")

# A word as shlex.quote writes it; a sentence's full stop or comma after it is none of it.
_QUOTED = r"""'[^']*'|"[^"]*\""""
_WORD = rf"(?:{_QUOTED}|[\w@%+=:,./-])*(?:{_QUOTED}|[\w@%+=/-])"
# The commands of this module, wherever they stand in a sentence.
WRITTEN = re.compile(rf"ansible-playbook(?: -i {_WORD})? [\w./-]+\.yml(?: -[eil] {_WORD}| --check| --diff)*")


def limit() -> str:
    """Return the pattern of the hosts of this run, what names its inventory, and the plan that the run names.

    It is :data:`UNKNOWN_LIMIT` if nobody has said them.
    """
    return os.environ.get(LIMIT_VARIABLE) or UNKNOWN_LIMIT


def playbook(name: str, **variables: str | int) -> str:
    """Return the command that runs a playbook on the hosts of this run, ready to be pasted into a shell.

    It names the plan of the run only if the playbook is one of :data:`PLANNED`.

    :param name: the file's name in ``playbooks/``, without its ending.
    :param variables: what is given with ``-e``, one for each variable.
    """
    hosts = limit()
    return playbook_on(hosts if name in PLANNED else _without_plan(hosts), name, **variables)


def playbook_on(hosts: str, name: str, **variables: str | int) -> str:
    """Return the command that runs a playbook on certain hosts, as :func:`playbook` does.

    :param hosts: their pattern, as one word for a shell.
    """
    given = [f"-e {shlex.quote(f'{variable}={value}')}" for variable, value in variables.items()]
    return " ".join([f"ansible-playbook playbooks/{name}.yml -l {hosts}", *given])


def site_on(hosts: str, inventory: str = "", dry_run: bool = False, plan: str = "") -> str:
    """Return the command that runs all phases on some hosts.

    :param inventory: another inventory than that of the project.
    :param plan: the id of the plan that the run keeps to.
    """
    given = ["-i", shlex.quote(inventory)] if inventory else []
    options = ["--check", "--diff"] if dry_run else []
    if plan:
        options += ["-e", shlex.quote(f"plan={plan}")]
    return " ".join(["ansible-playbook", *given, f"site.yml -l {hosts}", *options])


def _without_plan(hosts: str) -> str:
    """Return what :func:`limit` returns without the plan that the lookup puts at its end."""
    words = shlex.split(hosts)
    return shlex.join(words[:-2]) if words[-2:-1] == ["-e"] and words[-1].startswith("plan=") else hosts
