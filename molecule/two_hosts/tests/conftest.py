"""A person in front of a fresh clone: a shell, a home directory, and two hosts that the clone's inventory names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import testinfra
import yaml
from testinfra.host import Host

from scripts.playbooks import ROOT
from scripts.walk_through import Command, Shell, read_page, sections

PAGE = ROOT / "docs" / "from_clone_to_prod.md"
PREFIX = os.environ.get("TEST_HOST_PREFIX", "molecule-")
# What an example of the page stands for, from the time at which it was printed.
LEARNT = {
    "3f0a86c1d2b7": re.compile(r"Plan ([0-9a-f]{12}) of prod"),
    "20260501T120000.000000Z-prod": re.compile(r"reports/prod/runs/(\S+)\.json"),
}
ADDRESS = "https://git.example.org/sqlite-to-postgresql.git"
# What the environment of this run may not bring into the person's shell.
_NOT_A_PERSONS = ("ANSIBLE_", "GIT_", "MOLECULE_", "SQLITE_TO_POSTGRESQL_", "TEST_HOST_", "VIRTUAL_ENV")
_NAME = {"NAME": "Anna", "EMAIL": "anna@example.org"}
# What the sample hosts need in place of the real ones', and no timer of ours fires while a test looks.
_NEVER = "2099-01-01 02:30:00"
_SETTINGS = {
    "ansible_connection": "community.docker.docker",
    "ansible_pipelining": True,
    "postgres_install_repository_url": "file:///srv/postgresql-repository",
    "postgres_install_repository_key_url": "file:///srv/postgresql-repository/key.asc",
    "postgres_backup_schedule": _NEVER,
    "postgres_backup_drill_schedule": _NEVER,
    "postgres_backup_check_schedule": _NEVER,
    "sqlite_cleanup_check_time": _NEVER,
    "service_env_stable_seconds": 2,
    # No longer than it takes, on a machine that runs other tests meanwhile.
    "service_env_health_timeout": 180,
}
_LOGIN = {"vault_validation_login_password": "sample-admin-password"}
_ROLES = ("migrator", "registry", "deploy", "tickets", "platform")


@dataclass
class Walk:
    """The way of the page, as far as it was followed.

    :param followed: headings of the sections that are behind.
    """

    shell: Shell
    commands: list[Command]
    clone: Path
    followed: list[str]

    def follow(self, section: str) -> str:
        """Follow the next section of the page, which has this heading, and return what its commands printed."""
        (following, *_) = sections([command for command in self.commands if command.section not in self.followed])
        assert following == section, f"{following} was not followed"
        printed = []
        for command in self.commands:
            if command.section == section:
                if command.text == "make setup":
                    _equip(self.clone)
                printed.append(self.shell.follow(command))
        self.followed.append(section)
        return "".join(printed)

    def refuses(self, command: str) -> str:
        """Run a command that must fail, without a traceback, and return what it printed, on one line."""
        status, output = self.shell.run(command)
        assert status != 0 and "Traceback" not in output, output
        return " ".join(output.split())


def _equip(clone: Path) -> None:
    """Let a clone have the programs and collections of this tree, so that `make setup` has nothing to download.

    It also gets the passwords of dev.
    """
    (clone / ".venv").symlink_to(ROOT / ".venv")
    collections = clone / ".collections" / "ansible_collections"
    (collections / "swarm").mkdir(parents=True)
    (collections / "swarm" / "sqlite_to_postgresql").symlink_to("../../..")
    for installed in (ROOT / ".collections" / "ansible_collections").iterdir():
        if installed.name != "swarm":
            (collections / installed.name).symlink_to(installed.resolve())
    # dev is on PostgreSQL already, with passwords that its first run has generated.
    shutil.copytree(ROOT / ".cache" / "test_host" / "secrets" / f"{PREFIX}dev", clone / ".secrets" / "dev")
    # make compares times.
    for name in ("pyproject.toml", "requirements.yml", "scripts/set_up_python.sh", "scripts/install_collections.py"):
        os.utime(clone / name, (0, 0))


def _publish(repository: Path) -> None:
    """Put this tree, as it is on the disk, into a repository, in one commit."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repository / name)
    identity = ["-c", f"user.name={_NAME['NAME']}", "-c", f"user.email={_NAME['EMAIL']}"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "The project"]):
        subprocess.run(["git", "-C", str(repository), *identity, *command], check=True, capture_output=True)


def _prepare_answers(directory: Path) -> None:
    """Write what a person writes in an editor, each file by its name in the clone."""
    inventory = directory / "inventory"
    for environment in ("dev", "prod"):
        (inventory / "group_vars" / environment).mkdir(parents=True)
    (inventory / "group_vars" / "all").mkdir()
    shutil.copy2(ROOT / "inventory" / "group_vars" / "all" / "estate.yml", inventory / "group_vars" / "all")
    hosts = yaml.safe_load((ROOT / "inventory" / "hosts.yml").read_text(encoding="utf-8"))
    for environment in ("dev", "prod"):
        (host,) = hosts["all"]["children"][environment]["hosts"].values()
        host.update(_SETTINGS, ansible_host=f"{PREFIX}swarm-{environment}")
    (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts), encoding="utf-8")
    passwords = {f"swarm_{role}": f"only-for-tests-{role}" for role in _ROLES}
    for environment, more in (("dev", {}), ("prod", {"vault_postgres_role_passwords": passwords})):
        vault = inventory / "group_vars" / environment / "vault.yml"
        vault.write_text(yaml.safe_dump({**_LOGIN, **more}), encoding="utf-8")


def _environment(home: Path) -> dict[str, str]:
    """Return the environment of a person who has not come to this project yet."""
    ours = Path(sys.executable).parent.resolve()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_A_PERSONS)}
    path = (entry for entry in os.environ["PATH"].split(os.pathsep) if Path(entry).resolve() != ours)
    people = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _NAME.items()}
    return {**kept, **people, "HOME": str(home), "PATH": os.pathsep.join(path), "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1"}


def _describe_tree() -> dict[str, int]:
    """Return when each file of this tree was written that a run in it would write or a person would edit."""
    folders = (ROOT / name for name in ("evidence", "inventory", "keys", "reports/dev", "reports/prod", ".secrets"))
    return {str(path): path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def walk() -> Iterator[Walk]:
    """Return the way of the page before its first step; afterwards this tree is as it was."""
    directory = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "walk"
    shutil.rmtree(directory, ignore_errors=True)
    repository, home, answers = (
        directory / "origin" / "sqlite-to-postgresql.git",
        directory / "home",
        directory / "answers",
    )
    for made in (repository, home / ".ssh", answers):
        made.mkdir(mode=0o700, parents=True)
    before = _describe_tree()
    _publish(repository)
    _prepare_answers(answers)
    state = directory / "state"
    state.write_text(f"cd {shlex.quote(str(directory))}\n", encoding="utf-8")
    shell = Shell(state, _environment(home), answers, {ADDRESS: str(repository)}, LEARNT)
    yield Walk(shell, read_page(PAGE.read_text(encoding="utf-8")), directory / "sqlite-to-postgresql", [])
    assert _describe_tree() == before


@pytest.fixture(scope="session")
def dev() -> Host:
    """Return the host of dev."""
    return testinfra.get_host(f"docker://{PREFIX}swarm-dev")


@pytest.fixture(scope="session")
def prod() -> Host:
    """Return the host of prod."""
    return testinfra.get_host(f"docker://{PREFIX}swarm-prod")
