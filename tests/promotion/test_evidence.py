"""What the evidence of a run says, and that the gate takes it once it is signed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import context
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib
from ansible.template import Templar

from ansible_collections.swarm.sqlite_to_postgresql.plugins.callback import run_record as callback
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import collect, evidence, gate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion.tree import read_tree
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import run_record
from tests.conftest import PROJECT

from .conftest import PASSED, VAULT, Clone, days_ago

# What the modules of the validation have found on a host where all is well, as far as the evidence reads it.
FOUND: dict[str, Any] = {
    "host": "swarm-dev",
    "groups": [
        {
            "group": "deploy",
            "state": "live",
            "findings": [],
            "tables": [{"target": "deploy.queue", "equal": True, "target_rows": 1200}],
            "cutover": {"at": "2026-05-01T12:00:00+00:00"},
            "rehearsal": {"way_back": {"rows": 1200, "seconds": 0.4}},
        }
    ],
    "checks": [{"name": "Deployment tracking works", "result": "passed"}],
    "database": {
        "findings": [],
        "server": {"version": "16.4"},
        "backup": {"newest_verified_taken_at": "2026-05-02T02:30:00+00:00"},
    },
    "unchanged": ["2026-05-01T11:00:00.250+00:00", "2026-05-02T04:00:00.250+00:00"],
}
Damage = Callable[[dict[str, Any]], Any]


def built(found: dict[str, Any]) -> dict[str, Any]:
    """Return the record of one host."""
    now, versions = datetime(2026, 5, 3, tzinfo=UTC), {"ansible-core": "2.19.14"}
    return collect.build("dev", "d" * 64, [found], versions, now, found["unchanged"])


def test_a_host_where_all_is_well_passes_every_check() -> None:
    content = built(FOUND)
    assert evidence.unmet(content, list(content["checks"])) == []
    assert content["versions"] == {"ansible-core": "2.19.14", "postgresql": ["16.4"]}
    assert content["collected_at"] == "2026-05-03T00:00:00+00:00"
    assert content["soak"] == {"since": "2026-05-01T12:00:00+00:00", "hours": 36.0}
    assert "deploy: 1,200 rows in 0.4 s" in content["checks"]["rollback_rehearsed"]["told"]


@pytest.mark.promise("evidence-says-what-is-missing")
@pytest.mark.parametrize(
    ("damage", "check", "told"),
    [
        (lambda found: found["groups"][0].update(state="rehearsed"), "groups_on_postgresql", "deploy is rehearsed"),
        (
            lambda found: found["groups"][0]["tables"][0].update(equal=False),
            "verification",
            "deploy.queue is not equal",
        ),
        (
            lambda found: found["database"]["findings"].append({"where": "fsync", "what": "it is off", "fix": ""}),
            "verification",
            "fsync: it is off",
        ),
        (lambda found: found["groups"][0].update(tables=[]), "verification", "no table was compared"),
        (lambda found: found["checks"][0].update(result="not run"), "functional_checks", "works' not run"),
        (lambda found: found["checks"].clear(), "functional_checks", "declares no functional check"),
        (lambda found: found["database"]["backup"].clear(), "backup_restored", "no backup was proven to restore"),
        (
            lambda found: found["groups"][0].update(cutover={"at": "2026-05-02T03:00:00+00:00"}),
            "backup_restored",
            "older than the last cutover",
        ),
        (lambda found: found["groups"][0].update(rehearsal=None), "rollback_rehearsed", "deploy has no rehearsed"),
        (lambda found: found["unchanged"].clear(), "second_run", "on all hosts: ansible-playbook site.yml -l dev"),
        (lambda found: found["unchanged"].pop(), "second_run", "after the last cutover has changed nothing"),
    ],
)
def test_what_is_missing_is_told_by_its_own_check(damage: Damage, check: str, told: str) -> None:
    found = deepcopy(FOUND)
    damage(found)
    content = built(found)
    missing = evidence.unmet(content, list(content["checks"]))
    assert len(missing) == 1, missing
    assert f"check '{check}' has not passed: " in missing[0]
    assert told in missing[0]


@pytest.mark.promise("evidence-says-what-is-missing")
@pytest.mark.parametrize(("minimum", "told"), [(0, ""), (36, ""), (37, "for 36 hours; 37 hours are required")])
def test_an_environment_may_ask_how_long_the_other_has_run_on_postgresql(minimum: float, told: str) -> None:
    found = gate.find_protection({"prod": {"evidence_from": "dev", "minimum_soak_hours": minimum}}, ["prod"])
    assert found is not None
    record, days = evidence.Evidence(built(FOUND), "anna"), found.maximum_age_days
    now = datetime(2026, 5, 4, tzinfo=UTC)
    given = (record, PROJECT, "dev", "d" * 64, days, found.required_checks, now, found.minimum_soak_hours)
    problems = "; ".join(map(str, evidence.shortcomings(*given)))
    assert (told in problems, bool(problems)) == (True, bool(told))


def ran(
    reports: Path, tree: str = "d" * 64, given: tuple[str, ...] = (), verdict: str = "passed", changed: int = 0
) -> None:
    """Leave the record of a run of the whole tree on the host."""
    record = run_record.RunRecord(reports, "dev")
    record.add("whole", tree=tree, extra_variables=given)
    record.add("end", verdict=verdict, hosts={"swarm-dev": {"changed": changed}})


@pytest.mark.promise("evidence-says-what-is-missing")
def test_a_second_run_is_one_of_this_tree_that_changed_nothing_on_any_host(tmp_path: Path) -> None:
    ran(tmp_path, tree="e" * 64)
    ran(tmp_path, given=("service_env_order",))
    ran(tmp_path, verdict="failed")
    ran(tmp_path, changed=1)

    def unchanged(*hosts: str) -> int:
        runs = run_record.read_all(tmp_path)
        return len(run_record.unchanged(runs, "d" * 64, hosts, ["vault_postgres_role_passwords"]))

    assert unchanged("swarm-dev") == 0
    ran(tmp_path, given=("vault_postgres_role_passwords",))
    assert (unchanged("swarm-dev"), unchanged("swarm-dev", "other")) == (1, 0)


@pytest.mark.parametrize(
    ("given", "is_whole"),
    [
        ({}, True),
        ({"tags": ("all",)}, True),
        ({"tags": ("service_env",)}, False),
        ({"skip_tags": ("validation",)}, False),
        ({"start_at_task": "Plan"}, False),
        ({"step": True}, False),
        ({"check": True}, False),
        ({"args": ("playbooks/4_service_cutover.yml",)}, False),
    ],
)
def test_only_a_run_of_the_whole_tree_is_recorded_as_one(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], is_whole: bool
) -> None:
    monkeypatch.chdir(clone.root)
    monkeypatch.setattr(callback, "_COLLECTION", clone.root)
    monkeypatch.setattr(context, "CLIARGS", {"args": ("site.yml",), **given})
    assert callback._tree_of_a_whole_run() == (read_tree(clone.root).digest if is_whole else "")
    clone.edit("site.yml", "# Edited.\n")
    assert callback._tree_of_a_whole_run() == ""


@pytest.mark.promise("gate-in-every-playbook")
def test_the_whole_run_is_refused_and_says_of_which_tree_it_is(clone: Clone) -> None:
    assert "there is no evidence for this very tree" in clone.refuses("../site", "-e", "plan=3f0a86c1d2b7")
    (run,) = run_record.read_all(clone.root / "reports")
    assert run.whole == {"tree": read_tree(clone.root).digest, "extra_variables": ["plan"]}


@pytest.mark.parametrize("cutover", [None, {"at": None}])
def test_a_group_whose_cutover_nobody_knows_has_not_soaked(cutover: dict[str, Any] | None) -> None:
    found = deepcopy(FOUND)
    found["groups"].append({**found["groups"][0], "group": "registry", "cutover": cutover})
    assert built(found)["soak"] == {"since": None, "hours": 0.0}


def documented(module: str, value: Any) -> dict[str, Any]:
    """Return the result of a module that found this, under the name by which the module documents it."""
    path = PROJECT / "plugins" / "modules" / f"{module}.py"
    returned = yaml.safe_load(path.read_text().partition('RETURN = r"""')[2].partition('"""')[0])
    return {name: value for name in returned if name != "problems"}


def test_the_play_hands_over_what_the_modules_return() -> None:
    tasks = DataLoader().load_from_file(str(PROJECT / "roles/validation/tasks/evidence.yml"), trusted_as_template=True)
    written = next(task["vars"]["__validation_found"] for task in tasks if "vars" in task)
    registered = {
        "__validation_groups": documented("validate_group", FOUND["groups"]),
        "__validation_checks": documented("http_checks", FOUND["checks"]),
        "__validation_database": documented("validate_database", FOUND["database"]),
    }
    known = {"ansible_play_hosts": ["swarm-dev"], "hostvars": {"swarm-dev": registered}}
    found = Templar(loader=DataLoader(), variables=known).template(written)
    assert built({**found[0], "unchanged": FOUND["unchanged"]}) == built(FOUND)


def collected(clone: Clone, *options: str, host: str = "swarm-dev") -> tuple[int, str]:
    """Let the module write the record of a host where all is well."""
    arguments = json.dumps({"environment_name": "dev", "validations": [{**FOUND, "host": host}]})
    module = ("-m", "swarm.sqlite_to_postgresql.promotion_evidence", "-a", arguments)
    return clone.run("ansible", "localhost", *module, *options)


def sign(clone: Clone, *given: object) -> subprocess.CompletedProcess[str]:
    """Run the program that signs, which `make evidence` runs too."""
    command = [sys.executable, "scripts/sign_evidence.py", *map(str, given)]
    return subprocess.run(command, cwd=clone.root, capture_output=True, text=True, check=False)


@pytest.mark.promise("promotion-on-evidence", "evidence-says-what-is-missing")
def test_what_was_collected_and_signed_opens_the_gate_for_this_tree_alone(clone: Clone) -> None:
    assert "there is no evidence of dev for the tree" in sign(clone, clone.key, "dev").stderr
    # Whoever collects dev's evidence need not be able to read prod's secrets.
    secrets = clone.root / "inventory" / "group_vars" / "prod" / "vault.yml"
    secrets.write_bytes(VaultLib([VAULT]).encrypt(secrets.read_text()))
    status, output = collected(clone)
    assert status == 0, output
    assert "5 of 6 checks passed." in output
    assert "second_run" in output
    ran(clone.root / "reports", tree=read_tree(clone.root).digest)
    assert "6 of 6 checks passed." in collected(clone)[1]
    assert "the evidence is not signed" in clone.problems()
    versions = json.loads(clone.record.read_text())["versions"]
    assert versions["collections"]["community.general"] and versions["engine"] and versions["ansible-core"]
    signed = sign(clone, clone.key, "dev")
    assert "hosts: swarm-dev\n" in signed.stdout
    assert "\ngroups_on_postgresql: passed: 1 cutover groups are on PostgreSQL\n" in signed.stdout
    assert (signed.returncode, "is signed by anna@example.org" in signed.stdout) == (0, True), signed.stderr
    assert clone.problems() == ""
    clone.edit("site.yml", "# Edited.\n")
    assert "site.yml differs from the last commit" in clone.problems()
    status, output = collected(clone)
    assert status != 0
    assert "the work tree must be clean" in output


@pytest.mark.promise("evidence-says-what-is-missing")
def test_evidence_is_about_all_hosts_and_the_inventory_as_it_is(clone: Clone) -> None:
    status, output = collected(clone, "-e", "validation_functional_checks=[]", host="swarm-prod")
    assert status != 0
    assert "swarm-dev: nobody looked at this host of dev" in output
    assert "swarm-prod: it is no service host of dev" in output
    assert "-e sets validation_functional_checks, of which the evidence knows nothing" in output
    assert not clone.record.exists()


def test_a_host_that_fails_ends_the_collection_for_all() -> None:
    plays = yaml.safe_load((PROJECT / "playbooks" / "evidence.yml").read_text())
    assert [play["any_errors_fatal"] for play in plays] == [True] * 3


def test_a_signature_that_the_gate_will_not_take_is_told_at_once(clone: Clone) -> None:
    clone.collect()
    signed = sign(clone, clone.other_key, "dev")
    assert signed.returncode == 1
    assert "The gate will not take this signature." in signed.stderr
    assert sign(clone, clone.key).returncode == 2


@pytest.mark.promise("evidence-says-what-is-missing")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"collected_at": days_ago(0.05)}, "it is 0.1 days old"),
        ({"collected_at": None}, "it does not say when it was collected"),
        ({"environment": "staging"}, "it is not about this tree on dev"),
        ({"tree": "d" * 64}, "it is not about this tree on dev"),
        ({"checks": {}}, "check 'verification' was not made"),
        (
            {"checks": {**PASSED, "verification": {"passed": False, "told": "a row \x1b[2Kis gone"}}},
            "check 'verification' has not passed: a row ?[2Kis gone",
        ),
    ],
)
def test_nothing_is_signed_but_what_was_just_collected_and_has_passed(
    clone: Clone, changes: dict[str, Any], told: str
) -> None:
    path = clone.collect(**changes)
    # Somebody else's record for the same tree is never signed on the way.
    other = evidence.path_of(path.parent, "staging", json.loads(path.read_text())["tree"])
    other.write_text(path.read_text())
    done = sign(clone, clone.key, "dev")
    assert (done.returncode, told in done.stderr, "\x1b" in done.stdout + done.stderr) == (1, True, False), done.stderr
    assert list(path.parent.glob("*.sig")) == []


def test_a_check_that_no_environment_requires_may_be_missing() -> None:
    protected = {"prod": {"evidence_from": "dev", "required_checks": ["verification"]}, "x": {"evidence_from": "y"}}
    assert gate.required_checks(protected, "dev") == ["verification"]
    assert "backup_restored" in gate.required_checks(protected, "nobody_asks")


def test_the_command_that_collects_evidence_names_the_inventory_of_the_run() -> None:
    (problem,) = collect.problems_of_hosts("prod", ["shop-prod"], [], ["-i /etc/estates/shop"])
    assert problem.fix.endswith("ansible-playbook playbooks/evidence.yml -l prod -i /etc/estates/shop")
