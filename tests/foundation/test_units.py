"""What every unit of systemd that we write has in common."""

from __future__ import annotations

from tests.conftest import PROJECT


def test_what_a_unit_of_ours_writes_is_for_its_user_alone() -> None:
    units = [path for path in PROJECT.glob("roles/*/templates/*.j2") if "[Service]" in path.read_text()]
    assert len(units) >= 3
    assert [str(path) for path in units if "\nUMask=0077\n" not in path.read_text()] == []
