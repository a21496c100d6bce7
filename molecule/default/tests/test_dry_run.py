"""What a dry run of the whole of site.yml does on a host where nothing of ours is: it works, and writes nothing."""

from __future__ import annotations

import pytest

from scripts.playbooks import ROOT, ThrowawayHost

DESCRIBE = (ROOT / "molecule/default/describe_host.sh").read_text(encoding="utf-8")


def describe(host: ThrowawayHost, *files: str) -> list[str]:
    """Let a host describe itself, and return the lines that describe_host.sh prints.

    :param files: where it writes the description, and an earlier one.
    :raises RuntimeError: with what differs from the earlier one.
    """
    return host.run(["sh", "-s", *files], text=DESCRIBE).splitlines()


@pytest.mark.promise("dry-run-changes-nothing")
# Which are read before.
@pytest.mark.usefixtures("sources")
def test_a_dry_run_on_a_bare_host_leaves_it_as_it_was(installed_host: ThrowawayHost) -> None:
    describe(installed_host, "/run/described-before")
    run = installed_host.play("site.yml", "--check", "--diff")
    assert run.succeeded, run.output
    (lines,) = describe(installed_host, "/run/described-after", "/run/described-before")
    assert int(lines) > 1000
