"""Filters of role postgres_config: settings and their units, and the lines of pg_hba.conf."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ansible.errors import AnsibleFilterError

# Each unit of PostgreSQL in bytes or in microseconds.
_MEMORY_UNITS = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_TIME_UNITS = {
    "us": 1,
    "ms": 1000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_QUANTITY = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_BOOLEANS = {"on": "on", "true": "on", "yes": "on", "1": "on", "off": "off", "false": "off", "no": "off", "0": "off"}
_SIMPLE_NAME = re.compile(r"[a-z_][a-z0-9_]*")
# Words that mean something else than a name in pg_hba.conf, unless quoted.
_HBA_WORDS = ("all", "sameuser", "samerole", "samegroup", "replication")
_HBA_FIELDS = ("type", "database", "user", "address", "method", "options")


def postgres_memory_settings(total_megabytes: int, max_connections: int) -> dict[str, str]:
    """Return memory settings for a host: a quarter of its memory for buffers, three quarters as the cache's size.

    A quarter more is shared by the connections, but each gets at least 4 and at most 64 MB.
    """
    total = int(total_megabytes)
    return {
        "shared_buffers": f"{max(128, total // 4)}MB",
        "effective_cache_size": f"{max(256, total * 3 // 4)}MB",
        "work_mem": f"{min(64, max(4, total // 4 // int(max_connections)))}MB",
    }


def postgres_setting_literal(value: Any) -> str:
    """Return a setting's value as it is written in a configuration file: quoted, booleans as on and off."""
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    if any(character in text for character in "\n\r\0"):
        raise AnsibleFilterError("A setting's value holds a line break.")
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def _comparable(value: Any, kind: str, unit: str | None) -> Any:
    """Return a setting's value in base units, so that ``1GB``, ``1048576kB`` and ``131072`` of 8kB are equal."""
    text = ("on" if value else "off") if isinstance(value, bool) else str(value)
    if kind == "bool":
        return _BOOLEANS.get(text.lower(), text.lower())
    if kind == "enum":
        return text.lower()
    match = _QUANTITY.fullmatch(text) if kind in ("integer", "real") else None
    if not match:
        return text
    number, suffix = Decimal(match.group(1)), match.group(2)
    base = re.fullmatch(r"(\d*)([A-Za-z]+)", unit or "")
    for units in (_MEMORY_UNITS, _TIME_UNITS):
        if base and base.group(2) in units:
            if not suffix:
                return number * int(base.group(1) or 1) * units[base.group(2)]
            return number * units[suffix] if suffix in units else text
    return number


