"""Compares the store in use with the journal: through the services, and in the store itself.

The load need not be stopped for it: rows that it asked for while the checker read are left out.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import stores
from .baseline import Unreadable, canonical, every_list, listed, used_store, without_ids
from .journal import Row, State, read, replay
from .kinds import GROUPS, KINDS, LOGIN, LOGIN_SERVICE, PORTS, TABLES, Kind
from .requests import send

# They are other texts in the other store, if the row that they refer to came with the sample.
_REFERENCES = ("agent_id", "workflow_id")
_CHANGED_BY_ANY_UPDATE = "updated_at"

Entry = dict[str, Any]


def check(path: Path) -> Entry:
    """Return ``problems``, the ``stores`` in use by group, and what was compared.

    A problem is a sentence that names the row. Rows that were written to while this ran are counted as ``skipped``.
    """
    entries = read(path)
    state, first = replay(entries), entries[0]
    problems = list(state.rejected)
    found: dict[str, str] = {}
    seen: dict[str, list[Entry]] = {}
    try:
        lists = {name: listed(service, name) for service, name in every_list()}
        for group in TABLES:
            found[group] = used_store(group)
        tables = stores.read_all(found)
        for kind in KINDS:
            seen[kind.name] = _look(kind, state, lists)
        for group in GROUPS:
            if used_store(group) != found[group]:
                problems.append(f"group {group} has changed its store while it was looked at")
    except (Unreadable, sqlite3.Error, subprocess.CalledProcessError) as error:
        return {"problems": [*problems, f"cannot be checked: {error}"], "stores": found, "rows": 0, "skipped": 0}

    after = replay(read(path))
    touched = {place for place, row in after.rows.items() if row.numbers != _numbers(state, place)}
    ours = {kind.name: {row.key for row in after.of_kind(kind.name)} for kind in KINDS}
    for kind in KINDS:
        group = _group_of(kind)
        table = [_decoded(row, kind, found[group]) for row in tables[group, kind.sqlite]]
        children = [] if kind.children is None else tables[group, kind.children.sqlite]
        rows = [row for row in state.of_kind(kind.name) if (row.kind, row.key) not in touched]
        problems += _compare_answers(kind, rows, seen[kind.name])
        problems += _compare_store(kind, rows, table, children)
        expected = first["counts"][group][kind.sqlite]
        problems += _foreign(kind.sqlite, (row for row in table if kind.key_of(row) not in ours[kind.name]), expected)
        if kind.children is not None:
            parents = {row["id"] for row in table if kind.key_of(row) in ours[kind.name]}
            parents |= {row.identifier for row in after.of_kind(kind.name) if row.identifier}
            others = (child for child in children if child[kind.children.parent] not in parents)
            problems += _foreign(kind.children.sqlite, others, first["counts"][group][kind.children.sqlite])
    written = {kind.sqlite for kind in KINDS} | {kind.children.sqlite for kind in KINDS if kind.children}
    for (group, name), content in tables.items():
        if name not in written:
            problems += _foreign(name, content, first["counts"][group][name])
    problems += _compare_baseline(first["lists"], lists, ours)
    problems += _compare_logins(state, touched, lists["users"], tables["platform", "users"], found["platform"])
    return {
        "problems": problems,
        "stores": found,
        "rows": sum(row.present is not None and place not in touched for place, row in state.rows.items()),
        "skipped": len(touched),
        "outcomes": state.outcomes,
        "uncertain": sum(not row.certain for row in state.rows.values()),
    }


def _numbers(state: State, place: tuple[str, str]) -> list[str]:
    row = state.rows.get(place)
    return [] if row is None else row.numbers


def _group_of(kind: Kind) -> str:
    return next(group for group, (services, _) in GROUPS.items() if kind.service in services)


def _decoded(row: Entry, kind: Kind, store: str) -> Entry:
    return stores.decoded(row, kind.json_columns) if store == stores.SQLITE else row


def _look(kind: Kind, state: State, lists: dict[str, list[Entry]]) -> list[Entry]:
    """Return the rows of a kind as its service answers.

    :raises Unreadable: if it does not answer.
    """
    answers = {row["id"]: row for row in lists.get(kind.list_name, [])}
    if kind.children is None:
        return list(answers.values())
    # Shown alone they come with their children. What cannot be listed is asked for also if it should be gone.
    for identifier in {row.identifier for row in state.of_kind(kind.name)} - {None}:
        if kind.list_name and identifier not in answers:
            continue
        answer = send(PORTS[kind.service], "GET", f"{kind.item}/{identifier}")
        if answer.status == 200:
            answers[answer.body["id"]] = answer.body
        elif answer.status != 404:
            raise Unreadable(f"{kind.service} does not show {kind.name} {identifier}: {answer.status} {answer.body}")
        else:
            answers.pop(str(identifier), None)
    return list(answers.values())


def _compare_answers(kind: Kind, rows: Iterable[Row], seen: list[Entry]) -> list[str]:
    """Compare what the journal knows with what the service answers."""
    problems = []
    by_key: dict[str, list[Entry]] = {}
    for answer in seen:
        by_key.setdefault(kind.key_of(answer), []).append(answer)
    for row in rows:
        found = by_key.get(row.key, [])
        if problem := _wrong_number(row, len(found)):
            if row.present is None and not row.certain and not kind.list_name:
                continue
            problems.append(f"{kind.name} {row.key}: {problem}, says {kind.service}")
        elif found and not _is_possible(row, found[0]):
            problems.append(
                f"{kind.name} {row.key}: {kind.service} shows {_differing(row, found[0])}, which was not the last "
                "that it acknowledged"
            )
    return problems


def _wrong_number(row: Row, number: int) -> str:
    """Return what is wrong with this number of rows; empty if nothing is."""
    if number > 1:
        return f"is there {number} times"
    if number == 1 and row.present is None and row.certain:
        return "is there, though its removal was acknowledged or it was never written"
    if number == 0 and row.present is not None and None not in row.possible:
        return "is lost, though it was acknowledged"
    return ""


def _is_possible(row: Row, found: Entry) -> bool:
    """Return whether the row can look so: as last acknowledged, with or without each unknown change."""
    if row.present is None:
        return any(body is not None and _includes(found, body) for body in row.possible)
    bodies: list[Entry] = [{}, *(body for body in row.possible if body is not None)]
    return any(_equal({**row.present, **body}, found, exact=not body) for body in bodies)


def _equal(expected: Entry, found: Entry, exact: bool) -> bool:
    ignored = () if exact else (_CHANGED_BY_ANY_UPDATE,)
    return _comparable(expected, found, ignored) == _comparable(found, expected, ignored)


def _comparable(row: Entry, other: Entry, ignored: tuple[str, ...]) -> str:
    """Return a text of a row for comparison. The list of deployments does not show their events."""
    return canonical(
        {
            key: [_without_references(child) for child in value] if key in ("steps", "events") else value
            for key, value in _without_references(row).items()
            if key not in ignored and key in other
        }
    )


def _without_references(row: Entry) -> Entry:
    return {key: value for key, value in row.items() if key not in _REFERENCES}


def _includes(found: Entry, body: Entry) -> bool:
    return all(canonical(found.get(key)) == canonical(value) for key, value in body.items())


def _differing(row: Row, found: Entry) -> str:
    expected = row.present or {}
    keys = [key for key in expected if key in found and key not in _REFERENCES and expected[key] != found[key]]
    return ", ".join(f"{key} {found[key]!r} for {expected[key]!r}" for key in keys) or "other values"


def _compare_store(kind: Kind, rows: Iterable[Row], table: list[Entry], children: list[Entry]) -> list[str]:
    """Compare what the journal knows with what stands in the store."""
    problems = []
    by_key: dict[str, list[Entry]] = {}
    for entry in table:
        by_key.setdefault(kind.key_of(entry), []).append(entry)
    counts = Counter() if kind.children is None else Counter(child[kind.children.parent] for child in children)
    for row in rows:
        found = by_key.get(row.key, [])
        if problem := _wrong_number(row, len(found)):
            problems.append(f"{kind.name} {row.key}: {problem}, shows the store")
            continue
        identifier = found[0]["id"] if found else row.identifier
        if found and row.present is not None:
            if identifier != row.identifier:
                problems.append(f"{kind.name} {row.key}: has the id {identifier} in the store, not {row.identifier}")
            stored = {column: found[0][column] for column in kind.stored}
            bodies = [{}, *(body for body in row.possible if body is not None)]
            if not any(
                all(canonical(stored[column]) == canonical({**row.present, **body}[column]) for column in kind.stored)
                for body in bodies
            ):
                problems.append(f"{kind.name} {row.key}: the store holds {_differing(row, stored)}")
        elif found and not any(body is not None and _includes(found[0], body) for body in row.possible):
            problems.append(f"{kind.name} {row.key}: the store holds other values than were sent")
        if kind.children is not None and identifier is not None:
            expected = _children_of(kind, row) if found else 0
            if counts[identifier] != expected:
                problems.append(
                    f"{kind.name} {row.key}: has {counts[identifier]} {kind.children.name} in the store, not {expected}"
                )
    return problems


def _children_of(kind: Kind, row: Row) -> int:
    """Return how many children a row was written with: the sample workflow has 2 steps, a deployment 4 stages."""
    if kind.children is None:
        return 0
    if row.present is not None:
        return len(row.present[kind.children.name])
    return {"steps": 2, "events": 4}[kind.children.name]


def _foreign(table: str, others: Iterable[Entry], expected: int) -> list[str]:
    """Compare the number of rows that nobody has written since the baseline."""
    found = list(others)
    if len(found) == expected:
        return []
    return [f"table {table}: {len(found)} rows are not of the load, and {expected} were there before it"]


def _compare_baseline(
    before: dict[str, list[Entry]], now: dict[str, list[Entry]], ours: dict[str, set[str]]
) -> list[str]:
    """Compare the rows that were there before the load, as users see them."""
    problems = []
    keys = {kind.list_name: (kind.key_of, ours[kind.name]) for kind in KINDS if kind.list_name}
    for name, rows in now.items():
        key_of, own = keys.get(name, (None, set()))
        others = [row for row in rows if key_of is None or key_of(row) not in own]
        present = Counter(canonical(without_ids(row)) for row in others)
        expected = Counter(canonical(row) for row in before[name])
        problems += [f"{name}: a row that was there before is gone or changed: {row}" for row in expected - present]
        problems += [f"{name}: a row that nobody wrote has appeared or changed: {row}" for row in present - expected]
    return problems


def _compare_logins(
    state: State, touched: set[tuple[str, str]], users: list[Entry], stored: list[Entry], store: str
) -> list[str]:
    """Compare the time of the last acknowledged login with what the service and the store say."""
    problems = []
    for row in state.of_kind(LOGIN):
        if (row.kind, row.key) in touched or row.present is None:
            continue
        expected = row.present["last_login"]
        shown = next((user["last_login"] for user in users if user["email"] == row.key), None)
        kept = next((user["last_login"] for user in stored if user["email"] == row.key), None)
        # An unknown login may have set a later time, which nobody knows.
        if shown is None or shown < expected or (row.certain and shown != expected):
            problems.append(f"user {row.key}: {LOGIN_SERVICE} shows the login of {shown}, not of {expected}")
        # PostgreSQL writes the same time in another form.
        if row.certain and str(kept).replace(" ", "T")[:19] != expected[:19]:
            problems.append(f"user {row.key}: {store} holds the login of {kept}, not of {expected}")
    return problems
