"""The base image of the test hosts comes from the archive that this machine itself uses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """The program that builds the image; molecule/ is no package."""
    specification = importlib.util.spec_from_file_location("build", PROJECT / "molecule/test_host/build.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def write(apt: Path, **files: str) -> Path:
    """Write files of apt's settings, named without their dots."""
    (apt / "sources.list.d").mkdir()
    for name, text in files.items():
        path = apt / "sources.list" if name == "main" else apt / "sources.list.d" / name.replace("_", ".")
        path.write_text(text)
    return apt


def test_a_mirror_in_the_older_notation_serves(build: ModuleType, tmp_path: Path) -> None:
    text = (
        "# deb http://old.example/debian trixie main\n"
        "deb [arch=amd64 signed-by=/x.gpg] http://mirror.example/debian trixie main contrib # ours\n"
        "deb-src http://mirror.example/debian trixie main\n"
        "deb http://mirror.example/debian trixie-backports main\n"
        "deb http://mirror.example/debian-security trixie-security main\n"
    )
    assert build.debian_sources(write(tmp_path, main=text)) == [
        "deb http://mirror.example/debian bookworm main",
        "deb http://mirror.example/debian-security bookworm-security main",
    ]


def test_a_mirror_in_the_newer_notation_serves_and_what_is_not_debian_does_not(
    build: ModuleType, tmp_path: Path
) -> None:
    debian = (
        "Types: deb deb-src\n# a note\nURIs: https://mirror.example/debian/\nSuites: bookworm\n bookworm-updates\n"
        "Components: main\nSigned-By: /x.gpg\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n"
    )
    others = "deb https://packages.example/cloud-sdk cloud-sdk-bookworm main\n"
    apt = write(tmp_path, debian_sources=debian, others_list=others, debian_sources_disabled="Types: deb\n")
    assert build.debian_sources(apt) == [
        "deb https://mirror.example/debian/ bookworm main",
        "deb https://mirror.example/debian/ bookworm-updates main",
    ]


def test_a_machine_without_such_sources_leaves_the_choice_to_mmdebstrap(build: ModuleType, tmp_path: Path) -> None:
    assert build.debian_sources(tmp_path) == []
    # An archive of updates alone is none.
    security = "deb http://mirror.example/debian-security bookworm-security main\n"
    assert build.debian_sources(write(tmp_path, main=security)) == []
