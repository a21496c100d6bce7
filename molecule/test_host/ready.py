#!/usr/bin/env python3
"""Make the image of a test host that has come to a certain state already, unless it exists, and print its tag.

    ready.py bare            Debian with systemd, Node and pm2, as build.py makes it
    ready.py installed       and the sample estate, running on SQLite
    ready.py infrastructure  and phases 1 and 2
    ready.py rehearsed       and phase 3
    ready.py live            and phase 4: every service on PostgreSQL
    ready.py finished        and the rest of site.yml: a proven backup, the validation, and the plan of the cleanup

All that come after `installed` are made by one run of the whole site.yml on one host. Where the next phase begins it
waits: the services and the server are stopped, the host is kept as an image, and what was stopped is started again.
The tag of an image is a hash of everything that went in, so a changed role makes new images. What an image cannot hold
is noted inside, and start.sh puts it back when a host starts. What happens goes to standard error, only the tag to
standard output.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "test_host"
LOG = CACHE / "ready.log"
BARE, INSTALLED, FINISHED = "bare", "installed", "finished"
INSTALL, MOVE = "molecule/prepare.yml", "site.yml"
# The state to which a host has come when a playbook begins that site.yml imports.
STATE_BEFORE = {
    "1_infrastructure.yml": INSTALLED,
    "3_data_migration.yml": "infrastructure",
    "4_service_cutover.yml": "rehearsed",
    "backup.yml": "live",
}
STATES = (BARE, *STATE_BEFORE.values(), FINISHED)
# With it ansible-playbook asks before each play whether it may begin.
ENVIRONMENT_OF_PLAYS = {
    "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
    "ANSIBLE_CALLBACKS_ENABLED": "test_host_plays,swarm.sqlite_to_postgresql.preload",
}
# What a state depends on, from `infrastructure` on; the sample estate before it depends on less.
_INPUTS_OF_THE_ESTATE = ("molecule/sample_estate", "molecule/test_host", "molecule/create.yml", "molecule/prepare.yml")
_INPUTS = (
    *_INPUTS_OF_THE_ESTATE,
    *("ansible.cfg", "pyproject.toml", "requirements.yml", "galaxy.yml", "files", "inventory", "meta", "plugins"),
    *("molecule/inventory", "playbooks", "roles", MOVE),
)
# Two checkouts on one machine share the images that are alike, but neither removes those that the other has made.
_CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
_CHECKOUT_LABEL = f"swarm-test-host-checkout={_CHECKOUT}"
# Passwords that were made for a host; they are of use nowhere else, and travel with its image, for root alone. host.py
# brings them out again.
_SECRETS_IN_IMAGE = "/var/lib/test-host/secrets"
# What of the server's settings waits for a restart or a reload after phase 1; no host that starts later can show it.
_WAITING = (
    "SELECT name FROM pg_settings WHERE pending_restart UNION ALL SELECT 'pg_hba.conf' "
    "WHERE (pg_stat_file(current_setting('hba_file'))).modification > pg_conf_load_time()"
)
# Everything that writes is stopped, so that an image holds files that belong together. The tests of the finished host
# look for passwords in what the run has left, in memory too.
_STOP = f"""
set -e
mkdir -p /var/lib/test-host
systemctl list-units --type=timer --state=active --plain --no-legend | cut -d ' ' -f 1 >/run/test-host-timers
xargs systemctl stop pm2-swarm.service </run/test-host-timers
if [ "$1" = infrastructure ]; then
  runuser -u postgres -- psql -X --no-align --tuples-only --command "{_WAITING}" postgres >/var/lib/test-host/waiting
fi
if systemctl list-unit-files postgresql.service >/dev/null 2>&1; then systemctl stop 'postgresql@*' postgresql; fi
find /opt -xdev -name node_modules -prune -o \\( -type f -o -type d \\) -print0 |
  xargs -0 lsattr -d 2>/dev/null | sed -n 's/^[^ ]*i[^ ]* //p' >/var/lib/test-host/immutable
if [ -d /root/.ansible ]; then find /root/.ansible -type d -empty -delete; fi
if [ "$1" = {FINISHED} ]; then cp --archive /tmp /var/tmp/left-by-the-run; fi
sync
"""
_START = """
set -e
if systemctl list-unit-files postgresql.service >/dev/null 2>&1; then systemctl start postgresql; fi
xargs systemctl start pm2-swarm.service </run/test-host-timers
"""


class StateError(Exception):
    """A state cannot be made; the message says which command failed, and what it printed."""


def run(command: Sequence[str], **environment: str) -> str:
    """Run a command and return its standard output.

    :raises StateError: with everything that it printed, if it fails.
    """
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise StateError(f"{done.stdout}\n{done.stderr}\nThis command failed: {' '.join(command)}")
    return done.stdout


def exists(image: str) -> bool:
    """Return whether Docker has this image."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def tag_of(state: str, bare: str) -> str:
    """Return the tag of a state: a hash of the bare image and of every file that is part of what leads there.

    :param bare: tag of the bare image.
    """
    inputs = _INPUTS_OF_THE_ESTATE if state == "installed" else _INPUTS
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *inputs])
    digest = hashlib.sha256(f"{state}\0{bare}\0".encode())
    for name in sorted(filter(None, listed.split("\0"))):
        path = ROOT / name
        # Pages for readers change nothing on a host.
        if path.suffix == ".md" or not path.is_file():
            continue
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"swarm-test-host-ready:{state}-{digest.hexdigest()[:16]}"


