"""New ids come back in the spelling that a service looks for: that of all ids of their kind in the file."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError

from .support import execute, make_group, make_source, make_target, query, rehearse
from .test_export import bring_back, counts, rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import connection as Connection

OLD = [str(uuid.UUID(int=number * 0x1234_5678_9ABC_DEF0_FEDC_BA98)) for number in (3, 5, 7)]
NEW = "0f8fad5b-d9cb-469f-a165-70867728950e"
SPELLINGS: dict[str, Callable[[str], str]] = {
    "32 digits": lambda text: text.replace("-", ""),
    "32 digits in capitals": lambda text: text.replace("-", "").upper(),
    "capitals": lambda text: text.upper(),
    "as PostgreSQL writes it": lambda text: text,
}


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_new_id_comes_back_as_all_ids_of_its_table_are_spelled(
    connection: Connection, tmp_path: Path, spelling: str, empty: bool
) -> None:
    spell = SPELLINGS[spelling]
    make_target(
        connection,
        "CREATE TABLE users (id uuid PRIMARY KEY, name text);"
        "CREATE TABLE notes (id integer PRIMARY KEY, owner uuid REFERENCES users (id));",
    )
    users = [(spell(OLD[0]), "Ann"), (spell(OLD[1]), "Bob"), ("role-admin", "Cy")]
    notes = [] if empty else [(1, spell(OLD[0])), (2, "role-admin"), (3, None)]
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT);"
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, owner TEXT REFERENCES users (id));",
        {"users": users, "notes": notes},
    )
    group = make_group(source, {"source": "users"}, {"source": "notes"})
    rehearse(connection, group, tmp_path)
    exported, _ = bring_back(connection, group)
    assert counts(exported) == {"users": (0, 0, 0), "notes": (0, 0, 0)}
    execute(
        connection,
        f"INSERT INTO app.users VALUES ('{NEW}', 'Dora'); INSERT INTO app.notes VALUES (9, '{NEW}');"
        f"UPDATE app.notes SET owner = '{NEW}' WHERE id = 2",
    )
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"users": (1, 0, 0), "notes": (1, 0 if empty else 1, 0)}
    assert rows_of(copy, "SELECT * FROM users ORDER BY name") == [*users, (spell(NEW), "Dora")]
    assert rows_of(copy, "SELECT count(*) FROM notes JOIN users ON users.id = owner WHERE notes.id = 9") == [(1,)]
    assert rows_of(copy, "SELECT owner FROM notes WHERE id IN (2, 9)") == [(spell(NEW),)] * (1 if empty else 2)


@pytest.mark.parametrize(
    ("first", "second"), [("32 digits", "as PostgreSQL writes it"), ("capitals", "as PostgreSQL writes it")]
)
def test_where_ids_are_spelled_in_two_ways_a_new_one_is_as_postgresql_writes_it(
    connection: Connection, tmp_path: Path, first: str, second: str
) -> None:
    make_target(connection, "CREATE TABLE t (id uuid PRIMARY KEY, n integer)")
    rows = [(SPELLINGS[first](OLD[0]), 1), (SPELLINGS[second](OLD[1]), 2)]
    source = make_source(tmp_path / "t.db", "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)", {"t": rows})
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(connection, f"INSERT INTO app.t VALUES ('{NEW}', 3)")
    exported, copy = bring_back(connection, group)
    assert counts(exported) == {"t": (1, 0, 0)}
    assert rows_of(copy, "SELECT * FROM t ORDER BY n") == [*rows, (NEW, 3)]


def test_a_file_with_ids_that_came_back_can_be_moved_again(connection: Connection, tmp_path: Path) -> None:
    make_target(connection, "CREATE TABLE t (id uuid PRIMARY KEY, n integer)")
    spell = SPELLINGS["32 digits"]
    source = make_source(
        tmp_path / "t.db", "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER)", {"t": [(spell(OLD[0]), 1)]}
    )
    group = make_group(source, {"source": "t"})
    rehearse(connection, group, tmp_path)
    execute(connection, f"INSERT INTO app.t VALUES ('{NEW}', 3)")
    _, copy = bring_back(connection, group)
    source.write_bytes(copy.read_bytes())
    execute(connection, f"DELETE FROM app.t WHERE id = '{NEW}'")
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    assert query(connection, "SELECT id::text FROM app.t WHERE n = 3") == [(NEW,)]
    exported, _ = bring_back(connection, group)
    assert counts(exported) == {"t": (0, 0, 0)}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("unique", ["code uuid UNIQUE", "code uuid NOT NULL, UNIQUE (code, id)"])
def test_a_foreign_key_to_a_unique_column_holds_the_ids_of_that_column(
    connection: Connection, tmp_path: Path, spelling: str, unique: str
) -> None:
    spell = SPELLINGS[spelling]
    key = "FOREIGN KEY (item) REFERENCES items (code)" if "NOT NULL" not in unique else (
        "FOREIGN KEY (item, item_id) REFERENCES items (code, id)"
    )  # fmt: skip
    make_target(
        connection,
        f"CREATE TABLE items (id integer PRIMARY KEY, {unique});"
        f"CREATE TABLE orders (id integer PRIMARY KEY, item uuid, item_id integer, {key});",
    )
    items = [(1, spell(OLD[0])), (2, spell(OLD[1]))]
    orders = [(1, spell(OLD[1]), 2), (2, None, 1)]
    source = make_source(
        tmp_path / "t.db",
        f"CREATE TABLE items (id INTEGER PRIMARY KEY, {unique.replace('uuid', 'TEXT')});"
        f"CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT, item_id INTEGER, {key});",
        {"items": items, "orders": orders},
    )
    group = make_group(source, {"source": "orders"}, {"source": "items"})
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    execute(
        connection,
        f"INSERT INTO app.items VALUES (3, '{NEW}'); INSERT INTO app.orders VALUES (3, '{NEW}', 3);"
        f"UPDATE app.orders SET item = '{OLD[0]}' WHERE id = 2",
    )
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM items ORDER BY id") == [*items, (3, spell(NEW))]
    assert rows_of(copy, "SELECT * FROM orders ORDER BY id") == [
        orders[0], (2, spell(OLD[0]), 1), (3, spell(NEW), 3),
    ]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("between", [False, True], ids=["at once", "over a table between"])
def test_a_foreign_key_to_a_unique_column_of_another_group_holds_the_ids_of_that_column(
    connection: Connection, tmp_path: Path, spelling: str, between: bool
) -> None:
    spell = SPELLINGS[spelling]
    referenced = "stocks" if between else "items"
    make_target(
        connection,
        "CREATE TABLE items (id integer PRIMARY KEY, code uuid UNIQUE);"
        "CREATE TABLE stocks (code uuid PRIMARY KEY REFERENCES items (code));"
        f"CREATE TABLE orders (id integer PRIMARY KEY, item uuid REFERENCES {referenced} (code));",
    )
    items = make_source(
        tmp_path / "items.db",
        "CREATE TABLE items (id INTEGER PRIMARY KEY, code TEXT UNIQUE); CREATE TABLE stocks (code TEXT PRIMARY KEY);",
        {"items": [(1, spell(OLD[0])), (2, spell(OLD[1]))], "stocks": [(spell(OLD[0]),), (spell(OLD[1]),)]},
    )
    rows = [(1, spell(OLD[1])), (2, None)]
    orders = make_source(
        tmp_path / "orders.db", "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)", {"orders": rows}
    )
    rehearse(connection, make_group(items, {"source": "items"}, {"source": "stocks"}, name="items"), tmp_path)
    group = make_group(orders, {"source": "orders"}, name="orders")
    assert rehearse(connection, group, tmp_path)["report"]["tables"][0]["equal"]
    execute(connection, f"UPDATE app.orders SET item = '{OLD[0]}' WHERE id = 2")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM orders ORDER BY id") == [rows[0], (2, spell(OLD[0]))]


@pytest.mark.parametrize("together", [True, False], ids=["in one group", "in two"])
def test_ids_with_a_name_of_their_own_are_found_by_that_name(
    connection: Connection, tmp_path: Path, together: bool
) -> None:
    make_target(
        connection,
        "CREATE TABLE items (id integer PRIMARY KEY, code uuid UNIQUE);"
        "CREATE TABLE orders (id integer PRIMARY KEY, item uuid REFERENCES items (code));",
    )
    items, orders = (
        "CREATE TABLE items (id INTEGER PRIMARY KEY, code TEXT UNIQUE);",
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT);",
    )
    rows: dict[str, list[tuple[Any, ...]]] = {
        "items": [(1, "red-1"), (2, "blue-2")],
        "orders": [(1, "blue-2"), (2, None)],
    }
    codes = {"references": "codes"}
    owner = {"source": "items", "columns": {"code": codes}}
    if together:
        group = make_group(make_source(tmp_path / "t.db", items + orders, rows), owner, {"source": "orders"})
    else:
        holders = {"orders": rows.pop("orders")}
        first = make_source(tmp_path / "items.db", items, rows)
        rehearse(connection, make_group(first, owner, name="items"), tmp_path)
        second = make_source(tmp_path / "orders.db", orders, holders)
        with pytest.raises(MigrationError, match="no foreign key or 'references' says whose id it is"):
            rehearse(connection, make_group(second, {"source": "orders"}, name="orders"), tmp_path)
        group = make_group(second, {"source": "orders", "columns": {"item": codes}}, name="orders")
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    execute(connection, "UPDATE app.orders SET item = (SELECT code FROM app.items WHERE id = 1) WHERE id = 2")
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM orders ORDER BY id") == [(1, "blue-2"), (2, "red-1")]


@pytest.mark.parametrize("check_mode", [True, False])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_name_that_another_group_gave_its_ids_is_asked_for_where_their_spelling_needs_it(
    connection: Connection, tmp_path: Path, spelling: str, check_mode: bool
) -> None:
    spell = SPELLINGS[spelling]
    make_target(
        connection,
        "CREATE TABLE users (id integer PRIMARY KEY, ext uuid UNIQUE);"
        "CREATE TABLE notes (id integer PRIMARY KEY, owner uuid REFERENCES users (ext));",
    )
    users = make_source(
        tmp_path / "users.db",
        "CREATE TABLE users (id INTEGER PRIMARY KEY, ext TEXT UNIQUE)",
        {"users": [(1, spell(OLD[0])), (2, spell(OLD[1]))]},
    )
    notes = make_source(
        tmp_path / "notes.db",
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, owner TEXT)",
        {"notes": [(1, spell(OLD[1]))]},
    )
    name = {"references": "shared.ext"}
    rehearse(connection, make_group(users, {"source": "users", "columns": {"ext": name}}, name="users"), tmp_path)
    group = make_group(notes, {"source": "notes"}, name="notes")
    if spelling != "as PostgreSQL writes it":
        with pytest.raises(MigrationError) as error:
            rehearse(connection, group, tmp_path, check_mode)
        (problem,) = error.value.problems
        assert problem.where.endswith("notes.db: notes.owner")
        assert problem.what == "it holds ids of app.users.ext, whose group names them shared.ext"
        assert problem.fix.startswith("Write 'references: shared.ext' for the column")
        group = make_group(notes, {"source": "notes", "columns": {"owner": name}}, name="notes")
    report = rehearse(connection, group, tmp_path, check_mode)["report"]
    assert check_mode or report["tables"][0]["equal"]


def test_a_key_that_is_a_foreign_key_hands_its_ids_on(connection: Connection, tmp_path: Path) -> None:
    make_target(
        connection,
        "CREATE TABLE users (id uuid PRIMARY KEY);"
        "CREATE TABLE admins (user_id uuid PRIMARY KEY REFERENCES users (id));"
        "CREATE TABLE rights (id integer PRIMARY KEY, admin uuid REFERENCES admins (user_id));",
    )
    source = make_source(
        tmp_path / "t.db",
        "CREATE TABLE users (id TEXT PRIMARY KEY); CREATE TABLE admins (user_id TEXT PRIMARY KEY);"
        "CREATE TABLE rights (id INTEGER PRIMARY KEY, admin TEXT);",
        {"users": [("ann",), ("bob",)], "admins": [("ann",)], "rights": [(1, "ann")]},
    )
    group = make_group(source, *({"source": name} for name in ("users", "admins", "rights")))
    assert all(table["equal"] for table in rehearse(connection, group, tmp_path)["report"]["tables"])
    execute(
        connection,
        "INSERT INTO app.admins SELECT id FROM app.users ON CONFLICT DO NOTHING;"
        "INSERT INTO app.rights SELECT 2, user_id FROM app.admins WHERE user_id NOT IN (SELECT admin FROM app.rights)",
    )
    _, copy = bring_back(connection, group)
    assert rows_of(copy, "SELECT * FROM rights ORDER BY id") == [(1, "ann"), (2, "bob")]
