"""I Hate Money: shared budgets, through its own pages' forms and models (Flask-SQLAlchemy, Alembic, Continuum)."""

import datetime
import json
import os
import sys

from orm_rows import of_sqlalchemy

step, url = sys.argv[1:]
os.environ["SQLALCHEMY_SILENCE_UBER_WARNING"] = "1"


class Settings:
    """What `ihatemoney.cfg` would say."""

    SECRET_KEY = "of a test"
    SQLALCHEMY_DATABASE_URI = url
    SQLALCHEMY_TRACK_MODIFICATIONS = False
    ACTIVATE_DEMO_PROJECT = True
    MAIL_DEFAULT_SENDER = "budget@example.org"
    WTF_CSRF_ENABLED = False
    ENABLE_CAPTCHA = False
    TESTING = True


from ihatemoney.models import Bill, Person, Project, db  # noqa: E402
from ihatemoney.run import create_app  # noqa: E402
from sqlalchemy.orm import configure_mappers  # noqa: E402

app = create_app(Settings, instance_path=os.getcwd())  # it makes or upgrades its tables


def rows() -> None:
    """Make the demonstration project, and one through the pages, with bills in several currencies."""
    Project.create_demo_project()
    client = app.test_client()
    client.post(
        "/create",
        data={"name": "Ferien 🏖", "id": "ferien", "password": "pässword", "contact_email": "zoe@example.org",
              "default_currency": "XXX", "current_password": ""},
    )  # fmt: skip
    for name, weight in (("Zoë", 1), ("O'Brien", 2.5), ("名前", 1 / 3), ('"quoted"\\', 1)):
        client.post("/ferien/members/add", data={"name": name, "weight": weight})
    people = [person.id for person in Person.query.filter_by(project_id="ferien").order_by(Person.id)]
    assert len(people) == 4
    for number in range(40):
        client.post(
            "/ferien/add",
            data={"date": f"20{number:02}-02-28", "what": f"Bill {number}: 50% «off»", "payer": people[number % 4],
                  "payed_for": people[: 1 + number % 4], "bill_type": ["Expense", "Reimbursement"][number % 2],
                  "external_link": "https://example.org/?a=1&b=2" if number % 3 else "",
                  "amount": f"{number * 7 / 3 + 0.1}", "original_currency": "XXX"},
        )  # fmt: skip
    assert Bill.query.count() == 43, Bill.query.count()
    client.post(f"/ferien/edit/{Bill.query.order_by(Bill.id.desc()).first().id}", data={
        "date": "1969-12-31", "what": "edited", "payer": people[0], "payed_for": people, "bill_type": "Expense",
        "amount": "-12.25", "original_currency": "XXX", "external_link": ""})  # fmt: skip
    client.post(f"/ferien/members/{people[3]}/delete")


def change() -> None:
    """Edit, add and delete, which Continuum records too."""
    project = db.session.get(Project, "ferien")
    bills = Bill.query.filter(Bill.payer_id == project.members[0].id).order_by(Bill.id).all()
    bills[0].amount = 0.1 + 0.2
    bills[0].date = datetime.date(2031, 12, 31)
    bills[1].owers = [project.members[1]]
    db.session.delete(bills[2])
    project.members[1].activated = False
    db.session.add(
        Bill(amount=1e-7, bill_type="Expense", original_currency="EUR", owers=list(project.members),
             payer_id=project.members[2].id, project_default_currency="XXX", what="after the move ☂",
             date=datetime.date(2026, 1, 1))
    )  # fmt: skip
    db.session.commit()


def read() -> object:
    """Return every row of every model, history included, and who owes what."""
    configure_mappers()
    owed = {project.id: {str(key): repr(value) for key, value in project.balance.items()} for project in Project.query}
    return {"balance": owed, **of_sqlalchemy(db.session, db.Model.registry.mappers)}


with app.app_context():
    if step != "schema":
        print(json.dumps({"rows": rows, "change": change, "read": read}[step]()))
