"""Every command that we print names the hosts and the inventory of the run, or it would mean those of others."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from ansible_collections.swarm.sqlite_to_postgresql.plugins.lookup import run_limit
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core import commands, state
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import run_inventory
from tests.conftest import PROJECT

PRINTED_COMMAND = re.compile(r"ansible-playbook|playbooks/\w+\.yml|site\.yml")
_PLANNED = "|".join(f"playbooks/{name}" for name in commands.PLANNED)
# A playbook that needs no plan is told without the one of the run.
LIMITED_COMMAND = re.compile(
    rf"ansible-playbook (?:(?:{_PLANNED}|site)\.yml -l \{{\{{ lookup\('swarm\.sqlite_to_postgresql\.run_limit'\)"
    rf"|(?!{_PLANNED})playbooks/\w+\.yml -l (?:\{{\{{ |'\s*~ )"
    r"lookup\('swarm\.sqlite_to_postgresql\.run_limit', plan=false\))"
)
# What an operator types after "-e", with the name of a variable of ours. It stands behind a whole command only.
OPTION = re.compile(r"-e \w+=")
FILES = ("plugins/action/check_inventory.py", "plugins/module_utils/promotion/tree.py")
SETS_THE_LIMIT = "{{ lookup('swarm.sqlite_to_postgresql.run_limit') }}"
# After a rollback or a restore, the plan that the run may have named counts no more.
WITHOUT_A_PLAN = SETS_THE_LIMIT.replace("run_limit'", "run_limit', plan=false")


@cache
def texts_of_python() -> tuple[tuple[str, str], ...]:
    """Return where and what for each text of our plugins that could be printed: all but documentation."""
    return tuple(
        (f"{path.relative_to(PROJECT)}:{line}", text)
        for path in sorted((PROJECT / "plugins").rglob("*.py"))
        for line, text in texts_of(ast.parse(path.read_text(encoding="utf-8")))
    )


def texts_of(tree: ast.Module) -> list[tuple[int, str]]:
    """Return line and value of each text of a module that is no documentation."""
    documentation: set[int] = set()
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if node.body and isinstance(node.body[0], ast.Expr):
                documentation.add(id(node.body[0].value))
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id in ("DOCUMENTATION", "EXAMPLES", "RETURN"):
                documentation.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append((node, node.value))
    return [(node.lineno, text) for node, text in texts if id(node) not in documentation]


def lines_of_roles() -> Iterator[tuple[str, str]]:
    """Yield where and what for each line of the roles' tasks, variables and templates that is no comment."""
    for path in sorted((PROJECT / "roles").rglob("*")):
        if path.suffix not in (".yml", ".j2", ".ts") or "node_modules" in path.parts or "test" in path.parts:
            continue
        if path.parent.name in ("meta", "defaults") and path.suffix == ".yml":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.lstrip().startswith(("#", "*", "//", "/*")):
                yield f"{path.relative_to(PROJECT)}:{number}", line


def test_python_builds_every_command_in_one_place() -> None:
    builder = "plugins/module_utils/migration/core/commands.py"
    beside = [
        f"{where}: {text}"
        for where, text in texts_of_python()
        # The files that the check of the inventory reads, and those of the tree, are no commands.
        if PRINTED_COMMAND.search(text) and not where.startswith((builder, *FILES))
    ]
    assert beside == []
    options = [f"{where}: {text}" for where, text in texts_of_python() if OPTION.search(text)]
    assert [option for option in options if not option.startswith(builder)] == []


def test_roles_print_no_command_without_a_limit() -> None:
    lines = list(lines_of_roles())
    # A text may go on in the next line.
    found = [
        (where, f"{line}{following.strip()}" if line.endswith("-l '") else line)
        for (where, line), (_, following) in zip(lines, [*lines[1:], ("", "")], strict=True)
        if PRINTED_COMMAND.search(line)
    ]
    assert len(found) > 3
    assert [f"{where}: {line}" for where, line in found if not LIMITED_COMMAND.search(line)] == []


def _runs_on_the_controller(play: dict[str, Any]) -> bool:
    """Return whether a play only checks the inventory and asks the gate."""
    # A task with an imported role is known by the role, any other by its module.
    done = [task.get("ansible.builtin.import_role", {}).get("name") or list(task)[1] for task in play.get("tasks", [])]
    gate = "swarm.sqlite_to_postgresql.promotion_gate"
    return done in (["inventory_check"], ["inventory_check", "promotion_gate"], ["inventory_check", gate])


