"""What systemd makes of the settings that are written for it, and of a unit that ends again and again.

Units that move and go back are in test_other_ways_to_run.py.
"""

from __future__ import annotations

import json

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import unit_settings

from .host import SharedHost, on_host

# Starts a unit as a cutover does, and waits until it is well, or nobody waits any more.
WATCH = """
import sys
sys.path.insert(0, "/usr/local/lib/sqlite-to-postgresql.pyz")
from migration.core.estate import Group, Service
from migration.host.managers import key_of, managers_of
from migration.host.service_health import ServicesLogin, Watcher
service = Service(sys.argv[1], "root", "/", "nobody", ("app",), "http://127.0.0.1:9/", manager="systemd")
managers = managers_of([service])
manager = managers[key_of(service)]
manager.start_service(service)
watcher = Watcher(Group("test", "/nowhere.db", (), (service,)), managers, ServicesLogin("127.0.0.1", 5432, "test"), {})
(health,) = watcher.look([service], "postgresql", 300, ends_with_a_loop=True)
print(health.has_given_up, health.shortcoming)
manager.stop_services([service], None)
print(manager.processes()[0].pid)
"""


@pytest.fixture(autouse=True, scope="module")
def host(shared_host: SharedHost) -> None:
    """A host with systemd, and with the engine's program."""
    shared_host.take("rehearsed")


def test_systemd_reads_what_is_written_for_it() -> None:
    values = {
        "A": 'it\'s $HOME ${HOME} %h `id` "x"',
        "B": "ends in a backslash \\",
        "C": " # no comment ; neither ",
        "D": "\\n\\\\t'\\'",
        "E": "'quoted'",
        "F": '"quoted"',
        "G": "é ü – 漢",
        "H": "",
        "I": "plain_./:@%+,=-",
    }
    text = "".join(f"{key}={unit_settings.quote_value(value)}\n" for key, value in values.items())
    on_host("install", "-m", "0600", "/dev/stdin", "/run/values.env", text=text)
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    options = ["--wait", "--pipe", "--quiet", "--property=EnvironmentFile=/run/values.env"]
    read = json.loads(on_host("systemd-run", *options, "/usr/bin/python3", "-c", code))
    assert {key: read.get(key) for key in values} == values
    assert unit_settings.read_values(text) == values


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            "StartLimitIntervalSec=1h\nStartLimitBurst=3",
            "True systemd does not start it any more, because it ended soon after each start",
        ),
        ("StartLimitIntervalSec=0", "True it ends soon after each start: systemd has already started it"),
    ],
)
def test_a_unit_that_ends_again_and_again_ends_the_wait(limit: str, said: str) -> None:
    path = "/run/systemd/system/ends-at-once.service"
    service = "[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=200ms\n"
    on_host("install", "-D", "-m", "0644", "/dev/stdin", path, text=f"[Unit]\n{limit}\n{service}")
    on_host("systemctl", "daemon-reload")
    output = on_host("python3", "-I", "-c", WATCH, "ends-at-once")
    assert output.startswith(said)
    assert output.splitlines()[1:] == ["0"]
    on_host("rm", path)
    on_host("systemctl", "daemon-reload")
