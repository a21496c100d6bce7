"""The plan of a run: what a dry run has found on each host and would do there, under an id that a real run names.

Figures that change by themselves while services write are shown beside what decides. The id stands for both, and for
the plan's age. A plan is a file on the controller, ``reports/ENVIRONMENT/plans/ID.json``: ``format``, ``made_at``,
``by``, ``environment``, ``tree``, and for each host ``decides`` and ``shown``, as :mod:`migration.cutover.planned`
finds them.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..migration.core import state
from ..migration.core.decide import Cutover, Interrupted
from ..migration.core.errors import MigrationError, Problem

FORMAT = 1
# What an operator says with -e.
NAMED = "plan"

_ID = re.compile(r"[0-9a-f]{12}")
_CLOCK_TOLERANCE = timedelta(minutes=10)
# The way of a group through its states; one that was rolled back begins it anew.
_WAY = (state.PENDING, state.REHEARSED, state.FROZEN, state.LIVE, state.ARCHIVED, state.REMOVED)
_BEGINS_ANEW = (state.ROLLED_BACK, state.REHEARSED, state.FROZEN, state.LIVE)
_WILL_BE_DONE = {
    Cutover.NEEDS_REHEARSAL.value: "is rehearsed and moved to PostgreSQL",
    Cutover.MOVE.value: "is moved to PostgreSQL",
    Cutover.MOVE_AGAIN.value: "is moved to PostgreSQL, where an earlier run was interrupted",
    Cutover.FINISH.value: "is on PostgreSQL, and its services are proven to be",
    Cutover.KEEP.value: "stays on PostgreSQL",
}


def plan_id(content: Mapping[str, Any]) -> str:
    """Return the id of a plan, which stands for all that it says: what decides, what is shown, its age, who made it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def path_of(root: Path, environment: str, name: str) -> Path:
    """Return where a plan is.

    :param root: the project's folder.
    :param name: its id.
    """
    return root / "reports" / environment / "plans" / f"{name}.json"


