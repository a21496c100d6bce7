"""The gate before a protected environment, as plugins ask it: its own task, the modules that change, and the plays.

Which environments are protected is read from the inventory's group ``all`` itself, never from the task's variables:
neither ``-e`` nor a variable of a host or of another group changes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

from ..module_utils.migration.core.errors import MigrationError, Problem
from ..module_utils.promotion import gate
from ..module_utils.promotion.tree import SECRETS
from .gated import (
    HOST_FILE,
    ONLY_IN_THE_INVENTORY,
    PROTECTED,
    ROOT,
    environment_names,
    plan_of_run,
    read_host,
    values_for_all_hosts,
)
from .messages import printable
from .run_inventory import inventory_options

# With one of these in --skip-tags the gate's own task does not run.
_TAGS_OF_THE_GATE = ("all", "always", "tagged")


def refuse(action: ActionBase, variables: Mapping[str, Any], needs_plan: bool) -> dict[str, Any] | None:
    """Return the failed result of a task that may not change its host, None if it may.

    :param needs_plan: whether the run has to name a plan.
    """
    try:
        protection = find_protection(variables, action._templar)
        if protection is not None and not action._task.check_mode:
            require(protection, variables, needs_plan=needs_plan)
            require_host(protection, variables, *read_host(action))
    except MigrationError as error:
        return {"failed": True, "changed": False, "msg": error.message(), "problems": error.as_dicts()}
    return None


def find_protection(variables: Mapping[str, Any], templar: Any) -> gate.Protection | None:
    """Return what protects the environment of a task's host, None if nothing does.

    :raises MigrationError: if the inventory contradicts itself, or ``-e`` sets what only the inventory may.
    """
    protected = value_for_all_hosts(variables, PROTECTED)
    if not protected:
        return None
    words = (gate.OVERRIDE, gate.THIS_HOST_IS)
    extra = variables["hostvars"]._variable_manager.extra_vars
    given = sorted(name for name in extra if name.startswith(ONLY_IN_THE_INVENTORY) and name not in words)
    if given:
        fix = "Only the inventory may say which hosts are protected"
        raise MigrationError("The gate cannot be moved.", [Problem("this run", f"-e sets {', '.join(given)}", fix)])
    return gate.find_protection(protected, environment_names(variables, templar))


def value_for_all_hosts(variables: Mapping[str, Any], name: str) -> Any:
    """Return what the sources of the inventory say of a variable for all hosts, None if none does.

    :raises MigrationError: if two of them do not say the same.
    """
    values = values_for_all_hosts(variables, name)
    if len(values) > 1:
        fix = f"Give one inventory with -i, and set it there as {ROOT / 'inventory'} does"
        problem = Problem(name, "two sources of the inventory set it differently", fix)
        raise MigrationError("The inventory is not right.", [problem])
    return values[0] if values else None


def require(
    protection: gate.Protection,
    variables: Mapping[str, Any],
    more: list[Problem] | None = None,
    is_dry: bool = False,
    needs_plan: bool = False,
) -> list[Problem]:
    """Let this tree change a protected environment, or refuse it; return what the operator's reason has overridden.

    :param more: problems that the host has shown.
    :param is_dry: whether nothing is going to be changed.
    :param needs_plan: whether the run has to name a plan; a dry run makes it.
    :raises MigrationError: with everything that is missing, unless the operator has given a reason to go on.
    """
    call = _call(variables, protection.environment)
    host = str(variables["inventory_hostname"]) if needs_plan and not is_dry else ""
    problems = [*gate.find_problems(ROOT, protection, call, host), *(more or ())]
    if problems and call.override_reason:
        unreasonable = gate.reason_problems(call)
        if not unreasonable:
            told = "\n".join(f"  - {problem}" for problem in problems)
            # A dry run changes nothing, so nothing is recorded.
            path = None if is_dry else gate.record_override(ROOT, protection, call.override_reason, problems)
            verb, recorded = ("would be", "") if path is None else ("is", f" (recorded in {path})")
            text = (
                f"{protection.environment} {verb} changed without the evidence that it asks for, because "
                f"'{call.override_reason}'{recorded}. Passed over:\n{told}"
            )
            Display().warning(printable(text))
            return problems
        problems += unreasonable
    if problems:
        raise MigrationError(f"{protection.environment} is protected, and nothing was changed there.", problems)
    return []


def grounds(
    protection: gate.Protection, variables: Mapping[str, Any], overridden: Sequence[Problem] = ()
) -> dict[str, Any]:
    """Return what lets this run change a protected environment, for its record.

    :param overridden: what the operator's reason has overridden.
    """
    return gate.grounds(ROOT, protection, _call(variables, protection.environment), overridden)


def grounds_of_going_back(variables: Mapping[str, Any], templar: Any) -> dict[str, Any] | None:
    """Return the same of a run that takes back what an earlier one has done; None if its host is not protected.

    The way out of trouble is open, so neither a plan nor a reason counts, and what ``-e`` sets is no mistake.

    :raises MigrationError: if the inventory contradicts itself.
    """
    protected = value_for_all_hosts(variables, PROTECTED)
    protection = gate.find_protection(protected, environment_names(variables, templar)) if protected else None
    return None if protection is None else {**grounds(protection, variables), "plan": "", "goes_back": True}


def override(variables: Mapping[str, Any], overridden: Sequence[Problem]) -> dict[str, Any] | None:
    """Return an override as a run's record has it, None if nothing was overridden."""
    return gate.override(_call(variables, "").override_reason, overridden)


