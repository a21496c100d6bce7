"""The filters of roles postgres_install and postgres_config, and verifiers against a real server."""

from __future__ import annotations

import base64
import os
import socket
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from ansible_collections.swarm.sqlite_to_postgresql.plugins.filter import postgres_config as config
from ansible_collections.swarm.sqlite_to_postgresql.plugins.filter import postgres_install as install
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.connection import connect
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.modules import existing_server
from tests.conftest import PROJECT

if TYPE_CHECKING:
    from tests.conftest import Server


class TestVerifiers:
    """What the server is sent in place of a password."""

    def test_known_exchange(self) -> None:
        """The keys of RFC 7677's example, with its password and salt: computed there, not here."""
        salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
        stored, server = install._verifier("pencil", salt).rpartition("$")[2].split(":")
        assert server == "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        assert stored == "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="

    @pytest.mark.promise("password-sent-as-verifier")
    def test_current_verifier_of_the_same_password_is_kept(self) -> None:
        """A second run sends what the server holds, so nothing changes."""
        first = install.postgres_scram_verifier("secret")
        assert install.postgres_scram_verifier("secret", first) == first

    @pytest.mark.promise("password-sent-as-verifier")
    @pytest.mark.parametrize("current", ["", None, "md5" + "0" * 32, "SCRAM-SHA-256$4096:broken"])
    def test_anything_else_is_replaced(self, current: str | None) -> None:
        """Neither no password nor one in another form counts as the wanted one."""
        assert install.postgres_scram_verifier("secret", current).startswith("SCRAM-SHA-256$4096:")

    def test_salts_are_never_reused(self) -> None:
        """Two roles with the same password have different verifiers."""
        assert install.postgres_scram_verifier("secret") != install.postgres_scram_verifier("secret")

    def test_weaker_verifier_is_replaced(self) -> None:
        """A verifier of fewer iterations is not kept, though the password is the same."""
        weak = install.postgres_scram_verifier("secret").replace("$4096:", "$1024:")
        assert install.postgres_scram_verifier("secret", weak).startswith("SCRAM-SHA-256$4096:")

    @pytest.mark.promise("missing-password-named")
    @pytest.mark.parametrize("password", ["", "grüße", "a\nb", 5, None])
    def test_unusable_password_is_refused_without_being_told(self, password: Any) -> None:
        """The message never holds the password."""
        with pytest.raises(AnsibleFilterError) as caught:
            install.postgres_scram_verifier(password)
        assert not password or str(password) not in str(caught.value)

    @pytest.mark.promise("password-sent-as-verifier")
    def test_server_accepts_the_password_of_a_verifier(self, server: Server) -> None:
        """A real server lets the right password in, and no other."""
        password, other = "with 'quotes' and $pace", "another"
        verifier = install.postgres_scram_verifier(password)
        server.execute("DROP ROLE IF EXISTS verifier_test", f"CREATE ROLE verifier_test LOGIN PASSWORD '{verifier}'")
        login = replace(server.superuser, user="verifier_test", password=password, database="postgres")
        try:
            connect(login).close()
            with pytest.raises(MigrationError, match="password authentication failed"):
                connect(replace(login, password=other))
        finally:
            server.execute("DROP ROLE verifier_test")


