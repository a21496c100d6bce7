"""DBOS Transact: durable workflows whose every step stands in the database (SQLAlchemy, migrations of its own)."""

import json
import sys
from dataclasses import asdict, is_dataclass

from dbos import DBOS, DBOSClient, SetWorkflowID, run_dbos_database_migrations
from orm_rows import plain

step, url = sys.argv[1:]
url = url.replace("postgresql:", "postgresql+psycopg:")
QUEUE = "Warteschlange"


@DBOS.step()
def halve(number: float) -> dict[str, object]:
    """Return something with a number, a text and nothing in it."""
    if number == 13:
        raise ValueError("Größe 13 gibt es nicht 🦆")
    return {"half": number / 2, "text": f"\\N\t{number}", "none": None}


@DBOS.workflow()
def order(number: float) -> list[object]:
    """Set events, write a stream and send a message between its steps."""
    DBOS.set_event("stage", {"ü": number})
    DBOS.write_stream("log", ["line\n", number])
    result = [halve(number), DBOS.recv("answers", timeout_seconds=0)]
    DBOS.set_event("stage", "done")
    return result


def launch() -> None:
    """Start DBOS on the database."""
    DBOS(config={"name": "shop", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR",
                 "executor_id": "one", "application_version": "1"})  # fmt: skip
    DBOS.launch()
    DBOS.register_queue(QUEUE)


def run(names: range) -> None:
    """Run workflows: directly and through a queue, some of which fail; send to one that has ended."""
    for number in names:
        with SetWorkflowID(f"bestellung-{number}"):
            handle = (
                DBOS.enqueue_workflow(QUEUE, order, number / 3)
                if number % 4 == 0
                else DBOS.start_workflow(order, number)
            )
        try:
            handle.get_result(polling_interval_sec=0.1)
        except ValueError:
            pass
        DBOS.send(f"bestellung-{number}", {"late": [1, None]}, "answers")


def rows() -> None:
    """Run workflows, and cancel one."""
    run(range(16))
    DBOS.cancel_workflow("bestellung-13")
    DBOS.fork_workflow("bestellung-3", 1).get_result(polling_interval_sec=0.1)


def change() -> None:
    """Run more, and delete one with all that belongs to it."""
    run(range(100, 104))
    DBOS.delete_workflow("bestellung-2")


def read() -> object:
    """Return every workflow with its steps, as the client tells them."""
    client = DBOSClient(system_database_url=url)
    flows = sorted(client.list_workflows(), key=lambda flow: flow.workflow_id)
    found = [
        {**{key: plain(value) for key, value in vars(flow).items()},
         "steps": [plain(asdict(entry) if is_dataclass(entry) else dict(entry))
                   for entry in client.list_workflow_steps(flow.workflow_id)],
         "stage": plain(client.get_event(flow.workflow_id, "stage", timeout_seconds=0))}
        for flow in flows
    ]  # fmt: skip
    client.destroy()
    return found


if step == "schema":
    run_dbos_database_migrations(url)
elif step == "read":
    print(json.dumps(read()))
else:
    launch()
    {"rows": rows, "change": change}[step]()
    DBOS.destroy()
