"""The page of messages in docs/ is what the engine's code says, and leaves out no policy."""

from __future__ import annotations

import re

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import POLICIES
from scripts import list_messages


def test_the_page_is_what_the_engine_says() -> None:
    assert list_messages.PAGE.read_text(encoding="utf-8") == list_messages.page(POLICIES), (
        "Run: PYTHONPATH=.collections python scripts/list_messages.py"
    )


def test_each_policy_that_answers_for_a_value_has_a_message_and_a_cause() -> None:
    # A column without a target is told by the plan, for all of its values at once.
    of_values = set(POLICIES) - {"without_target"}
    assert of_values <= set(list_messages.CAUSES)
    assert of_values <= set(list_messages.refused_values())


def test_every_package_whose_messages_are_listed_has_some() -> None:
    found = list_messages.other_problems()
    # That package speaks of single values alone.
    assert set(found) == set(list_messages.STEPS) - {"prepare"}
    assert ("holds none", "Run …, or start postgres-backup.service") in found["backup"]
    assert any(message.startswith("process … (…) has it open") for message, _ in found["window"])
    assert any("was confirmed before" in message for message, _ in found["cleanup"])


def test_every_message_that_a_test_provokes_stands_on_the_page() -> None:
    known = [message for messages in list_messages.refused_values().values() for message in messages]
    patterns = [re.compile(".+".join(map(re.escape, message.split(list_messages.PLACE)))) for message in known]
    for said in (
        "holds a number outside the range of smallint",
        "holds a time finer than a microsecond",
        "refers to a row of parents that does not exist",
        "PostgreSQL refuses it: it violates the check constraint t_v_check",
        "holds text that is no value of type inet",
    ):
        assert any(pattern.fullmatch(said) for pattern in patterns), said
