#!/usr/bin/env python3
"""Make the image of a test host that has come to a certain state already, unless it exists, and print its tag.

    ready.py bare            Debian with systemd, Node and pm2, as build.py makes it
    ready.py installed       and the sample estate, running on SQLite
    ready.py infrastructure  and phases 1 and 2
    ready.py rehearsed       and phase 3
    ready.py live            and phase 4: every service on PostgreSQL

Each state is made once from the one before it, by the same playbooks as anywhere, and kept as an image. Its tag is a
hash of everything that went in, so a changed role makes new images. What an image cannot hold is noted inside, and
start.sh puts it back when a host starts. What happens goes to standard error, only the tag to standard output.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "test_host"
BARE = "bare"
# The playbooks that lead to each state from the one before it.
STEPS: dict[str, tuple[str, ...]] = {
    "installed": ("molecule/prepare.yml",),
    "infrastructure": ("playbooks/1_infrastructure.yml", "playbooks/2_shared_library.yml"),
    "rehearsed": ("playbooks/3_data_migration.yml",),
    "live": ("playbooks/4_service_cutover.yml",),
}
STATES = (BARE, *STEPS)
# What a state depends on, from `infrastructure` on; the sample estate before it depends on less.
_INPUTS_OF_THE_ESTATE = ("molecule/sample_estate", "molecule/test_host", "molecule/create.yml", "molecule/prepare.yml")
_INPUTS = (
    *_INPUTS_OF_THE_ESTATE,
    *("ansible.cfg", "pyproject.toml", "requirements.yml", "galaxy.yml", "files", "inventory", "meta", "plugins"),
    *("molecule/inventory", "playbooks", "roles"),
)
# Two checkouts on one machine share the images that are alike, but neither removes those that the other has made.
_CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
_CHECKOUT_LABEL = f"swarm-test-host-checkout={_CHECKOUT}"
# Passwords that were made for a host; they are of use nowhere else, and travel with its image, for root alone. host.py
# brings them out again.
_SECRETS_IN_IMAGE = "/root/test-host-secrets"
# Everything that writes is stopped, so that an image holds files that belong together.
_STOP = """
set -e
systemctl stop '*.timer'
systemctl stop pm2-swarm.service
if systemctl list-unit-files postgresql.service >/dev/null 2>&1; then systemctl stop 'postgresql@*' postgresql; fi
mkdir -p /var/lib/test-host
find /opt -xdev -name node_modules -prune -o \\( -type f -o -type d \\) -print0 |
  xargs -0 lsattr -d 2>/dev/null | sed -n 's/^[^ ]*i[^ ]* //p' >/var/lib/test-host/immutable
rm -rf /root/.ansible /tmp/* /var/log/journal/*
journalctl --rotate >/dev/null 2>&1 || true
sync
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


def build(state: str, tag: str) -> None:
    """Make a state from the one before it and keep it as an image.

    :raises StateError: if a playbook or Docker fails.
    """
    print(f"Making the test host that is {state}: once, until its roles change.", file=sys.stderr, flush=True)
    prefix = f"ready-{_CHECKOUT}-{tag.rpartition('-')[2]}-"
    container = f"{prefix}swarm-dev"
    # As molecule/inventory has it.
    secrets = CACHE / "secrets" / f"{prefix}dev"

    def host(action: str, *options: str) -> None:
        places = (f"--key={CACHE / 'keys' / container}", f"--secrets={secrets}")
        run([sys.executable, str(HERE / "host.py"), action, container, *places, *options])

    play = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        *("-i", "inventory", "-i", "molecule/inventory", "--limit", "dev"),
    ]
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "TEST_HOST_PREFIX": prefix,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "SQLITE_TO_POSTGRESQL_RUN_RECORD": "false",
    }
    try:
        # It may be there, left over by a run that was killed.
        host("remove")
        host("create", f"--state={STATES[STATES.index(state) - 1]}")
        run([*play, *STEPS[state]], **environment)
        run(["docker", "exec", container, "sh", "-c", _STOP])
        if secrets.is_dir():
            run(["docker", "exec", container, "rm", "-rf", _SECRETS_IN_IMAGE])
            run(["docker", "cp", f"{secrets}/.", f"{container}:{_SECRETS_IN_IMAGE}"])
            run(["docker", "exec", container, "chmod", "-R", "go=", _SECRETS_IN_IMAGE])
        labels = ("--change", f"LABEL swarm-test-host=true {_CHECKOUT_LABEL}")
        run(["docker", "commit", *labels, container, tag])
    finally:
        host("remove")


def image_of(state: str) -> str:
    """Return the image of a state after making it and those before it, as far as they are missing."""
    bare = run([sys.executable, str(HERE / "build.py")]).split()[-1]
    if state == BARE:
        return bare
    tag = tag_of(state, bare)
    if not exists(tag):
        CACHE.mkdir(parents=True, exist_ok=True)
        # One at a time, for all checks that ask: the second finds it made.
        with (CACHE / f"{state}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not exists(tag):
                build(state, tag)
                remove_superseded(state, tag)
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
