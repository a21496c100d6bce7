"""Makes an inventory of its own from a draft, so that ``site.yml`` can be run with it as it stands."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ..core.commands import playbook
from ..core.errors import MigrationError, Problem
from ..draft.mapping import quoted
from ..draft.names import schema_name
from .render import ESTATE_FILE, NO_SQL, NO_SQL_FILE, PAGE_FILE
from .returned import estate_problems

# Names in the settings of the server that an estate has for itself: what stands for it comes after the colon.
_OWN_NAMES = re.compile(r"^(postgres_database|postgres_owner_role|postgres_migrator_role): [a-z]+", re.MULTILINE)
# Where the tables are there already, the names are those of this run.
_GIVEN_NAMES = re.compile(r"^(postgres_database|postgres_owner_role|postgres_migrator_role): .*$", re.MULTILINE)


def adopt(
    draft: Path,
    inventory: Path,
    model: Path,
    host: str,
    environment: str,
    connection: Mapping[str, str],
    names: Mapping[str, str] | None = None,
) -> None:
    """Make the inventory.

    :param draft: directory of the draft, as a person has edited it perhaps.
    :param inventory: directory to be made.
    :param model: an inventory whose settings of the server and of the environment are taken over.
    :param host: its name in the inventory.
    :param environment: the group of hosts that it belongs to.
    :param connection: variable → value, how Ansible reaches the host.
    :param names: database, owner and migrating role where the applications have made the tables already, as
        ``postgres_database`` and so on.
    :raises MigrationError: if there is such an inventory, or something in the draft would run on this machine.
    """
    if os.path.lexists(inventory):
        fix = "Correct it by hand, or move it away and adopt the draft again"
        raise MigrationError("The draft was not adopted.", [Problem(str(inventory), "it exists already", fix)])
    # What is looked at here is what is written.
    estate = (draft / ESTATE_FILE).read_text(encoding="utf-8")
    problems = list(estate_problems(estate))
    own_tables = (draft / NO_SQL_FILE).is_file()
    if not own_tables and not (draft / "sql").is_dir():
        fix = f"Take the decisions of {PAGE_FILE} that say why; then discover the host again: {playbook('discover')}"
        problems.append(Problem(str(draft / "sql"), "there is no SQL, because no source could be drafted", fix))
    if own_tables and not names:
        what = "it is for tables that applications have made, and this run was not told where they are"
        problems.append(Problem(str(draft), what, "Run it as the draft was made, with discover_existing_schemas"))
    if problems:
        raise MigrationError("The draft was not adopted.", problems)
    inventory.parent.mkdir(parents=True, exist_ok=True)
    # Half an inventory never stands at its place.
    with tempfile.TemporaryDirectory(prefix=f".{inventory.name}-", dir=inventory.parent) as private:
        made = Path(private) / inventory.name
        everywhere = made / "group_vars" / "all"
        everywhere.mkdir(parents=True)
        (everywhere / "estate.yml").write_text(estate, encoding="utf-8")
        if not own_tables:
            shutil.copytree(draft / "sql", made / "sql")
        settings = (model / "group_vars" / "all" / "postgres.yml").read_text(encoding="utf-8")
        if own_tables:
            settings = _GIVEN_NAMES.sub(lambda line: f"{line[1]}: {quoted((names or {})[line[1]])}", settings)
        else:
            settings = _OWN_NAMES.sub(rf"\g<1>: {schema_name(host)}", settings)
        (everywhere / "postgres.yml").write_text(settings, encoding="utf-8")
        sql_settings = NO_SQL if own_tables else _sql_settings(inventory, model.parent)
        (everywhere / "sql.yml").write_text(sql_settings, encoding="utf-8")
        of_environment = model / "group_vars" / environment
        if of_environment.is_dir():
            shutil.copytree(of_environment, made / "group_vars" / environment)
        (made / "hosts.yml").write_text(_hosts(host, environment, connection), encoding="utf-8")
        made.rename(inventory)


def _sql_settings(inventory: Path, project: Path) -> str:
    """Return the variable that names the directory of the SQL files; within the project it can be anywhere."""
    place = str(inventory)
    if inventory.is_relative_to(project):
        place = f"{{{{ ansible_config_file | dirname }}}}/{inventory.relative_to(project)}"
    comment = "# The SQL files of this estate, which were drafted with it."
    return f"---\n{comment}\nschema_apply_directory: {quoted(f'{place}/sql')}\n"


def _hosts(host: str, environment: str, connection: Mapping[str, str]) -> str:
    """Return the list of hosts: one, which is database host and service host."""
    lines = ["---", "all:", "  children:", f"    {quoted(environment)}:", "      hosts:", f"        {quoted(host)}:"]
    lines += [f"          {key}: {quoted(value)}" for key, value in connection.items()]
    for group in ("database_hosts", "service_hosts"):
        lines += [f"    {group}:", "      hosts:", f"        {quoted(host)}:"]
    return "\n".join(lines) + "\n"
