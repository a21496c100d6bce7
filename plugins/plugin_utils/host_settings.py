"""What the inventory says of one host and a plan stands for: where a run goes, and how the phases do their work.

A secret has no part in it, not even as a hash: a short one could be guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Beginnings of the names of what phases 1 to 4 read.
_BEGINNINGS = (
    *("ansible_host", "ansible_port", "engine_program_", "estate_", "postgres_", "schema_apply_", "service_env_"),
    *("shared_library_", "sqlite_migrate_"),
)
# What Ansible itself gives is not followed: it says nothing of the inventory, or changes by itself.
_OF_ANSIBLE = re.compile(r"ansible_|inventory_|playbook_dir\Z|role_|groups\Z|group_names\Z|hostvars\Z|omit\Z")
_SECRET = re.compile(r"passw|pwd|passphrase|secret|token|credential|private|vault|(\A|_)(api_?)?keys?\Z", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z_]\w*")
# The user and password of an address.
_USER_OF_AN_ADDRESS = re.compile(r"://[^/@\s]*@")


def digests_of_settings(variables: Mapping[str, Any], operators_words: frozenset[str]) -> dict[str, str]:
    """Return what stands for each setting of a task's host.

    The texts of the inventory count, not what their templates give: that may depend on facts, which come later. What a
    template names is a setting too.

    :param operators_words: names of what may be given with ``-e``: a run need not be given what its dry run was.
    """
    hostvars, host = variables["hostvars"], str(variables["inventory_hostname"])
    manager = hostvars._variable_manager
    # What tasks have registered or set is nothing of the inventory.
    found_by_tasks = {*manager._vars_cache.get(host, ()), *manager._nonpersistent_fact_cache.get(host, ())}
    known = {
        str(name): value
        for name, value in hostvars.raw_get(host).items()
        if name not in found_by_tasks and name not in operators_words and not _SECRET.search(name)
    }
    wanted = [name for name in known if name.startswith(_BEGINNINGS)]
    found: dict[str, str] = {}
    while wanted:
        name = wanted.pop()
        value = without_secrets(known[name])
        found[name] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        wanted += [other for other in _names_in(value) if other in known and other not in found]
    return dict(sorted(found.items()))


def without_secrets(value: Any) -> Any:
    """Return a value of the inventory without what is or may be secret: encrypted texts, and what is named like one."""
    if isinstance(value, Mapping):
        return {str(name): without_secrets(part) for name, part in value.items() if not _SECRET.search(str(name))}
    if isinstance(value, list | tuple):
        return [without_secrets(part) for part in value]
    if isinstance(value, str):
        return _USER_OF_AN_ADDRESS.sub("://", value)
    return value if value is None or isinstance(value, bool | int | float) else ""


def _names_in(value: Any) -> Iterator[str]:
    """Give the names in the templates of a value."""
    if isinstance(value, Mapping):
        for part in value.values():
            yield from _names_in(part)
    elif isinstance(value, list):
        for part in value:
            yield from _names_in(part)
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        yield from (name for name in _NAME.findall(value) if not _OF_ANSIBLE.match(name))
