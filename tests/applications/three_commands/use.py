"""Uses the applications through their pages: makes users and organizations, bills of a demonstration, and topics."""

import http.cookiejar
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

ACCOUNTS, BUDGET, FORUM = (f"http://127.0.0.1:{port}" for port in (4020, 4021, 4022))
# Seconds in which an application has started on a busy machine.
PATIENCE = 120


def post(path: str, body: object, cookie: str = "") -> str:
    """Send JSON to Better Auth, and return the cookies of the answer."""
    headers = {"Content-Type": "application/json", "Origin": ACCOUNTS, **({"Cookie": cookie} if cookie else {})}
    request = urllib.request.Request(f"{ACCOUNTS}/api/auth/{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as answer:
        return "; ".join(value.split(";")[0] for value in answer.headers.get_all("Set-Cookie") or [])


def wait_for(address: str) -> None:
    """Wait until an address answers."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(address).close()
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def open_page(path: str, cookie: str = "", form: dict[str, object] | None = None) -> tuple[str, str]:
    """Return the text of a page of I Hate Money, and the cookie of its session; with a form it is sent."""
    data = urllib.parse.urlencode(form, doseq=True).encode() if form else None
    request = urllib.request.Request(f"{BUDGET}{path}", data, {"Cookie": cookie} if cookie else {})
    with urllib.request.urlopen(request) as answer:
        cookies = answer.headers.get_all("Set-Cookie") or [cookie]
        return answer.read().decode(), cookies[0].split(";")[0]


def add_bill(what: str) -> None:
    """Add a bill to the demonstration project."""
    _, cookie = open_page("/demo")
    page, cookie = open_page("/demo/add", cookie)
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    people = re.findall(r'<option[^>]*value="(\d+)"', page)
    assert token and people, page
    form = {"date": "2026-11-30", "what": what, "payer": people[0], "payed_for": people[:2], "amount": "12.25"}
    form |= {"csrf_token": token[1], "bill_type": "Expense", "original_currency": "XXX", "external_link": ""}
    page, _ = open_page("/demo/add", cookie, form)
    assert "alert-danger" not in page, page


def publish_topics(numbers: range) -> None:
    """Log in to the forum, and publish topics."""
    jar = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))

    def send(path: str, form: dict[str, object]) -> str:
        with browser.open(f"{FORUM}{path}") as answer:
            hidden = re.findall(r'name="(csrfmiddlewaretoken|topic_hash)" value="([^"]*)"', answer.read().decode())
        with browser.open(f"{FORUM}{path}", urllib.parse.urlencode({**dict(hidden), **form}).encode()) as answer:
            return str(answer.url)

    send("/user/login/", {"username": "zoe", "password": "pässword of 🦆"})
    for number in numbers:
        comment = f"It's *{number}* \\N 🦆"
        place = send("/topic/publish/", {"title": f"Größe {number} ☂", "category": 2, "comment": comment})
        assert re.search(r"/topic/\d+/", place), place


first, last = map(int, sys.argv[1:])
wait_for(f"{ACCOUNTS}/health")
for number in range(first, last):
    name = ["Zoë 🦆", "O'Brien", "名前"][number % 3]
    user = {"name": name, "email": f"u{number}@example.org", "password": "pässword of 🦆", "username": f"user_{number}"}
    cookie = post("sign-up/email", user)
    if number % 4 == 0:
        metadata = {"n": number / 7, "text": "it's"}
        post("organization/create", {"name": f"Größe {number}", "slug": f"o-{number}", "metadata": metadata}, cookie)
wait_for(f"{BUDGET}/")
# It makes the project when its page is opened first.
open_page("/demo")
if first:
    add_bill("after the move ☂")
wait_for(f"{FORUM}/")
publish_topics(range(first, last, 4))
