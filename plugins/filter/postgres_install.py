"""Filters of role postgres_install: SCRAM-SHA-256 verifiers, and what is wrong with a set of passwords."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

ITERATIONS = 4096
SALT_BYTES = 16
# A schema of a search path: in quotes, or bare.
_SCHEMA = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')
_VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)")


def postgres_scram_verifier(password: str, current: str | None = None) -> str:
    """Return the SCRAM-SHA-256 verifier (RFC 5803) of a password, as PostgreSQL stores it.

    The server is sent this and never the text. If ``current``, the verifier that the server holds, was made from the
    same password, it is returned as it is, so that a second run changes nothing; else the salt is new and random.
    (A salt computed from the password would need no look at the server, but the server tells the salt to
    anyone who asks for a login, and with it a way to guess the password offline.)

    :raises AnsibleFilterError: if the password is empty or not printable ASCII. The message never holds it.
    """
    problem = _password_problem(password)
    if problem:
        raise AnsibleFilterError(f"A role's password {problem}.")
    match = _VERIFIER.fullmatch(current or "")
    if match and int(match.group(1)) == ITERATIONS:
        same = _verifier(password, base64.b64decode(match.group(2)))
        if hmac.compare_digest(same, str(current)):
            return same
    return _verifier(password, secrets.token_bytes(SALT_BYTES))


def postgres_roles_differing(
    wanted: Sequence[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]], passwords: Mapping[str, Any]
) -> list[str]:
    """Return the names of the wanted roles that the server lacks, or that are not as they are wanted, in order.

    :param wanted: for each role ``name``, ``login``, ``connection_limit`` and the ``configuration`` that it must have.
    :param found: by role ``verifier``, ``login``, ``privileged`` (whether it may do more than log in),
        ``connection_limit`` and ``configuration`` as a list of ``name=value``, or None.
    :raises AnsibleFilterError: if a password cannot be used. The message never holds it.
    """
    return [role["name"] for role in wanted if not _is_as_wanted(role, found.get(role["name"]), passwords)]


def _is_as_wanted(wanted: Mapping[str, Any], found: Mapping[str, Any] | None, passwords: Mapping[str, Any]) -> bool:
    """Return whether the server has a role with the wanted attributes, configuration and password."""
    if found is None or found["privileged"] or bool(found["login"]) != bool(wanted["login"]):
        return False
    if int(found["connection_limit"]) != int(wanted["connection_limit"]):
        return False
    configuration = dict(entry.split("=", 1) for entry in found["configuration"] or [])
    for name, value in wanted["configuration"].items():
        if _parts(name, value) != _parts(name, configuration.get(name)):
            return False
    if not wanted["login"]:
        return bool(not found["verifier"])
    # It is the same only if it was made from this password.
    return bool(postgres_scram_verifier(passwords[wanted["name"]], found["verifier"]) == found["verifier"])


def _parts(name: str, value: Any) -> list[str] | None:
    """Return a setting's value so that it can be compared: the names of a search path may stand in quotes or not."""
    if value is None:
        return None
    if name != "search_path":
        return [str(value)]
    return [quoted.replace('""', '"') or bare for quoted, bare in _SCHEMA.findall(str(value))]


