"""What the gate before a protected environment lets pass, and each way around it that is closed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import evidence, gate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion.tree import read_tree
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import protected_run, run_record
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.gated import may_be_protected
from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils.promotion import find_protection
from tests.conftest import PROJECT

from .conftest import PASSED, VAULT, Clone, days_ago, git

CHANGING = (
    "1_infrastructure",
    "2_shared_library",
    "3_data_migration",
    "4_service_cutover",
    "6_cleanup",
    "replay_rejects",
)
CHANGING_MODULES = (
    "schema_apply",
    "shared_library",
    "sqlite_cleanup",
    "sqlite_migrate",
    "sqlite_migrate_replay",
    "cutover_group",
)
# They only read, write into a backup or on the controller, or lead back.
OPEN = ("5_validation", "backup", "discover", "evidence", "plan", "restore", "rollback")
PROTECTED = "prod is protected, and nothing was changed there."
NO_EVIDENCE = "there is no evidence for this very tree"


# --- the record ---------------------------------------------------------------------------------


@pytest.mark.promise("promotion-on-evidence")
def test_a_signed_record_of_this_very_tree_suffices(clone: Clone) -> None:
    clone.collect(clone.key)
    assert clone.problems() == ""


@pytest.mark.promise("promotion-on-evidence")
def test_without_a_record_nothing_passes(clone: Clone) -> None:
    assert NO_EVIDENCE in clone.problems()


@pytest.mark.promise("promotion-on-evidence")
def test_an_unsigned_record_does_not_count(clone: Clone) -> None:
    clone.collect()
    assert "the evidence is not signed" in clone.problems()


@pytest.mark.promise("promotion-on-evidence")
def test_a_key_that_nobody_has_allowed_does_not_count(clone: Clone) -> None:
    clone.collect(clone.other_key)
    assert "allowed_signers has signed it" in clone.problems()


def test_the_shipped_list_of_signers_allows_nobody(clone: Clone, template: Path) -> None:
    signed = clone.collect(clone.key)
    with pytest.raises(MigrationError, match="has signed it"):
        evidence.read_verified(signed, template / gate.ALLOWED_SIGNERS)


@pytest.mark.promise("promotion-on-evidence")
def test_a_signature_that_was_given_for_something_else_does_not_count(clone: Clone) -> None:
    clone.collect(clone.key, namespace="git")
    assert clone.problems() != ""


@pytest.mark.promise("promotion-on-evidence")
def test_an_altered_record_does_not_count(clone: Clone) -> None:
    path = clone.collect(clone.key, checks={**PASSED, "verification": {"passed": False, "told": "a row is missing"}})
    path.write_text(path.read_text().replace("false", "true"))
    assert "its signature does not hold: it was altered" in clone.problems()


@pytest.mark.promise("promotion-on-evidence")
def test_an_old_record_does_not_count(clone: Clone) -> None:
    clone.collect(clone.key, collected_at=days_ago(14.2))
    assert "it is 14.2 days old; 14 are allowed" in clone.problems()
    clone.collect(clone.key, collected_at=days_ago(13.9))
    assert clone.problems() == ""


def test_a_record_from_the_future_does_not_count(clone: Clone) -> None:
    clone.collect(clone.key, collected_at=days_ago(-1))
    assert "it was collected in the future" in clone.problems()


@pytest.mark.promise("promotion-on-evidence")
def test_a_check_that_failed_or_is_missing_is_named(clone: Clone) -> None:
    checks = {**PASSED, "verification": {"passed": False, "told": "a row is missing"}}
    del checks["backup_restored"]
    clone.collect(clone.key, checks=checks)
    problems = clone.problems()
    assert "check 'verification' has not passed: a row is missing" in problems
    assert "check 'backup_restored' was not made" in problems


def test_a_record_of_another_environment_does_not_count(clone: Clone) -> None:
    clone.collect(clone.key, environment="laptop")
    assert "it is not about this tree on dev" in clone.problems()


@pytest.mark.promise("promotion-on-evidence")
def test_a_record_of_another_tree_does_not_count_under_this_ones_name(clone: Clone) -> None:
    before = clone.collect(clone.key)
    clone.edit("roles/schema_apply/tasks/main.yml", "# One more line.\n")
    clone.commit()
    assert NO_EVIDENCE in clone.problems()
    shutil.copy(before, clone.record)
    shutil.copy(evidence.signature_of(before), evidence.signature_of(clone.record))
    assert "it is not about this tree on dev" in clone.problems()


def test_a_missing_ssh_keygen_is_told(clone: Clone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clone.collect(clone.key)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(programs))
    assert clone.problems().startswith("ssh-keygen: it is not installed on this machine. Install OpenSSH's client")
    (programs / "git").unlink()
    assert "git is not installed on this machine" in clone.problems()


# --- the tree -----------------------------------------------------------------------------------


@pytest.mark.promise("promotion-on-evidence")
@pytest.mark.parametrize("name", ["site.yml", "playbooks/rollback.yml", "inventory/group_vars/all/estate.yml"])
def test_an_edited_file_is_another_tree_and_named(clone: Clone, name: str) -> None:
    clone.collect(clone.key)
    clone.edit(name, "# Edited.\n")
    problems = clone.problems()
    assert f"{name} differs from the last commit" in problems
    assert NO_EVIDENCE in problems


@pytest.mark.promise("promotion-on-evidence")
def test_a_mark_in_the_index_hides_no_edit(clone: Clone) -> None:
    clone.collect(clone.key)
    git(clone.root, "update-index", "--assume-unchanged", "site.yml")
    clone.edit("site.yml", "# Edited.\n")
    assert "site.yml differs from the last commit" in clone.problems()


@pytest.mark.promise("promotion-on-evidence")
@pytest.mark.parametrize(
    "name",
    [
        "roles/schema_apply/vars/main.yml",
        "roles/schema_apply/vars/main/vault.yml",
        "library/apt.py",
        "group_vars/prod.yml",
        "files/sql/999_more.sql",
        "inventory/group_vars/all/zzz.yml",
        # Not where the secrets are.
        "roles/schema_apply/files/inventory/group_vars/all/more.vault",
    ],
)
def test_a_new_file_makes_the_tree_unclean_also_if_git_ignores_it(clone: Clone, name: str) -> None:
    clone.collect(clone.key)
    clone.edit(".git/info/exclude", f"{name}\n")
    clone.edit(name, "---\n")
    assert f"{name} is in no commit" in clone.problems()


@pytest.mark.promise("gate-not-left-out")
def test_the_file_of_secrets_may_hold_nothing_else(clone: Clone) -> None:
    clone.collect(clone.key)
    path = clone.root / "inventory" / "group_vars" / "all" / "vault.yml"
    vault = VaultLib([VAULT])
    path.write_bytes(vault.encrypt("vault_validation_login_password: for-tests\n"))
    assert clone.problems() == ""
    path.write_bytes(vault.encrypt("vault_a: 1\npostgres_port: 5433\n"))
    assert "vault.yml: it sets postgres_port, of which the evidence knows nothing" in clone.problems()


def test_a_missing_file_is_named(clone: Clone) -> None:
    clone.collect(clone.key)
    (clone.root / "files" / "sql" / "004_verification_schema.sql").unlink()
    assert "files/sql/004_verification_schema.sql is missing" in clone.problems()


def test_hosts_secrets_pages_and_the_evidence_itself_are_outside_the_tree(clone: Clone) -> None:
    before = read_tree(clone.root)
    clone.collect(clone.key)
    for name in (
        "inventory/group_vars/prod/environment.yml",
        "README.md",
        "roles/validation/README.md",
        ".secrets/dev/a",
    ):
        clone.edit(name, "# Another line.\n")
    clone.edit("plugins/__pycache__/left.pyc", "")
    assert read_tree(clone.root) == before
    assert before.differences == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a clone to another user")
def test_root_reads_a_clone_that_belongs_to_a_user(place: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    git(tmp_path, "clone", "-q", str(place / "git"), str(root))
    for directory, _, names in os.walk(root):
        for name in (".", *names):
            os.chown(Path(directory) / name, 65534, 65534, follow_symlinks=False)
    assert read_tree(root).differences == ()


def test_what_is_no_repository_is_told(clone: Clone) -> None:
    shutil.rmtree(clone.root / ".git")
    assert "git ls-tree HEAD says: " in clone.problems()


# --- the call -----------------------------------------------------------------------------------


@pytest.mark.promise("gate-in-every-playbook")
@pytest.mark.parametrize("playbook", CHANGING)
def test_every_playbook_that_changes_begins_with_the_gate_and_asks_it_in_each_play(playbook: str) -> None:
    first, *plays = yaml.safe_load((PROJECT / "playbooks" / f"{playbook}.yml").read_text())
    names = [task["ansible.builtin.import_role"]["name"] for task in first["tasks"]]
    assert names == ["inventory_check", "promotion_gate"]
    assert (first["tags"], "when" in first["tasks"][1]) == (["always"], False)
    assert plays
    assert all("promotion_gate" in play["environment"]["MIGRATION_GATE"] for play in plays)


def test_every_other_playbook_only_reads_or_leads_back() -> None:
    """A new playbook is in one of the two lists."""
    found = {path.stem for path in (PROJECT / "playbooks").glob("*.yml")}
    assert found == {*CHANGING, *OPEN}


@pytest.mark.promise("gate-not-left-out")
@pytest.mark.parametrize(
    ("playbook", "option", "value"),
    [
        ("1_infrastructure", "--skip-tags", "always"),
        ("1_infrastructure", "--start-at-task", "preflight | Gather the facts of this host that the role needs"),
        ("3_data_migration", "--start-at-task", "Synchronise | Make PostgreSQL equal to the SQLite file*"),
        ("1_infrastructure", "--tags", "postgres_install"),
    ],
)
@pytest.mark.long_search
def test_no_option_leaves_the_gate_out(clone: Clone, playbook: str, option: str, value: str) -> None:
    """Also where a task of Ansible's own is the first one; the next test is the short one."""
    assert PROTECTED in clone.refuses(playbook, option, value)


