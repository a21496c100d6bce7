"""The checks of the collection find what each of them is there for, and name every test of ansible-test."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import check_collection

MODULE = '''#!/usr/bin/python
# MIT License
"""A module that says nothing of its option."""
from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: bake
short_description: Bakes
description: Bakes.
author: Nobody (@nobody)
"""
EXAMPLES = RETURN = ""


def main():
    AnsibleModule({"oven": {"type": "str"}})


if __name__ == "__main__":
    main()
'''


def test_each_fault_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = tmp_path / "ansible_collections" / "some" / "bakery"
    for name, content in {
        "galaxy.yml": "namespace: some\nname: bakery\nversion: 1.0.0\n",
        "meta/runtime.yml": 'requires_ansible: ">=2.19.0"\naction_grops: {}\n',
        "plugins/module_utils/dough.py": "assert 1 > 0\n",
        "plugins/modules/bake.py": MODULE,
    }.items():
        (collection / name).parent.mkdir(parents=True, exist_ok=True)
        (collection / name).write_text(content)
    # One of those that ansible-test runs by itself stands for all of them.
    monkeypatch.setattr(check_collection, "TESTS", ("no-assert",))
    faults = check_collection.find_faults(collection, "1.0.0")
    for found in (
        "ansible-test has a test no-smart-quotes: add it, or say in LEFT_OUT why not",
        "meta/runtime.yml:0:0: extra keys not allowed",
        "undocumented-parameter: Argument 'oven'",
        "plugins/module_utils/dough.py:1:1: raise AssertionError instead of:",
    ):
        assert any(found in line for fault in faults for line in fault.splitlines()), (found, faults)
    assert not any("gpl" in fault.lower() for fault in faults)
