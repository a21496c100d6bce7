#!/usr/bin/env python3
"""Build the test host image, unless an image made of the same inputs exists, and print its tag.

The tag is a hash of everything that goes into the image. Needs nothing but Python, the Docker command line and,
where no container registry answers, mmdebstrap. What happens goes to standard error, only the tag to standard output.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SERVICES = HERE.parent / "sample_estate" / "services"
CERTIFICATES = Path("/usr/local/share/ca-certificates")
CACHE = ROOT / ".cache" / "test_host"
LOG = CACHE / "build.log"

IMAGE = "swarm-test-host"
BASE_IMAGE = "debian:bookworm"
BOOTSTRAPPED_IMAGE = f"{IMAGE}-base:bookworm"
DEBIAN_SUITE = "bookworm"
# What tells an archive of Debian's from one of Ubuntu's or of a program's maker.
DEBIAN_RELEASES = ("bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable")
APT = Path("/etc/apt")
# What of this directory goes into the build context.
_OURS = ("Dockerfile", "build_postgresql_repository.sh", "sshd.conf", "start.sh")
# A registry that can be had answers at once.
PULL_TIMEOUT_SECONDS = 20.0
# A registry of packages fails now and then. What was done before it failed is kept, so a further try costs little.
DOWNLOAD_TRIES = 4
SECONDS_BETWEEN_TRIES = 15.0


class BuildError(Exception):
    """The image cannot be built; the message says what is missing and what to do."""


def context_files() -> dict[str, bytes]:
    """Return the content of every file of the build context by its path there."""
    files = {name: (HERE / name).read_bytes() for name in _OURS}
    for name in ("package.json", "package-lock.json"):
        files[f"services/{name}"] = (SERVICES / name).read_bytes()
    for certificate in sorted(CERTIFICATES.rglob("*.crt")):
        files[f"ca-certificates/{certificate.name}"] = certificate.read_bytes()
    return files


def image_tag(files: dict[str, bytes]) -> str:
    """Return the tag that stands for these files and this program."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path, content in sorted(files.items()):
        digest.update(f"\0{path}\0{len(content)}\0".encode())
        digest.update(content)
    return f"{IMAGE}:{digest.hexdigest()[:16]}"


def exists(image: str) -> bool:
    """Tell whether Docker has this image."""
    return subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode == 0


def run(command: list[str], tries: int = 1) -> None:
    """Run a command with its output in the log.

    :param tries: how often it is run at most, until it succeeds.
    :raises BuildError: with the output of the last try, if none succeeds.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    for further in reversed(range(tries)):
        with LOG.open("w", encoding="utf-8") as log:
            status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if status == 0:
            return
        if further:
            print(f"This command failed and is tried again: {' '.join(command)}", file=sys.stderr)
            time.sleep(SECONDS_BETWEEN_TRIES)
    raise BuildError(f"{LOG.read_text(encoding='utf-8')}\nThis command failed: {' '.join(command)}")


def pull_base_image() -> bool:
    """Pull Debian's image; tell whether a registry had it."""
    try:
        result = subprocess.run(
            ["docker", "pull", "--quiet", BASE_IMAGE], capture_output=True, check=False, timeout=PULL_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def install_mmdebstrap() -> None:
    """Install mmdebstrap as root on Debian; elsewhere say what is missing."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BuildError(
            f"No container registry gave the image {BASE_IMAGE}, and mmdebstrap, which makes it from Debian's archive, "
            "is not installed. Install it (apt-get install mmdebstrap) or make a registry reachable."
        )
    run(["apt-get", "update", "--quiet=2"], DOWNLOAD_TRIES)
    run(["apt-get", "install", "--yes", "--quiet=2", "mmdebstrap"], DOWNLOAD_TRIES)


def apt_sources(apt: Path = APT) -> list[tuple[str, str]]:
    """Return the address and the suite of each of the machine's sources of binary packages from Debian's main.

    :param apt: directory of apt's settings.
    """
    found: list[tuple[str, str]] = []
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".list":
            for line in text.splitlines():
                words = re.sub(r"\[[^]]*\]", " ", line.partition("#")[0]).split()
                if words[:1] == ["deb"] and "main" in words[3:]:
                    found.append((words[1], words[2]))
        elif path.suffix == ".sources":
            for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
                fields = {
                    name.lower(): value.split()
                    for name, value in re.findall(r"(?m)^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza)
                }
                is_used = fields.get("enabled", ["yes"]) != ["no"] and "deb" in fields.get("types", ())
                if is_used and "main" in fields.get("components", ()):
                    found += [(uri, suite) for uri in fields.get("uris", ()) for suite in fields.get("suites", ())]
    return found


def debian_sources(apt: Path = APT) -> list[str]:
    """Return the lines of a sources.list for the test hosts' suite, from the archives that this machine uses.

    Only a machine that runs Debian has them, of whatever suite; nothing is returned where there are none, and then
    mmdebstrap takes its own.
    """
    lines: list[str] = []
    for address, suite in apt_sources(apt):
        release, dash, part = suite.partition("-")
        if release not in DEBIAN_RELEASES or part not in ("", "updates", "security"):
            continue
        line = f"deb {address} {DEBIAN_SUITE}{dash}{part} main"
        if line not in lines:
            lines.append(line)
    return lines if any(line.split()[2] == DEBIAN_SUITE for line in lines) else []


def bootstrap_base_image() -> None:
    """Make the base image from Debian's archive; the bootstrapped system is kept in the cache."""
    if shutil.which("mmdebstrap") is None:
        install_mmdebstrap()
    archive = CACHE / f"{DEBIAN_SUITE}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_suffix(".unfinished.tar")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", DEBIAN_SUITE, str(unfinished)]
        with tempfile.NamedTemporaryFile("w", suffix=".list") as sources:
            if lines := debian_sources():
                sources.write("\n".join([*lines, ""]))
                sources.flush()
                command.append(sources.name)
            run(command, DOWNLOAD_TRIES)
        unfinished.rename(archive)
    run(["docker", "import", str(archive), BOOTSTRAPPED_IMAGE])


def base_image() -> str:
    """Return the name of a base image that Docker has, making it if need be."""
    for image in (BASE_IMAGE, BOOTSTRAPPED_IMAGE):
        if exists(image):
            return image
    if pull_base_image():
        return BASE_IMAGE
    print(f"No container registry gave {BASE_IMAGE}: making it from Debian's archive.", file=sys.stderr)
    bootstrap_base_image()
    return BOOTSTRAPPED_IMAGE


def build(tag: str, files: dict[str, bytes]) -> None:
    """Build the image from these files under this tag."""
    print(f"Building the image of the test hosts: once, about two minutes. Its output goes to {LOG}.", file=sys.stderr)
    base = base_image()
    with tempfile.TemporaryDirectory() as directory:
        context = Path(directory)
        (context / "ca-certificates").mkdir()
        for path, content in files.items():
            (context / path).parent.mkdir(parents=True, exist_ok=True)
            (context / path).write_bytes(content)
        run(["docker", "build", "--build-arg", f"BASE={base}", "--tag", tag, str(context)], DOWNLOAD_TRIES)


def main() -> int:
    """Print the tag of the test host image after building it if it is missing."""
    if shutil.which("docker") is None:
        print("The docker command is missing: run `make test-host`, which says how to get it.", file=sys.stderr)
        return 1
    try:
        files = context_files()
        tag = image_tag(files)
        if not exists(tag):
            build(tag, files)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(tag)
    return 0


if __name__ == "__main__":
    sys.exit(main())
