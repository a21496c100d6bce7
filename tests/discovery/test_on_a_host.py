"""A host with the sample estate on SQLite: what discover drafts of it is what a person has written by hand.

Beside it stand a Python service under systemd, a service in pm2's cluster mode, and a process that nobody manages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.playbooks import PlaybookRun, ThrowawayHost
from tests.conftest import PROJECT

HOST = ThrowawayHost(f"{os.environ.get('TEST_HOST_PREFIX', '')}discovered-")
ESTATE = "inventory/group_vars/all/estate.yml"
OTHERS = r"""
useradd --system --create-home notes
install -d -o notes -g notes /srv/notes /srv/counter /srv/loose
chown swarm:swarm /srv/counter
cat > /srv/notes/notes.py <<'END'
import http.server, os, sqlite3
connection = sqlite3.connect(os.environ["NOTES_URL"].removeprefix("sqlite:///"))
connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
http.server.HTTPServer(("0.0.0.0", 4010), Answer).serve_forever()
END
(umask 077; echo NOTES_URL=sqlite:////srv/notes/notes.db > /etc/notes.env)
cat > /etc/systemd/system/notes.service <<'END'
[Service]
User=notes
WorkingDirectory=/srv/notes
EnvironmentFile=/etc/notes.env
ExecStart=/usr/bin/python3 /srv/notes/notes.py
END
systemctl daemon-reload
systemctl start notes
cd /srv/counter
printf 'PORT=4011\nCOUNTER_FILE=counter.db\n' > .env
echo "require('http').createServer((_, answer) => answer.end()).listen(4011)" > counter.js
python3 -c "import sqlite3; sqlite3.connect('counter.db').execute('CREATE TABLE counts (n INTEGER)')"
chown swarm:swarm .env counter.js counter.db
as_swarm='runuser -u swarm -- env -i HOME=/home/swarm PATH=/usr/local/bin:/usr/bin:/bin'
# A busy pm2 fails now and then without a word.
for try in 1 2 3 4; do
  $as_swarm pm2 -s start counter.js -i 2 --name counter && break
  sleep 2
done
cat > /srv/loose/loose.py <<'END'
import sqlite3, time
connection = sqlite3.connect("/srv/loose/loose.db")
connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
time.sleep(3600)
END
(setsid runuser -u notes -- /usr/bin/python3 /srv/loose/loose.py >/dev/null 2>&1 &)
for _ in $(seq 1200); do
  [ -s /srv/notes/notes.db ] && [ -s /srv/loose/loose.db ] && [ "$(ss -ltn | grep -cE ':401[01] ')" -ge 2 ] && break
  sleep 0.1
done
"""
# -shm is the readers' own: SQLite notes there who reads.
LISTED = """
find /opt /srv -name node_modules -prune -o ! -name '*-shm' -printf '%p %u %m %s %T@\\n' | sort
ls -A /var/tmp
"""


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the drafts."""
    return tmp_path_factory.mktemp("drafts")


@pytest.fixture(scope="module", autouse=True)
def host() -> Iterator[None]:
    """Make the host."""
    HOST.begin("installed")
    HOST.run(["sh", "-e"], text=OTHERS)
    yield
    HOST.remove()


def discover(drafts: Path, *options: str) -> PlaybookRun:
    """Run the playbook."""
    return HOST.play("playbooks/discover.yml", "-e", f"discovery_draft_directory={drafts}/host", *options)


def groups_in(text: str) -> dict[str, dict[str, Any]]:
    """Return path, other names and services of each source in a description of an estate."""
    return {
        group["source"]["path"]: {
            "aliases": set(group["source"].get("aliases", [])),
            "services": {
                service["name"]: (service["user"], service["directory"], service["health_url"])
                for service in group["services"]
            },
        }
        for group in yaml.safe_load(text)["estate_cutover_groups"]
    }


@pytest.mark.promise("discover-finds-every-file", "discover-changes-nothing", "draft-never-overwritten")
def test_the_draft_is_what_a_person_has_written(drafts: Path) -> None:
    before = HOST.run(["sh", "-c", LISTED])
    announced = discover(drafts, "--check")
    assert announced.succeeded, announced.output
    assert "A draft would be written to" in announced.output
    assert list(drafts.iterdir()) == []

    inventory = drafts / "inventories" / "host"
    done = discover(drafts, "-e", "discover_adopt=true", "-e", f"discovery_inventory_directory={inventory}")
    assert done.succeeded, done.output
    assert (inventory / "group_vars/all/estate.yml").read_text() == (drafts / "host" / ESTATE).read_text()
    hosts = yaml.safe_load((inventory / "hosts.yml").read_text())["all"]["children"]["dev"]["hosts"]
    assert list(hosts) == ["swarm-dev"]
    way = hosts["swarm-dev"]
    assert (way.pop("ansible_host"), way.pop("ansible_user")) == (HOST.container, "root")
    # All that Ansible needs to come there once more.
    assert way.pop("ansible_connection") == "ssh"
    assert Path(way.pop("ansible_ssh_private_key_file")).name == HOST.container
    assert f"docker exec --interactive {HOST.container} " in way.pop("ansible_ssh_common_args")
    assert way == {}
    assert HOST.run(["sh", "-c", LISTED]) == before
    drafted = (drafts / "host" / ESTATE).read_text()
    found = groups_in(drafted)
    by_hand = (PROJECT / ESTATE).read_text()
    assert {path: found[path] for path in groups_in(by_hand)} == groups_in(by_hand)
    assert set(yaml.safe_load(drafted)["estate_legacy_files"]) == set(yaml.safe_load(by_hand)["estate_legacy_files"])

    again = discover(drafts)
    assert (again.status, again.changed_tasks) == (0, ()), again.output
    assert "Nothing but rows has changed since" in again.output
    assert {path.name for path in drafts.iterdir()} == {"host", "inventories"}


@pytest.mark.promise("discover-names-every-manager")
def test_services_of_other_managers_are_named(drafts: Path) -> None:
    if not (drafts / "host").exists():
        discover(drafts)
    found = groups_in((drafts / "host" / ESTATE).read_text())
    assert found["/srv/loose/loose.db"]["services"] == {}
    assert found["/srv/notes/notes.db"]["services"] == {
        "notes": ("notes", "/srv/notes", "http://127.0.0.1:4010/api/health")
    }
    assert found["/srv/counter/counter.db"]["services"] == {
        "counter": ("swarm", "/srv/counter", "http://127.0.0.1:4011/health")
    }
    facts = (drafts / "host" / "facts.txt").read_text()
    notes = "service notes: under systemd, user notes, /srv/notes, ports [4010], http://127.0.0.1:4010/api/health"
    assert notes in facts
    assert "under nobody, user notes" in facts
    page = (drafts / "host" / "README.md").read_text().replace("\\", "")
    assert "NOTES_URL in /etc/notes.env" in page
    assert "no manager that we know runs it, so it stands there as a comment until its commands are named" in page
    assert "manager: systemd" in (drafts / "host" / ESTATE).read_text().replace('"', "")
    assert "its settings name /srv/counter/counter.db, and none of its processes has that open" in page
    assert "2 processes" in (drafts / "host" / ESTATE).read_text()
