"""Uses both applications through their pages: makes users and organizations, and opens the demonstration project."""

import json
import sys
import time
import urllib.error
import urllib.request

ACCOUNTS, BUDGET = "http://127.0.0.1:4020", "http://127.0.0.1:4021"
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
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


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
with urllib.request.urlopen(f"{BUDGET}/demo") as page:
    assert b"demonstration" in page.read()
