"""Finds every mistake in the inventory, on the controller, before any host is touched.

No connection is opened: a role's own check of its arguments comes when that role's turn has come, with
changes of the roles before it made already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ..module_utils.inventory import checks
from ..module_utils.migration.core.errors import MigrationError, Problem

_ROOT = Path(__file__).resolve().parent.parent.parent
ARGUMENTS: dict[str, Any] = {}
# How variables of the project begin that are no role's.
_PREFIXES = ("estate_", "postgres_", "promotion_", "vault_", "environment_name")


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible ships without types
    """Looks at the variables of one host, and at the environments of all hosts of the run."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return no change, or a failure with every problem."""
        result = dict(super().run(tmp, task_vars))
        self.validate_argument_spec(ARGUMENTS)
        variables = task_vars or {}
        problems = checks.find_two_environments(
            {
                host: self._value(variables["hostvars"][host].get("environment_name"))
                for host in variables["ansible_play_hosts_all"]
            }
        )
        problems = problems or list(dict.fromkeys(self._problems_of_a_host(variables)))
        result["changed"] = False
        if problems:
            error = MigrationError(f"The inventory is not right for {variables['inventory_hostname']}.", problems)
            result.update(failed=True, msg=error.message(), problems=error.as_dicts())
        return result

    def _problems_of_a_host(self, variables: Mapping[str, Any]) -> Iterator[Problem]:
        """Give every problem of the variables of this host."""
        roles = sorted(path.parent.parent.name for path in (_ROOT / "roles").glob("*/meta/argument_specs.yml"))
        texts = [path.read_text() for path in _files_that_read_variables()]
        yield from checks.find_misspelt_variables(variables, texts, (*(f"{role}_" for role in roles), *_PREFIXES))
        values = self._values(roles, variables)
        if "estate_cutover_groups" in variables:
            groups = values.get("estate_cutover_groups")
            yield from checks.find_estate_mistakes(groups)
            directory = self._value(variables.get("schema_apply_directory"))
            # Where applications make their tables themselves, only the server knows them.
            if directory != "":
                paths = sorted(Path(directory or _ROOT / "files" / "sql").glob("*.sql"))
                yield from checks.find_rights_on_nothing(groups, [path.read_text(encoding="utf-8") for path in paths])
        login_roles = values.get("postgres_login_roles")
        if "postgres_role_passwords" in variables and isinstance(login_roles, list):
            yield from checks.find_missing_passwords(login_roles, values.get("postgres_role_passwords"))
        for role in roles:
            for specification in _specifications(role):
                told = {name: values[name] for name in specification if values.get(name) is not None}
                yield from checks.find_invalid_options(role, specification, told)

    def _values(self, roles: Iterable[str], variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the estate's variables and the options of all roles stand for, by their names.

        What needs something that is only known on the host is left out: the role looks at it there.
        """
        known: dict[str, Any] = {}
        for role in roles:
            defaults = _ROOT / "roles" / role / "defaults" / "main.yml"
            if defaults.exists():
                known.update(self._loader.load_from_file(str(defaults), trusted_as_template=True) or {})
        known.update(variables)
        options = (name for role in roles for specification in _specifications(role) for name in specification)
        # What the options refer to comes first. Of secrets only those are read that one of these needs.
        shared = (name for name in variables if name.startswith(("estate_", "postgres_")))
        templar = self._templar.copy_with_new_env(available_variables=known)
        values: dict[str, Any] = {}
        for name in dict.fromkeys((*shared, *options)):
            try:
                values[name] = _resolved(templar.template(known.get(name)))
            except AnsibleError:
                continue
            # Ansible would work it out again for each variable that refers to this one.
            known[name] = values[name]
        return values

    def _value(self, template: Any) -> Any:
        """Return what a template stands for; None if it needs what is not known here."""
        try:
            return _resolved(self._templar.template(template))
        except AnsibleError:
            return None


def _resolved(value: Any) -> Any:
    """Return a value as plain data, with every template within it resolved, which Ansible leaves until somebody looks.

    :raises AnsibleError: if one of them needs what is not known.
    """
    if isinstance(value, Mapping):
        return {_resolved(key): _resolved(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(item) for item in value]
    # Ansible's own kind of text, which knows where it was written, takes long to copy.
    return str(value) if isinstance(value, str) else value


@cache
def _specifications(role: str) -> tuple[dict[str, Any], ...]:
    """Return the options of each entry point of a role."""
    text = (_ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    # Ansible's own loader notes the place of each word, which takes many times as long.
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    return tuple(entry_point.get("options") or {} for entry_point in document["argument_specs"].values())


def _files_that_read_variables() -> Iterator[Path]:
    """Give the roles' and playbooks' files."""
    yield _ROOT / "site.yml"
    yield from (_ROOT / "playbooks").glob("*.yml")
    for pattern in ("*.yml", "*.j2"):
        yield from (_ROOT / "roles").rglob(pattern)
