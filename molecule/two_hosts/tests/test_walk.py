"""The way from a fresh clone to prod, as its page says, and what is refused on it.

The tests are in the order of the page, and each needs those before it. They carry no promise, because `make test`
leaves them out and proves the gate in tests/promotion.
"""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import pytest
from testinfra.host import Host

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import gate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.gated import HOST_FILE
from scripts.playbooks import ROOT

PLANNED = "ansible-playbook site.yml -l prod -e plan=3f0a86c1d2b7"
PROTECTED = "prod is protected, and nothing was changed there."
ASK_SERVICES = """
import json, urllib.request
for port in (4001, 4002, 4003, 4004):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
        print(json.load(answer)["store"])
"""


def shell(host: Host, command: str) -> str:
    """Run a command as root that must succeed, and return what it prints."""
    result = host.run(command)
    assert result.rc == 0, f"{command}: {result.stderr}\n{result.stdout}"
    return str(result.stdout).strip()


def stores(host: Host) -> set[str]:
    """Return where the services of a host say that they keep their rows."""
    return set(shell(host, shlex.join(["python3", "-c", ASK_SERVICES])).split())


@pytest.fixture(scope="session")
def described(prod: Host) -> list[str]:
    """Return what prod looks like before anybody goes near it."""
    return describe(prod)


def describe(host: Host) -> list[str]:
    """Return everything of a host that a playbook could change."""
    program = b64encode((ROOT / "molecule" / "default" / "describe_host.sh").read_bytes()).decode()
    # Not as an argument: it would find itself among the processes.
    place = "/tmp/described"  # noqa: S108 (of a throwaway host)
    lines = shell(host, f"echo {program} | base64 -d | sh -s {place} >/dev/null && cat {place}").splitlines()
    assert len(lines) > 1000
    return lines


@contextmanager
def edited(walk: Any, command: str) -> Iterator[None]:
    """Let files of the clone be other ones than those of its last commit."""
    assert walk.shell.run(command)[0] == 0
    try:
        yield
    finally:
        assert walk.shell.run("git reset --quiet --hard; git clean --quiet --force playbooks")[0] == 0


@pytest.mark.usefixtures("described")
def test_dev_passes(walk: Any, dev: Host) -> None:
    walk.follow("1. Clone the project")
    walk.follow("2. Say who may sign")
    walk.follow("3. Describe your hosts, your estate and your passwords")
    walk.follow("4. Move dev")
    assert stores(dev) == {"postgresql"}


def test_prod_is_refused_without_evidence(walk: Any) -> None:
    walk.follow("5. See prod refused")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("site.yml -l dev:prod", "it names hosts of more than one environment"),
        ("site.yml", "it names hosts of more than one environment"),
        ("playbooks/1_infrastructure.yml -l prod --tags postgres_install", PROTECTED),
        ("playbooks/1_infrastructure.yml -l prod --skip-tags always", "--skip-tags always leaves out the gate"),
        ("site.yml -l prod -e environment_name=dev", "-e sets environment_name"),
    ],
)
def test_no_call_leads_around_the_missing_evidence(walk: Any, call: str, told: str) -> None:
    assert told in walk.refuses(f"ansible-playbook {call}")


def test_what_runs_on_dev_is_evidence_and_is_signed(walk: Any) -> None:
    walk.follow("6. Collect and sign the evidence")


def test_the_plan_is_shown_and_changes_nothing(walk: Any, prod: Host, described: list[str]) -> None:
    walk.follow("7. See what the run would do on prod")
    assert describe(prod) == described


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("echo '# edited' >> roles/schema_apply/tasks/main.yml", "roles/schema_apply/tasks/main.yml differs from"),
        ("cp playbooks/backup.yml playbooks/own.yml", "playbooks/own.yml is in no commit"),
        ("sed -i s/passed/PASSED/ evidence/dev-*.json", "its signature does not hold: it was altered"),
        (
            "ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/other && rm evidence/*.sig && "
            "ssh-keygen -q -Y sign -f ~/.ssh/other -n sqlite-to-postgresql-evidence evidence/dev-*.json",
            "keys/allowed_signers has signed it",
        ),
        ("rm -r evidence", "there is no evidence for this very tree"),
    ],
)
def test_what_was_edited_after_the_signature_is_refused(walk: Any, command: str, told: str) -> None:
    with edited(walk, command):
        assert told in walk.refuses(PLANNED)


def test_a_host_that_does_not_say_that_it_is_prod_is_refused(
    walk: Any, dev: Host, prod: Host, described: list[str]
) -> None:
    """One that has said nothing yet, and one whose file was copied from another machine: here, with dev's id."""
    assert "the host does not say that it is prod" in walk.refuses(PLANNED)
    directory = str(PurePosixPath(HOST_FILE).parent)
    copied = gate.host_text("prod", shell(dev, "cat /etc/machine-id"))
    shell(prod, f"mkdir {directory} && printf %s {shlex.quote(copied)} > {HOST_FILE}")
    assert "the file was written on another machine, and copied" in walk.refuses(PLANNED)
    shell(prod, f"rm -r {directory}")
    assert describe(prod) == described
    assert stores(prod) == {"sqlite"}


def test_prod_is_moved_as_planned(walk: Any, prod: Host) -> None:
    walk.follow("8. Mark the host as prod, and move it")
    assert stores(prod) == {"postgresql"}
    assert gate.machine_of(shell(prod, "cat /etc/machine-id")) in shell(prod, f"cat {HOST_FILE}")


def test_the_record_of_the_run_is_signed_and_verified(walk: Any) -> None:
    walk.follow("9. Sign the record of the run")
    assert walk.commands[-1].section == walk.followed[-1]


def test_prod_is_refused_under_the_name_of_dev(walk: Any) -> None:
    with edited(walk, "sed -i s/swarm-dev$/swarm-prod/ inventory/hosts.yml"):
        told = walk.refuses("ansible-playbook playbooks/1_infrastructure.yml -l dev")
    assert "the host says that it is prod" in told