@pytest.mark.promise("gate-not-left-out")
@pytest.mark.parametrize(
    "options",
    [("--skip-tags", "always"), ("--start-at-task", "See which files and units of the daily check there are")],
)
def test_an_option_that_leaves_the_gate_out_is_refused_also_with_evidence(
    clone: Clone, options: tuple[str, ...]
) -> None:
    clone.collect(clone.key)
    clone.be_named()
    output = clone.refuses("6_cleanup", *options)
    assert f"{options[0]}" in output
    assert "leaves out the gate" in output


@pytest.mark.promise("gate-not-left-out")
def test_the_gate_holds_in_the_action_of_every_module_that_changes(clone: Clone) -> None:
    """A play of somebody's own, without the gate's task and role: no module reaches the host."""
    tasks = [{f"swarm.sqlite_to_postgresql.{name}": {}, "ignore_errors": True} for name in CHANGING_MODULES]
    play = {"hosts": "prod", "gather_facts": False, "tasks": tasks}
    clone.edit("playbooks/own.yml", yaml.safe_dump([play]))
    output = clone.run("ansible-playbook", "playbooks/own.yml")[1]
    assert output.count(f"msg: |- {PROTECTED}") == len(CHANGING_MODULES), output
    assert clone.asked == ""


@pytest.mark.promise("gate-not-left-out")
def test_no_variable_on_the_command_line_opens_the_gate(clone: Clone) -> None:
    clone.collect(clone.key)
    clone.be_named()
    of_the_gate = {
        "environment_name": "dev",
        "promotion_extra_variables": ["x"],
        "promotion_gate_leads_back": True,
        "promotion_protected_environments": {},
    }
    told = clone.refuses("2_shared_library", "-e", json.dumps(of_the_gate))
    assert f"-e sets {', '.join(of_the_gate)}. Only the inventory may say which hosts are protected" in told
    told = clone.problems(extra_variables={"ansible_connection": "local", "postgres_port": 5433})
    assert "-e sets ansible_connection, postgres_port, of which the evidence knows nothing" in told


