"""Functional checks: what a user does with the services, played through their HTTP interfaces.

A check is a list of steps that run one after another; each sends one request and compares the
answer with what the inventory expects. A step may save a value of its answer, such as the id of
the row that it created, for the steps after it. The cleanup steps of a check run whether it
passed or not, so that no row stays behind.

``${name}`` in an address, a header or a body stands for a saved value, for a secret, or for
``${run_token}``, which is new in every run. Results show the text with its placeholders, never
what was filled in.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets as random_source
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PASSED = "passed"
FAILED = "failed"
NOT_RUN = "not run"

RUN_TOKEN = "run_token"
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LONGEST_ANSWER_BYTES = 8 * 1024 * 1024
_LONGEST_SHOWN_VALUE = 80


@dataclass(frozen=True)
class Step:
    """One request and what is expected of its answer.

    :param body: sent as JSON; no body if None.
    :param expected_status: every HTTP status that counts as success.
    :param expected_json: must be contained in the answer; None expects nothing.
    :param expected_not_empty: paths such as ``totals.agents`` whose value must be there and be
        neither null nor false nor zero nor empty.
    :param save: name of a value for later steps, and the path in the answer where it stands.
    :param timeout: seconds.
    """

    name: str
    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    expected_status: tuple[int, ...] = (200,)
    expected_json: Any = None
    expected_not_empty: tuple[str, ...] = ()
    save: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 10.0

    @property
    def placeholders(self) -> set[str]:
        """Return the names of the values that this step needs before it can run."""
        return {
            name
            for text in _texts([self.url, dict(self.headers), self.body, self.expected_json])
            for name in _PLACEHOLDER.findall(text)
        }


@dataclass(frozen=True)
class Check:
    """Something a user does, as a list of steps, and the steps that remove its traces."""

    name: str
    steps: tuple[Step, ...]
    cleanup: tuple[Step, ...] = ()

    def missing(self, known: set[str]) -> list[str]:
        """Return the values that are needed and that neither ``known`` nor an earlier step gives."""
        known = known | {RUN_TOKEN}
        missing: set[str] = set()
        for step in (*self.steps, *self.cleanup):
            missing |= step.placeholders - known
            known = known | set(step.save)
        return sorted(missing)


class _StepFailed(Exception):
    """The answer to a step is not what was expected."""


def parse(data: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Return the checks that the inventory declares, their types already verified by Ansible."""
    return [
        Check(
            name=entry["name"],
            steps=tuple(_parse_step(step) for step in entry["steps"]),
            cleanup=tuple(_parse_step(step) for step in entry.get("cleanup") or ()),
        )
        for entry in data
    ]


def _parse_step(data: Mapping[str, Any]) -> Step:
    """Return one step; a key that is absent or None keeps its default."""
    given = {key: value for key, value in data.items() if value is not None}
    for key in ("expected_status", "expected_not_empty"):
        if key in given:
            given[key] = tuple(given[key])
    return Step(**given)


