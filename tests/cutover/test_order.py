"""The smallest cutover group moves first, unless the inventory says otherwise."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PROJECT, environment_of_ansible

TASKS = PROJECT / "roles" / "service_env" / "tasks" / "cut_over.yml"
VARIABLES = PROJECT / "roles" / "service_env" / "vars" / "main.yml"
# Bytes of each source, by the name of its group, in the order of the inventory; one is gone already.
SIZES = {"large": 3000, "gone": None, "small": 10, "settled": 5, "as_small": 10, "linked": 200}
# One that the look before has found to need nothing.
SETTLED = "settled"
# By the order, and whether the run has begun behind that look (--start-at-task): then every group has its turn.
ORDERS = {
    ("smallest_first", False): ["gone", "small", "as_small", "linked", "large"],
    ("as_listed", False): [name for name in SIZES if name != SETTLED],
    ("smallest_first", True): ["gone", "settled", "small", "as_small", "linked", "large"],
}


@pytest.mark.promise("smallest-group-first")
def test_the_groups_move_in_the_order_of_the_inventory(tmp_path: Path, ansible: LoadedAnsible) -> None:
    """The role's own task that measures, and the loop of the next one with a task that only tells in it."""
    for name, size in SIZES.items():
        if size is not None:
            (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "linked").rename(tmp_path / "file")
    (tmp_path / "linked").symlink_to(tmp_path / "file")
    _, measure, move, _ = yaml.safe_load(TASKS.read_text())
    groups = [{"name": name, "source": {"path": str(tmp_path / name)}} for name in SIZES]
    settled = {"__service_env_settled": {"results": [{"item": SETTLED}]}}
    plays = []
    for order, begins_behind in ORDERS:
        tell = {
            "ansible.builtin.debug": {"msg": f"{order} {begins_behind} moves {{{{ item }}}}."},
            "vars": {"__service_env_sizes": move["vars"]["__service_env_sizes"]},
            "loop": move["loop"],
        }
        variables = {
            **yaml.safe_load(VARIABLES.read_text()),
            **{"service_env_groups": groups, "service_env_order": order},
            **({} if begins_behind else settled),
        }
        plays.append({"hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": [measure, tell]})
    playbook = tmp_path / "play.json"
    playbook.write_text(json.dumps(plays))
    command = ["ansible-playbook", "-i", "localhost,", "-c", "local", str(playbook)]
    status, output, errors = ansible.run(command, environment_of_ansible())
    assert status == 0, output + errors
    told = {
        (order, begins_behind): re.findall(rf"msg: {order} {begins_behind} moves (\w+)\.", output)
        for order, begins_behind in ORDERS
    }
    assert told == ORDERS, output
