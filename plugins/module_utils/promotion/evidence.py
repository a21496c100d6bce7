"""The record of what a run has left in an environment, and the signature under it.

The record is JSON: ``format``, ``environment``, ``tree`` (the digest), ``collected_at`` (ISO 8601, UTC), ``versions``,
``hosts`` and ``checks``, by name: ``passed``, and ``told``, a sentence. The signature covers the bytes of the file, is
made by ``ssh-keygen -Y sign``, and is beside it with the ending ``.sig``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..migration.core.errors import MigrationError, Problem

FORMAT = 1
NAMESPACE = "sqlite-to-postgresql-evidence"
# Clocks of two machines may differ by so much.
_CLOCK_TOLERANCE = timedelta(minutes=10)
_DIGITS = 16
_SECONDS = 60


@dataclass(frozen=True)
class Evidence:
    """A record whose signature has been verified.

    :param signer: the name that ``keys/allowed_signers`` gives to the key.
    """

    content: Mapping[str, Any]
    signer: str


def path_of(directory: Path, environment: str, digest: str) -> Path:
    """Return where the record of an environment and a tree is."""
    return directory / f"{environment}-{digest[:_DIGITS]}.json"


def signature_of(path: Path) -> Path:
    """Return where the signature of a record is."""
    return path.with_name(f"{path.name}.sig")


def read_verified(path: Path, allowed_signers: Path) -> Evidence:
    """Return a record that somebody has signed who may.

    :raises MigrationError: if it is missing, is not signed, or not by such a key, or has been altered since.
    """
    command = f"make evidence FROM={path.name.rpartition('-')[0]} KEY=path/to/key"
    try:
        signed = path.read_bytes()
    except OSError:
        fix = f"Run every phase there with this very tree, then: {command}"
        raise _refused(path, "there is no evidence for this very tree", fix) from None
    if not signature_of(path).is_file():
        raise _refused(path, "the evidence is not signed", f"Sign it: {command}")
    signer = verify(path, signed, allowed_signers)
    try:
        content = json.loads(signed)
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _refused(path, "it is no evidence that this version reads", "Collect it again with this version")
    return Evidence(content, signer)


def verify(path: Path, signed: bytes, allowed_signers: Path, namespace: str = NAMESPACE) -> str:
    """Return who has signed a record.

    :param signed: its content.
    :param namespace: what the signature has to be for.
    :raises MigrationError: if nobody has who may, or the record was altered since.
    """
    signature = signature_of(path)
    trusted = ["-f", str(allowed_signers), "-s", str(signature)]
    found = _ssh_keygen(["-Y", "find-principals", *trusted], b"")
    signers = found.stdout.decode("utf-8", "replace").split("\n")[0].strip()
    if found.returncode != 0 or not signers:
        fix = (
            "Let somebody sign it whose key is there, or add the key, commit it, and collect the evidence of that tree"
        )
        raise _refused(signature, f"no key of {allowed_signers} has signed it", fix)
    signer = signers.split(",")[0]
    checked = _ssh_keygen(["-Y", "verify", "-I", signer, "-n", namespace, *trusted], signed)
    if checked.returncode != 0:
        said = (checked.stderr or checked.stdout).decode("utf-8", "replace").strip().replace("\n", "; ")
        fix = "Collect the evidence again and let it be signed again"
        raise _refused(path, f"its signature does not hold: it was altered, or signed for something else ({said})", fix)
    return signer


def shortcomings(
    evidence: Evidence,
    path: Path,
    environment: str,
    digest: str,
    maximum_age_days: float,
    required_checks: Sequence[str],
    now: datetime | None = None,
    minimum_soak_hours: float = 0.0,
) -> list[Problem]:
    """Return everything because of which a verified record does not suffice.

    :param environment: where it must come from.
    :param digest: of the tree that it must be about.
    :param now: the present; only tests give another.
    :param minimum_soak_hours: how long all groups must have been on PostgreSQL when it was collected.
    """
    content = evidence.content
    fix = f"Run every phase on {environment} with this tree, and collect and sign the evidence again"
    problems = []
    if content.get("tree") != digest or content.get("environment") != environment:
        problems.append(Problem(str(path), f"it is not about this tree on {environment}", fix))
    try:
        age = (now or datetime.now(UTC)) - datetime.fromisoformat(str(content.get("collected_at")))
    except (TypeError, ValueError):
        problems.append(Problem(str(path), "it does not say when it was collected", fix))
    else:
        if age > timedelta(days=maximum_age_days):
            what = f"it is {age / timedelta(days=1):.1f} days old; {maximum_age_days:g} are allowed"
            problems.append(Problem(str(path), what, fix))
        if age < -_CLOCK_TOLERANCE:
            what = f"it was collected in the future ({content['collected_at']})"
            problems.append(Problem(str(path), what, "Correct the clock of this machine, or collect it again"))
    soak = content.get("soak")
    hours = soak.get("hours") if isinstance(soak, Mapping) else None
    if minimum_soak_hours > 0 and (not isinstance(hours, int | float) or hours < minimum_soak_hours):
        told = f"{hours:g} hours" if isinstance(hours, int | float) else "an unknown time"
        what = f"{environment} had been on PostgreSQL for {told}; {minimum_soak_hours:g} hours are required"
        problems.append(Problem(str(path), what, "Wait, then collect and sign the evidence again"))
    return problems + [Problem(str(path), missing, fix) for missing in unmet(content, required_checks)]


def unmet(content: Mapping[str, Any], required_checks: Sequence[str]) -> list[str]:
    """Return each required check that a record does not name as passed, as a sentence."""
    recorded = content.get("checks")
    checks = recorded if isinstance(recorded, Mapping) else {}
    sentences = []
    for name in required_checks:
        check = checks.get(name)
        if not isinstance(check, Mapping):
            sentences.append(f"check '{name}' was not made")
        elif check.get("passed") is not True:
            sentences.append(f"check '{name}' has not passed: {check.get('told', 'nothing is told about it')}")
    return sentences


def sign(path: Path, key: Path, namespace: str = NAMESPACE, asks: bool = True) -> Path:
    """Sign a record with a private key, or a public one whose private half an agent has; return the signature's path.

    :param namespace: what the signature is for.
    :param asks: whether a person is there who may be asked for a passphrase.
    :raises MigrationError: if that fails.
    """
    signature = signature_of(path)
    signature.unlink(missing_ok=True)
    made = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", namespace, str(path)], None if asks else b"")
    if made.returncode != 0 or not signature.is_file():
        said = "" if asks else made.stderr.decode(errors="replace").strip()
        fix = f"It says: {said}" if said else "See what it says above"
        raise _refused(key, f"ssh-keygen cannot sign with it (status {made.returncode})", fix)
    return signature


def _ssh_keygen(arguments: Sequence[str], sent: bytes | None) -> subprocess.CompletedProcess[bytes]:
    """Run ``ssh-keygen``.

    :param sent: what it reads; None lets it ask the person at the terminal, for a passphrase.
    :raises MigrationError: if it is not installed, or does not end.
    """
    program = shutil.which("ssh-keygen")
    if program is None:
        fix = "Install OpenSSH's client, 8.2 or later (Debian: openssh-client)"
        raise MigrationError(
            "Signatures cannot be checked.", [Problem("ssh-keygen", "it is not installed on this machine", fix)]
        )
    if sent is None:
        return subprocess.run([program, *arguments], check=False)
    try:
        # In a session of its own it has no terminal at which it could ask.
        return subprocess.run(
            [program, *arguments],
            input=sent,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            start_new_session=True,
            env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
        )
    except subprocess.TimeoutExpired:
        raise MigrationError(
            "Signatures cannot be checked.",
            [Problem("ssh-keygen", f"it has not ended within {_SECONDS} seconds", "Run it by hand and see why")],
        ) from None


def _refused(where: Path, what: str, fix: str) -> MigrationError:
    """Return the error of a record that does not count."""
    return MigrationError("There is no evidence that counts.", [Problem(str(where), what, fix)])
