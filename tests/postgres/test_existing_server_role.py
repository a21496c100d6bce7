"""Which hosts are asked what PostgreSQL they have: those that are to run our server, and no others."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.conftest import PROJECT

ROLE = PROJECT / "roles" / "postgres_install"


def load(name: str) -> Any:
    """Return the content of a file of the role."""
    return DataLoader().load_from_file(str(ROLE / name), trusted_as_template=True)


@pytest.mark.promise("foreign-cluster-refused")
@pytest.mark.parametrize(
    ("entry", "provider", "asked"),
    [("main.yml", "self_hosted", True), ("main.yml", "managed", False), ("client.yml", "self_hosted", False)],
)
def test_only_a_host_that_is_to_run_our_server_is_asked(entry: str, provider: str, asked: bool) -> None:
    (task,) = [
        task for task in load("tasks/preflight.yml") if task.get("ansible.builtin.import_tasks") == "existing.yml"
    ]
    variables = {
        **load("vars/main.yml"),
        **load(f"tasks/{entry}")[0]["vars"],
        "postgres_install_provider": provider,
        "postgres_install_version": 16,
        "__postgres_install_before": {"files": {}},
    }
    templar = Templar(loader=DataLoader(), variables=variables)
    assert bool(templar.template(trust_as_template("{{ " + str(task["when"]) + " }}"))) is asked
