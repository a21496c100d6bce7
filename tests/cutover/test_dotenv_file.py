"""The dotenv file: our lines in and out, and not a byte of the others touched."""

from __future__ import annotations

import getpass
import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import (
    Service,
    parse_group,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host import dotenv_file
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.host.dotenv_file import (
    MANAGED_KEYS,
    connection_values,
    masked,
    quote_value,
    read_values,
    remove_keys,
    set_keys,
)
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.window.checks import (
    password_warnings,
)

VALUES = connection_values("127.0.0.1", 5432, "swarm", "swarm_registry", "p@ss/w:rd")
SAMPLE = '# Settings\nPORT=4001\n\nTITLE=\'Swarm "sample" # no comment\'\nKEY="two\nlines"\n'

KEYS = st.sampled_from(["PORT", "LOG_LEVEL", "app.name", "A-B", *MANAGED_KEYS])
WORDS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs"), blacklist_characters="'\"`#\ufeff"), max_size=12
)
QUOTED = st.builds(
    lambda mark, text: f"{mark}{text.replace(mark, '')}{mark}",
    st.sampled_from("'\"`"),
    st.text("ab #=\n'\"`é$", max_size=12),
)
LINES = st.one_of(
    st.builds(lambda key, value: f"{key}={value}", KEYS, st.one_of(WORDS, QUOTED)),
    st.builds(lambda key, value: f"export {key} = {value} # note", KEYS, st.one_of(WORDS, QUOTED)),
    st.builds(lambda text: f"# {text}", WORDS),
    st.sampled_from(["", "   ", "a line that nobody reads"]),
)
TEXTS = st.builds(
    lambda mark, lines, line_end, last: mark + line_end.join(lines) + (line_end if last else ""),
    st.sampled_from(["", "\ufeff"]),
    st.lists(LINES, max_size=8),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)


@pytest.mark.promise("env-other-lines-kept")
@given(TEXTS)
def test_taking_our_lines_out_gives_back_every_byte(text: str) -> None:
    assert remove_keys(set_keys(text, VALUES)) == text


@pytest.mark.promise("env-other-lines-kept")
@given(TEXTS)
def test_ours_are_set_and_nothing_else_changes(text: str) -> None:
    before, after = read_values(text), read_values(set_keys(text, VALUES))
    assert {key: after[key] for key in VALUES} == VALUES
    others = {key: value for key, value in before.items() if key not in MANAGED_KEYS}
    assert {key: value for key, value in after.items() if key not in VALUES} == others


@given(TEXTS)
def test_setting_twice_is_setting_once(text: str) -> None:
    once = set_keys(text, VALUES)
    assert set_keys(once, VALUES) == once


@given(TEXTS, st.text('abcXYZ019!#$%&()*+,-./:;<=>?@[]^_{|}~ "', min_size=1, max_size=40))
def test_any_password_comes_back_from_both_notations(text: str, password: str) -> None:
    values = connection_values("db.example.org", 5432, "swarm", "role", password)
    read = read_values(set_keys(text, values))
    assert read["PGPASSWORD"] == password
    url = urlsplit(read["DATABASE_URL"])
    assert (url.username, unquote(url.password or ""), url.hostname, url.port, url.path) == (
        "role",
        password,
        "db.example.org",
        5432,
        "/swarm",
    )


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("only-Letters_and.digits", ""),
        ('a "quoted" # word', ""),
        ("pa$$word", "it holds $, and readers that expand variables"),
        ("it's", "it holds ', so it stands in backticks"),
    ],
)
def test_a_password_that_some_reader_takes_for_another_is_named(password: str, said: str) -> None:
    service = {
        "name": "registry", "user": "registry", "directory": "/srv/registry", "database_role": "swarm_registry",
        "schemas": ["app"], "health_url": "http://127.0.0.1:4001/health",
    }  # fmt: skip
    unit = {**service, "name": "unit", "manager": "systemd"}
    source = {"path": "/srv/registry/registry.db"}
    group = parse_group({"name": "registry", "source": source, "tables": [], "services": [service, unit]})
    # What systemd reads is quoted as systemd wants it.
    warnings = password_warnings(group, {"swarm_registry": password})
    assert len(warnings) == bool(said)
    assert all(said in warning and password not in warning for warning in warnings)
    assert password_warnings(group, {}) == []


@pytest.mark.promise("no-password-in-output")
@given(TEXTS)
def test_a_diff_shows_no_value(text: str) -> None:
    shown = masked(text + "\nAPI=hush-hush\n# OLD=hush-hush\nPGPASSWORD='hush-hush'\nDATABASE_URL=hush-hush\n")
    assert "hush-hush" not in shown


def test_a_changed_password_replaces_the_old_one() -> None:
    old = set_keys(SAMPLE, VALUES)
    new = set_keys(old, {**VALUES, "PGPASSWORD": "another"})
    assert "p@ss" not in new.replace(VALUES["DATABASE_URL"], "")
    assert remove_keys(new) == SAMPLE


