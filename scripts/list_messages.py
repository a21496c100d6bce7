"""Writes docs/messages.md: every message of the engine with its cause and its cure, read from the engine's own code.

    python scripts/list_messages.py

A test sees that the page is what this makes. What a message takes from a run (a name, a number, a value) stands as
``…``.
"""

from __future__ import annotations

import ast
import sys
from functools import cache
from itertools import product
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
MIGRATION = PROJECT / "plugins" / "module_utils" / "migration"
PAGE = PROJECT / "docs" / "messages.md"

# Policy, or what else answers for a value → why a value needs it, and what to do besides the policy.
CAUSES = {
    "orphan": "A foreign key of the target refers to a row that is not there, or that is spelled otherwise there.",
    "duplicate": "The target allows a key once that the source holds more than once.",
    "spelling": "Two ids of the source are one UUID in PostgreSQL.",
    "invalid_json": "The target's type takes JSON alone, and of numbers only those that `numeric` can hold.",
    "repeated_key": "`jsonb` keeps only the last member of a name.",
    "rewritten": "The type writes the value in another way, and nobody can tell whether it has lost something of it.",
    "nul_character": "PostgreSQL has no text with the character U+0000.",
    "invalid_utf8": "The source holds text in another encoding, or damaged text.",
    "empty_string": "SQLite lets an empty text stand in a column of any type.",
    "fraction": "The target's type has fewer digits after the point.",
    "null_value": "The target's column is NOT NULL, or belongs to its key.",
    "out_of_range": "The target's type ends before this value.",
    "sub_microsecond": "The target's type holds fewer digits of a second.",
    "unconvertible": "The target's type has no such value.",
    "duration_unit": "A number does not say in which unit it counts time.",
}
# What helps where no policy does.
OTHER_CURES = {
    "spelling": "Write the id the same way in every row of the source",
    "duration_unit": "Name `duration_unit` for the column",
}
# Package → why a problem is told there that is none of a single value.
STEPS = {
    "plan": "The inventory does not fit the source or the target",
    "convert": "Ids in texts and JSON cannot be rewritten",
    "prepare": "A value does not fit its column",
    "proof": "The proof, or the ledger, is not what it must be",
    "transfer": "The load, or a replay of rejected rows, cannot go on",
    "export": "The rollback cannot bring the changes back",
    "host": "The host, what runs a service, or a service's own files do not allow it",
    "window": "The window of a cutover or of a rollback cannot begin, or cannot go on",
    "cutover": "The cutover cannot be done",
    "rollback": "The rollback cannot be done",
    "quarantine": "A file cannot be moved into quarantine, or out of it",
    "cleanup": "The cleanup cannot be done",
    "backup": "A backup, a restore test or a restore cannot be done",
}
PLACE = "…"
_MAKERS = ("Refused", "ServerRefusal", "Problem")
_FEWEST_LETTERS = 7


class _Texts:
    """What an expression can be as a text, with ``…`` for what only a run knows."""

    def __init__(self, constants: dict[str, str], tree: ast.Module, function: ast.AST) -> None:
        """Look at one function.

        :param constants: texts that are known by a name in every file.
        :param tree: the function's file.
        """
        self._constants = constants
        self._functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._blocks = [
            block
            for node in ast.walk(function)
            for _, block in ast.iter_fields(node)
            if isinstance(block, list) and block and isinstance(block[0], ast.stmt)
        ]

    def _assigned(self, name: ast.Name) -> list[str]:
        """Return what a name can be where it stands: what the nearest block around it, or before it, assigns."""
        around = [block for block in self._blocks if block[0].lineno <= name.lineno <= (block[-1].end_lineno or 0)]
        for block in sorted(around, key=lambda found: -found[0].lineno):
            texts: list[str] = []
            for statement in block:
                if statement.lineno >= name.lineno:
                    break
                if isinstance(statement, ast.Assign) and _assigns(statement, name.id):
                    texts = self.of(statement.value)
                elif isinstance(statement, ast.AugAssign) and _assigns(statement, name.id):
                    texts = [first + second for first, second in product(texts, self.of(statement.value))]
                elif isinstance(statement, (ast.If, ast.Try, ast.For)):
                    # One of several ways was taken.
                    inner = [node for node in ast.walk(statement) if isinstance(node, ast.Assign)]
                    earlier = [node for node in inner if _assigns(node, name.id) and node.lineno < name.lineno]
                    texts += [text for node in earlier for text in self.of(node.value)]
            if texts:
                return texts
        return [PLACE]

    def of(self, node: ast.expr) -> list[str]:
        """Return every text that an expression can be."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return [node.value]
        if isinstance(node, ast.IfExp):
            return [*self.of(node.body), *self.of(node.orelse)]
        if isinstance(node, ast.JoinedStr):
            return ["".join(self._part(part) for part in node.values)]
        if isinstance(node, ast.Name):
            known = self._constants.get(node.id)
            return [known] if known is not None else self._assigned(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self._functions:
            called = self._functions[node.func.id]
            returned = [inner.value for inner in ast.walk(called) if isinstance(inner, ast.Return) and inner.value]
            inside = _Texts(self._constants, ast.Module([], []), called)
            return [text for value in returned for text in inside.of(value)] or [PLACE]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return [first + second for first, second in product(self.of(node.left), self.of(node.right))]
        return [PLACE]

    def _part(self, part: ast.expr) -> str:
        """Return one part of an f-string."""
        if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
            return self._constants.get(part.value.id, PLACE)
        return str(part.value) if isinstance(part, ast.Constant) else PLACE


def _assigns(statement: ast.Assign | ast.AugAssign, name: str) -> bool:
    """Return whether a statement gives a value to a name."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _says_something(text: str) -> bool:
    """Return whether a text is more than what a run puts in."""
    return sum(letter.isalpha() for letter in text) >= _FEWEST_LETTERS


