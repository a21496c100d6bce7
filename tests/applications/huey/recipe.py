"""Huey: a queue of tasks, their schedule and results, over peewee."""

import datetime
import json
import sys

from huey.contrib.sql_huey import SqlHuey
from orm_rows import in_order, plain

step, url = sys.argv[1:]
huey = SqlHuey("Warteschlange", database=url, immediate=False)  # this makes the tables
storage = huey.storage


@huey.task(retries=2)
def add(a: object, b: object) -> object:
    """Return the sum of two numbers."""
    return a + b


@huey.lock_task("lock")
@huey.task(priority=0.1)
def say(text: str) -> str:
    """Return a text, which pickle writes with every byte there is."""
    return text + "".join(map(chr, range(0x100)))


def rows() -> None:
    """Fill queue and schedule; run some tasks, one of which fails; keep results and a counter."""
    for number in range(12):
        add(number / 3, None if number == 7 else 10**30)
        say(f"größe {number} 🦆\x00")
        add.schedule((number, 1), eta=datetime.datetime(1999 + number * 5, 2, 28, 23, 59, 59, 1000 * number))
    for _ in range(10):
        huey.execute(huey.dequeue())
    huey.put("key 'of' \\N", {"bytes": bytes(range(256)), "when": datetime.datetime(2026, 1, 1)})
    huey.put("empty", "")
    storage.incr("counter", 2**31 - 2)


def change() -> None:
    """Run three more, add, and revoke."""
    for _ in range(3):
        huey.execute(huey.dequeue())
    result = add.schedule((1, 2), eta=datetime.datetime(2031, 12, 31))
    result.revoke()
    say("after the move ☂")
    storage.incr("counter", 1)
    huey.put("empty", b"\x00")


def read() -> object:
    """Return every row, and what is waiting as Huey understands it."""
    models = (storage.KV, storage.Schedule, storage.Task, storage.Counter)
    found = {model.__name__: in_order([plain(row) for row in model.select().dicts()]) for model in models}
    waiting = [str(task) for task in [*huey.pending(), *huey.scheduled()]]
    return {**found, "waiting": waiting, "results": sorted(map(str, huey.all_results()))}


if step != "schema":
    print(json.dumps({"rows": rows, "change": change, "read": read}[step]()))
