"""What is wrong with the variables of a run, as plain data: no host is asked, and no value is told.

Each function takes variables and returns every problem that it finds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ..migration.core.errors import MigrationError, Problem
from ..migration.core.estate import Group, Service, meant, parse_group
from .sql_tables import read_tables

# How much alike two names must be so that one counts as a misspelling of the other: 0 to 1, see difflib.
_ALIKE = 0.85
_NAME = re.compile(r"[a-z_][a-z0-9_]{3,}")
# What Ansible itself sets.
_MAGIC = ("ansible_", "inventory_", "group_names", "groups", "hostvars", "omit", "play_hosts", "playbook_dir", "role_")
_UNTOLD = {"required", "default", "description", "version_added"}


def find_two_environments(environments: Mapping[str, str | None]) -> list[Problem]:
    """Return the problem of a run that names hosts of more than one environment.

    :param environments: the name of the environment by host; None or empty where the inventory does not say.
    """
    hosts: dict[str, list[str]] = {}
    for host, environment in environments.items():
        hosts.setdefault(environment or "no environment", []).append(host)
    if len(hosts) < 2:
        return []
    found = ", ".join(f"{environment} ({', '.join(sorted(names))})" for environment, names in sorted(hosts.items()))
    named = sorted(environment for environment in hosts if environment != "no environment")
    fix = f"Name one of them with -l, for example -l {named[0]}"
    return [Problem("this run", f"it names hosts of more than one environment: {found}", fix)]


def find_estate_mistakes(groups: Any) -> list[Problem]:
    """Return every mistake in ``estate_cutover_groups``."""
    if not isinstance(groups, list):
        return [Problem("estate_cutover_groups", "it is not a list", "See inventory/group_vars/all/estate.yml")]
    problems: list[Problem] = []
    names = [group.get("name") for group in groups if isinstance(group, Mapping)]
    for name in sorted({str(name) for name in names if name and names.count(name) > 1}):
        problems.append(Problem("estate_cutover_groups", f"two groups have the name '{name}'", "Name each once"))
    users: dict[str, list[str]] = {}
    valid: list[Group] = []
    for group in groups:
        try:
            parsed = parse_group(group)
        except MigrationError as error:
            problems.extend(error.problems)
            continue
        valid.append(parsed)
        for target in dict.fromkeys(mapping.target for mapping in parsed.tables):
            users.setdefault(target, []).append(parsed.name)
    for target, own in sorted(users.items()):
        # Two groups of one name have been told of.
        if len(set(own)) > 1:
            what = f"the groups {', '.join(own)} have the same target table {target}"
            fix = "A group makes its tables equal to its own file: give each table to one group, or name another target"
            problems.append(Problem("estate_cutover_groups", what, fix))
    return problems + _find_shared_schemas(valid)


def _find_shared_schemas(groups: Sequence[Group]) -> list[Problem]:
    """Return what services that migrate themselves share with others: their schemas and roles must be theirs alone."""
    return [
        Problem(f"estate_cutover_groups: service {service.name}: 'migrates_itself'", what, fix)
        for group in groups
        for service in group.services
        if service.migrates_itself
        for what, fix in _what_is_shared(group, service, groups)
    ]


def _what_is_shared(group: Group, service: Service, groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """Give what keeps a service from owning its schemas, each with what to do."""
    for other_group in groups:
        for other in other_group.services:
            if (other_group.name, other.name) == (group.name, service.name):
                continue
            for schema in sorted(set(service.schemas) & set(other.schemas)):
                fix = "Give each service a schema of its own, or take 'migrates_itself' out"
                yield f"service {other.name} may use schema {schema} too", fix
            if other.database_role == service.database_role:
                yield f"service {other.name} logs in as {service.database_role} too", "Give each a role of its own"
        for mapping in other_group.tables if other_group.name != group.name else ():
            if mapping.target_schema in service.schemas:
                fix = "Give that table a target in another schema, or take 'migrates_itself' out"
                yield f"group {other_group.name} moves a table into its schema too, {mapping.target}", fix
    for schema in sorted({"public", "migration"} & set(service.schemas)):
        yield f"schema {schema} can belong to no service", "Name a schema that is this service's alone"
    for name in service.rights:
        yield f"its role owns all of its schemas, so 'rights: {name}' cannot hold", "Take one of both out"


def find_rights_on_nothing(groups: Any, files: Iterable[str]) -> list[Problem]:
    """Return the rights of services on tables and columns that neither the SQL files nor the estate names.

    :param groups: ``estate_cutover_groups``; a group that is not valid is left out.
    :param files: the texts of the SQL files, in their order.
    """
    tables = read_tables(files)
    valid = []
    for group in groups if isinstance(groups, list) else ():
        with suppress(MigrationError):
            valid.append(parse_group(group))
    if tables is None:
        return []
    for group in valid:
        for mapping in group.tables:
            tables.setdefault(mapping.target, None)
    fix = "Correct 'rights' of the service, or add it to files/sql"
    problems = []
    for service in (service for group in valid for service in group.services):
        where = f"estate_cutover_groups: service {service.name}"
        for name in service.rights:
            schema, table, column = (*name.split("."), "", "")[:3]
            columns = tables.get(f"{schema}.{table}")
            unmade = ""
            if table and f"{schema}.{table}" not in tables:
                unmade, near = "table", meant(f"{schema}.{table}", tables)
            elif column and columns is not None and column not in columns:
                unmade, near = "column", meant(column, columns)
            if unmade:
                what = f"'rights: {name}' names a {unmade} that no SQL file makes"
                problems.append(Problem(where, what, near + fix))
    return problems


def find_missing_passwords(roles: Iterable[str], passwords: Any) -> list[Problem]:
    """Return the problem of roles that log in and have no password."""
    known: Collection[str] = passwords if isinstance(passwords, Mapping) else {}
    missing = [role for role in dict.fromkeys(roles) if role not in known]
    if not missing:
        return []
    what = f"{len(missing)} roles that log in have no password: {', '.join(missing)}"
    fix = (
        "Define vault_postgres_role_passwords, a mapping of role name to password, with Ansible Vault; or set "
        "postgres_generate_passwords: true for an environment whose passwords are kept on this machine"
    )
    return [Problem("postgres_role_passwords", what, fix)]


def find_misspelt_variables(
    variables: Mapping[str, Any], texts: Iterable[str], prefixes: Iterable[str]
) -> list[Problem]:
    """Return the variables that nothing reads and whose names are almost those of variables that something does.

    :param variables: all variables of a host, templates not resolved.
    :param texts: the roles and playbooks: whatever they name is read.
    :param prefixes: how the names of the project's own variables begin.
    """
    own = {name: value for name, value in variables.items() if name != "vars" and not name.startswith(_MAGIC)}
    named = set[str]()
    for text in (*texts, *_strings(own)):
        named.update(_NAME.findall(text))
    beginnings = tuple(prefixes)
    ours = sorted(name for name in named if name.startswith(beginnings))
    problems = []
    for name in sorted(set(own) - named):
        if "_" not in name:
            continue
        alike = get_close_matches(name, ours, n=1, cutoff=_ALIKE)
        if alike:
            problems.append(Problem(f"variable {name}", "nothing reads it", f"Did you mean {alike[0]}?"))
    return problems


def _strings(value: Any) -> Iterator[str]:
    """Give every string within a value that may hold a template."""
    if isinstance(value, str):
        if "{{" in value or "{%" in value:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def find_invalid_options(role: str, specification: Mapping[str, Any], values: Mapping[str, Any]) -> list[Problem]:
    """Return the variables of a role whose values are not as its ``meta/argument_specs.yml`` says.

    :param specification: the options of one of its entry points.
    :param values: those variables that are set, with their values.
    """
    problems: list[Problem] = []
    for name, value in values.items():
        option = {key: part for key, part in specification[name].items() if key not in _UNTOLD}
        # The name of a key is no secret, and Ansible's own message names neither the place in a list nor the right key.
        unknown, known_part = _without_unknown_keys(f"variable {name}", option, value)
        problems += unknown
        errors = ArgumentSpecValidator({name: option}).validate({name: known_part}).error_messages
        # Such a message holds the value.
        told = errors if not _has_secret(option) else ["it is not as the role's description says"] * bool(errors)
        fix = f"See roles/{role}/README.md, or: ansible-doc --type role --roles-path roles {role}"
        problems.extend(Problem(f"variable {name}", str(error).rstrip("."), fix) for error in told)
    return problems


def _without_unknown_keys(where: str, option: Mapping[str, Any], value: Any) -> tuple[list[Problem], Any]:
    """Return a problem for each key of a value that its option does not have, and the value without them."""
    options = option.get("options")
    if not options:
        return [], value
    if isinstance(value, list):
        parts = [_without_unknown_keys(f"{where}[{index}]", option, entry) for index, entry in enumerate(value)]
        return [problem for problems, _ in parts for problem in problems], [part for _, part in parts]
    if not isinstance(value, Mapping):
        return [], value
    names = [*options, *(alias for inner in options.values() for alias in inner.get("aliases") or ())]
    problems, rest = [], {}
    for key, entry in value.items():
        if key not in names:
            fix = f"{meant(str(key), names)}Known keys: {', '.join(names)}"
            problems.append(Problem(where, f"has an unknown key '{key}'", fix))
            continue
        inner, rest[key] = _without_unknown_keys(f"{where}.{key}", options.get(key) or {}, entry)
        problems += inner
    return problems, rest


def _has_secret(option: Mapping[str, Any]) -> bool:
    """Return whether an option, or one within it, is never shown."""
    return bool(option.get("no_log")) or any(_has_secret(inner) for inner in (option.get("options") or {}).values())