def _files() -> list[Path]:
    """Return the files whose messages are listed."""
    packages = [*STEPS, "convert"]
    return sorted(path for path in MIGRATION.rglob("*.py") if path.parent.name in packages)


def _constants() -> dict[str, str]:
    """Return the texts that these files define by a name in capitals."""
    found = {}
    for path in _files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign):
                continue
            target, value = node.targets[0], node.value
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            values = value.elts if isinstance(value, ast.Tuple) else [value]
            for name, each in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and isinstance(each, ast.Constant) and isinstance(each.value, str):
                    found[name.id] = each.value
    return found


@cache
def _calls() -> list[tuple[str, str, list[list[str]]]]:
    """Return the folder of each call that makes a message, the name of what it makes, and its arguments' texts."""
    constants = _constants()
    found = []
    for path in _files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        bodies: list[ast.AST] = []
        for node in functions:
            bodies += (
                [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
                if isinstance(node, ast.ClassDef)
                else [node]
            )
        for body in bodies:
            texts = _Texts(constants, tree, body)
            for call in ast.walk(body):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _MAKERS:
                    arguments = [texts.of(argument) for argument in call.args]
                    found.append((path.parent.name, call.func.id, arguments))
    return found


def refused_values() -> dict[str, set[str]]:
    """Return policy → every message about a value that it may answer for."""
    found: dict[str, set[str]] = {}
    for _, name, arguments in _calls():
        if name in ("Refused", "ServerRefusal"):
            policies, messages = arguments[-2:] if name == "ServerRefusal" else arguments[:2]
            for policy, message in product(policies, messages):
                if policy in CAUSES and _says_something(message.removeprefix("PostgreSQL refuses it")):
                    found.setdefault(policy, set()).add(message)
    return found


def other_problems() -> dict[str, set[tuple[str, str]]]:
    """Return package → (message, what to do) of every problem that is none of a single value."""
    found: dict[str, set[tuple[str, str]]] = {}
    for folder, name, arguments in _calls():
        if name == "Problem":
            _, messages, cures = arguments[:3]
            for message, cure in product(messages, cures):
                if _says_something(message) and _says_something(cure):
                    found.setdefault(folder, set()).add((message, cure))
    return found


def page(policies: dict[str, tuple[str, ...]]) -> str:
    """Return the page.

    :param policies: policy → its answers, see ``POLICIES`` of :mod:`.core.estate`.
    """
    lines = [
        "# Messages of the engine",
        "",
        "This page is made from the engine's code by `python scripts/list_messages.py`. `…` stands for what a run puts",
        "in: a name, a number, a value. A message ends with what helps there, the best first: what loses nothing comes",
        "before a policy. Policies are set for a column, see",
        "[Describing your own estate](../roles/sqlite_migrate/README.md#describing-your-own-estate).",
        "",
        "## Values that are refused",
        "",
        "| Message | Cause | Cure |",
        "|---|---|---|",
    ]
    for policy, messages in sorted(refused_values().items()):
        answers = ", ".join(f"`{answer}`" for answer in policies.get(policy, ())[1:])
        cure = OTHER_CURES.get(policy) or f"The first advice of the message; else `{policy}`: {answers}"
        lines += [f"| {_cell(message)} | {CAUSES[policy]} | {cure} |" for message in sorted(messages)]
    for folder, problems in sorted(other_problems().items()):
        lines += ["", f"## {STEPS[folder]}", "", "| Message | Cure |", "|---|---|"]
        lines += [f"| {_cell(message)} | {_cell(cure)} |" for message, cure in sorted(problems)]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Return a text as the cell of a table, first letter large."""
    shown = text.strip().replace("|", "\\|").replace("<", "&lt;")
    return shown[:1].upper() + shown[1:]


def main() -> None:
    """Write the page."""
    sys.path.insert(0, str(PROJECT / ".collections"))
    from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.estate import POLICIES

    PAGE.write_text(page(POLICIES), encoding="utf-8")


if __name__ == "__main__":
    main()
