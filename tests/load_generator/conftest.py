"""Makes the load generator importable beside the package that is also called molecule."""

from __future__ import annotations

from pathlib import Path

import molecule

molecule.__path__.append(str(Path(__file__).resolve().parents[2] / "molecule"))
