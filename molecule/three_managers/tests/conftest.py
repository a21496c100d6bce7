"""What the tests of the host share: the inventory that was drafted for it, its services, and SQL on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

from scripts.playbooks import ROOT, PlaybookRun, ThrowawayHost, changed_tasks

HOST = ThrowawayHost(os.environ.get("TEST_HOST_PREFIX", "molecule-"))
SETTINGS = ("/srv/orders/.env", "/etc/notes.env", "/srv/desk/desk.env", "/srv/desk/docker-compose.yml")
PORTS = {"orders": 5001, "notes": 5002, "desk": 5003}
_ASK = """
import json, sys, urllib.request
port, text = sys.argv[1], sys.argv[2].encode() or None
print(urllib.request.urlopen(f"http://127.0.0.1:{port}/items", text, timeout=30).read().decode())
"""


@dataclass(frozen=True)
class Estate:
    """The host, as its drafted inventory describes it.

    :param place: an empty directory of this run.
    """

    host: Host
    place: Path

    @property
    def draft(self) -> Path:
        """Return the directory of the draft."""
        return self.place / "draft"

    @property
    def inventory(self) -> Path:
        """Return the inventory that the draft has become."""
        return self.place / "inventory"

    def discover(self) -> PlaybookRun:
        """Draft the host's estate, and make the draft an inventory."""
        variables = {
            "discover_adopt": True,
            "discovery_draft_directory": str(self.draft),
            "discovery_inventory_directory": str(self.inventory),
        }
        return HOST.play("playbooks/discover.yml", "-e", json.dumps(variables))

    def play(self, *arguments: str) -> PlaybookRun:
        """Run playbooks with the drafted inventory."""
        inventories = (self.inventory, "molecule/inventory", "molecule/three_managers/inventory")
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *(word for inventory in inventories for word in ("--inventory", str(inventory))),
                "--limit=dev",
                *arguments,
            ],
            cwd=ROOT,
            env={**os.environ, **HOST.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return PlaybookRun(done.returncode, done.stdout, changed_tasks(done.stdout))

    def shell(self, command: str) -> str:
        """Run a command as root that must succeed, and return what it prints."""
        result = self.host.run(command)
        assert result.rc == 0, f"{command}: {result.stderr}\n{result.stdout}"
        return str(result.stdout).strip()

    def ask(self, group: str, text: str = "") -> tuple[str, list[str]]:
        """Return the store of a group's service and the items in it, after adding one if a text is given."""
        answer = json.loads(HOST.run(["python3", "-c", _ASK, str(PORTS[group]), text]))
        return answer["store"], answer["items"]

    def stores(self) -> dict[str, str]:
        """Return group → the store that its service uses."""
        return {group: self.ask(group)[0] for group in PORTS}

    def states(self) -> dict[str, str]:
        """Return group → its state in the ledger."""
        statement = "SELECT json_object_agg(name, state) FROM migration.cutover_group"
        found: dict[str, str] = json.loads(
            HOST.run(["psql", "--no-psqlrc", "-d", "swarm_dev", "-Atc", statement], user="postgres")
        )
        return found

    def settings(self) -> dict[str, str]:
        """Return what the files of the services' own makers say."""
        return {path: HOST.run(["cat", path]) for path in SETTINGS}


@pytest.fixture(scope="session")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    """Return the host, of which nobody has described anything yet."""
    host = testinfra.get_host(f"docker://{HOST.container}")
    return Estate(host, tmp_path_factory.mktemp("three_managers"))