def postgres_settings_differing(wanted: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the wanted settings whose value the server does not have, in order.

    :param settings: rows of ``pg_settings`` with name, setting, unit and vartype.
    """
    rows = {row["name"]: row for row in settings}
    names = []
    for name in sorted(wanted):
        row = rows.get(name.lower())
        if row is None or _comparable(wanted[name], row["vartype"], row["unit"]) != _comparable(
            row["setting"], row["vartype"], row["unit"]
        ):
            names.append(name)
    return names


def postgres_never_lowered(wanted: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the wanted settings for a server that others use: no limit lower and no address fewer than it has.

    :param settings: rows of ``pg_settings`` with name, setting, unit and vartype.
    """
    rows = {row["name"]: row for row in settings}
    kept = {"password_encryption"}
    if rows.get("ssl", {}).get("setting") == "on":
        # It has a certificate of its own.
        kept |= {"ssl", "ssl_cert_file", "ssl_key_file"}
    result = {}
    for name, value in wanted.items():
        row = rows.get(name.lower())
        if row is None:
            result[name] = value
        elif name in kept:
            result[name] = row["setting"]
        else:
            result[name] = _not_lowered(value, row)
    return result


def _not_lowered(value: Any, row: Mapping[str, Any]) -> Any:
    """Return the wanted value of one setting, or the server's where that is more."""
    if row["name"] == "listen_addresses":
        addresses = [part.strip() for text in (row["setting"], str(value)) for part in text.split(",") if part.strip()]
        return "*" if "*" in addresses else ", ".join(dict.fromkeys(addresses))
    wanted, found = (_comparable(entry, row["vartype"], row["unit"]) for entry in (value, row["setting"]))
    if isinstance(wanted, Decimal) and isinstance(found, Decimal) and found > wanted:
        return _with_unit(row["setting"], row["unit"])
    return value


def _with_unit(setting: str, unit: str | None) -> str:
    """Return the value of a row of ``pg_settings`` as a configuration file takes it: 8192 of 8kB is 65536kB."""
    base = re.fullmatch(r"(\d*)([A-Za-z]+)", unit or "")
    if base is None:
        return setting
    return f"{Decimal(setting) * int(base.group(1) or 1)}{base.group(2)}"


def postgres_setting_shown(row: Mapping[str, Any]) -> str:
    """Return the value of a row of ``pg_settings`` with its unit, as a person writes it."""
    return _with_unit(row["setting"], row["unit"]) if _QUANTITY.fullmatch(row["setting"]) else str(row["setting"])


def postgres_overruled_settings(
    settings: Iterable[Mapping[str, Any]], wanted: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return the settings that the server has another value for: ``name``, ``wanted``, ``found`` and ``source``.

    :param settings: rows of ``pg_settings`` as for :func:`postgres_settings_differing`, with ``shown`` and ``source``.
    """
    rows = {row["name"]: row for row in settings}
    differing = postgres_settings_differing(wanted, list(rows.values()))
    return [
        {
            "name": name,
            "wanted": ("on" if wanted[name] else "off") if isinstance(wanted[name], bool) else str(wanted[name]),
            "found": str(rows[name.lower()]["shown"]),
            "source": str(rows[name.lower()]["source"]),
        }
        for name in differing
        if name.lower() in rows
    ]


def postgres_connection_problems(maximum: int, reserved: int, services: Mapping[str, int], migrator: int) -> list[str]:
    """Return why the server has not enough connections for everyone, in one sentence, or an empty list."""
    usable = int(maximum) - int(reserved)
    needed = sum(int(connections) for connections in services.values()) + int(migrator)
    if needed <= usable:
        return []
    pools = ", ".join(f"{role} {connections}" for role, connections in services.items())
    return [
        f"{needed} connections are needed and {usable} can be used: max_connections {maximum} without {reserved} "
        f"that are reserved. The pools: {pools}; the migrator {migrator}. Lower pool_size in the estate, or raise "
        "postgres_config_max_connections."
    ]


def postgres_hba_rules(
    roles: Sequence[str],
    database: str,
    addresses: Sequence[str] = (),
    extra_rules: Sequence[Mapping[str, Any]] = (),
    networks: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, str]]:
    """Return the lines of pg_hba.conf, the most specific first, as ``{type, database, user, address, method}``.

    The administrator comes first, by the socket; then each role from this host, from its networks there and, with TLS
    only, from each address; last, everyone is rejected. Rules of the operator stand where they belong among them. A
    name that pg_hba.conf would read as a word of its own is quoted; in the operator's rules nothing is.

    :param networks: role → networks of this host that its containers connect from.
    :raises AnsibleFilterError: if a rule of the operator is not one line of known fields.
    """
    rules = []
    for role in roles:
        for kind, address in [
            ("host", "127.0.0.1/32"),
            ("host", "::1/128"),
            *[("host", _with_prefix(network)) for network in (networks or {}).get(role, ())],
            *[("hostssl", _with_prefix(address)) for address in addresses],
        ]:
            rules.append(_rule(kind, _name(database), _name(role), address, "scram-sha-256"))
        rules.append(_rule("local", _name(database), _name(role), "", "scram-sha-256"))
    for number, extra in enumerate(extra_rules, start=1):
        _check_extra_rule(extra, number)
        rule = {field: str(extra.get(field, "")) for field in _HBA_FIELDS}
        method = f"{rule['method']} {rule['options']}".strip()
        rules.append(_rule(rule["type"], rule["database"], rule["user"], rule["address"], method))
    first = [_rule("local", "all", "postgres", "", "peer")]
    last = [
        _rule("local", "all", "all", "", "reject"),
        _rule("host", "all", "all", "0.0.0.0/0", "reject"),
        _rule("host", "all", "all", "::/0", "reject"),
    ]
    return first + sorted(rules, key=_specificity) + last


def _rule(kind: str, database: str, user: str, address: str, method: str) -> dict[str, str]:
    """Return one line of pg_hba.conf."""
    return {"type": kind, "database": database, "user": user, "address": address, "method": method}


def _name(name: str) -> str:
    """Return a database's or role's name as pg_hba.conf takes it for a name."""
    if _SIMPLE_NAME.fullmatch(name) and name not in _HBA_WORDS:
        return name
    if any(character in name for character in '"\n\r,'):
        raise AnsibleFilterError(f"The name {name!r} cannot be written in pg_hba.conf.")
    return f'"{name}"'


def _with_prefix(address: str) -> str:
    """Return an address with its prefix length; a network or a host name as it is."""
    try:
        return str(ipaddress.ip_interface(address))
    except ValueError:
        return address


def _check_extra_rule(rule: Any, number: int) -> None:
    """Raise unless the operator's rule is a mapping of known fields that makes one line."""
    where = f"postgres_config_hba_extra_rules, entry {number}"
    if not isinstance(rule, Mapping):
        raise AnsibleFilterError(f"{where}: is not a mapping.")
    for field in ("type", "database", "user", "method"):
        if not rule.get(field):
            raise AnsibleFilterError(f"{where}: {field} is missing.")
    for field, value in rule.items():
        if field not in _HBA_FIELDS:
            raise AnsibleFilterError(f"{where}: {field} is unknown. Known: {', '.join(_HBA_FIELDS)}.")
        if any(character in str(value) for character in "\n\r#"):
            raise AnsibleFilterError(f"{where}: {field} holds a line break or a comment.")


def _specificity(rule: Mapping[str, str]) -> tuple[int, int, int, int]:
    """Return a key that sorts the most specific rule first: its address, then its database, then its user."""
    address = rule["address"]
    if rule["type"] == "local":
        hosts = -1
    elif address in ("all", "samenet"):
        hosts = 128 if address == "all" else 127
    elif address == "samehost":
        hosts = 0
    else:
        try:
            network = ipaddress.ip_network(address, strict=False)
            hosts = network.max_prefixlen - network.prefixlen
        except ValueError:
            # A host name is one host; a suffix such as .example.org is many.
            hosts = 64 if address.startswith(".") else 0
    everyone = ("all",)
    return (hosts, int(rule["database"] in everyone), int(rule["user"] in everyone), int(rule["method"] != "reject"))


def postgres_failure_text(result: Mapping[str, Any]) -> str:
    """Return what a failed task said, in one line: of a loop, what each failed item said."""
    items = [item for item in result.get("results", []) if item.get("failed")]
    if not items:
        return _one_line(result)
    return "; ".join(f"{item.get('item')}: {_one_line(item)}" for item in items)


def _one_line(result: Mapping[str, Any]) -> str:
    """Return one result's message; what the server itself said wins over the module's summary."""
    said = re.findall(r"\b(?:LOG|ERROR|FATAL|HINT): +(.*)", str(result.get("stderr", "")))
    text = ", ".join(said) or result.get("conn_err_msg") or result.get("msg") or "no message"
    return " ".join(str(text).split())


class FilterModule:
    """The filters that Ansible finds in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return each filter by its name."""
        return {
            "postgres_connection_problems": postgres_connection_problems,
            "postgres_failure_text": postgres_failure_text,
            "postgres_hba_rules": postgres_hba_rules,
            "postgres_memory_settings": postgres_memory_settings,
            "postgres_never_lowered": postgres_never_lowered,
            "postgres_overruled_settings": postgres_overruled_settings,
            "postgres_setting_literal": postgres_setting_literal,
            "postgres_setting_shown": postgres_setting_shown,
            "postgres_settings_differing": postgres_settings_differing,
        }