class TestRoles:
    """Which roles of the server are not as they are wanted."""

    PASSWORDS = MappingProxyType({"worker": "secret"})
    WANTED = MappingProxyType(
        {"name": "worker", "login": True, "connection_limit": 7, "configuration": {"lc_messages": "C"}}
    )
    FOUND = MappingProxyType(
        {
            "verifier": install.postgres_scram_verifier("secret"),
            "login": True,
            "privileged": False,
            "connection_limit": 7,
            "configuration": ["lc_messages=C", "work_mem=8MB"],
        }
    )

    def differing(self, **change: Any) -> list[str]:
        """Return what differs if the server's role has another attribute."""
        names: list[str] = install.postgres_roles_differing(
            [self.WANTED], {"worker": {**self.FOUND, **change}}, self.PASSWORDS
        )
        return names

    def test_a_role_as_wanted(self) -> None:
        """A further setting is the administrator's own."""
        assert self.differing() == []

    @pytest.mark.parametrize(
        "change",
        [
            {"verifier": install.postgres_scram_verifier("another")},
            {"verifier": ""},
            {"login": False},
            {"privileged": True},
            {"connection_limit": -1},
            {"configuration": ["lc_messages=de_DE"]},
            {"configuration": None},
        ],
    )
    def test_every_attribute_counts(self, change: dict[str, Any]) -> None:
        assert self.differing(**change) == ["worker"]

    @pytest.mark.promise("tables-found-by-bare-name")
    @pytest.mark.parametrize("names", ["app, public", '"app", "public"'])
    def test_a_search_path_is_the_same_however_the_server_quotes_it(self, names: str) -> None:
        limits = {"statement_timeout": "60s"}
        role = {"name": "worker", "connection_limit": 7}
        wanted = install.postgres_service_role(role, limits, {"worker": ['My "own"', "app"]})
        server = {**self.FOUND, "configuration": [f'search_path="My ""own""", {names}', "statement_timeout=60s"]}
        assert install.postgres_roles_differing([wanted], {"worker": server}, self.PASSWORDS) == []
        for other in ("search_path=app, public", 'search_path="app, public"', "work_mem=8MB"):
            server = {**self.FOUND, "configuration": [other, "statement_timeout=60s"]}
            assert install.postgres_roles_differing([wanted], {"worker": server}, self.PASSWORDS) == ["worker"]
        # Without schemas nothing is set, and what an administrator has set stays.
        assert install.postgres_service_role(role, limits, {})["configuration"] == limits

    def test_a_missing_role_and_an_owner_with_a_password(self) -> None:
        """The owner cannot log in, and so needs no password, and gets none."""
        assert install.postgres_roles_differing([self.WANTED], {}, self.PASSWORDS) == ["worker"]
        owner = {**self.WANTED, "login": False}
        for verifier, differs in (("", []), ("SCRAM", ["worker"])):
            found = {"worker": {**self.FOUND, "login": False, "verifier": verifier}}
            assert install.postgres_roles_differing([owner], found, {}) == differs


class TestPreflight:
    """What is refused before anything is installed."""

    @pytest.mark.promise("missing-password-named")
    def test_every_bad_password_is_named(self) -> None:
        """One sentence for each role, none with a password in it."""
        passwords = {"good": "x", "empty": "", "foreign": "grüße", "number": 12345, "verifier": "md5" + "a" * 32}
        problems = install.postgres_password_problems(passwords, [*passwords, "absent"])
        assert [problem.split(":")[0] for problem in problems] == [
            "role empty",
            "role foreign",
            "role number",
            "role verifier",
            "role absent",
        ]
        assert not any(str(secret) in problem for secret in ("grüße", 12345, "a" * 32) for problem in problems)

    def test_passwords_that_are_no_mapping(self) -> None:
        """A list in the inventory gets a message, not a traceback."""
        assert install.postgres_password_problems(["x"], ["a"]) == [
            "the passwords are not a mapping of role name to password."
        ]

    @pytest.mark.promise("unfit-host-named-at-once")
    def test_every_violation_of_a_host_is_named(self) -> None:
        """Architecture, distribution and each full file system, all at once."""
        facts = {
            "architecture": "riscv64",
            "distribution": "Fedora",
            "distribution_version": "42",
            "distribution_major_version": "42",
        }
        free = "Avail Mounted on\n  100 /\n  100 /\n 5000 /var/lib\n"
        problems = install.postgres_host_problems(facts, ["x86_64"], {"Debian": ["12"]}, free, 1024)
        assert len(problems) == 3
        assert "riscv64" in problems[0] and "Fedora 42" in problems[1] and "/ has 100 MB" in problems[2]

    @pytest.mark.parametrize(
        ("distribution", "version", "major"), [("Debian", "12.11", "12"), ("Ubuntu", "24.04", "24")]
    )
    def test_supported_host(self, distribution: str, version: str, major: str) -> None:
        """Debian is known by its major version, Ubuntu by its whole one."""
        facts = {
            "architecture": "x86_64",
            "distribution": distribution,
            "distribution_version": version,
            "distribution_major_version": major,
        }
        assert install.postgres_host_problems(facts, ["x86_64"], {"Debian": ["12"], "Ubuntu": ["24.04"]}) == []

    def test_a_host_whose_python_is_too_old_is_refused(self) -> None:
        """Ubuntu 22.04 has Python 3.10, and the engine needs 3.11."""
        variables = yaml.safe_load((PROJECT / "roles/postgres_install/vars/main.yml").read_text(encoding="utf-8"))
        facts = {
            "architecture": "x86_64",
            "distribution": "Ubuntu",
            "distribution_version": "22.04",
            "distribution_major_version": "22",
        }
        known = variables["__postgres_install_architectures"], variables["__postgres_install_distributions"]
        (problem,) = install.postgres_host_problems(facts, *known)
        assert "Ubuntu 22.04" in problem
        assert install.postgres_host_problems({**facts, "distribution_version": "24.04"}, *known) == []

    def test_packages_that_apt_knows(self) -> None:
        """A virtual package has no candidate; an unknown one is not listed at all."""
        policy = (
            "postgresql-15:\n  Installed: (none)\n  Candidate: 15.20\n  Version table:\n     15.20 500\n"
            "virtual:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n"
            "python3-psycopg2:\n  Installed: 2.9.5\n  Candidate: 2.9.5\n  Version table:\n *** 2.9.5 500\n"
        )
        assert install.postgres_packages_known(policy) == ["postgresql-15", "python3-psycopg2"]

    @pytest.mark.promise("pools-fit-the-server")
    @pytest.mark.parametrize(("maximum", "fits"), [(33, True), (32, False)])
    def test_pools_and_connections(self, maximum: int, fits: bool) -> None:
        """The pools and the migrator must fit beside what is reserved for the superuser, to the last connection."""
        problems = config.postgres_connection_problems(maximum, 3, {"a": 15, "b": 5}, 10)
        assert (problems == []) is fits