@pytest.mark.promise("gate-not-left-out")
def test_no_variable_of_the_environment_opens_the_gate(clone: Clone) -> None:
    """Neither the first alone nor both."""
    environment = clone.root / "inventory/group_vars/prod/environment.yml"
    environment.write_text(f"{environment.read_text()}promotion_protected_environments: {{}}\n")
    assert is_asked("swarm-prod", clone.root / "inventory")
    environment.write_text(environment.read_text().replace("environment_name: prod", "environment_name: dev"))
    assert NO_EVIDENCE in clone.refuses("2_shared_library")


@pytest.mark.promise("gate-not-left-out")
def test_a_second_inventory_does_not_open_the_gate(clone: Clone, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "hosts.yml").write_text("all: {vars: {promotion_protected_environments: {}}}\n")
    variables = variables_of("swarm-prod", clone.root / "inventory", second)
    with pytest.raises(MigrationError, match="two sources of the inventory set it differently"):
        find_protection(variables, templar_of(variables))
    # One that says nothing of the gate could still set what the tree has set otherwise.
    (second / "hosts.yml").write_text("all: {vars: {postgres_port: 5433}}\n")
    clone.collect(clone.key)
    clone.be_named()
    output = clone.refuses("2_shared_library", "-i", "inventory", "-i", str(second))
    assert f"its inventory is {second}" in output


