"""Writes the table of variables into each role's README, from the role's argument_specs and its defaults.

    python scripts/list_role_variables.py

The table stands in the section "Variables" between two comments; what stands outside of them is written by hand. A test
sees that each README is what this makes. A description belongs in ``meta/argument_specs.yml``; its reader sees the
value that ``defaults/main.yml`` gives beside it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- The table is made by scripts/list_role_variables.py from meta/argument_specs.yml: change it there. -->"
END = "<!-- End of the table. -->"
SECTION = re.compile(r"^## Variables\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
# Longer defaults are linked and not shown.
_LONGEST_DEFAULT = 60
# The role whose README shows the keys of the migrating role's login; the others link to it.
LOGIN_ROLE = "schema_apply"
_LOGIN_VARIABLE = f"{LOGIN_ROLE}_login"
_PLACES = {
    # Beginning of a template → what a reader calls that place.
    "{{ ansible_config_file | dirname }}/": " beside `ansible.cfg`",
}
_EMPTY = {"": "empty", "[]": "none", "{}": "none", "None": "none"}


def _load(path: Path) -> dict[str, Any]:
    """Return what a YAML file holds, and nothing for a file that is not there."""
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def entry_points(role: Path) -> dict[str, dict[str, Any]]:
    """Return entry point of a role → its options by name, ``main`` first."""
    specification = _load(role / "meta" / "argument_specs.yml").get("argument_specs", {})
    return {name: entry.get("options") or {} for name, entry in sorted(specification.items(), key=_main_first)}


def _main_first(entry: tuple[str, Any]) -> bool:
    """Return a key that sorts ``main`` before the other entry points and leaves these as they are."""
    return entry[0] != "main"


def _value(value: Any) -> str:
    """Return a plain value as the cell of a default."""
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    if shown in _EMPTY:
        return _EMPTY[shown]
    if isinstance(value, list):
        shown = ", ".join(map(str, value))
    return f"`{shown}`" if len(shown) <= _LONGEST_DEFAULT else "[a list](defaults/main.yml)"


def default(value: Any) -> str:
    """Return a default as a reader understands it without knowing Jinja.

    :param value: as it stands in the defaults: a plain value, or a template.
    """
    if not isinstance(value, str) or "{" not in value.replace("{major}", ""):
        return "[computed](defaults/main.yml)" if "{{" in str(value) else _value(value)
    if named := re.fullmatch(r"\{\{ (\w+) \}\}", value):
        return f"`{named[1]}`"
    if named := re.fullmatch(r"\{\{ (\w+) \| default\((.*)\) \}\}", value):
        otherwise = _value(yaml.safe_load(named[2]))
        return f"`{named[1]}`, or else {otherwise}"
    for beginning, place in _PLACES.items():
        rest = re.sub(r"\{\{ (\w+) \}\}", r"<\1>", value.removeprefix(beginning))
        if value.startswith(beginning) and "{" not in rest:
            return f"`{rest}`{place}"
    return "[computed](defaults/main.yml)"


def _description(option: dict[str, Any]) -> str:
    """Return an option's description as one cell, with the names of variables as code."""
    written = option["description"]
    text = " ".join(written if isinstance(written, list) else [written]).strip()
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"(?<![\w/.*])([a-z0-9]+(?:_[a-z0-9]+)+)(?![\w/.*])", r"`\1`", part) for part in parts[::2]]
    return "".join(parts).replace("|", "\\|")


def _type(option: dict[str, Any]) -> str:
    """Return the type of an option, or what it can be."""
    if choices := option.get("choices"):
        return ", ".join(f"`{str(choice).lower() if isinstance(choice, bool) else choice}`" for choice in choices)
    kind = option.get("type", "str")
    return f"{kind} of {option['elements']}" if kind == "list" and "elements" in option else str(kind)


def _nested(name: str, option: dict[str, Any], login: set[str]) -> list[str]:
    """Return the rows of the options inside an option.

    :param name: the option's own name, with those of what it is in before it.
    :param login: the keys of the login that another README describes.
    """
    rows: list[str] = []
    options = option.get("options") or {}
    if set(options) == login and name != _LOGIN_VARIABLE:
        return rows
    earlier: list[tuple[str, dict[str, Any]]] = []
    for key, inner in options.items():
        set_by_default = _value(inner["default"]) if "default" in inner else "not set"
        shown = "required" if inner.get("required") else set_by_default
        inside, meaning = f"{name}.{key}", _description(inner)
        alike = [other for other, keys in earlier if keys == inner.get("options")]
        if alike:
            meaning += f" Its keys are those of `{alike[0]}`."
        rows.append(f"| `{inside}` | {_type(inner)} | {shown} | {meaning} |")
        if inner.get("options") and not alike:
            rows += _nested(inside, inner, login)
            earlier.append((inside, inner["options"]))
    return rows


def table(role: Path) -> str:
    """Return the table of a role's variables; empty for a role that has none."""
    login = set(entry_points(role.parent / LOGIN_ROLE)["main"][_LOGIN_VARIABLE]["options"])
    defaults = _load(role / "defaults" / "main.yml")
    rows: list[str] = []
    known: set[str] = set()
    for entry, options in entry_points(role).items():
        for name, option in options.items():
            if name in known:
                continue
            known.add(name)
            given = defaults[name] if name in defaults else option.get("default")
            missing = "required" if option.get("required") else "not set"
            shown = default(given) if name in defaults or "default" in option else missing
            meaning = _description(option)
            if entry != "main":
                meaning += f" Only for `tasks_from: {entry}`."
            if set(option.get("options") or {}) == login and name != _LOGIN_VARIABLE:
                meaning += f" Its keys are those of [`{_LOGIN_VARIABLE}`](../{LOGIN_ROLE}/README.md#variables)."
            rows.append(f"| `{name}` | {_type(option)} | {shown} | {meaning} |")
            rows += _nested(name, option, login)
    if not rows:
        return ""
    return "\n".join(
        [BEGIN, "", "| Variable | Type or choices | Default | Meaning |", "|---|---|---|---|", *rows, "", END]
    )


def readme(role: Path) -> str:
    """Return the README of a role with the table that it must have.

    :raises ValueError: there is no place for the table.
    """
    text = (role / "README.md").read_text(encoding="utf-8")
    made = table(role)
    section = SECTION.search(text)
    if not made and BEGIN not in text:
        return text
    if section is None or section[0].count(BEGIN) != 1 or section[0].count(END) != 1:
        message = f"{role.name}/README.md: the section Variables must hold once {BEGIN} and {END}"
        raise ValueError(message)
    before, _, rest = text.partition(BEGIN)
    return before + made + rest.partition(END)[2]


def roles() -> list[Path]:
    """Return the directory of each role."""
    return sorted(path.parent for path in (PROJECT / "roles").glob("*/README.md"))


def main() -> None:
    """Write the READMEs."""
    for role in roles():
        (role / "README.md").write_text(readme(role), encoding="utf-8")


if __name__ == "__main__":
    main()