def row(name: str, setting: str, unit: str | None, vartype: str) -> dict[str, str | None]:
    """Return a row of pg_settings."""
    return {"name": name, "setting": setting, "unit": unit, "vartype": vartype}


class TestSettings:
    """Values and their units."""

    @pytest.mark.parametrize(
        ("wanted", "setting", "unit", "vartype", "differs"),
        [
            ("256MB", "32768", "8kB", "integer", False),
            ("0.25GB", "32768", "8kB", "integer", False),
            ("257MB", "32768", "8kB", "integer", True),
            (32768, "32768", "8kB", "integer", False),
            ("4MB", "4096", "kB", "integer", False),
            (100, "100", None, "integer", False),
            (101, "100", None, "integer", True),
            ("5min", "300", "s", "integer", False),
            ("300000ms", "300", "s", "integer", False),
            (True, "on", None, "bool", False),
            ("yes", "on", None, "bool", False),
            (False, "on", None, "bool", True),
            ("SCRAM-SHA-256", "scram-sha-256", None, "enum", False),
            ("localhost", "*", None, "string", True),
            ("1.1", "1.1", None, "real", False),
            ("256XB", "32768", "8kB", "integer", True),
        ],
    )
    def test_comparison_in_base_units(
        self, wanted: Any, setting: str, unit: str | None, vartype: str, differs: bool
    ) -> None:
        """A value is the same whatever unit it is written in."""
        rows = [row("name", setting, unit, vartype)]
        assert config.postgres_settings_differing({"name": wanted}, rows) == (["name"] if differs else [])

    def test_unknown_setting_differs(self) -> None:
        """A setting that the server does not list is not one that it has."""
        assert config.postgres_settings_differing({"absent": 1}, []) == ["absent"]

    @pytest.mark.promise("overruled-setting-named")
    def test_overruled_settings_come_with_both_values_and_their_source(self) -> None:
        """The wanted value is shown as the role has written it, the other one as the server shows it."""
        rows = [
            {**row("work_mem", "1024", "kB", "integer"), "shown": "1MB", "source": "/data/postgresql.auto.conf"},
            {**row("shared_buffers", "32768", "8kB", "integer"), "shown": "256MB", "source": "/conf.d/ours.conf"},
            {**row("ssl", "off", None, "bool"), "shown": "off", "source": "command line"},
        ]
        wanted = {"Work_Mem": "4MB", "shared_buffers": "256MB", "ssl": True, "absent": 1}
        assert config.postgres_overruled_settings(rows, wanted) == [
            {"name": "Work_Mem", "wanted": "4MB", "found": "1MB", "source": "/data/postgresql.auto.conf"},
            {"name": "ssl", "wanted": "on", "found": "off", "source": "command line"},
        ]

    def test_literals(self) -> None:
        """Quotes and backslashes arrive, booleans are words, and nothing breaks out of its line."""
        assert config.postgres_setting_literal("it's \\ x") == "'it''s \\\\ x'"
        assert config.postgres_setting_literal(True) == "'on'"
        with pytest.raises(AnsibleFilterError):
            config.postgres_setting_literal("a\nport = 1")

    def test_memory_of_a_small_and_of_a_large_host(self) -> None:
        """A quarter for buffers, and bounds on what each connection may take."""
        assert config.postgres_memory_settings(1024, 100) == {
            "shared_buffers": "256MB",
            "effective_cache_size": "768MB",
            "work_mem": "4MB",
        }
        assert config.postgres_memory_settings(131072, 100)["work_mem"] == "64MB"