def variables_of(host: str, *sources: Path) -> dict[str, Any]:
    """Return the variables of a host of these inventories, as a task sees them."""
    loader = DataLoader()
    inventory = InventoryManager(loader, [str(source) for source in sources])
    manager = VariableManager(loader, inventory)
    return {**manager.get_vars(host=inventory.get_host(host)), "hostvars": HostVars(inventory, manager, loader)}


def templar_of(variables: dict[str, Any]) -> Templar:
    """Return what fills in templates with these variables."""
    return Templar(loader=DataLoader(), variables=variables)


def is_asked(host: str, *sources: Path) -> bool:
    """Return whether the gate is asked about a host of these inventories."""
    variables = variables_of(host, *sources)
    return may_be_protected(variables, templar_of(variables))


@pytest.mark.promise("gate-not-left-out")
def test_an_inventory_that_says_nothing_of_the_gate_opens_it_for_no_name_that_the_tree_protects(tmp_path: Path) -> None:
    foreign, other = tmp_path / "foreign", tmp_path / "other"
    for directory in (foreign, other):
        directory.mkdir()
        (directory / "hosts.yml").write_text("prod: {hosts: {a: }}\ndev: {hosts: {b: }}\n")
    assert (is_asked("a", foreign), is_asked("b", foreign)) == (True, False)
    own = (PROJECT / "inventory", PROJECT / "molecule" / "inventory")
    assert (is_asked("swarm-prod", *own), is_asked("swarm-dev", *own)) == (True, False)
    (other / "group_vars").mkdir()
    (other / "group_vars" / "all.yml").write_text("promotion_protected_environments: {}\n")
    assert (is_asked("a", other), is_asked("b", other)) == (True, True), "it contradicts the tree"


@pytest.mark.promise("gate-not-left-out")
def test_a_playbook_or_a_configuration_from_elsewhere_is_refused(clone: Clone, tmp_path: Path) -> None:
    clone.collect(clone.key)
    clone.be_named()
    shutil.copytree(clone.root / "playbooks", tmp_path / "playbooks")
    shutil.copy(clone.root / "ansible.cfg", tmp_path / "ansible.cfg")
    elsewhere = {
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": f"{tmp_path}:{clone.root}/roles",
    }
    elsewhere |= {"ANSIBLE_INVENTORY": str(clone.root / "inventory")}
    elsewhere |= {"ANSIBLE_COLLECTIONS_PATH": str(clone.root / ".collections")}
    playbook = str(tmp_path / "playbooks" / "2_shared_library.yml")
    status, output = clone.run("ansible-playbook", playbook, "-l", "prod", **elsewhere)
    assert (status != 0, "outside the tree" in output, "not that of the tree" in output) == (True,) * 3, output
    assert f"its roles are in {tmp_path}, {clone.root}/roles, not in the tree's alone" in output
    assert clone.asked == ""


@pytest.mark.promise("gate-not-left-out")
def test_a_playbook_beside_those_of_the_tree_is_refused(clone: Clone) -> None:
    clone.collect(clone.key)
    own = [str(clone.root / name) for name in ("site.yml", "playbooks/2_shared_library.yml")]
    assert clone.problems(playbooks=own) == ""
    for name in ("own.yml", "playbooks/own/own.yml"):
        assert f"{name}, which is no playbook of the tree" in clone.problems(playbooks=[*own, str(clone.root / name)])


# --- what stays open ----------------------------------------------------------------------------