@pytest.mark.promise("env-other-lines-kept")
def test_a_line_of_the_operators_that_sets_one_of_our_keys_is_set_aside_and_comes_back() -> None:
    text = 'DATABASE_URL=sqlite:data.db\nPORT=1\nPGPASSWORD="of\ntwo lines"\n'
    changed = set_keys(text, VALUES)
    assert read_values(changed) == {**VALUES, "PORT": "1"}
    assert remove_keys(changed) == text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain-1.2:3/4@5%6+7,8=9", "plain-1.2:3/4@5%6+7,8=9"),
        ("two words", "'two words'"),
        ("a#b", "'a#b'"),
        ("it's", "`it's`"),
        ("", "''"),
    ],
)
def test_a_value_is_quoted_so_that_every_parser_agrees(value: str, written: str) -> None:
    assert quote_value(value) == written


@pytest.mark.parametrize("value", ["both ' and `", "a\nb", "nul\0", "ends in a backslash \\"])
def test_a_value_that_parsers_read_differently_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"it holds"):
        quote_value(value)


def test_tls_that_is_demanded_stands_in_the_address() -> None:
    values = connection_values("db", 5432, "d", "r", "p", "verify-full", "/etc/ssl/own authority.pem")
    assert values["DATABASE_URL"].endswith("?sslmode=verify-full&sslrootcert=/etc/ssl/own%20authority.pem")
    assert "PGSSLMODE" not in values
    assert connection_values("db", 5432, "d", "r", "p", "verify-full")["PGSSLMODE"] == "verify-full"
    assert "sslmode" not in connection_values("db", 5432, "d", "r", "p", "prefer")["DATABASE_URL"]


def test_a_quote_that_is_never_closed_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\nB='open\nC=3\n")
    with pytest.raises(MigrationError, match=r"line 2: the quote ' is never closed"):
        dotenv_file.read(str(path), getpass.getuser())


@pytest.mark.parametrize("content", [None, b"A=\xff\n"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ".env"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MigrationError, match=str(path)):
        dotenv_file.read(str(path), getpass.getuser())


@pytest.mark.promise("env-private")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
def test_a_file_of_another_user_is_refused_also_behind_a_symlink(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("/etc/passwd")
    with pytest.raises(MigrationError, match="belongs to user id 0 and not to nobody"):
        dotenv_file.read(str(tmp_path / ".env"), "nobody")


@pytest.mark.promise("env-private")
def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    real, link = tmp_path / "real.env", tmp_path / ".env"
    real.write_text(SAMPLE)
    real.chmod(0o644)
    link.symlink_to(real)
    (tmp_path / "real.env.new").write_text("left behind by a run that was killed")
    before = real.stat().st_ino
    dotenv_file.write(str(link), set_keys(SAMPLE, VALUES), getpass.getuser())
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert real.stat().st_ino != before
    assert sorted(os.listdir(tmp_path)) == [".env", "real.env"]
    assert remove_keys(real.read_text()) == SAMPLE


@pytest.mark.promise("own-settings-written")
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_keys_of_the_services_own_are_written_and_what_it_had_comes_back(line_end: str) -> None:
    templates = {"DB_TYPE": "postgres", "JDBC": "jdbc:postgresql://{host}:{port}/{database}", "JSON": '{"a": "{user}"}'}
    templates |= {"URL": "x://{user}:{password_in_url}@{host}", "DB_PASSWORD": "{password}"}
    service = Service("s", "u", "/", "shop", ("app",), "http://127.0.0.1/", settings=templates)
    connection = dotenv_file.connection_values("db", 5432, "shop", "shop_web", "p@ss {host}")
    values = {**connection, **dotenv_file.own_values(service, connection)}
    assert values["JDBC"] == "jdbc:postgresql://db:5432/shop"
    assert values["JSON"] == '{"a": "shop_web"}'
    assert values["URL"] == "x://shop_web:p%40ss%20%7Bhost%7D@db"
    # What is filled in is not filled again.
    assert values["DB_PASSWORD"] == "p@ss {host}"
    before = "PORT=1\nDB_TYPE=sqlite\nexport JSON='{\n}'\n# DB_TYPE=none\n".replace("\n", line_end)
    text = dotenv_file.set_keys(before, values)
    assert dotenv_file.read_values(text) == {**values, "PORT": "1"}
    assert dotenv_file.set_keys(text, values) == text
    assert "p@ss" not in dotenv_file.masked(text)
    # A key that the inventory does not name any more goes, and what the service had comes back.
    fewer = {key: value for key, value in values.items() if key != "DB_TYPE"}
    assert dotenv_file.read_values(dotenv_file.set_keys(text, fewer))["DB_TYPE"] == "sqlite"
    assert dotenv_file.remove_keys(text) == before
