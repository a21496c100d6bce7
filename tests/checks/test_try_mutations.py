"""The listed faults can still be put into the product; in `make test-all` each turns its guard red."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from scripts import try_mutations
from scripts.try_mutations import Mutation, copied, is_seen, read_mutations
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    with copied() as made:
        yield made


@pytest.mark.parametrize("mutation", read_mutations(), ids=lambda mutation: mutation.name)
def test_a_listed_fault_fits_the_product(mutation: Mutation) -> None:
    assert mutation.applied(PROJECT) != (PROJECT / mutation.file).read_text(encoding="utf-8")
    assert all((PROJECT / word).is_file() for word in mutation.test.split() if word.startswith("tests/"))


def test_each_fault_has_a_name_of_its_own() -> None:
    names = [mutation.name for mutation in read_mutations()]
    assert len(set(names)) == len(names)


def test_a_guard_that_stays_green_is_told(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"file": "README.md", "find": "## How it is built\n", "put": "## How it is built \n"}
    found = [Mutation("no fault", **entry, test="tests/foundation/test_walks.py -k words_of_a_run")]
    monkeypatch.setattr(try_mutations, "read_mutations", lambda: found)
    monkeypatch.setattr(try_mutations, "copied", lambda: nullcontext(copy))
    assert try_mutations.main([]) == 1
    assert "GREEN no fault" in capsys.readouterr().out
    assert try_mutations.main(["--count"]) == 0
    assert capsys.readouterr().out == "1\n"


@pytest.mark.long_search
@pytest.mark.parametrize("mutation", read_mutations(), ids=lambda mutation: mutation.name)
def test_a_fault_turns_its_guard_red(copy: Path, mutation: Mutation) -> None:
    assert is_seen(mutation, copy)
