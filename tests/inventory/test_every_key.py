"""A misspelt key of the estate is refused with its place and the right key, at every depth."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.inventory import checks

# Where a mapping with fixed keys stands → how messages call that place, and how to put an entry there.
Put = Callable[[Mapping[str, Any]], dict[str, Any]]
_TABLE = {"source": "notes", "target": "web.notes"}
PLACES: dict[str, tuple[str, Put]] = {
    "group": ("estate_cutover_groups: web", lambda entry: {**entry}),
    "source": ("estate_cutover_groups: web: source", lambda entry: {"source": {**entry}}),
    "table": ("estate_cutover_groups: web: table notes", lambda entry: {"tables": [{**_TABLE, **entry}]}),
    "column": (
        "estate_cutover_groups: web: table notes.body",
        lambda entry: {"tables": [{**_TABLE, "columns": {"body": {**entry}}}]},
    ),
    "computed": (
        "estate_cutover_groups: web: table notes: computed: made",
        lambda entry: {"tables": [{**_TABLE, "computed": {"made": {**entry}}}]},
    ),
    "service": ("estate_cutover_groups: web: service shop", lambda entry: {"services": [{"name": "shop", **entry}]}),
}


def told_of(place: str, key: str) -> list[str]:
    """Return what the inventory's check says of a key that stands somewhere in an estate."""
    _, put = PLACES[place]
    return [str(problem) for problem in checks.find_estate_mistakes([{"name": "web", **put({key: "value"})}])]


def keys_of(place: str) -> list[str]:
    """Return the keys that are known somewhere, as the refusal of another one lists them."""
    (line,) = [line for line in told_of(place, "no_such_key") if "unknown key" in line]
    listed = re.search(r"Known keys: ([\w, ]+)", line)
    assert listed
    return listed[1].split(", ")


@pytest.mark.promise("inventory-checked-first")
@pytest.mark.parametrize("place", PLACES)
def test_every_misspelt_key_is_refused_with_its_place_and_the_right_one(place: str) -> None:
    keys = keys_of(place)
    called, _ = PLACES[place]
    unseen = [
        key
        for key in keys
        if f"{called}: has an unknown key '{key[:-1]}'. Did you mean '{key}'? Known keys: {', '.join(keys)}"
        not in told_of(place, key[:-1])
    ]
    assert unseen == []


@pytest.mark.promise("inventory-checked-first")
@pytest.mark.parametrize(
    ("value", "place", "key"),
    [
        ({"login_hots": "a", "password": "hunter2"}, "variable shop_login", "'login_hots'. Did you mean 'login_host'?"),
        ({"tls": {"modes": "a"}, "password": "hunter2"}, "variable shop_login.tls", "'modes'. Did you mean 'mode'?"),
        ({"paths": [{"tpo": 1}]}, "variable shop_login.paths[0]", "'tpo'. Did you mean 'top'?"),
    ],
)
def test_a_misspelt_key_beside_a_secret_is_refused_by_name(value: Any, place: str, key: str) -> None:
    specification = {
        "shop_login": {
            "type": "dict",
            "options": {
                "login_host": {"type": "str"},
                "password": {"type": "str", "no_log": True},
                "tls": {"type": "dict", "options": {"mode": {"type": "str"}}},
                "paths": {"type": "list", "elements": "dict", "options": {"top": {"type": "int"}}},
            },
        }
    }
    (told,) = map(str, checks.find_invalid_options("shop", specification, {"shop_login": value}))
    assert told.startswith(f"{place}: has an unknown key {key} Known keys: ")
    assert "hunter2" not in told
