"""Every command of the pages can be typed as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from ansible import context
from ansible.cli.playbook import PlaybookCLI
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

from scripts.loaded_ansible import LoadedAnsible
from tests.conftest import PROJECT, environment_of_ansible
from tests.foundation.test_links import documents

PROGRAMS = Path(sys.executable).parent
BLOCK = re.compile(r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:ansible-\w+|make) [^`]+)`")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield where and the words of each command of the pages: lines of blocks for a shell, and texts in backticks."""
    for page in documents():
        text = page.read_text(encoding="utf-8")
        lines = INLINE.findall(BLOCK.sub("", text))
        for block in BLOCK.finditer(text):
            shown = block["text"].splitlines()
            if block["language"] in ("", "bash"):
                lines += shown
            elif block["language"] == "console":
                lines += [line.strip()[2:] for line in shown if line.strip().startswith("$ ")]
        for line in lines:
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue  # text with an apostrophe, no command
            if words:
                yield str(page.relative_to(PROJECT)), words


def named(program: str) -> list[tuple[str, list[str]]]:
    """Return the commands of the pages that call a program, each with where it stands."""
    return [(where, words) for where, words in commands() if words[0] == program and len(words) > 1]


def run(*command: str, cwd: Path = PROJECT, **environment: str) -> str:
    """Run a command that succeeds, with our configuration, and return its output."""
    done = subprocess.run(
        [str(PROGRAMS / command[0]), *command[1:]],
        cwd=cwd,
        env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_playbook_of_the_pages_is_called_with_right_options_hosts_and_variables() -> None:
    inventory = InventoryManager(loader=DataLoader(), sources=[str(PROJECT / "inventory")])
    specifications = [yaml.safe_load(path.read_text()) for path in PROJECT.glob("roles/*/meta/argument_specs.yml")]
    entries = [entry for specification in specifications for entry in specification["argument_specs"].values()]
    known = {name for entry in entries for name in entry.get("options") or {}}
    calls = named("ansible-playbook")
    assert len(calls) > 20
    wrong = []
    for where, words in calls:
        command = PlaybookCLI(words)
        command.parse()
        options = dict(context.CLIARGS)
        wrong += [f"{where}: {name} is not there" for name in options["args"] if not (PROJECT / name).is_file()]
        limit = options["subset"]
        if limit is None or not inventory.get_hosts(limit):
            wrong.append(f"{where}: {shlex.join(words)} names no hosts")
        for given in options["extra_vars"]:
            if not given.startswith("@") and given.partition("=")[0] not in known:
                wrong.append(f"{where}: nothing reads variable {given}")
    assert wrong == []


def test_playbooks_are_found_with_their_roles_from_another_directory(tmp_path: Path, ansible: LoadedAnsible) -> None:
    playbooks = sorted({word for _, words in named("ansible-playbook") for word in words if word.endswith(".yml")})
    paths = [str(PROJECT / name) for name in playbooks if "@" not in name]
    command = ["ansible-playbook", "--syntax-check", "-l", "dev", *paths]
    status, *streams = ansible.run(command, environment_of_ansible(), tmp_path)
    output = "".join(streams)
    assert status == 0, output
    assert all(f"playbook: {path}" in output for path in paths)


def test_every_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    calls = named("make")
    assert len(calls) > 5
    assert [f"{where}: make {words[1]}" for where, words in calls if words[1] not in targets] == []


def test_ansible_doc_is_asked_for_modules_and_callbacks_that_are_there() -> None:
    found = {
        kind: {f"swarm.sqlite_to_postgresql.{path.stem}" for path in (PROJECT / "plugins" / folder).glob("*.py")}
        for kind, folder in (("module", "modules"), ("callback", "callback"))
    }
    calls = named("ansible-doc")
    assert calls
    kinds = [("callback" if "callback" in words else "module", words) for _, words in calls]
    assert [words for kind, words in kinds if not found[kind] & set(words)] == []


def test_results_are_shown_as_the_configuration_says() -> None:
    """A setting that is no option of Ansible's would not be among those that it has read."""
    (first, *_) = json.loads(run("ansible-config", "dump", "--type", "callback", "--only-changed", "--format", "json"))
    read = {option["name"]: option["value"] for option in first["default"]}
    assert read["result_format"] == "yaml"


def test_a_vault_beside_the_environment_leaves_the_environment_as_it_is(tmp_path: Path) -> None:
    """The command of the README that makes the vault, and what the inventory then says of prod."""
    creating = {tuple(words) for _, words in named("ansible-vault") if words[1] == "create" and len(words) == 3}
    (words,) = (words for words in creating if "/prod/" in words[2])
    shutil.copytree(PROJECT / "inventory", tmp_path / "inventory")
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho 'vault_postgres_role_passwords: {swarm_migrator: of-this-test}' > \"$1\"\n")
    editor.chmod(0o755)
    (tmp_path / "word").write_text("open sesame")
    options = ["--vault-password-file", str(tmp_path / "word")]
    run(*words, "--skip-tty-check", *options, cwd=tmp_path, EDITOR=str(editor))
    assert (tmp_path / words[2]).read_text().startswith("$ANSIBLE_VAULT;")
    told = run("ansible-inventory", "-i", "inventory", "--host", "swarm-prod", "--yaml", *options, cwd=tmp_path)
    variables = yaml.safe_load(told)
    assert variables["environment_name"] == "prod"
    assert variables["vault_postgres_role_passwords"] == {"swarm_migrator": "of-this-test"}


def test_every_test_that_a_page_names_is_there() -> None:
    files = (path for top in ("tests", "molecule") for path in (PROJECT / top).rglob("test_*.py"))
    there = {name for path in files for name in re.findall(r"def (test_\w+)", path.read_text())}
    pages = (PROJECT / "docs").glob("*.md")
    named_tests = {name for page in pages for name in re.findall(r"`(test_\w+)`", page.read_text())}
    assert len(named_tests) > 10
    assert named_tests - there == set()


def test_every_test_that_a_page_tells_to_run_is_in_the_file_that_it_names() -> None:
    """A test that was renamed would be selected by nobody, and pytest says so only to whoever types it."""
    told = re.compile(r"`(?:pytest )?((?:tests|molecule)/[\w/]+\.py)(?:(?: -k |::)(\w+))?`")
    found = [match.groups() for page in documents() for match in told.finditer(page.read_text(encoding="utf-8"))]
    assert len(found) > 40
    wrong = [
        f"{file} {name or ''}"
        for file, name in found
        if not (PROJECT / file).is_file()
        or (name and name.startswith("test_") and f"def {name}(" not in (PROJECT / file).read_text(encoding="utf-8"))
    ]
    assert wrong == []