def postgres_service_role(
    role: Mapping[str, Any], configuration: Mapping[str, Any], search_paths: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Return the role of services as ``postgres_roles_differing`` wants it.

    :param role: ``name`` and ``connection_limit``.
    :param configuration: settings of its sessions.
    :param search_paths: by role the schemas of its services, in order; ``public``, where extensions are, comes last.
    """
    schemas = dict.fromkeys([*search_paths.get(role["name"], ()), "public"])
    path = {"search_path": ", ".join(map(_identifier, schemas))} if len(schemas) > 1 else {}
    return {**role, "login": True, "configuration": {**configuration, **path}}


def postgres_setting_values(configuration: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of settings as they are written in SQL: a search path is a list of names, any other a text."""
    return {
        name: str(value) if name == "search_path" else _literal(str(value)) for name, value in configuration.items()
    }


def postgres_managed_script(
    roles: Sequence[Mapping[str, Any]], passwords: Mapping[str, Any], settings: Mapping[str, Any], hidden: bool = False
) -> str:
    """Return the script for psql with which the administrator of a managed server makes all that any phase needs.

    It works from top to bottom, also a second time and where some of it is there, for a role that has CREATEDB and
    CREATEROLE and nothing else.

    :param roles: for each role ``name``, ``login``, ``connection_limit`` and ``configuration``.
    :param passwords: the password of each role that logs in. Only verifiers of them are in the script.
    :param settings: ``owner``, ``migrator``, ``database``, ``extensions``, and as ``self_migrating`` the roles of
        services that migrate themselves, if there are any.
    :param hidden: leave the verifiers out, to show the script.
    """
    owner, migrator, database = (_identifier(settings[name]) for name in ("owner", "migrator", "database"))
    logins = [role["name"] for role in roles if role["login"]]
    services = [name for name in logins if name != settings["migrator"]]
    lines = ["\\set ON_ERROR_STOP on", "-- The roles. Of a password only its SCRAM verifier is sent."]
    for role in roles:
        name = _identifier(role["name"])
        absent = f"NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_literal(role['name'])})"
        lines.append(_executed_if(f"CREATE ROLE {name}", absent))
        verifier = "..." if hidden or not role["login"] else postgres_scram_verifier(passwords[role["name"]])
        login = f"LOGIN PASSWORD {_literal(verifier)}" if role["login"] else "NOLOGIN"
        lines.append(f"ALTER ROLE {name} {login} CONNECTION LIMIT {int(role['connection_limit'])};")
        # The migrator's own are for superusers to set.
        if role["name"] in services:
            for setting, value in postgres_setting_values(role["configuration"]).items():
                lines.append(f"ALTER ROLE {name} SET {_identifier(setting)} = {value};")
    named = f"datname = {_literal(settings['database'])}"
    lines += [
        "-- The migrator acts as the owner, makes databases to prove that backups restore, and may see and end the",
        "-- services' sessions.",
        f"ALTER ROLE {migrator} CREATEDB;",
        f"GRANT {', '.join([owner, *map(_identifier, services)])} TO {migrator};",
        *_memberships_of_owner(owner, settings.get("self_migrating", ())),
        "-- The database, its extensions, and nothing for PUBLIC.",
        f"GRANT {owner} TO CURRENT_USER;",
        _executed_if(
            f"CREATE DATABASE {database} OWNER {owner} ENCODING UTF8 TEMPLATE template0",
            f"NOT EXISTS (SELECT FROM pg_database WHERE {named})",
        ),
        _executed_if(
            f"ALTER DATABASE {database} OWNER TO {owner}",
            f"EXISTS (SELECT FROM pg_database WHERE {named} "
            f"AND pg_get_userbyid(datdba) <> {_literal(settings['owner'])})",
        ),
        f"\\connect {database}",
        f"SET ROLE {owner};",
        *(f"CREATE EXTENSION IF NOT EXISTS {_identifier(name)};" for name in settings["extensions"]),
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;",
        f"GRANT CONNECT ON DATABASE {database} TO {', '.join(map(_identifier, logins))};",
        "RESET ROLE;",
        f"REVOKE {owner} FROM CURRENT_USER;",
    ]
    return "\n".join(lines) + "\n"


def _memberships_of_owner(owner: str, roles: Sequence[str]) -> list[str]:
    """Return what lets the owner take back what the roles of services that migrate themselves own."""
    if not roles:
        return []
    return [
        "-- The owner acts as the roles that change their own tables, so that a rollback can take these back.",
        f"GRANT {', '.join(map(_identifier, roles))} TO {owner};",
    ]


def _executed_if(statement: str, condition: str) -> str:
    """Return what lets psql execute a statement if a condition holds."""
    return f"SELECT {_literal(statement)} WHERE {condition} \\gexec"


def _identifier(name: str) -> str:
    """Return a name as it is written in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    """Return a text as it is written in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _verifier(password: str, salt: bytes) -> str:
    """Return the verifier for one salt."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    texts = [base64.b64encode(part).decode("ascii") for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${ITERATIONS}:{texts[0]}${texts[1]}:{texts[2]}"


def _password_problem(password: Any) -> str | None:
    """Return what is wrong with a password, without the password, or None."""
    if not isinstance(password, str):
        return "is not a string: write it in quotes"
    if not password:
        return "is empty"
    if not all(" " <= character <= "~" for character in password):
        return "holds a character that is not printable ASCII, which clients normalise differently"
    if password.startswith(("SCRAM-SHA-256$", "md5")) and (_VERIFIER.fullmatch(password) or len(password) == 35):
        return "is a verifier, not a password: the services need the text"
    return None


def postgres_password_problems(passwords: Any, roles: Sequence[str]) -> list[str]:
    """Return one sentence for each role whose password is missing or cannot be used. None holds a password."""
    if not isinstance(passwords, Mapping):
        return ["the passwords are not a mapping of role name to password."]
    problems = []
    for role in roles:
        problem = _password_problem(passwords[role]) if role in passwords else "is missing"
        if problem:
            problems.append(f"role {role}: its password {problem}.")
    return problems


def postgres_connection_limit(role: Mapping[str, Any], reserve: int) -> dict[str, Any]:
    """Return ``{name, connection_limit}`` for ``{name, pool}``: the pool and a reserve, both in connections."""
    return {"name": role["name"], "connection_limit": int(role["pool"]) + int(reserve)}


def postgres_packages_known(policy: str) -> list[str]:
    """Return the packages that apt can install, from the text of ``apt-cache policy`` in the C locale."""
    known = []
    for block in re.split(r"(?m)^(?=\S)", policy):
        name = block.partition(":\n")[0].strip()
        if name and re.search(r"(?m)^  Candidate: (?!\(none\))\S", block):
            known.append(name)
    return known


def postgres_host_problems(
    facts: Mapping[str, Any],
    architectures: Sequence[str],
    distributions: Mapping[str, Sequence[str]],
    free: str | None = None,
    minimum: int = 0,
) -> list[str]:
    """Return one sentence for each reason why PostgreSQL cannot be installed on a host.

    :param facts: ``ansible_facts``, with ``architecture`` and those of the distribution.
    :param free: text of ``df --block-size=1M --output=avail,target``, or None if space does not matter.
    :param minimum: megabytes that each of its file systems must have free.
    """
    problems = []
    if facts["architecture"] not in architectures:
        problems.append(f"its architecture is {facts['architecture']}. Use one of {', '.join(architectures)}.")
    versions = distributions.get(facts["distribution"], ())
    if not {facts["distribution_version"], facts["distribution_major_version"]} & set(versions):
        known = "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in distributions.items())
        problems.append(
            f"its distribution is {facts['distribution']} {facts['distribution_version']}. Use one of {known}."
        )
    for line in dict.fromkeys((free or "").splitlines()[1:]):
        available, _, target = line.strip().partition(" ")
        if int(available) < int(minimum):
            problems.append(
                f"{target.strip()} has {available} MB free and needs {minimum}. Free some space, "
                "or lower postgres_install_minimum_free_megabytes."
            )
    return problems


def postgres_existing_problems(
    found: Mapping[str, Any], version: int, port: int, locale: str, existing: str
) -> list[str]:
    """Return one sentence for each reason why what a host has already is in the way, before anything is changed.

    A cluster that holds nothing but what the package has made is as good as none.

    :param found: what module ``existing_server`` returns.
    :param locale: of the database that is to be created.
    :param existing: ``refuse`` or ``adopt``: what becomes of a cluster that others use.
    """
    problems = []
    known = {_locale_key(name) for name in found["locales"]}
    if known and _locale_key(locale) not in known:
        problems.append(
            f"it has no locale {locale}. Generate it there (locale-gen), or set postgres_install_locale to one of: "
            f"{', '.join(sorted(found['locales']))}."
        )
    others = [f"{entry['version']}/{entry['name']}" for entry in found["clusters"] if not _is_main(entry, version)]
    there = [f"{entry['version']}/{entry['name']}" for entry in found["clusters"] if entry["port"] == int(port)]
    if set(there) & set(others):
        problems.append(
            f"port {port} belongs to cluster {there[0]} (pg_lsclusters), and our server is to be {version}/main. Set "
            "postgres_port to a free port, or postgres_version to the version of that cluster, or move it."
        )
    elif not there and found["listener"]:
        problems.append(f"{found['listener']} listens on port {port}. Set postgres_port to a free port.")
    for cluster in found["clusters"]:
        if _is_main(cluster, version):
            problems += _problems_of_our_cluster(found, cluster, int(port), existing)
    return problems


def postgres_left_out_problems(existing: str, skipped_tags: Sequence[str]) -> list[str]:
    """Return why a run may not leave out what gives a server that others use its files back, empty if it does not.

    :param existing: ``refuse`` or ``adopt``: what becomes of a cluster that others use.
    :param skipped_tags: those of ``--skip-tags``.
    """
    if existing != "adopt" or "always" not in skipped_tags:
        return []
    return [
        "--skip-tags always leaves out what gives a server that others use its files back if a task fails. "
        "Run without it."
    ]


def _problems_of_our_cluster(
    found: Mapping[str, Any], cluster: Mapping[str, Any], port: int, existing: str
) -> list[str]:
    """Return what is in the way in the cluster that is to be ours."""
    name = f"{cluster['version']}/{cluster['name']}"
    held = _describe_foreign(found)
    problems = []
    if cluster["port"] != port and (cluster["ours"] or held):
        problems.append(f"cluster {name} has port {cluster['port']}, not {port}. Set postgres_port: {cluster['port']}.")
    if held and not cluster["ours"] and existing != "adopt":
        problems.append(
            f"cluster {name} is in use by others: {held}. For a server of our own set postgres_version to another "
            "version and postgres_port to a free port. To share this one set postgres_existing: adopt; then its access "
            "rules and settings stay, ours are added, and a dated copy is kept of every file that is changed."
        )
    return problems


def _describe_foreign(found: Mapping[str, Any]) -> str:
    """Return what others have in a cluster, or why it does not say; empty if there is nothing."""
    if found["unanswered"]:
        return f"user postgres may not ask what it holds ({found['unanswered']})"
    titles = {"databases": "databases", "roles": "roles", "rules": "lines of pg_hba.conf", "settings": "settings"}
    foreign = found["foreign"]
    return "; ".join(f"{title} {', '.join(foreign[kind])}" for kind, title in titles.items() if foreign[kind])


def _is_main(cluster: Mapping[str, Any], version: int) -> bool:
    """Return whether a cluster is the one that the package of a version makes."""
    return bool(cluster["version"] == str(version) and cluster["name"] == "main")


def _locale_key(name: str) -> str:
    """Return a locale's name in the spelling in which all of its spellings are equal: C.UTF-8 is C.utf8."""
    language, _, encoding = name.partition(".")
    return f"{language}.{encoding.lower().replace('-', '')}"


class FilterModule:
    """The filters that Ansible finds in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return each filter by its name."""
        return {
            "postgres_scram_verifier": postgres_scram_verifier,
            "postgres_password_problems": postgres_password_problems,
            "postgres_connection_limit": postgres_connection_limit,
            "postgres_host_problems": postgres_host_problems,
            "postgres_existing_problems": postgres_existing_problems,
            "postgres_left_out_problems": postgres_left_out_problems,
            "postgres_managed_script": postgres_managed_script,
            "postgres_packages_known": postgres_packages_known,
            "postgres_roles_differing": postgres_roles_differing,
            "postgres_service_role": postgres_service_role,
            "postgres_setting_values": postgres_setting_values,
        }