def write(root: Path, environment: str, tree: str, hosts: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a plan down for its owner alone, and return its id.

    :raises MigrationError: if it cannot be written.
    """
    content = {
        "format": FORMAT,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": _user(),
        "environment": environment,
        "tree": tree,
        "hosts": hosts,
    }
    name = plan_id(content)
    path = path_of(root, environment, name)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True, ensure_ascii=False)
        new.replace(path)
    except OSError as error:
        problem = Problem(str(path), f"it cannot be written: {error.strerror}", "Correct the owner and mode")
        raise MigrationError("The plan cannot be kept.", [problem]) from None
    return name


def read(root: Path, environment: str, name: str, fix: str) -> dict[str, Any]:
    """Return a plan that was made here for an environment.

    :param name: its id, as the operator gave it.
    :param fix: what to do if it does not suffice.
    :raises MigrationError: if there is none, or what is there does not have this id.
    """
    path = path_of(root, environment, name)
    summary = "The plan does not suffice."
    try:
        # Anything else would be the name of another file.
        text = path.read_text(encoding="utf-8") if _ID.fullmatch(name) else None
    except OSError:
        text = None
    if text is None:
        what = f"no plan of {environment} with this id was made on this machine"
        raise MigrationError(summary, [Problem(f"plan {name}", what, fix)])
    try:
        content: dict[str, Any] = json.loads(text)
        is_whole = content["format"] == FORMAT and plan_id(content) == name and content["environment"] == environment
        datetime.fromisoformat(content["made_at"]).astimezone(UTC)
    except (ValueError, KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise MigrationError(summary, [Problem(f"plan {name}", f"{path} was altered since it was made", fix)])
    return content


def problems_of(
    root: Path,
    environment: str,
    name: str,
    tree: str,
    host: str,
    maximum_age_days: float,
    fix: str,
    now: datetime | None = None,
) -> list[Problem]:
    """Return why a run on a host may not keep to the plan that it names, as far as the controller knows.

    :param name: the plan's id, empty if none was named.
    :param tree: digest of the tree as it is.
    :param fix: what to do about it.
    :param now: the present; only tests give another.
    """
    if not name:
        return [Problem("this run", "it names no plan", fix)]
    try:
        content = read(root, environment, name, fix)
    except MigrationError as error:
        return list(error.problems)
    where = f"plan {name}"
    problems = []
    if content["tree"] != tree:
        problems.append(Problem(where, "it was made for another tree than this one", fix))
    if host not in content["hosts"]:
        problems.append(Problem(where, f"it says nothing of {host}", fix))
    age = (now or datetime.now(UTC)) - datetime.fromisoformat(content["made_at"])
    if age > timedelta(days=maximum_age_days):
        what = f"it is {age / timedelta(days=1):.1f} days old; {maximum_age_days:g} are allowed"
        problems.append(Problem(where, what, fix))
    if age < -_CLOCK_TOLERANCE:
        problems.append(Problem(where, f"it was made in the future ({content['made_at']})", fix))
    return problems


# --- what differs from the plan -----------------------------------------------------------------


def differences(planned: Mapping[str, Any], found: Mapping[str, Any], made_at: str) -> list[str]:
    """Return how a host differs from what was planned, one sentence each.

    What the planned work itself has changed is no difference, or a run that was interrupted could not be finished: SQL
    files that were pending are applied, a server is there, and groups are further on their way.

    :param planned: ``decides`` of the plan.
    :param found: ``decides`` of the host as it is.
    :param made_at: when the plan was made, as ISO 8601.
    """
    told = []
    if planned["machine"] != found["machine"]:
        told.append("it is another machine")
    if planned["login"] != found["login"]:
        told.append(f"the target was {planned['login']}, and now is {found['login']}")
    told += _changes("the inventory's", planned["settings"], found["settings"])
    if planned["server"] not in (0, found["server"]):
        now = f"PostgreSQL {found['server']}" if found["server"] else found["refused"] or "none answers"
        told.append(f"the server was PostgreSQL {planned['server']}, and now {now}")
    told += _of_ledger(planned["ledger_since"], found["ledger_since"], made_at)
    told += _changes("SQL file", planned["files"], found["files"])
    unplanned = sorted(set(found["pending"]) - set(planned["pending"]) - (set(found["files"]) - set(planned["files"])))
    if unplanned:
        told.append(f"SQL files are to be applied that were applied already: {', '.join(unplanned)}")
    told += _changes("cutover group", dict.fromkeys(planned["groups"], ""), dict.fromkeys(found["groups"], ""))
    for name in planned["groups"]:
        if name in found["groups"]:
            told += [f"{name}: {text}" for text in _of_group(planned["groups"][name], found["groups"][name])]
    return told


def _of_ledger(planned: str, found: str, made_at: str) -> Iterator[str]:
    """Give why the ledger that was found is not the one that the plan knew, or that the planned work has begun.

    A plan that was made while no server answered takes every group for one that was never moved.
    """
    if planned and found and planned != found:
        yield f"its ledger began at {planned}, and now another is there, which began at {found}"
    begin = datetime.fromisoformat(found) if found and not planned else None
    if begin is not None and begin < datetime.fromisoformat(made_at) - _CLOCK_TOLERANCE:
        yield f"a ledger is there since {found}, which the plan did not see"


def _of_group(planned: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Give how a group differs from what was planned."""
    if not _is_on_the_way(planned["state"], found["state"]):
        yield f"its state was '{planned['state']}', and now is '{found['state']}'"
    if found["interrupted"] not in (Interrupted.NOTHING.value, planned["interrupted"]):
        yield f"a rollback was interrupted since, and the run would {found['interrupted']} it"
    if planned["source"] != found["source"]:
        yield f"its source was {planned['source']}, and now is {found['source']}"
    elif planned["rest"] != found["rest"]:
        yield "the inventory describes its source otherwise"
    yield from _changes("the mapping of table", planned["tables"], found["tables"])
    yield from _changes("service", planned["services"], found["services"])
    # A group that has come to PostgreSQL since has no use for its source any more.
    if found["columns"] is None:
        if planned["columns"] is not None and not state.is_on_postgresql(found["state"]):
            yield f"its source {found['source']} cannot be read any more"
    else:
        before = planned["columns"] or {}
        yield from _changes("table", dict.fromkeys(before, ""), dict.fromkeys(found["columns"], ""))
        for table in sorted(before.keys() & found["columns"].keys()):
            changed = set(before[table]).symmetric_difference(found["columns"][table])
            if changed or before[table] != found["columns"][table]:
                yield f"table {table} of its source has other columns: {', '.join(sorted(changed)) or 'their order'}"


def _is_on_the_way(planned: str, found: str) -> bool:
    """Return whether the planned work leads from one state to another. A window that failed leads back to its begin."""
    way = _BEGINS_ANEW if planned == state.ROLLED_BACK else _WAY
    begin = state.REHEARSED if planned == state.FROZEN else planned
    return found in way[way.index(begin) :]


def _changes(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Give what is new, missing or another in a mapping."""
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield f"{kind} {name} is there no more"
        elif name not in before:
            yield f"{kind} {name} is new"
        elif before[name] != after[name]:
            yield f"{kind} {name} has changed"


# --- what a person reads ------------------------------------------------------------------------


def lines(
    name: str, environment: str, tree: str, hosts: Mapping[str, Mapping[str, Any]], command: str, mark: str
) -> list[str]:
    """Return a plan as a person reads it.

    :param name: its id.
    :param command: what runs it.
    :param mark: what lets a host say that it is of the environment; without that the command is refused.
    """
    told = [f"Plan {name} of {environment}, for the tree {tree[:12]}:"]
    for host, found in hosts.items():
        decides, shown = found["decides"], found["shown"]
        server = f"runs PostgreSQL {decides['server']}" if decides["server"] else "has no PostgreSQL yet that answers"
        told.append(f"  {host} {server}. SQL files to apply: {', '.join(decides['pending']) or 'none'}.")
        if shown["silent"]:
            told.append(
                f"    This is right only if no group was ever moved there: no server was asked ({shown['silent']})."
            )
        for group, entry in decides["groups"].items():
            told += [f"    {line}" for line in _lines_of_group(group, entry, shown["groups"][group])]
        if shown["bytes_needed"]:
            free = f"{shown['bytes_free'] / 1e6:,.1f} MB are free"
            told.append(f"    Snapshots need {shown['bytes_needed'] / 1e6:,.1f} MB in {shown['directory']}; {free}.")
    told.append(
        "  The plan does not cover passwords, what the services' own files hold, the packages that phase 1 installs, "
        "and the rows that are written until then."
    )
    unmarked = [host for host, found in hosts.items() if not found["shown"]["is_marked"]]
    if unmarked:
        return [*told, f"Next, to mark {', '.join(unmarked)} as {environment}: {mark}", f"Then: {command}"]
    return [*told, f"Next: {command}"]


def _lines_of_group(name: str, decides: Mapping[str, Any], shown: Mapping[str, Any]) -> Iterator[str]:
    """Give what is shown of a group."""
    done = _WILL_BE_DONE[decides["cutover"]]
    if decides["interrupted"] != Interrupted.NOTHING.value:
        done = f"has an interrupted rollback, which the run {decides['interrupted']}es; then it {done}"
    if decides["cutover"] == Cutover.KEEP.value and decides["interrupted"] == Interrupted.NOTHING.value:
        yield f"{name} {done}."
        return
    size = "" if shown["bytes"] is None else f", {shown['bytes'] / 1e6:,.1f} MB in {decides['source']}"
    if decides["columns"] is None and not state.is_on_postgresql(decides["state"]):
        size = f", but {decides['source']} cannot be read"
    yield f"{name} {done}: {len(shown['tables'])} tables{size}."
    rows = shown.get("rows") or {}
    tables = (
        f"{source} to {target}" + (f" ({rows[source]:,} rows)" if source in rows else "")
        for source, target in shown["tables"].items()
    )
    yield f"  tables: {', '.join(tables)}"
    seconds = shown["downtime_seconds"]
    downtime = "known once it is rehearsed" if seconds is None else f"about {seconds:.1f} s"
    services = ", ".join(shown["services"]) or "none"
    yield f"  services: {services}; files: {', '.join(shown['files']) or 'none'}; expected downtime: {downtime}"


def _user() -> str:
    """Return who makes it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