@pytest.mark.promise("way-out-stays-open", "prod-run-recorded")
@pytest.mark.parametrize(
    ("playbook", "named"),
    [("rollback", "service_env_rollback_groups=deploy"), ("restore", "postgres_backup_restore_name=nightly")],
)
def test_what_leads_back_is_open_without_evidence_and_recorded(clone: Clone, playbook: str, named: str) -> None:
    """Also with what the gate refuses elsewhere."""
    clone.passes(playbook, "-e", named, "-e", "promotion_gate_leads_back=false")
    assert clone.asked == ""
    (path,) = (clone.root / "reports" / "runs").iterdir()
    run = run_record.read(path)
    assert "=".join(*run.named.items()) == named
    assert (protected_run.environment_of(run), run.gates["swarm-prod"]["goes_back"]) == ("prod", True)
    assert run.gates["swarm-prod"]["tree"] == read_tree(clone.root).digest
    # Nothing was changed, as nothing is with these tags.
    assert not (clone.root / "reports" / "prod").exists()


@pytest.mark.promise("way-out-stays-open")
def test_a_rollback_that_cannot_be_recorded_warns_and_goes_on(clone: Clone) -> None:
    (clone.root / "other.yml").write_text("all: {vars: {promotion_protected_environments: {}}}\n")
    output = clone.passes("rollback", "-i", "inventory", "-i", "other.yml")
    assert "This run leaves no record for the auditor. The inventory is not right." in output


@pytest.mark.promise("way-out-stays-open")
def test_a_file_comes_back_from_quarantine_without_evidence_and_nothing_else_does(clone: Clone) -> None:
    back = ("-e", '{"sqlite_cleanup_restore_groups": ["deploy"]}')
    clone.passes("6_cleanup", *back)
    assert NO_EVIDENCE in clone.refuses("6_cleanup", *back, "-e", "sqlite_cleanup_confirm=3f0a86c1d2b7")


@pytest.mark.promise("way-out-stays-open")
def test_a_module_that_leads_back_reaches_the_host(clone: Clone) -> None:
    """In a play of somebody's own. The host answers none of them, so that each is asked for a directory first."""
    leading_back: dict[str, dict[str, Any]] = {
        "cutover_group": {"state": "sqlite"},
        "sqlite_cleanup": {"restore_groups": ["deploy"]},
        # A restore installs the program that restores.
        "engine_program": {
            **{"source": "plugins/module_utils/migration", "dest": "/opt/p", "owner": "a", "group": "a"},
            "mode": "0644",
        },
    }
    tasks = [
        {f"swarm.sqlite_to_postgresql.{name}": arguments, "ignore_errors": True, "ignore_unreachable": True}
        for name, arguments in leading_back.items()
    ]
    clone.edit("own.yml", yaml.safe_dump([{"hosts": "prod", "gather_facts": False, "tasks": tasks}]))
    output = clone.run("ansible-playbook", "own.yml")[1]
    assert PROTECTED not in output
    assert output.count("UNREACHABLE!") == len(leading_back), output
    assert clone.asked != ""