class TestAccessRules:
    """The lines of pg_hba.conf."""

    @pytest.mark.promise("access-rules-closed")
    def test_administrator_first_and_everyone_rejected_last(self) -> None:
        """Neither can be moved by a rule of the operator."""
        extra = [{"type": "local", "database": "all", "user": "all", "method": "reject"}]
        rules = config.postgres_hba_rules(["a"], "swarm", [], extra)
        assert rules[0] == {"type": "local", "database": "all", "user": "postgres", "address": "", "method": "peer"}
        assert [rule["method"] for rule in rules[-3:]] == ["reject"] * 3

    @pytest.mark.promise("access-rules-closed")
    def test_other_hosts_must_use_tls(self) -> None:
        """An address of another host gets hostssl and its prefix length, both families; loopback gets host."""
        rules = config.postgres_hba_rules(["a"], "swarm", ["10.0.0.5", "fd00::5", "10.1.0.0/16", "app.example.org"])
        kinds = {rule["address"]: rule["type"] for rule in rules if rule["user"] == "a" and rule["address"]}
        assert kinds == {
            "127.0.0.1/32": "host",
            "::1/128": "host",
            "10.0.0.5/32": "hostssl",
            "fd00::5/128": "hostssl",
            "10.1.0.0/16": "hostssl",
            "app.example.org": "hostssl",
        }

    @pytest.mark.promise("access-rules-closed")
    def test_a_network_of_containers_is_open_to_the_role_that_names_it_alone(self) -> None:
        """Another role gets no line for it, and no role one without a password."""
        rules = config.postgres_hba_rules(["a", "b"], "swarm", networks={"a": ["172.18.0.0/16"]})
        (rule,) = [rule for rule in rules if rule["address"] == "172.18.0.0/16"]
        assert (rule["type"], rule["database"], rule["user"]) == ("host", "swarm", "a")
        assert rule["method"] == "scram-sha-256"

    def test_an_inventory_of_an_older_version_needs_no_variable_of_its_own_for_such_networks(self) -> None:
        """Adopting a draft copies ``postgres.yml``: what a later version needs must not stand there alone."""
        services = [
            {"database_role": "a", "client_network": "172.18.0.0/16"},
            {"database_role": "b"},
            {"database_role": "a", "client_network": "172.18.0.0/16"},
        ]
        path = PROJECT / "roles" / "postgres_config" / "defaults" / "main.yml"
        defaults = DataLoader().load_from_file(str(path), trusted_as_template=True)
        for estate, networks, addresses in (
            ({}, {}, "localhost"),
            ({"estate_cutover_groups": [{"name": "no services"}, {"services": services[1:2]}]}, {}, "localhost"),
            ({"estate_cutover_groups": [{"services": services}]}, {"a": ["172.18.0.0/16"]}, "*"),
        ):
            variables = {**defaults, "groups": {"all": ["h"]}, "inventory_hostname": "h", **estate}
            templar = Templar(loader=DataLoader(), variables=variables)
            assert templar.template(defaults["postgres_config_service_networks"]) == networks
            assert templar.template(defaults["postgres_config_listen_addresses"]) == addresses

    @pytest.mark.promise("access-rules-closed")
    def test_most_specific_first(self) -> None:
        """A wide rule of the operator never stands before a narrow one of ours."""
        extra = [
            {"type": "host", "database": "all", "user": "all", "address": "0.0.0.0/0", "method": "scram-sha-256"},
            {"type": "hostssl", "database": "swarm", "user": "all", "address": "10.0.0.0/8", "method": "reject"},
        ]
        rules = config.postgres_hba_rules(["a"], "swarm", ["10.0.0.5"], extra)
        addresses = [rule["address"] for rule in rules]
        assert addresses.index("10.0.0.5/32") < addresses.index("10.0.0.0/8") < addresses.index("0.0.0.0/0")

    def test_names_that_are_words_are_quoted(self) -> None:
        """A database called all is that database, not every one."""
        rule = config.postgres_hba_rules(["Role-1"], "all")[1]
        assert (rule["database"], rule["user"]) == ('"all"', '"Role-1"')

    @pytest.mark.parametrize(
        "rule",
        [
            "host all all",
            {"type": "host", "database": "all", "user": "all"},
            {"type": "host", "database": "all", "user": "all", "method": "trust\nhost all all all trust"},
            {"type": "host", "database": "all", "user": "all", "method": "trust", "adress": "::1"},
        ],
    )
    def test_rule_that_is_not_one_line(self, rule: Any) -> None:
        """The message names the entry."""
        with pytest.raises(AnsibleFilterError, match="entry 1"):
            config.postgres_hba_rules(["a"], "swarm", [], [rule])

    def test_failure_says_which_item(self) -> None:
        """Of a loop, only what failed is told, with the server's own words."""
        result = {
            "msg": "One or more items failed",
            "results": [
                {"item": "a", "failed": False},
                {"item": "b", "failed": True, "conn_err_msg": "no\nentry", "msg": "x"},
            ],
        }
        assert config.postgres_failure_text(result) == "b: no entry"