def run(checks: Sequence[Check], secrets: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run every check and return the result of each; one that fails does not stop the others.

    :param secrets: values for placeholders that appear in no result.
    """
    # YAML makes numbers of some passwords.
    known = {name: str(value) for name, value in secrets.items() if value not in (None, "")}
    return [_run_check(check, known) for check in checks]


def explain(checks: Sequence[Check], reason: str) -> list[dict[str, Any]]:
    """Return a result for every check that says why it was not run."""
    return [_result(check, NOT_RUN, reason, []) for check in checks]


def _run_check(check: Check, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Run the steps of one check until one fails, then its cleanup."""
    missing = check.missing(set(secrets))
    if missing:
        names = ", ".join(missing)
        return _result(check, NOT_RUN, f"no value for {names}: set it in validation_secrets", [])
    values: dict[str, Any] = {**secrets, RUN_TOKEN: random_source.token_hex(4)}
    done: list[dict[str, Any]] = []
    reasons: list[str] = []
    for step in check.steps:
        try:
            done.append(_run_step(step, values, secrets))
        except _StepFailed as error:
            reasons.append(_without_secrets(f"{step.name}: {error}", secrets))
            break
    for step in check.cleanup:
        # What a cleanup step cannot name was never created.
        if step.placeholders <= set(values):
            try:
                done.append(_run_step(step, values, secrets))
            except _StepFailed as error:
                reasons.append(_without_secrets(f"{step.name}: {error}; its row may still be there", secrets))
    return _result(check, FAILED if reasons else PASSED, "; ".join(reasons), done)


def _result(check: Check, result: str, reason: str, done: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result of one check as plain data."""
    return {
        "name": check.name,
        "result": result,
        "reason": reason,
        "steps": done,
        "seconds": round(sum(step["seconds"] for step in done), 3),
    }


def _run_step(step: Step, values: dict[str, Any], secrets: Mapping[str, str]) -> dict[str, Any]:
    """Send one request, compare its answer, save what later steps need.

    :param secrets: values that no message may show, not even the beginning of one.
    :raises _StepFailed: with the reason in one sentence.
    """
    started = time.monotonic()
    status, text = _send(step, values)
    answer = _decode(text)
    # Saved first: a step whose answer is wrong may still have created a row to clean up.
    for name, path in step.save.items():
        found = _at(answer, path)
        if found is not None:
            values[name] = found
    if status not in step.expected_status:
        expected = " or ".join(str(entry) for entry in step.expected_status)
        raise _StepFailed(f"{step.method} {step.url} answered {status}, expected {expected}")
    if step.expected_json is not None:
        difference = _difference(_fill(step.expected_json, values), answer, "", secrets)
        if difference:
            raise _StepFailed(f"{step.method} {step.url}: {difference}")
    for path in step.expected_not_empty:
        if not _at(answer, path):
            raise _StepFailed(f"{step.method} {step.url}: '{path}' is missing or empty in the answer")
    for name, path in step.save.items():
        if name not in values:
            raise _StepFailed(f"{step.method} {step.url}: '{path}' is missing in the answer")
    return {
        "name": step.name,
        "method": step.method,
        "url": step.url,
        "status": status,
        "seconds": round(time.monotonic() - started, 3),
    }


def _send(step: Step, values: Mapping[str, Any]) -> tuple[int, str]:
    """Send the request of a step and return the status and the text of the answer.

    :raises _StepFailed: if nothing answers.
    """
    url = _PLACEHOLDER.sub(lambda match: urllib.parse.quote(str(values[match[1]]), safe=""), step.url)
    given = {name: str(value) for name, value in _fill(dict(step.headers), values).items()}
    headers = {"Accept": "application/json", **given}
    data = None
    if step.body is not None:
        data = json.dumps(_fill(step.body, values)).encode()
        headers["Content-Type"] = "application/json"
    # The services are near: a proxy of the environment has no part in this.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        request = urllib.request.Request(url, data=data, headers=headers, method=step.method)
        try:
            response = opener.open(request, timeout=step.timeout)
        except urllib.error.HTTPError as error:
            # An answer like any other.
            response = error
        with response:
            return int(response.status or 0), _read(response, step.timeout)
    except urllib.error.URLError as error:
        raise _StepFailed(f"{step.method} {step.url} got no answer: {error.reason}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        what = str(error) or type(error).__name__
        raise _StepFailed(f"{step.method} {step.url} got no answer: {what}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for the answer that it is: followed, it would carry headers to another address."""

    def redirect_request(self, *_arguments: Any) -> None:
        """Follow nothing."""


def _read(response: Any, timeout: float) -> str:
    """Return the text of an answer, at most :data:`_LONGEST_ANSWER_BYTES` of it.

    :param timeout: seconds for the whole. That of the connection begins anew with every byte that comes.
    :raises http.client.IncompleteRead: if the connection ended before the answer did.
    :raises TimeoutError: if it has not ended in time.
    """
    last, data = time.monotonic() + timeout, b""
    while len(data) < _LONGEST_ANSWER_BYTES and (piece := response.read1(_LONGEST_ANSWER_BYTES - len(data))):
        data += piece
        if time.monotonic() > last:
            raise TimeoutError(f"it had not ended after {timeout:g} seconds")
    if response.length and len(data) < _LONGEST_ANSWER_BYTES:
        raise http.client.IncompleteRead(data, response.length)
    return data.decode("utf-8", "replace")


def _decode(text: str) -> Any:
    """Return the JSON of an answer, or None if it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _texts(value: Any) -> Iterator[str]:
    """Yield every string in a JSON value, keys aside."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _texts(entry)


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    """Return a JSON value with its placeholders filled in; one that stands alone keeps its type."""
    if isinstance(value, str):
        alone = _PLACEHOLDER.fullmatch(value)
        if alone:
            return values[alone[1]]
        return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), value)
    if isinstance(value, Mapping):
        return {key: _fill(entry, values) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_fill(entry, values) for entry in value]
    return value


def _at(value: Any, path: str) -> Any:
    """Return what stands at a path such as ``run.id`` or ``agents.0.name``, or None.

    A key may hold dots itself: ``counts.auth.users`` also finds ``{"counts": {"auth.users": 2}}``.
    """
    if not path:
        return value
    parts = path.split(".")
    for length in range(1, len(parts) + 1):
        key, rest = ".".join(parts[:length]), ".".join(parts[length:])
        if isinstance(value, Mapping) and key in value:
            found = _at(value[key], rest)
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            found = _at(value[int(key)], rest)
        else:
            continue
        if found is not None:
            return found
    return None


def _difference(expected: Any, actual: Any, path: str, secrets: Mapping[str, str]) -> str:
    """Return the first place where ``expected`` is not contained in ``actual``, or ''.

    An object may have more keys than expected, a list more elements, in any order.
    """
    where = f"'{path}'" if path else "the answer"
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping):
            return f"{where} is not a JSON object"
        for key, entry in expected.items():
            inner = f"{path}.{key}" if path else str(key)
            if key not in actual:
                return f"'{inner}' is missing"
            difference = _difference(entry, actual[key], inner, secrets)
            if difference:
                return difference
        return ""
    if isinstance(expected, list):
        if not isinstance(actual, list):
            return f"{where} is not a JSON array"
        for number, entry in enumerate(expected):
            if all(_difference(entry, candidate, path, secrets) for candidate in actual):
                return f"{where} lacks the expected element {number}"
        return ""
    # JSON tells true from 1, Python does not.
    if isinstance(expected, bool) is not isinstance(actual, bool) or expected != actual:
        return f"{where} is {_shown(actual, secrets)}, expected {_shown(expected, secrets)}"
    return ""


def _shown(value: Any, secrets: Mapping[str, str]) -> str:
    """Return a value for a message, without secrets, cut to a readable length."""
    text = _without_secrets(json.dumps(value, ensure_ascii=False), secrets)
    return text if len(text) <= _LONGEST_SHOWN_VALUE else text[:_LONGEST_SHOWN_VALUE] + "…"


def _without_secrets(text: str, secrets: Mapping[str, str]) -> str:
    """Return a message with every secret masked, should a service have echoed one."""
    for value in sorted(secrets.values(), key=len, reverse=True):
        # Also as JSON and an address write it.
        for form in (value, json.dumps(value, ensure_ascii=False)[1:-1], urllib.parse.quote(value, safe="")):
            text = text.replace(form, "********")
    return text