def play(playbooks: Sequence[str], environment: dict[str, str], before: Callable[[str], None]) -> None:
    """Run playbooks on the dev host, all of them by one ansible-playbook.

    :param before: called with the file's name of the playbook of each play, which begins when this has returned.
    :raises StateError: if a playbook fails.
    """
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        *("-i", "inventory", "-i", "molecule/inventory", "--limit", "dev", "--diff", *playbooks),
    ]
    ours, theirs = socket.socketpair()
    with theirs, LOG.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "TEST_HOST_PLAYS": str(theirs.fileno())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[theirs.fileno()],
        )
    try:
        # It is asked by callback/test_host_plays.py.
        with ours, ours.makefile("rw", encoding="utf-8") as plays:
            while line := plays.readline():
                before(Path(line.strip()).name)
                print(file=plays, flush=True)
    except BaseException:
        process.kill()
        raise
    finally:
        process.wait()
    if process.returncode != 0:
        raise StateError(f"{LOG.read_text(encoding='utf-8')}\nThis command failed: {' '.join(command)}")


def build(tags: dict[str, str], begin: str, end: str) -> None:
    """Take one host from a state to a later one, and keep it as an image in each state on the way that has none.

    :param tags: the tags of the images to make, by their states.
    :param begin: a state that has an image.
    :raises StateError: if a playbook or Docker fails. What was kept by then is whole, and is not made again.
    """
    print(
        f"Making the test hosts that are {', '.join(tags)}: once, until their roles change. The output goes to {LOG}.",
        file=sys.stderr,
        flush=True,
    )
    prefix = f"ready-{_CHECKOUT}-{next(reversed(tags.values())).rpartition('-')[2]}-"
    container = f"{prefix}swarm-dev"
    # As molecule/inventory has it.
    secrets = CACHE / "secrets" / f"{prefix}dev"
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "TEST_HOST_PREFIX": prefix,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_STDOUT_CALLBACK": "default",
        **ENVIRONMENT_OF_PLAYS,
        "SQLITE_TO_POSTGRESQL_RUN_RECORD": "false",
    }
    kept: set[str] = set()

    def host(action: str, *options: str) -> None:
        places = (f"--key={CACHE / 'keys' / container}", f"--secrets={secrets}")
        run([sys.executable, str(HERE / "host.py"), action, container, *places, *options])

    def keep(state: str) -> None:
        run(["docker", "exec", container, "sh", "-c", _STOP, "sh", state])
        if secrets.is_dir():
            run(["docker", "exec", container, "rm", "-rf", _SECRETS_IN_IMAGE])
            run(["docker", "cp", f"{secrets}/.", f"{container}:{_SECRETS_IN_IMAGE}"])
            run(["docker", "exec", container, "chmod", "-R", "go=", _SECRETS_IN_IMAGE])
        labels = ("--change", f"LABEL swarm-test-host=true {_CHECKOUT_LABEL}")
        run(["docker", "commit", *labels, container, tags[state]])
        kept.add(state)
        remove_superseded(state, tags[state])

    def before(playbook: str) -> None:
        state = STATE_BEFORE.get(playbook, "")
        # A playbook has several plays.
        if state in tags and state not in kept:
            keep(state)
            run(["docker", "exec", container, "sh", "-c", _START])
            host("wait", f"--state={state}")

    try:
        # It may be there, left over by a run that was killed.
        host("remove")
        host("create", f"--state={begin}")
        play([*([INSTALL] if begin == BARE else []), *([MOVE] if end == FINISHED else [])], environment, before)
        if end in tags:
            keep(end)
    finally:
        host("remove")
    if missed := [state for state in tags if state not in kept]:
        raise StateError(f"No play began where the host would have been kept as {', '.join(missed)}.")


def image_of(state: str) -> str:
    """Return the image of a state. If it is missing it is made, with the others that the same run comes through."""
    bare = run([sys.executable, str(HERE / "build.py")]).split()[-1]
    if state == BARE:
        return bare
    tag = tag_of(state, bare)
    if not exists(tag):
        CACHE.mkdir(parents=True, exist_ok=True)
        # One at a time, for all checks that ask: the second finds it made.
        with (CACHE / "states.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not exists(tag):
                end = INSTALLED if state == INSTALLED else FINISHED
                tags = {name: tag_of(name, bare) for name in STATES[1 : STATES.index(end) + 1]}
                missing = {name: missing for name, missing in tags.items() if not exists(missing)}
                build(missing, BARE if INSTALLED in missing else INSTALLED, end)
    return tag


def remove_superseded(state: str, tag: str) -> None:
    """Remove the images of a state that other roles have made in this checkout; those that a container uses stay."""
    ours = ("--filter", f"label={_CHECKOUT_LABEL}")
    listed = run(["docker", "images", *ours, "--format", "{{.Repository}}:{{.Tag}}", tag.partition(":")[0]])
    for old in listed.split():
        if old.partition(":")[2].startswith(f"{state}-") and old != tag:
            subprocess.run(["docker", "rmi", old], capture_output=True, check=False)


def main() -> int:
    """Print the tag of a state's image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", nargs="?", choices=STATES, default=BARE)
    try:
        print(image_of(parser.parse_args().state))
    except StateError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
