"""A Django project of reusable applications: OAuth Toolkit, Celery's beat and results, Q2, admin and sessions."""

import datetime
import json
import sys
from decimal import Decimal
from urllib.parse import urlsplit

import django
from django.conf import settings
from django.core.management import call_command
from orm_rows import of_django

step, url = sys.argv[1:]
place = urlsplit(url)
on_postgresql = {
    "ENGINE": "django.db.backends.postgresql", "NAME": place.path[1:], "USER": place.username,
    "PASSWORD": place.password, "HOST": place.hostname, "PORT": place.port,
}  # fmt: skip
on_sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": place.path}
settings.configure(
    SECRET_KEY="of a test",  # noqa: S106
    USE_TZ=True,
    TIME_ZONE="Europe/Berlin",
    DATABASES={"default": on_postgresql if place.scheme == "postgresql" else on_sqlite},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    Q_CLUSTER={"name": "shop", "orm": "default", "timeout": 60, "retry": 120},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    INSTALLED_APPS=[
        "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
        "django.contrib.messages", "oauth2_provider", "django_celery_beat", "django_celery_results", "django_q",
    ],
)  # fmt: skip
BERLIN = datetime.timezone(datetime.timedelta(hours=2))


def rows() -> None:
    """Fill each application through its models and calls."""
    from django.contrib.admin.models import LogEntry
    from django.contrib.auth.models import Group, Permission, User
    from django.contrib.contenttypes.models import ContentType
    from django.contrib.sessions.backends.db import SessionStore
    from django_celery_beat import models as beat
    from django_celery_results.models import ChordCounter, GroupResult, TaskResult
    from django_q.models import Schedule, Task
    from django_q.tasks import async_task, schedule
    from oauth2_provider import models as oauth

    group = Group.objects.create(name="Größe «50%»")
    group.permissions.set(Permission.objects.order_by("id")[:7])
    for number in range(8):
        user = User.objects.create_user(
            f"user{number}", "zoe@example.org", "pässword", first_name="Zoë 🦆"[: number + 1]
        )
        user.last_login = datetime.datetime(2026, 3, 29, 2, 30, 0, number, tzinfo=BERLIN) if number % 2 else None
        user.is_staff = number == 0
        user.save()
        user.groups.add(group)
        LogEntry.objects.create(
            user=user, content_type=ContentType.objects.order_by("id")[number], object_id=f"{number}\\N",
            object_repr="tab\tnew\nline", action_flag=1, change_message='[{"added": {}}]',
        )  # fmt: skip
        application = oauth.Application.objects.create(
            user=user, name=f"app {number}", client_type="confidential", authorization_grant_type="password",
            redirect_uris="https://example.org/?a=1&b='2'", skip_authorization=bool(number % 2),
        )  # fmt: skip
        expires = datetime.datetime(2031, 12, 31, 23, 59, 59, 999999, tzinfo=datetime.UTC)
        token = oauth.AccessToken.objects.create(
            user=user, token=f"token-{number}" * 40, application=application, expires=expires, scope="read write"
        )
        oauth.RefreshToken.objects.create(user=user, token=f"r{number}", application=application, access_token=token)
        session = SessionStore()
        session["cart"] = {"ü": [1, None, 2.5]}
        session.save()
        every = beat.IntervalSchedule.objects.create(every=number + 1, period="seconds")
        beat.PeriodicTask.objects.create(
            name=f"beat {number}", task="a.b", interval=every, args=json.dumps([number / 3]),
            kwargs='{"b": 1, "a": "ü"}', one_off=bool(number % 3), start_time=expires if number else None,
            priority=number or None,
        )  # fmt: skip
        TaskResult.objects.store_result(
            "application/json", "utf-8", f"id-{number}", {"r": number}, ["SUCCESS", "FAILURE"][number % 2],
            traceback="Traceback\n  «x»" if number % 2 else None, meta=json.dumps({"children": []}),
        )  # fmt: skip
        async_task("math.copysign", number, Decimal("-0.10"), group="g")
        Task.objects.create(
            id=f"{number:032}", name=f"n{number}", func="math.hypot", args=(number, bytes(range(256))),
            result={"x": 1e21}, started=expires, stopped=expires + datetime.timedelta(microseconds=1),
            success=number != 3,
        )  # fmt: skip
        schedule("math.sqrt", number, name=f"s{number}", schedule_type=Schedule.DAILY)
    beat.CrontabSchedule.objects.create(minute="*/5", timezone="Europe/Berlin")
    beat.SolarSchedule.objects.create(event="sunset", latitude=Decimal("-33.856784"), longitude=Decimal("151.215300"))
    beat.ClockedSchedule.objects.create(clocked_time=datetime.datetime(1969, 12, 31, 23, 59, tzinfo=datetime.UTC))
    ChordCounter.objects.create(group_id="g", sub_tasks="[]", count=2**31 - 1)
    GroupResult.objects.create(group_id="g", content_type="a", content_encoding="b", result=None)


def change() -> None:
    """Change, delete with what hangs on it, and add."""
    from django.contrib.auth.models import User
    from django_celery_beat import models as beat
    from django_q.models import Task
    from django_q.tasks import async_task

    user = User.objects.get(username="user1")
    user.last_login = datetime.datetime(2031, 7, 1, 1, 2, 3, tzinfo=BERLIN)
    user.is_active = False
    user.save()
    User.objects.get(username="user2").delete()
    solar = beat.SolarSchedule.objects.get()
    solar.latitude = Decimal("0.000001")
    solar.save()
    task = beat.PeriodicTask.objects.get(name="beat 3")
    task.kwargs = json.dumps({"z": 1, "ä": 2})
    task.last_run_at = datetime.datetime(2026, 1, 1, 0, 0, 0, 120000, tzinfo=datetime.UTC)
    task.save()
    Task.objects.filter(name="n4").update(result=b"\x00\xff")
    async_task("math.sqrt", 2)
    User.objects.create_user("nach_dem_umzug", None, None)


def read() -> object:
    """Return every row of every model."""
    return of_django()


django.setup()
if step == "schema":
    call_command("migrate", verbosity=0, interactive=False)
else:
    print(json.dumps({"rows": rows, "change": change, "read": read}[step]()))
