"""APScheduler: jobs with their triggers and next runs, over SQLAlchemy."""

import datetime
import json
import sys
from zoneinfo import ZoneInfo

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from orm_rows import in_order, plain

step, url = sys.argv[1:]
store = SQLAlchemyJobStore(url=url.replace("postgresql:", "postgresql+psycopg2:"))
scheduler = BackgroundScheduler(timezone="Europe/Berlin", jobstores={"default": store})
scheduler.start(paused=True)  # this makes the table, and no job runs


def rows() -> None:
    """Add jobs of each kind of trigger, with moments in several zones, and pause some."""
    kathmandu = ZoneInfo("Asia/Kathmandu")
    for number in range(20):
        moment = datetime.datetime(2031 + number, 2, 28, 23, 59, 59, 1000 * number + 1, tzinfo=kathmandu)
        scheduler.add_job(
            "builtins:print", "date", run_date=moment, args=[f"größe {number} 🦆\x00"], id=f"date {number}"
        )
        scheduler.add_job(
            "builtins:sum", "cron", hour=number, day="last", args=[[number / 7, 10**30]], id=f"cron ü{number}"
        )
        every = datetime.timedelta(days=number, microseconds=1)
        job = scheduler.add_job("json:dumps", "interval", seconds=every.total_seconds() + 1, args=[{"n": None}])
        if number % 4 == 0:
            job.pause()


def change() -> None:
    """Pause, resume, change, remove and add jobs."""
    scheduler.pause_job("date 3")
    scheduler.modify_job("date 4", args=["nach dem Umzug ☂"], name="'quoted' \\N")
    scheduler.reschedule_job("cron ü5", trigger="cron", minute=7)
    scheduler.remove_job("cron ü6")
    scheduler.add_job("builtins:print", "date", run_date=datetime.datetime(2099, 12, 31, 1, 2, 3, 4), id="new")


def read() -> object:
    """Return every row, and each job as the scheduler understands it."""
    with store.engine.connect() as connection:
        found = in_order([[plain(value) for value in row] for row in connection.execute(store.jobs_t.select())])
    jobs = [
        [job.id, job.name, str(job.trigger), repr(job.args), plain(job.next_run_time)] for job in scheduler.get_jobs()
    ]
    return {"rows": found, "jobs": in_order(jobs)}


if step != "schema":
    print(json.dumps({"rows": rows, "change": change, "read": read}[step]()))
scheduler.shutdown()
