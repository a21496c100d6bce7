"""A service that pm2 runs in cluster mode: every process is moved and proven, and the pools of all share its size."""

from __future__ import annotations

import json
import re

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import dotenv_file

from .host import (
    CUTOVER,
    ROLLBACK,
    SharedHost,
    answers_of,
    changed,
    env_of,
    group_of,
    on_host,
    original_env_of,
    play,
    pm2,
    sql,
    state_of,
    variables,
)

GROUP = group_of("deploy")
# A service of ECMAScript modules, and one of CommonJS modules: pm2 loads each kind in another way.
SERVICE, OTHER_SERVICE = "swarm-deploy", "swarm-registry"
SCRIPTS = {SERVICE: "server.mjs", OTHER_SERVICE: "server.js"}


def ecosystem_of(name: str) -> str:
    """Return the path of a service's ecosystem file."""
    return f"/opt/{name}/ecosystem.config.js"


def processes(*names: str) -> dict[str, list[int]]:
    """Return the processes of services by their names, all of them online and in cluster mode."""
    entries = json.loads(pm2("jlist"))
    found: dict[str, list[int]] = {}
    for name in names or (SERVICE,):
        listed = [entry for entry in entries if entry["name"] == name]
        assert {(entry["pm2_env"]["exec_mode"], entry["pm2_env"]["status"]) for entry in listed} == {
            ("cluster_mode", "online")
        }
        assert {entry["pm2_env"]["pm_exec_path"].rpartition("/")[2] for entry in listed} == {SCRIPTS[name]}
        found[name] = [entry["pid"] for entry in listed]
    return found


def start_with(instances: int, name: str = SERVICE) -> None:
    """Let a service's ecosystem file start so many processes in cluster mode, and start them."""
    on_host("sed", "-i", "/exec_mode/d", ecosystem_of(name))
    line = f"      exec_mode: 'cluster', instances: {instances},"
    on_host("sed", "-i", f"/kill_timeout/i\\{line}", ecosystem_of(name))
    pm2("delete", name)
    pm2("start", ecosystem_of(name))
    pm2("save")


@pytest.fixture(autouse=True, scope="module")
def cluster(shared_host: SharedHost) -> None:
    """The first service with two processes."""
    shared_host.take("rehearsed", "deploy", "registry")
    shared_host.use_up("deploy", "registry")
    start_with(2)


# test_services_gone_wrong.py has it without a host.
@pytest.mark.long_search
def test_more_processes_than_connections_are_refused() -> None:
    start_with(6)
    before = processes()
    output = play(CUTOVER, *variables(groups=[GROUP]), succeeds=False)
    assert "it starts 6 processes, and the service's pool_size is 5" in output
    assert processes() == before
    start_with(2)


# tests/cutover/test_window.py asks the same of a server without a host.
@pytest.mark.long_search
def test_pools_that_do_not_fit_the_server_together_are_refused() -> None:
    before = processes()
    estate = {"swarm_deploy": 5, "swarm_registry": 60, "swarm_platform": 60}
    output = play(CUTOVER, *variables(groups=[GROUP], estate_connections=estate), succeeds=False)
    assert "the pools of the services together may open 125" in output
    assert "swarm_registry 60" in output
    assert processes() == before


@pytest.mark.promise("service-environment-clean", "every-process-moves", "started-at-boot")
def test_every_process_is_moved_and_shares_the_pool_size() -> None:
    start_with(2, OTHER_SERVICE)
    groups = [GROUP, group_of("registry")]
    before = processes(*SCRIPTS)
    on_host("systemctl", "disable", "pm2-swarm")
    try:
        output = play(CUTOVER, *variables(groups=groups))
    finally:
        on_host("systemctl", "enable", "pm2-swarm")
    assert output.count("as seen by a client") == 2
    assert "Nothing starts the services of pm2's user swarm at boot" in " ".join(output.split())
    after = processes(*SCRIPTS)
    for name, pids in after.items():
        assert len(pids) == len(before[name]) == 2
        assert not set(before[name]) & set(pids)
        # pm2 hands the requests to one process after the other, and each opens a session if its last was idle too long.
        assert {answer["store"] for answer in answers_of(*[name] * 4)} == {"postgresql"}
        # Five for both of them.
        assert dotenv_file.read_values(env_of(name))["DATABASE_POOL_SIZE"] == "2"
        role = name.replace("-", "_")
        assert int(sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'")) >= 2
        for pid in pids:
            environment = on_host("sh", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ")
            assert "ANSIBLE" not in environment
            assert "PGPASSWORD" not in environment
            # Of the operator's shell, and of how Ansible has come here.
            assert re.findall(r"^(?:SUDO_|LS_COLORS|SSH_).*", environment, re.MULTILINE) == []
    output = play(CUTOVER, *variables(groups=groups))
    assert changed(output) == 0
    assert "Nothing starts the services" not in " ".join(output.split())
    assert processes(*SCRIPTS) == after
    # The way back takes every process too.
    play(ROLLBACK, *variables(rollback_groups="deploy,registry"))
    back = processes(*SCRIPTS)
    for name, pids in back.items():
        assert len(pids) == 2
        assert not set(after[name]) & set(pids)
        assert {answer["store"] for answer in answers_of(*[name] * 4)} == {"sqlite"}
        assert env_of(name) == original_env_of(name)
    assert {state_of(group["name"]) for group in groups} == {"rolled_back"}
