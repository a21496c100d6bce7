"""The values that stop a run, gathered by column and reason, so that all are named at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from ...core.errors import Problem
from ...core.estate import DURATION_UNITS, POLICIES, REFUSE
from ..convert.refusals import Refused

SHOWN_KEYS = 3

# What helps where no policy does.
_OTHER_FIXES = {
    "duration_unit": f"name 'duration_unit' for the column: {', '.join(DURATION_UNITS)}",
    "spelling": "write it the same way in every row of the source",
}
_ROWS_OF_ANSWER = {"reject": "row"}


@dataclass
class Violation:
    """The values of one column that were refused for one reason.

    :param columns: source columns, joined by ``+``; empty for the table as a whole.
    :param policy: the one that could answer for them; empty if none can.
    :param examples: the first of them with their keys.
    :param longest: characters of the longest, if they are too long.
    :param answers: answer of the policy → number of values for which it would help.
    :param notes: why an answer that could be expected would not help.
    """

    table: str
    columns: str = ""
    policy: str = ""
    what: str = ""
    count: int = 0
    longest: int = 0
    examples: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    notes: dict[str, None] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Return where they are: the table, and the columns behind a point."""
        return self.table + (f".{self.columns}" if self.columns else "")

    def described(self) -> str:
        """Return what is wrong, with the number of rows and the first keys."""
        more = "" if self.count == len(self.examples) else f" and {self.count - len(self.examples):,} more"
        rows = "1 row" if self.count == 1 else f"{self.count:,} rows"
        longest = f", the longest of {self.longest:,} characters" if self.longest else ""
        return f"{self.what} ({rows}{longest}: {'; '.join(self.examples)}{more})"

    def policy_advice(self) -> list[str]:
        """Return how a policy could answer for these values, and for how many of them; only what has an effect."""
        if self.policy in _OTHER_FIXES:
            return [_OTHER_FIXES[self.policy]]
        known = [answer for answer in POLICIES.get(self.policy, ()) if self.answers[answer]]
        if not known:
            return []
        offered = [
            f"{answer} ({self.answers[answer]:,} {_ROWS_OF_ANSWER.get(answer, 'value')}"
            f"{'' if self.answers[answer] == 1 else 's'})"
            for answer in known
        ]
        listed = " or ".join((", ".join(offered[:-1]), offered[-1])) if len(offered) > 1 else offered[0]
        return [f"set '{self.policy}' for the column: {listed}"]


class Violations:
    """Collects the values that stop the run, by column and reason."""

    def __init__(self, file_name: str) -> None:
        self._file_name = file_name
        self._found: dict[tuple[str, str, str, str], Violation] = {}

    def add(
        self,
        table: str,
        columns: str,
        refused: Refused,
        key: str,
        shown: str | None,
        answers: Mapping[str, int] | Collection[str] | None = None,
        note: str = "",
    ) -> None:
        """Note one value.

        :param shown: the value for a person, None for a secret.
        :param answers: the policy's answers that would help, maybe with the number of values each would change;
            all that there are if not given.
        :param note: why an answer that could be expected would not help.
        """
        entry = (table, columns, refused.policy, refused.what)
        found = self._found.setdefault(entry, Violation(*entry))
        found.count += 1
        if shown is not None:
            found.longest = max(found.longest, refused.characters)
        if answers is None:
            answers = [answer for answer in POLICIES.get(refused.policy, ()) if answer != REFUSE]
        found.answers.update(answers)
        if note:
            found.notes[note] = None
        if len(found.examples) < SHOWN_KEYS:
            found.examples.append(key if shown is None else f"{key}: {shown}")

    def problems(self, advise: Callable[[Violation], list[str]] | None = None) -> list[Problem]:
        """Return one problem for each column and reason.

        :param advise: returns what else helps, the best first; it comes before the policies.
        """
        problems = []
        for found in self._found.values():
            advice = [*(advise(found) if advise is not None else ()), *found.policy_advice()]
            fix = "; or ".join(advice or ["repair the values in the source"])
            notes = "".join(f". {note}" for note in found.notes)
            where = f"{self._file_name}: {found.place}"
            problems.append(Problem(where, found.described(), fix[:1].upper() + fix[1:] + notes))
        return problems
