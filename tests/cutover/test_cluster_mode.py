"""A service that pm2 runs in cluster mode: every process is moved and proven, and the pools of all share its size."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from ansible.module_utils.migration import dotenv_file

from .host import (
    CUTOVER,
    REHEARSAL,
    ROLLBACK,
    changed,
    env_of,
    group_of,
    health_of,
    is_as_before,
    on_host,
    play,
    pm2,
    sql,
    variables,
)

pytestmark = pytest.mark.usefixtures("dry_run_on_a_bare_host")

GROUP = group_of("deploy")
ECOSYSTEM = "/opt/swarm-deploy/ecosystem.config.js"


def processes() -> list[int]:
    """Return the processes of the service, all of them online and in cluster mode."""
    listed = [entry for entry in json.loads(pm2("jlist")) if entry["name"] == "swarm-deploy"]
    assert {(entry["pm2_env"]["exec_mode"], entry["pm2_env"]["status"]) for entry in listed} == {
        ("cluster_mode", "online")
    }
    return [entry["pid"] for entry in listed]


def start_with(instances: int) -> None:
    """Let the ecosystem file start so many processes in cluster mode, and start them."""
    on_host("sed", "-i", "/exec_mode/d", ECOSYSTEM)
    line = f"      exec_mode: 'cluster', instances: {instances},"
    on_host("sed", "-i", f"/kill_timeout/i\\{line}", ECOSYSTEM)
    pm2("delete", "swarm-deploy")
    pm2("start", ECOSYSTEM)
    pm2("save")


@pytest.fixture(autouse=True)
def cluster(dry_run_on_a_bare_host: str) -> Iterator[None]:
    """The service with two processes, and at the end with one again, on SQLite and rehearsed."""
    kept = on_host("cat", ECOSYSTEM)
    start_with(2)
    try:
        yield
    finally:
        on_host("sh", "-c", f"cat > {ECOSYSTEM}", text=kept)
        play(ROLLBACK, *variables(rollback_groups="deploy"))
        pm2("delete", "swarm-deploy")
        pm2("start", ECOSYSTEM)
        play(REHEARSAL)
        assert is_as_before(GROUP)


def test_every_process_is_moved_and_shares_the_pool_size() -> None:
    before = processes()
    assert len(before) == 2
    output = play(CUTOVER, *variables(groups=[GROUP]))
    assert "as a client saw it" in output
    after = processes()
    assert len(after) == 2
    assert not set(before) & set(after)
    assert health_of("swarm-deploy")["store"] == "postgresql"
    # Five for both of them.
    assert dotenv_file.read_values(env_of("swarm-deploy"))["DATABASE_POOL_SIZE"] == "2"
    assert int(sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'swarm_deploy'")) >= 2
    for pid in after:
        environment = on_host("sh", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ")
        assert "ANSIBLE" not in environment
        assert "PGPASSWORD" not in environment
    assert changed(play(CUTOVER, *variables(groups=[GROUP]))) == 0
    assert processes() == after


def test_more_processes_than_connections_are_refused() -> None:
    start_with(6)
    before = processes()
    output = play(CUTOVER, *variables(groups=[GROUP]), succeeds=False)
    assert "it starts 6 processes, and the service's pool_size is 5" in output
    assert processes() == before


def test_pools_that_do_not_fit_the_server_together_are_refused() -> None:
    before = processes()
    estate = {"swarm_deploy": 5, "swarm_registry": 60, "swarm_platform": 60}
    output = play(CUTOVER, *variables(groups=[GROUP], estate_connections=estate), succeeds=False)
    assert "the pools of the services together may open 125" in output
    assert "swarm_registry 60" in output
    assert processes() == before


def test_services_that_nobody_starts_at_boot_are_told() -> None:
    on_host("systemctl", "disable", "pm2-swarm")
    try:
        output = play(CUTOVER, "--check", *variables(groups=[GROUP]))
    finally:
        on_host("systemctl", "enable", "pm2-swarm")
    assert "Nothing starts the services of pm2's user swarm at boot" in " ".join(output.split())
    assert "WARNING" not in play(CUTOVER, "--check", *variables(groups=[GROUP]))