@pytest.mark.promise("host-says-what-it-is")
def test_an_environment_that_is_not_protected_costs_one_look_at_its_host(clone: Clone, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").write_text(f"#!/bin/sh\ntouch {tmp_path / 'used'}\nexit 1\n")
    (programs / "git").chmod(0o755)
    path = f"{programs}:{Path(shutil.which('ansible') or '').parent}:/usr/bin:/bin"
    options = ("-l", "dev", "--tags", "no_such_tag")
    status, output = clone.run("ansible-playbook", "playbooks/2_shared_library.yml", *options, PATH=path)
    assert status == 0, output
    assert not (tmp_path / "used").exists()
    assert clone.asked.count("cat /etc/machine-id") == 1
    # The likeliest mistake: dev's address is prod's.
    clone.be_named("prod")
    status, output = clone.run("ansible-playbook", "playbooks/2_shared_library.yml", *options, PATH=path)
    assert (status != 0, "swarm-dev" in output, "the host says that it is prod" in output) == (True,) * 3, output
    assert clone.asked.count("cat /etc/machine-id") == 2


@pytest.mark.promise("inventory-checked-first")
def test_the_inventory_is_checked_once_a_run_also_with_a_fact_cache(clone: Clone, tmp_path: Path) -> None:
    playbooks = ("playbooks/rollback.yml", "playbooks/restore.yml", "-l", "dev", "--tags", "no_such_tag")
    cache = {"ANSIBLE_CACHE_PLUGIN": "jsonfile", "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path / "facts")}
    cache |= {"ANSIBLE_STDOUT_CALLBACK": "default"}
    status, output = clone.run("ansible-playbook", *playbooks, **cache)
    assert status == 0, output
    task = "Refuse an inventory that is not right, before any host is touched] *** "
    assert (output.count(f"{task}ok: [swarm-dev]"), output.count(f"{task}skipping: [swarm-dev]")) == (1, 1), output
    clone.edit("inventory/group_vars/dev/environment.yml", "postgres_prot: 5433\n")
    status, output = clone.run("ansible-playbook", *playbooks, **cache)
    assert (status != 0, "postgres_prot" in output) == (True, True), output


def test_a_dry_run_is_not_refused_and_says_what_is_missing(clone: Clone) -> None:
    output = clone.passes("2_shared_library", "--check")
    assert "Without --check this run would be refused." in output
    assert NO_EVIDENCE in output


# --- the host -----------------------------------------------------------------------------------


@pytest.mark.promise("host-says-what-it-is")
def test_a_host_is_named_once_and_then_known(clone: Clone) -> None:
    clone.collect(clone.key)
    plan = clone.plan()
    word = ("-e", "promotion_this_host_is=prod")
    status, output = clone.run("ansible-playbook", "playbooks/2_shared_library.yml", "-l", "prod", *word, *plan)
    assert status != 0, "only phase 1 names a host"
    assert "the host does not say that it is prod" in output
    assert f"-e promotion_this_host_is=prod -e {plan[1]}" in output
    assert not clone.host_file.exists()
    assert "changed=1" in clone.passes("1_infrastructure", *word, *plan)
    assert "environment: prod\n" in clone.host_file.read_text()
    # The word is none of phase 2's business, and does no harm there.
    assert "changed=0" in clone.passes("1_infrastructure", *word, *plan, then="2_shared_library")
    # It names a host that says nothing, and does not rename one.
    clone.be_named("dev")
    before = clone.host_file.read_text()
    options = ("-l", "prod", "--tags", "no_such_tag", *word, *plan)
    status, output = clone.run("ansible-playbook", "playbooks/1_infrastructure.yml", *options)
    assert (status != 0, "the host says that it is dev" in output) == (True, True), output
    assert clone.host_file.read_text() == before


@pytest.mark.promise("host-says-what-it-is")
@pytest.mark.long_search
@pytest.mark.parametrize(
    ("environment", "machine_id", "told"),
    [
        # The test below asks a copied one by the action of a module, and the one above one of another environment.
        ("prod", "2" * 32, "the file was written on another machine, and copied"),
        ("dev", "1" * 32, "the host says that it is dev"),
    ],
)
def test_a_host_that_is_another_one_is_refused(clone: Clone, environment: str, machine_id: str, told: str) -> None:
    clone.collect(clone.key)
    clone.be_named(environment, machine_id)
    before = clone.host_file.read_text()
    # The operator's word names a host that says nothing; it does not rename one.
    options = ("-l", "prod", "--tags", "no_such_tag", *clone.plan(), "-e", "promotion_this_host_is=prod")
    status, output = clone.run("ansible-playbook", "playbooks/1_infrastructure.yml", *options)
    assert status != 0
    assert told in output
    assert clone.host_file.read_text() == before


@pytest.mark.promise("host-says-what-it-is")
def test_the_action_of_a_module_asks_the_host_too(clone: Clone) -> None:
    clone.collect(clone.key)
    clone.be_named(machine_id="2" * 32)
    # It needs no plan of a run, which the command ansible could not keep to.
    name = "swarm.sqlite_to_postgresql.sqlite_cleanup"
    given = ("swarm-prod", "-m", name, "--playbook-dir", str(clone.root))
    assert "written on another machine, and copied" in clone.run("ansible", *given)[1]
    clone.be_named()
    assert PROTECTED not in clone.run("ansible", *given)[1]


@pytest.mark.parametrize(("environment", "machine_id"), [("dev", "1" * 32), ("prod", "2" * 32)])
def test_an_unprotected_host_with_another_word_or_a_copied_one_passes(environment: str, machine_id: str) -> None:
    text = gate.host_text(environment, machine_id)
    assert gate.problems_of_another(["prod"], "swarm-dev", "/etc/file", text, "1" * 32) == []


def test_the_command_that_names_a_host_names_no_other() -> None:
    protection = gate.find_protection({"prod": {"evidence_from": "dev"}}, ["prod"])
    assert protection is not None
    of_another = ["-i /etc/estates/shop"]
    for host, options, words in (("prod-2;x", [], "'prod-2;x'"), ("shop", of_another, "shop -i /etc/estates/shop")):
        (problem,) = gate.host_problems(protection, host, "/etc/file", None, "1" * 32, options, "3f0a86c1d2b7")
        told = f"playbooks/1_infrastructure.yml -l {words} -e promotion_this_host_is=prod -e plan=3f0a86c1d2b7"
        assert problem.fix.endswith(told)
        # Without a plan phase 1 would be refused too.
        (problem,) = gate.host_problems(protection, host, "/etc/file", None, "1" * 32, options)
        assert problem.fix.endswith(f"ansible-playbook site.yml -l {words} --check --diff")


def test_a_word_that_names_another_environment_is_refused(clone: Clone) -> None:
    clone.collect(clone.key)
    output = clone.refuses("1_infrastructure", "-e", "promotion_this_host_is=dev")
    assert "it says dev, and the inventory says prod" in output


# --- the override -------------------------------------------------------------------------------


@pytest.mark.promise("override-recorded")
def test_an_override_needs_a_reason_and_leaves_a_record_and_a_warning(clone: Clone) -> None:
    output = clone.refuses("2_shared_library", "-e", "promotion_override_reason=because")
    assert "it is shorter than 15 characters" in output
    reason = "The dev host burnt down, and prod must have its fix today."
    clone.host_file.write_text("environment: \x1b[2Kcalm\n")
    given = ("-e", json.dumps({"promotion_override_reason": reason}))
    output = clone.passes("2_shared_library", *given, "--check")
    assert f"prod would be changed without the evidence that it asks for, because '{reason}'. " in output
    assert "the host says that it is ?[2Kcalm" in output
    assert not (clone.root / "reports" / "prod" / "overrides").exists()
    clone.host_file.unlink()
    output = clone.passes("2_shared_library", *given)
    assert reason in output
    assert NO_EVIDENCE in output
    records = list((clone.root / "reports" / "prod" / "overrides").iterdir())
    written = [json.loads(path.read_text()) for path in records]
    assert {record["reason"] for record in written} == {reason}
    told = " ".join(text for record in written for text in record["passed_over"])
    assert NO_EVIDENCE in told
    assert "the host does not say that it is prod" in told
    # The record of the run has both, of the controller and of the host.
    (path,) = (clone.root / "reports" / "prod" / "runs").iterdir()
    override = json.loads(path.read_text())["override"]
    assert override["reason"] == reason
    assert set(override["passed_over"]) == {text for record in written for text in record["passed_over"]}


# --- the inventory ------------------------------------------------------------------------------


def test_three_stages_ask_for_the_evidence_of_the_one_before() -> None:
    stages = {"staging": {"evidence_from": "dev"}, "prod": {"evidence_from": "staging", "maximum_age_days": 3}}
    found = [gate.find_protection(stages, [name]) for name in ("dev", "staging", "prod")]
    assert [entry and (entry.evidence_from, entry.maximum_age_days) for entry in found] == [
        None,
        ("dev", 14.0),
        ("staging", 3.0),
    ]


@pytest.mark.parametrize(
    ("protected", "told"),
    [
        (["prod"], "it is not a mapping"),
        ({"prod": {}}, "it does not name the environment whose evidence counts"),
        ({"prod": {"evidence_from": "dev", "maximum_age_days": 0}}, "it is no number above 0"),
        ({"prod": {"evidence_from": "dev", "required_checks": []}}, "it is no list of checks"),
        ({"prod": {"evidence_from": "dev", "max_age_days": 3}}, "max_age_days: this key is not known"),
    ],
)
def test_a_mistake_in_the_inventory_protects_all_the_same(protected: object, told: str) -> None:
    with pytest.raises(MigrationError, match=told):
        gate.find_protection(protected, ["prod"])
