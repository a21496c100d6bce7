"""Which hosts get their files back after a failure in phase 1: the play's own tasks, with stand-ins for its roles."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PROJECT, environment_of_ansible

PHASE = PROJECT / "playbooks" / "1_infrastructure.yml"
PREFLIGHT = PROJECT / "roles" / "postgres_config" / "tasks" / "preflight.yml"
CHANGED = "__postgres_config_hba_added"
# Of each host: in which play, by its number, which role fails, and whether the estate has adopted its server.
HOSTS = {
    "well": {"fails_in": [], "postgres_existing": "adopt"},
    "late": {"fails_in": ["1 schema_apply"], "postgres_existing": "adopt"},
    "early": {"fails_in": ["1 postgres_install"], "postgres_existing": "adopt"},
    "ours": {"fails_in": ["1 schema_apply"]},
}


def plays(count: int) -> list[dict[str, Any]]:
    """Return the play that sets up the server some times, as a command with several playbooks has it, and one more."""
    found = []
    for number in range(count):
        play = copy.deepcopy(yaml.safe_load(PHASE.read_text())[1])
        (set_up,) = play["tasks"]
        block = []
        for task in set_up["block"]:
            role = task.pop("ansible.builtin.import_role", {}).get("name", "")
            told = task.pop("ansible.builtin.include_role", {}).get("tasks_from", "")
            if told:
                task["ansible.builtin.debug"] = {"msg": f"play {number} is {told} of {{{{ inventory_hostname }}}}"}
            if role:
                task |= {"ansible.builtin.fail": {"msg": role}, "when": f"'{number} {role}' in fails_in"}
            block.append(task)
            if role == "postgres_config":
                changed = {CHANGED: {"changed": True, "backup_file": f"copy_{number}"}}
                block.append({"ansible.builtin.set_fact": changed, "tags": role})
        set_up["block"] = block
        (revert,) = set_up["always"]
        del revert["ansible.builtin.include_role"]
        has_copy = f"{{{{ ({CHANGED} | default({{}})).backup_file is defined }}}}"
        revert["ansible.builtin.debug"] = {"msg": f"play {number} reverts {{{{ inventory_hostname }}}} {has_copy}"}
        found.append({"hosts": "all", "gather_facts": False, "tags": play["tags"], "tasks": play["tasks"]})
    told = [{"ansible.builtin.debug": {"msg": "goes on with {{ inventory_hostname }}."}}]
    return [*found, {"hosts": "all", "gather_facts": False, "tags": "always", "tasks": told}]


def output_of(
    ansible: LoadedAnsible, directory: Path, plays_to_run: list[dict[str, Any]], *options: str
) -> tuple[int, str]:
    """Run plays on these hosts, and return the status and the output."""
    playbook, inventory = directory / "plays.json", directory / "hosts.json"
    playbook.write_text(json.dumps(plays_to_run))
    inventory.write_text(json.dumps({"all": {"hosts": HOSTS}}))
    command = ["ansible-playbook", "-i", str(inventory), "-c", "local", str(playbook), *options]
    status, output, errors = ansible.run(command, environment_of_ansible())
    assert status in (0, 2), output + errors
    return status, output


@pytest.fixture(scope="module")
def twice(ansible: LoadedAnsible, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str]]:
    """Return the function that runs the play twice in one command, and returns the status and the output.

    What the same options have led to is known: two tests look at it, each for something else.
    """

    @functools.cache
    def run(*options: str) -> tuple[int, str]:
        return output_of(ansible, tmp_path_factory.mktemp("plays"), plays(2), *options)

    return run


def reverted_in(output: str) -> list[str]:
    """Return what is told of reverted hosts."""
    return sorted(re.findall(r"play (\d reverts \w+ \w+)", output))


@pytest.mark.promise("adopted-server-reverted")
def test_only_a_host_that_failed_reverts_and_only_what_this_play_has_changed(
    twice: Callable[..., tuple[int, str]],
) -> None:
    """The second play of one command: what the first has noted, and changed, is none of its business."""
    status, output = twice()
    assert reverted_in(output) == ["1 reverts early False", "1 reverts late True"]
    # The failure stays one, and the other hosts go on.
    assert (status, re.findall(r"goes on with (\w+)\.", output)) == (2, ["well"])


@pytest.mark.promise("adopted-server-reverted")
@pytest.mark.parametrize("options", [("--check",), ("--tags", "postgres_config")])
def test_a_dry_run_and_a_run_without_the_failing_task_revert_nothing(
    twice: Callable[..., tuple[int, str]], options: tuple[str, ...]
) -> None:
    assert reverted_in(twice(*options)[1]) == []


@pytest.mark.promise("unfinished-phase-named")
@pytest.mark.parametrize(
    ("options", "finished"),
    [
        ((), ["early 0", "late 0", "well 0", "well 1"]),
        (("--tags", "postgres_config"), ["early 0", "early 1", "late 0", "late 1", "well 0", "well 1"]),
        # What has not looked at the files of others has not finished them.
        (("--tags", "schema_apply"), []),
        (("--check",), []),
    ],
)
def test_a_shared_server_is_asked_for_an_earlier_run_first_and_noted_as_finished_only_if_nothing_fails(
    twice: Callable[..., tuple[int, str]], options: tuple[str, ...], finished: list[str]
) -> None:
    _, output = twice(*options)
    told = re.findall(r"play (\d) is (unfinished|finished) of (\w+)", output)
    assert sorted(f"{host} {number}" for number, what, host in told if what == "finished") == finished
    asked = [(number, host) for number, what, host in told if what == "unfinished"]
    assert sorted(asked) == [(number, host) for number in "01" for host in ("early", "late", "well")]


@pytest.mark.promise("adopted-server-reverted")
@pytest.mark.parametrize(
    ("options", "refused"),
    [(("--skip-tags", "always"), ["early", "late", "well"]), (("--skip-tags", "schema_apply"), [])],
)
def test_a_run_that_would_leave_the_revert_out_is_refused_on_a_shared_server(
    tmp_path: Path, ansible: LoadedAnsible, options: tuple[str, ...], refused: list[str]
) -> None:
    (refusal,) = (task for task in yaml.safe_load(PREFLIGHT.read_text()) if "could not revert" in task["name"])
    variables = {
        "postgres_config_existing": "{{ postgres_existing | default('refuse') }}",
        "__postgres_config_adopts": "{{ postgres_config_existing == 'adopt' }}",
    }
    play = {"hosts": "all", "gather_facts": False, "vars": variables, "tasks": [refusal]}
    status, output = output_of(ansible, tmp_path, [play], *options)
    assert sorted(set(re.findall(r"^fatal: \[(\w+)\].*", output, re.MULTILINE))) == refused
    assert (status, "--skip-tags always leaves out what gives" in output) == (2 if refused else 0, bool(refused))
