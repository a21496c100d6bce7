"""The commands of the front page that concern a dev host, typed as they stand there, in front of a copy of this tree.

The commands for prod are those of docs/from_clone_to_prod.md, which the scenario two_hosts runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.playbooks import ThrowawayHost
from scripts.walk_through import Shell
from tests.conftest import PROJECT
from tests.foundation.test_commands_of_pages import BLOCK

HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}readme-")
DISCOVER, SITE, ROLLBACK, CLEANUP = (
    f"ansible-playbook {name}.yml -l dev"
    for name in ("playbooks/discover", "site", "playbooks/rollback", "playbooks/6_cleanup")
)
BACKUP, RESTORE = (f"ansible-playbook playbooks/{name}.yml -l dev" for name in ("backup", "restore"))
OWN_SITE = "ansible-playbook -i inventories/your-host site.yml -l dev"
# In an order in which each finds what it needs, on a host that has moved: the command, and what it tells.
WALK = [
    (f"{SITE} --check --diff", ""),
    (SITE, ""),
    (BACKUP, ""),
    (RESTORE, "postgres_backup_restore_name"),
    (CLEANUP, ""),
    (f"{CLEANUP} -e sqlite_cleanup_restore_groups=deploy", ""),
    (f"{ROLLBACK} -e service_env_rollback_groups=deploy", "deploy"),
    (ROLLBACK, ""),
    (DISCOVER, "drafts/swarm-dev"),
    (f"{DISCOVER} -e discover_adopt=true", "inventories/swarm-dev"),
]
# A person has to do something first: let a plan become ready, which takes days, or take the decisions of a draft. The
# scenario of the cleanup and the tests of discovery do both.
NOT_WALKED = {
    f"{CLEANUP} -e sqlite_cleanup_confirm=3f0a86c1d2b7",
    OWN_SITE,
}


def commands_of_the_readme() -> set[str]:
    """Return the commands for dev of the front page's blocks, without the comments behind them."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    lines = [line for block in BLOCK.finditer(text) if not block["language"] for line in block["text"].splitlines()]
    commands = (re.sub(r"\s+#.*", "", line).strip() for line in lines)
    return {command for command in commands if command.startswith("ansible-playbook") and " -l dev" in command}


def test_every_command_for_dev_is_walked() -> None:
    assert {command for command, _ in WALK} | NOT_WALKED == commands_of_the_readme()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Return a shell in a copy of this tree, in front of a host whose services have moved."""
    copied = tmp_path_factory.mktemp("copied")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).is_file():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, copied / name)
    collections = copied / ".collections" / "ansible_collections"
    (collections / "swarm").mkdir(parents=True)
    (collections / "swarm" / "sqlite_to_postgresql").symlink_to("../../..")
    for installed in (PROJECT / ".collections" / "ansible_collections").iterdir():
        if installed.name != "swarm":
            (collections / installed.name).symlink_to(installed.resolve())
    inventories = ",".join(str(copied / name) for name in ("inventory", "molecule/inventory"))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ANSIBLE_CONFIG": str(copied / "ansible.cfg"),
        "ANSIBLE_INVENTORY": inventories,
        "ANSIBLE_NOCOLOR": "1",
        "TEST_HOST_PREFIX": HOST.prefix,
    }
    state = copied / ".shell"
    state.write_text(f"cd {copied}\n")
    HOST.begin("live")
    made = Path(".cache") / "test_host"
    secrets, key = made / "secrets" / f"{HOST.prefix}dev", made / "keys" / HOST.container
    shutil.copytree(PROJECT / secrets, copied / secrets)
    (copied / key).parent.mkdir()
    shutil.copy2(PROJECT / key, copied / key)
    yield Shell(state, environment, copied, {})
    HOST.remove()


@pytest.mark.long_search
@pytest.mark.parametrize(("command", "told"), WALK, ids=[command for command, _ in WALK])
def test_a_command_does_what_the_page_says(shell: Shell, command: str, told: str) -> None:
    status, output = shell.run(command)
    # Without a name a restore only lists the backups, and ends as a refusal.
    assert (status == 0) is (command != RESTORE), output
    assert told in output and "Traceback" not in output, output