def require_host(
    protection: gate.Protection,
    variables: Mapping[str, Any],
    text: str | None,
    machine_id: str,
    is_dry: bool = False,
) -> list[Problem]:
    """Let a host be changed that says of itself that it is the protected environment; else as :func:`require`."""
    host, options = str(variables["inventory_hostname"]), inventory_options(variables)
    problems = gate.host_problems(protection, host, HOST_FILE, text, machine_id, options, plan_of_run(variables))
    return require(protection, variables, problems, is_dry) if problems else []


def require_no_other(variables: Mapping[str, Any], text: str | None, machine_id: str) -> None:
    """Let a host of no protected environment be changed, unless it says of itself that it belongs to one.

    :raises MigrationError: if it does.
    """
    protected = value_for_all_hosts(variables, PROTECTED) or {}
    problems = gate.problems_of_another(
        protected, str(variables["inventory_hostname"]), HOST_FILE, text or "", machine_id
    )
    if problems:
        raise MigrationError("The inventory leads to another host than it says, and nothing was changed.", problems)


def require_all(
    action: ActionBase,
    protection: gate.Protection,
    variables: Mapping[str, Any],
    may_name_host: bool,
    needs_plan: bool,
) -> tuple[bool, list[Problem]]:
    """Let a run change a protected environment, or refuse it.

    :param needs_plan: whether the run has to name a plan.
    :returns: whether the host has got a name, or would get it; and what the operator's reason has overridden.
    :raises MigrationError: with everything that is missing.
    """
    said = variables["hostvars"]._variable_manager.extra_vars.get(gate.THIS_HOST_IS)
    problems = []
    if said is not None and said != protection.environment:
        what = f"it says {said}, and the inventory says {protection.environment}"
        problems.append(Problem(gate.THIS_HOST_IS, what, "See which host this is"))
    # What the controller knows is told before a host is asked.
    is_dry = action._task.check_mode
    overridden = require(protection, variables, problems, is_dry, needs_plan)
    text, machine_id = read_host(action)
    is_named = text is None and said is not None and may_name_host and bool(machine_id.strip())
    if is_named:
        text = gate.host_text(protection.environment, machine_id)
    overridden += require_host(protection, variables, text, machine_id, is_dry)
    if is_named and text is not None and not is_dry:
        _name_host(action, text)
    return is_named, list(dict.fromkeys(overridden))


def _name_host(action: ActionBase, text: str) -> None:
    """Write the file by which the host says what it is.

    :raises MigrationError: if the host refuses it.
    """
    directory, new = shlex.quote(str(PurePosixPath(HOST_FILE).parent)), shlex.quote(f"{HOST_FILE}.new")
    write = f"printf %s {shlex.quote(text)} > {new} && mv {new} {shlex.quote(HOST_FILE)}"
    answer = action._low_level_execute_command(f"umask 022 && mkdir -p {directory} && {write}")
    if answer["rc"] != 0:
        problem = Problem(HOST_FILE, f"it cannot be written: {answer['stderr'].strip()}", "Run as root, or with become")
        raise MigrationError("The host could not be named.", [problem])


def _call(variables: Mapping[str, Any], environment: str) -> gate.Call:
    """Return how this run was called."""
    directory = variables.get("playbook_dir")
    given = context.CLIARGS.get("args") or ()
    return gate.Call(
        variables["hostvars"]._variable_manager.extra_vars,
        value_for_all_hosts(variables, "promotion_extra_variables") or (),
        list(_options()),
        Path(constants.CONFIG_FILE) if constants.CONFIG_FILE else None,
        Path(directory) if directory else None,
        # The command `ansible` has a pattern of hosts there.
        () if isinstance(given, str) else given,
        constants.DEFAULT_ROLES_PATH,
        [str(source) for source in variables["hostvars"]._inventory._sources],
        names_of_secrets(variables["hostvars"]._loader, ROOT),
        limit_of_run(variables, environment),
    )


def limit_of_run(variables: Mapping[str, Any], otherwise: str) -> str:
    """Return the hosts of the run and what names its inventory, as they stand in a command.

    :param otherwise: what stands for hosts of a run without a limit.
    """
    limit = variables.get("ansible_limit") or otherwise
    return " ".join([shlex.quote(str(limit)), *inventory_options(variables)])


def names_of_secrets(loader: Any, root: Path) -> list[str]:
    """Return the names of the variables that the file of all environments' secrets sets; the loader decrypts it."""
    path = root / SECRETS
    return [str(name) for name in loader.load_from_file(str(path)) or ()] if path.is_file() else []


def _options() -> Iterator[str]:
    """Give the options of this run that leave out the gate's own task."""
    if context.CLIARGS.get("start_at_task"):
        yield "--start-at-task"
    if context.CLIARGS.get("step"):
        yield "--step"
    skipped = {tag.strip() for given in context.CLIARGS.get("skip_tags") or () for tag in given.split(",")}
    for tag in sorted(skipped.intersection(_TAGS_OF_THE_GATE)):
        yield f"--skip-tags {tag}"
