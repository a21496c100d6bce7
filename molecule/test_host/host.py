#!/usr/bin/env python3
"""Make a test host, a container that is ready for the playbooks, wait until it is ready again, or remove it.

    host.py create NAME --hostname=HOST --state=STATE --key=FILE --secrets=DIRECTORY
    host.py wait NAME --state=STATE --key=FILE --secrets=DIRECTORY
    host.py remove NAME --key=FILE --secrets=DIRECTORY

A host begins in one of the states of ready.py. The key that opens it, and the passwords that were made for it, are
brought out of its image. Says on standard output what has changed, and nothing if it was so already.

This is a program and not a list of tasks because a task takes as long as the whole program, and the tests make a host
some fifteen times.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
# What systemd needs depends on the control groups of the machine that runs Docker: version 1 (also the hybrid layout),
# or version 2, where Docker mounts the container's own tree read-only.
_START = "/usr/local/sbin/start-test-host"
_CONTROL_GROUPS = {
    "1": (("--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"), (_START,)),
    "2": (("--cgroupns=private",), (_START, "remount")),
}
# systemd needs SYS_ADMIN, chattr +i LINUX_IMMUTABLE, and to see what other users' processes hold, SYS_PTRACE.
_CAPABILITIES = ("SYS_ADMIN", "LINUX_IMMUTABLE", "SYS_PTRACE")
_OPTIONS = (
    # The image is made here: there is nothing to pull.
    "--pull=never",
    *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"),
    *("--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp"),
    "--shm-size=256M",
)
_KEY = "etc/ssh/test_host_key"
# Passwords that were made for a host; they are of use nowhere else, and travel with its image, for root alone.
# ready.py puts them there.
_SECRETS = "var/lib/test-host/secrets"
# Waits on the host, because each question from here costs as much as an answer: until systemd is ready, then until the
# services of a host that has some answer. Prints the key and the passwords as an archive.
_READY = f"""
for try in $(seq 900); do
  system=$(systemctl is-system-running --wait 2>/dev/null)
  case $system in running | degraded) break ;; esac
  sleep 0.2
done
case $system in running | degraded) ;; *) echo "systemd does not become ready: $system" >&2; exit 1 ;; esac
[ "$1" = bare ] || python3 -c '
import socket, sys, time

def answers(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.0\\r\\n\\r\\n")
        return b" 200 " in connection.makefile("rb").readline()

for port in range(4001, 4005):
    for tries_left in reversed(range(600)):
        try:
            if answers(port):
                break
        except OSError:
            pass
        if not tries_left:
            sys.exit(f"No service answers on port {{port}}.")
        time.sleep(0.3)
' || exit 1
cd /
exec tar --create {_KEY} $(test ! -d {_SECRETS} || echo {_SECRETS})
"""


class HostError(Exception):
    """A host cannot be made or removed; the message says which command failed, and what it printed."""


@dataclass(frozen=True)
class Host:
    """A test host.

    :param name: of its container.
    :param key: where the private key that opens it is kept.
    :param secrets: the directory of the passwords that were made for it.
    :param hostname: what it calls itself.
    :param capabilities: of the kernel, that it has besides those of every host.
    """

    name: str
    key: Path
    secrets: Path
    hostname: str = "swarm-dev"
    capabilities: Sequence[str] = field(default=())

    def create(self, state: str, image: str) -> bool:
        """Start it from an image and wait until it is ready; return whether it was not there, made of this image.

        :param state: the state of the image; see ready.py.
        :raises HostError: if it cannot be started, or does not become ready.
        """
        is_there = self._image() == image
        if is_there:
            run("docker", "start", self.name)
        else:
            self.remove()
            self._start(image)
        self._bring(self.wait(state))
        return not is_there

    def wait(self, state: str) -> bytes:
        """Wait until it is ready, and its services answer; return its key and its passwords as an archive.

        :raises HostError: if it does not become ready.
        """
        return run("docker", "exec", self.name, "sh", "-c", _READY, "sh", state)

    def remove(self) -> bool:
        """Remove it with its key and its passwords; return whether something of it was there."""
        is_there = bool(self._image())
        if is_there:
            run("docker", "rm", "--force", self.name)
        is_there = is_there or self.key.exists() or self.secrets.exists()
        self.key.unlink(missing_ok=True)
        if self.secrets.exists():
            shutil.rmtree(self.secrets)
        return is_there

    def _image(self) -> str:
        """Return the image that its container is made of, empty if there is none."""
        return run("docker", "ps", "--all", "--format={{.Image}}", f"--filter=name=^/?{self.name}$").decode().strip()

    def _start(self, image: str) -> None:
        version = run("docker", "info", "--format={{.CgroupVersion}}").decode().strip()
        options, command = _CONTROL_GROUPS.get(version, _CONTROL_GROUPS["1"])
        capabilities = (f"--cap-add={name}" for name in (*_CAPABILITIES, *self.capabilities))
        names = (f"--name={self.name}", f"--hostname={self.hostname}")
        run("docker", "run", "--detach", *names, *_OPTIONS, *capabilities, *options, image, *command)

    def _bring(self, archive: bytes) -> None:
        """Write the files of an archive to their places, for their owner alone."""
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for member in files:
                content = files.extractfile(member)
                if content is None:
                    continue
                path = PurePosixPath(member.name)
                target = self.key if member.name == _KEY else self.secrets / path.relative_to(_SECRETS)
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                target.touch(mode=0o600)
                target.write_bytes(content.read())


def run(*command: str) -> bytes:
    """Run a command and return its standard output.

    :raises HostError: with everything that it printed, if it fails, or if there is no such command.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise HostError(f"{error}\nThis command failed: {' '.join(command)}") from error
    if done.returncode != 0:
        printed = (done.stdout + done.stderr).decode(errors="replace")
        raise HostError(f"{printed}\nThis command failed: {' '.join(command)}")
    return done.stdout


def main() -> int:
    """Make the host that the arguments name, wait for it, or remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("create", "wait", "remove"))
    parser.add_argument("name", help="name of its container")
    parser.add_argument("--key", type=Path, required=True, help="where the key that opens it is kept")
    parser.add_argument("--secrets", type=Path, required=True, help="directory of the passwords made for it")
    parser.add_argument("--hostname", default="swarm-dev", help="what it calls itself")
    parser.add_argument("--state", default="bare", help="how far it has come already: see ready.py")
    parser.add_argument("--capability", action="append", default=[], help="of the kernel, besides those of every host")
    options = parser.parse_args()
    host = Host(options.name, options.key, options.secrets, options.hostname, options.capability)
    try:
        if options.action == "remove":
            changed = host.remove()
        elif options.action == "wait":
            host.wait(options.state)
            changed = False
        else:
            made = subprocess.run(
                [sys.executable, str(HERE / "ready.py"), options.state], stdout=subprocess.PIPE, text=True, check=False
            )
            if made.returncode != 0:
                return made.returncode
            changed = host.create(options.state, made.stdout.split()[-1])
    except HostError as error:
        print(error, file=sys.stderr)
        return 1
    if changed:
        print(f"{options.name} was {options.action}d.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