class TestExistingServer:
    """What a host has already is found and named before anything is changed."""

    @staticmethod
    def found(**changes: Any) -> dict[str, Any]:
        """Return what the module finds on a host with a fresh cluster of the package, with changes."""
        cluster = {"version": "16", "name": "main", "port": 5432, "online": True, "ours": False}
        foreign: dict[str, list[str]] = {"databases": [], "roles": [], "rules": [], "settings": []}
        found = {"clusters": [cluster], "listener": "", "foreign": foreign, "unanswered": "", "locales": ["C.utf8"]}
        return found | changes

    @staticmethod
    def problems(
        found: dict[str, Any], port: int = 5432, locale: str = "C.UTF-8", existing: str = "refuse"
    ) -> list[str]:
        """Return the problems of version 16."""
        return install.postgres_existing_problems(found, 16, port, locale, existing)

    def test_a_bare_host_and_a_fresh_cluster_are_free(self) -> None:
        assert self.problems(self.found()) == []
        assert self.problems(self.found(), port=5433) == []
        assert self.problems(self.found(clusters=[], locales=[])) == []

    @pytest.mark.promise("foreign-cluster-refused")
    @pytest.mark.parametrize(
        ("kind", "name"),
        [("databases", "shop"), ("roles", "shop"), ("rules", "host shop shop 10.0.0.0"), ("settings", "work_mem=1MB")],
    )
    def test_a_cluster_that_others_use_is_refused_until_it_is_adopted(self, kind: str, name: str) -> None:
        found = self.found()
        found["foreign"][kind].append(name)
        (problem,) = self.problems(found)
        assert name in problem and "postgres_existing: adopt" in problem
        assert self.problems(found, existing="adopt") == []
        # Adopted or not, it keeps its port.
        assert "postgres_port: 5432" in self.problems(found, port=5433, existing="adopt")[0]
        found["clusters"][0]["ours"] = True
        assert self.problems(found) == []

    def test_a_cluster_that_does_not_answer_is_refused(self) -> None:
        (problem,) = self.problems(self.found(unanswered="FATAL: no entry"))
        assert "FATAL: no entry" in problem

    @pytest.mark.promise("foreign-cluster-refused")
    def test_another_cluster_or_program_on_the_port_is_named(self) -> None:
        other = {"version": "15", "name": "main", "port": 5432, "online": False, "ours": False}
        assert "cluster 15/main" in self.problems(self.found(clusters=[other]))[0]
        assert "haproxy listens on port 5432" in self.problems(self.found(clusters=[], listener="haproxy"))[0]
        assert self.problems(self.found(clusters=[other]), port=5433) == []

    def test_a_missing_locale_is_named_before_anything_is_installed(self) -> None:
        assert self.problems(self.found(), locale="C.utf8") == []
        (problem,) = self.problems(self.found(), locale="de_DE.UTF-8")
        assert "no locale de_DE.UTF-8" in problem and "C.utf8" in problem

    def test_clusters_and_listeners_are_read(self, tmp_path: Any) -> None:
        listing = "15 main  5432 online  postgres /var/lib/postgresql/15/main /log\n16 main 5433 down postgres /d /l\n"
        ours = tmp_path / "etc" / "postgresql" / "16" / "main" / "conf.d"
        ours.mkdir(parents=True)
        (ours / "90.conf").touch()
        assert existing_server.read_clusters(listing, "90.conf", str(tmp_path)) == [
            {"version": "15", "name": "main", "port": 5432, "online": True, "ours": False},
            {"version": "16", "name": "main", "port": 5433, "online": False, "ours": True},
        ]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            table = Path("/proc/net/tcp")
            assert existing_server.listening_sockets([table.read_text()], port) == set()
            listener.listen()
            inodes = existing_server.listening_sockets([table.read_text()], port)
            assert inodes == {str(os.fstat(listener.fileno()).st_ino)}
            assert existing_server.find_listener(inodes) == Path("/proc/self/comm").read_text().strip()
        assert existing_server.find_listener(set()) == ""