def test_every_play_and_unit_tells_its_programs_the_limit() -> None:
    plays = [
        (WITHOUT_A_PLAN if path.stem in ("rollback", "restore") else SETS_THE_LIMIT, play)
        for path in sorted((PROJECT / "playbooks").glob("*.yml"))
        for play in yaml.safe_load(path.read_text())
    ]
    without = [
        play["name"]
        for limit, play in plays
        # The check of the inventory and the gate run on the controller and know the limit.
        if play.get("environment", {}).get(commands.LIMIT_VARIABLE) != limit and not _runs_on_the_controller(play)
    ]
    assert without == []
    units = [path for path in (PROJECT / "roles").rglob("*.j2") if "engine_program_path" in path.read_text()]
    assert len(units) == 2
    # The inventory of the run stands behind the limit: systemd reads all of it as one word.
    limit = f"""Environment="{commands.LIMIT_VARIABLE}={SETS_THE_LIMIT[:-4]}, 'environment') }}}}\""""
    assert [path.name for path in units if limit not in path.read_text()] == []


@pytest.mark.parametrize(
    ("limit", "environment", "word"),
    [
        ("swarm-dev", "dev", "swarm-dev"),
        (None, "dev", "dev"),
        ("dev:!old host", "dev", "'dev:!old host'"),
        (None, None, commands.UNKNOWN_LIMIT),
    ],
)
def test_the_limit_is_that_of_the_run(
    limit: str | None, environment: str | None, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"ansible_limit": limit, "environment_name": environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    lookup = run_limit.LookupModule(templar=Templar(DataLoader()))
    (found,) = lookup.run([], variables)
    assert found == word
    monkeypatch.setenv(commands.LIMIT_VARIABLE, found)
    command = commands.playbook("rollback", service_env_rollback_groups="a b", service_env_rollback_lose_rows=3)
    assert shlex.split(command) == [
        "ansible-playbook", "playbooks/rollback.yml", "-l", limit or environment or commands.UNKNOWN_LIMIT,
        "-e", "service_env_rollback_groups=a b", "-e", "service_env_rollback_lose_rows=3",
    ]  # fmt: skip
    if environment is not None:
        variables["ansible_config_file"] = str(PROJECT / "ansible.cfg")
        assert lookup.run(["environment"], variables) == [environment]


@pytest.mark.promise("run-keeps-to-its-plan")
def test_only_a_playbook_that_asks_for_a_plan_is_told_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    playbooks = list((PROJECT / "playbooks").glob("*.yml"))
    asking = {path.stem for path in playbooks if "promotion_gate_needs_plan: true" in path.read_text()}
    assert asking == set(commands.PLANNED)
    for limit in ("prod", "'dev:!old host' -i 'my estate'"):
        for plan in ("plan=3f0a86c1d2b7", "plan=x; reboot"):
            monkeypatch.setenv(commands.LIMIT_VARIABLE, f"{limit} -e {shlex.quote(plan)}")
            for path in playbooks:
                named = ["-e", plan] if path.stem in asking else []
                told = ["ansible-playbook", f"playbooks/{path.name}", "-l", *shlex.split(limit), *named, "-e", "a=b c"]
                assert shlex.split(commands.playbook(path.stem, a="b c")) == told


INVENTORY = str(PROJECT / "inventory")


@pytest.mark.parametrize(
    ("sources", "words", "lasting"),
    [
        ([INVENTORY], [], True),
        ([f"{PROJECT}/inventories/my estate"], ["-i", "inventories/my estate"], True),
        ([INVENTORY, f"{PROJECT}/molecule/inventory"], ["-i", "inventory", "-i", "molecule/inventory"], True),
        (["/etc/estates/shop"], ["-i", "/etc/estates/shop"], False),
        (["one,two,"], ["-i", "one,two,"], False),
        ([INVENTORY, "/etc/more; id"], ["-i", "inventory", "-i", "/etc/more; id"], False),
    ],
)
def test_a_run_with_another_inventory_prints_commands_with_it(
    sources: list[str], words: list[str], lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = ([INVENTORY], str(PROJECT / "ansible.cfg"))
    monkeypatch.setattr(run_inventory.constants.config, "get_config_value_and_origin", lambda _name: configured)
    variables = {
        "ansible_limit": "dev",
        "ansible_inventory_sources": sources,
        "ansible_config_file": str(PROJECT / "ansible.cfg"),
    }
    lookup = run_limit.LookupModule(templar=Templar(DataLoader()))
    (found,) = lookup.run([], variables)
    monkeypatch.setenv(commands.LIMIT_VARIABLE, found)
    assert shlex.split(commands.playbook("rollback", service_env_rollback_groups="a")) == [
        "ansible-playbook", "playbooks/rollback.yml", "-l", "dev", *words, "-e", "service_env_rollback_groups=a"
    ]  # fmt: skip
    # What is written to a host stays the same, whatever the next run is limited to, and from wherever it sees the
    # inventory, and whatever a tool like Molecule adds for one run.
    variables |= {"environment_name": "dev", "ansible_limit": "one_host"}
    written = ["dev", *words] if lasting else [commands.UNKNOWN_LIMIT]
    assert shlex.split(lookup.run(["environment"], variables)[0]) == written
    of_one_run = Path(run_inventory.constants.DEFAULT_LOCAL_TMP).parent / "molecule.x.default" / "inventory"
    variables["ansible_inventory_sources"] = [str(of_one_run), *sources]
    assert shlex.split(lookup.run(["environment"], variables)[0]) == written


def test_systemd_reads_the_limit_letter_by_letter() -> None:
    """A path may hold what systemd takes for something else between double quotes."""
    variables = {
        "ansible_inventory_sources": [str(PROJECT / '50%/"a\\b c')],
        "ansible_config_file": str(PROJECT / "ansible.cfg"),
        "environment_name": "dev",
    }
    lookup = run_limit.LookupModule(templar=Templar(DataLoader()))
    (found,) = lookup.run(["environment"], variables)
    assert found == r"""dev -i '50%%/\"a\\b c'"""


def test_a_run_with_another_configuration_names_its_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell in which a command is pasted may not have ANSIBLE_CONFIG, and would read the project's own."""
    for configuration in ("ansible-shop.cfg", "ansible.cfg"):
        configured = ([f"{PROJECT}/shop"], str(PROJECT / configuration))
        monkeypatch.setattr(
            run_inventory.constants.config, "get_config_value_and_origin", lambda _name, found=configured: found
        )
        variables = {"ansible_inventory_sources": configured[0], "ansible_config_file": configured[1]}
        assert run_inventory.inventory_options(variables) == ([] if configuration == "ansible.cfg" else ["-i shop"])
    monkeypatch.setattr(
        run_inventory.constants.config,
        "get_config_value_and_origin",
        lambda _name: ([INVENTORY], "env: ANSIBLE_INVENTORY"),
    )
    variables = {"ansible_inventory_sources": [INVENTORY], "ansible_config_file": str(PROJECT / "ansible.cfg")}
    assert run_inventory.inventory_options(variables) == ["-i inventory"]
    for spelling in (INVENTORY, f"{INVENTORY}/hosts.yml"):
        assert run_inventory.lasting_inventory_options(variables | {"ansible_inventory_sources": [spelling]}) == []


def test_an_inventory_of_the_environments_variable_is_named_too(tmp_path: Path) -> None:
    """The shell in which a command is pasted may not have the variable: a run of Ansible itself is asked."""
    (tmp_path / "hosts").write_text("localhost ansible_connection=local\n")
    (tmp_path / "say.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - ansible.builtin.debug:\n        msg: "
        "\"told {{ lookup('swarm.sqlite_to_postgresql.run_limit') }} end\"\n"
    )
    inventory = str(tmp_path / "hosts")
    ways: list[tuple[list[str], dict[str, str]]] = [(["-i", inventory], {}), ([], {"ANSIBLE_INVENTORY": inventory})]
    for options, environment in ways:
        run = subprocess.run(
            ["ansible-playbook", "-l", "localhost", *options, str(tmp_path / "say.yml")],
            capture_output=True,
            text=True,
            check=True,
            cwd=PROJECT,
            env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), **environment},
        )
        assert f"told localhost -i {inventory} end" in " ".join(run.stdout.split()), run.stdout


def test_what_a_group_needs_next_names_hosts_and_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(commands.LIMIT_VARIABLE, "dev")
    for name in state.STATES:
        advice = state.advice(name, "registry")
        assert all(part.startswith(".yml -l dev") for part in re.split(r"playbooks/\w+", advice)[1:]), advice
    assert state.advice(state.ARCHIVED, "registry").endswith("-l dev -e sqlite_cleanup_restore_groups=registry")


def test_a_log_that_holds_nothing_is_not_named() -> None:
    """The migrator's statements are not logged; only why a session ended is."""
    named = [(where, text) for where, text in texts_of_python() if "Look at the server's log" in text]
    assert [where.split(":")[0] for where, _ in named] == ["plugins/module_utils/migration/core/connection.py"]
