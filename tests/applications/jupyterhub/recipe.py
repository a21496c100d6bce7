"""JupyterHub: its users, groups, roles, servers, tokens and shares, through its own database layer."""

import json
import sys
from datetime import datetime

from jupyterhub import orm, roles
from jupyterhub.dbutil import upgrade_if_needed
from orm_rows import of_sqlalchemy

step, url = sys.argv[1:]
url = url.replace("postgresql:", "postgresql+psycopg2:")


def rows(db) -> None:
    """Fill a hub: the roles that it always has, users and groups, running servers, tokens, clients and shares."""
    for role in roles.get_default_roles():
        roles.create_role(db, role)
    db.add(orm.OAuthClient(identifier="jupyterhub", secret="", redirect_uri="", description="JupyterHub"))
    server_role = orm.Role.find(db, "user")
    people = []
    for number, name in enumerate(("zoë", "o'brien", "名前", "back\\slash", "plain")):
        user = orm.User(name=name, admin=number == 0, state={"n": number, "deep": {"ü": [None, 1.5, "🦆"]}})
        user.encrypted_auth_state = bytes(range(256)) * number or None
        user.created = datetime(2020 + number, 2, 28, 23, 59, 59, number * 123457 % 1_000_000)
        user.last_activity = None if number == 2 else datetime(2026, 1, 1, 0, 0, number)
        db.add(user)
        people.append(user)
    db.commit()
    for number, user in enumerate(people):
        roles.grant_role(db, user, server_role)
        group = orm.Group(name=f"Gruppe {number % 2}") if number < 2 else orm.Group.find(db, f"Gruppe {number % 2}")
        group.properties = {"quota": 1 / 3, "bytes": b"\x00\xff"} if number < 2 else group.properties
        db.add(group)
        group.users.append(user)
        server = orm.Server(ip="127.0.0.1", port=8000 + number, base_url=f"/user/{number}/", cookie_name="c")
        spawner = orm.Spawner(name="" if number else "named", user=user, server=server if number != 1 else None)
        spawner.state = {"pid": 4_000_000_000 + number}
        spawner.started = datetime(2026, 3, 29, 2, 30, 0, number)
        spawner.user_options = {"image": "a/b:1", "env": {}}
        db.add(spawner)
        db.commit()
        for note in ("", "tab\tnew\nline \\N"):
            orm.APIToken.new(user=user, note=note, expires_in=10**8 if note else None, scopes=["read:users:name!user"])
        orm.ShareCode.new(db, spawner, scopes=[f"access:servers!server={user.name}/{spawner.name}"])
    service = orm.Service(name="dienst", url="http://localhost:1", info={"x": None}, command=["run", "--a=b"])
    db.add(service)
    db.add(orm.OAuthClient(identifier="service-dienst", secret="", redirect_uri="/cb", allowed_scopes=["self"]))
    db.commit()
    db.add(orm.OAuthCode(client_id="service-dienst", code="c0de", expires_at=2**31 - 1, user=people[0], scopes=["a"]))
    orm.Share.grant(db, db.query(orm.Spawner).first(), people[1], scopes=["access:servers!server=zoë/named"])
    db.commit()


def change(db) -> None:
    """Rename, delete with everything that hangs on it, and add."""
    user = orm.User.find(db, "zoë")
    user.last_activity = datetime(2031, 12, 31, 23, 59, 59, 999999)
    user.state = {"changed": [1e21, 5e-324]}
    db.delete(orm.User.find(db, "名前"))
    orm.User.find(db, "plain").encrypted_auth_state = b""
    added = orm.User(name="nach dem Umzug ☂", admin=None, created=datetime(2026, 1, 1))
    db.add(added)
    db.commit()
    orm.APIToken.new(user=added, note="new", scopes=[])
    db.commit()


def read(db) -> object:
    """Return every row of every class."""
    return of_sqlalchemy(db, orm.Base.registry.mappers)


upgrade_if_needed(url, backup=False)
session = orm.new_session_factory(url)()  # this makes the tables
if step != "schema":
    print(json.dumps({"rows": rows, "change": change, "read": read}[step](session)))
