"""Brings the build and every copy up to date with the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .build import build, check_build, read_build
from .copies import check_host, install, label_of, read_copy
from .source import SOURCE_HASH, Source


@dataclass(frozen=True)
class Programs:
    """Where the programs are that we run; None if they are missing."""

    node: str | None
    npm: str | None


def synchronise(
    source: Source, directory: Path, requested: Sequence[Mapping[str, Any]], programs: Programs, check_mode: bool
) -> dict[str, Any]:
    """Build the package and put it into the services that depend on it, as far as that is not done yet.

    If none does, nothing is built. Returns the module's result.

    :raises MigrationError: with every violation.
    """
    services = check_host(source, requested, programs.node)
    if not services:
        return {
            "changed": False,
            "package": f"{source.name}@{source.version}",
            "built": False,
            "installed": [],
            "diff": {"before": "", "after": ""},
        }
    copies = {service: read_copy(service, source.name) for service in services}
    content = read_build(directory, source)
    missing = content is None
    if content is None:
        check_build(directory, source, programs.npm)
    if check_mode and content is None:
        # The same source gives the same package.
        outdated = [
            service for service in services if (copies[service] or {}).get(SOURCE_HASH) != source.digest.encode()
        ]
    else:
        if content is None:
            content = build(directory, source, str(programs.npm))
        outdated = [service for service in services if copies[service] != content]
        if outdated and not check_mode:
            install(outdated, content, source.name, str(programs.node))
    wanted = f"{source.version}, source {source.digest[:12]}"
    before = [f"{directory}: {'to be built' if missing else wanted}"]
    after = [f"{directory}: {wanted}"]
    for service in services:
        label = label_of(copies[service])
        changed = service in outdated
        before.append(f"{service.name}: {'edited' if changed and label == wanted else label}")
        after.append(f"{service.name}: {wanted if changed else label}")
    return {
        "changed": missing or bool(outdated),
        "package": f"{source.name}@{source.version}",
        "built": missing,
        "installed": [service.name for service in outdated],
        "diff": {"before": "\n".join([*before, ""]), "after": "\n".join([*after, ""])},
    }
