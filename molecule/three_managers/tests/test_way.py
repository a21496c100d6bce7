"""An estate of three managers, from a host of which nothing is known until its files are deleted.

The tests are in the order of the way, and each needs those before it. They carry no promise, because `make test` leaves
them out and proves each manager and the drafts in tests/cutover and tests/discovery.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

# Sources as the host sees them.
SOURCES = {"orders": "/srv/orders/orders.db", "notes": "/srv/notes/notes.db", "desk": "/srv/desk/data/desk.db"}
MANAGERS = {"orders": ("orders", "pm2"), "notes": ("notes", "systemd"), "desk": ("web", "compose")}
# Rows that each service has got, in the order in which it got them.
WRITTEN: dict[str, list[str]] = {group: ["first", "second"] for group in SOURCES}
ON = {store: dict.fromkeys(SOURCES, store) for store in ("sqlite", "postgresql")}


@pytest.fixture(scope="module")
def settings_before(estate: Any) -> Any:
    """What the services' makers have written."""
    return estate.settings()


def write(estate: Any, text: str) -> None:
    """Let each service write a row."""
    for group, rows in WRITTEN.items():
        estate.ask(group, text)
        rows.append(text)


def assert_rows(estate: Any) -> None:
    """Every service still has every row that it got; one of them has no order but the alphabet's."""
    for group, rows in WRITTEN.items():
        items = estate.ask(group)[1]
        assert (sorted(items) if group == "desk" else items) == (sorted(rows) if group == "desk" else rows)


def test_the_draft_needs_no_hand(estate: Any, settings_before: Any) -> None:
    done = estate.discover()
    assert done.succeeded, done.output
    described = yaml.safe_load((estate.inventory / "group_vars/all/estate.yml").read_text())
    found = {
        group["name"]: [(service["name"], service.get("manager", "pm2")) for service in group["services"]]
        for group in described["estate_cutover_groups"]
    }
    assert found == {group: [manager] for group, manager in MANAGERS.items()}
    assert {group["name"]: group["source"]["path"] for group in described["estate_cutover_groups"]} == SOURCES
    page = (estate.draft / "README.md").read_text()
    assert "## Decisions for a person\n\nNone was found." in page, page


def test_a_dry_run_takes_it_as_it_stands(estate: Any) -> None:
    done = estate.play("site.yml", "--check", "--diff")
    assert done.succeeded, done.output
    assert estate.stores() == ON["sqlite"]


def test_every_service_moves_with_every_row(estate: Any) -> None:
    write(estate, "third")
    done = estate.play("site.yml")
    assert done.succeeded, done.output
    assert estate.states() == dict.fromkeys(SOURCES, "live")
    assert estate.stores() == ON["postgresql"]
    assert_rows(estate)
    again = estate.play("site.yml")
    assert (again.status, again.changed_tasks) == (0, ()), again.output


def test_each_group_goes_back_alone_with_the_rows_written_since(estate: Any, settings_before: Any) -> None:
    write(estate, "on postgresql")
    stores = dict(ON["postgresql"])
    for group in SOURCES:
        done = estate.play("playbooks/rollback.yml", "-e", f"service_env_rollback_groups={group}")
        assert done.succeeded, done.output
        stores[group] = "sqlite"
        assert estate.stores() == stores
        assert_rows(estate)
    assert estate.settings() == settings_before


def test_they_move_again_and_the_files_go(estate: Any) -> None:
    write(estate, "back on sqlite")
    steps = ("3_data_migration", "4_service_cutover", "backup", "5_validation")
    done = estate.play(*(f"playbooks/{step}.yml" for step in steps))
    assert done.succeeded, done.output
    assert estate.stores() == ON["postgresql"]
    assert_rows(estate)
    # Time is nothing that this host has: the soak is in the cleanup scenario.
    soak = ("-e", '{"sqlite_cleanup_soak_days": 0, "sqlite_cleanup_quarantine_days": 0}')
    for _ in ("to quarantine", "for ever"):
        plan = estate.play("playbooks/6_cleanup.yml", *soak)
        assert plan.succeeded, plan.output
        identity = plan.output.partition("Cleanup plan ")[2][:12]
        done = estate.play("playbooks/6_cleanup.yml", *soak, "-e", f"sqlite_cleanup_confirm={identity}")
        assert done.succeeded, done.output
    assert estate.states() == dict.fromkeys(SOURCES, "removed")
    for path in SOURCES.values():
        assert not estate.host.file(path).is_file
    write(estate, "after the cleanup")
    assert_rows(estate)
