"""Which tasks of a run changed something, read from what Ansible printed."""

from __future__ import annotations

import pytest

from scripts.playbooks import changed_tasks

FIRST, SECOND = "TASK [role : first | Do it] ****\n", "TASK [second] ****\n"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (f"{FIRST}ok: [host]\n{SECOND}skipping: [host]\n", ()),
        (f"{FIRST}changed: [host]\n{SECOND}changed: [host -> other]\n", ("role : first | Do it", "second")),
        (f"{FIRST}changed: [host] => (item=a)\nchanged: [host] => (item=b)\n{SECOND}", ("role : first | Do it",)),
        # A loop whose last item failed has not changed anything, as Ansible counts.
        (
            f"{FIRST}changed: [host] => (item=a)\nfailed: [host] (item=b) => {{}}\n{SECOND}changed: [host]\n",
            ("second",),
        ),
        (f"{FIRST}fatal: [host]: FAILED!\n...ignoring\n{SECOND}changed: [host]\n", ("second",)),
        ("RUNNING HANDLER [third] ****\nchanged: [host]\n", ("third",)),
    ],
)
def test_each_task_is_named_once(output: str, expected: tuple[str, ...]) -> None:
    assert changed_tasks(output) == expected


def test_an_output_that_is_not_understood_is_none_without_changes() -> None:
    recap = "host : ok=3    changed=2    unreachable=0    failed=0    skipped=0\n"
    with pytest.raises(ValueError, match="cannot be read"):
        changed_tasks(f"a callback of another kind\n{recap}")
    assert changed_tasks(f"{FIRST}changed: [host]\n{SECOND}changed: [host]\n{recap}")