class TestSharedServer:
    """Where others use the server, nothing that they rely on becomes less."""

    @pytest.mark.promise("adopted-server-keeps-all")
    @pytest.mark.parametrize(
        ("name", "wanted", "found", "result"),
        [
            ("max_connections", 100, row("max_connections", "300", None, "integer"), "300"),
            ("max_connections", 400, row("max_connections", "300", None, "integer"), 400),
            ("shared_buffers", "64MB", row("shared_buffers", "16384", "8kB", "integer"), "131072kB"),
            ("shared_buffers", "256MB", row("shared_buffers", "16384", "8kB", "integer"), "256MB"),
            ("listen_addresses", "localhost", row("listen_addresses", "*", None, "string"), "*"),
            (
                "listen_addresses",
                "localhost",
                row("listen_addresses", "10.0.0.1", None, "string"),
                "10.0.0.1, localhost",
            ),
            ("password_encryption", "scram-sha-256", row("password_encryption", "md5", None, "enum"), "md5"),
        ],
    )
    def test_no_limit_is_lowered(self, name: str, wanted: Any, found: dict[str, Any], result: Any) -> None:
        assert config.postgres_never_lowered({name: wanted, "absent": 1}, [found]) == {name: result, "absent": 1}

    def test_a_certificate_of_their_own_stays(self) -> None:
        wanted = {"ssl": True, "ssl_cert_file": "/ours"}
        rows = [row("ssl", "on", None, "bool"), row("ssl_cert_file", "/theirs", None, "string")]
        assert config.postgres_never_lowered(wanted, rows) == {"ssl": "on", "ssl_cert_file": "/theirs"}
        rows[0]["setting"] = "off"
        assert config.postgres_never_lowered(wanted, rows) == wanted

    def test_a_setting_is_shown_with_its_unit(self) -> None:
        assert config.postgres_setting_shown(row("shared_buffers", "8192", "8kB", "integer")) == "65536kB"
        assert config.postgres_setting_shown(row("work_mem", "4096", "kB", "integer")) == "4096kB"
        assert config.postgres_setting_shown(row("max_connections", "100", None, "integer")) == "100"
        assert config.postgres_setting_shown(row("ssl", "off", None, "bool")) == "off"
