#!/usr/bin/env python3
"""Sign the evidence of this tree with an SSH key: sign_evidence.py path/to/key.

The record is the one that playbooks/evidence.yml has written. What is missing in it is told before, and the program
ends with status 1 if the gate would not take the signature.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".collections"))

from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.migration.core.errors import MigrationError
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion import evidence, gate
from ansible_collections.swarm.sqlite_to_postgresql.plugins.module_utils.promotion.tree import read_tree

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str]) -> int:
    """Sign every record of this tree that is not signed, and return the exit status."""
    if len(arguments) != 1:
        print("Name the key: make evidence KEY=path/to/key", file=sys.stderr)
        return 2
    try:
        return _sign(Path(arguments[0]).expanduser())
    except MigrationError as error:
        print(error.message(), file=sys.stderr)
        return 1


def _sign(key: Path) -> int:
    """Sign the records, and return the exit status.

    :raises MigrationError: if that fails.
    """
    digest = read_tree(ROOT).digest
    records = sorted((ROOT / gate.EVIDENCE_DIRECTORY).glob(evidence.path_of(Path(), "*", digest).name))
    unsigned = [path for path in records if not evidence.signature_of(path).is_file()]
    if not unsigned:
        print(f"There is no unsigned evidence for the tree {digest[:12]}.", file=sys.stderr)
        return 1
    status = 0
    for path in unsigned:
        content = json.loads(path.read_text(encoding="utf-8"))
        for sentence in evidence.unmet(content, list(content["checks"])):
            print(f"{path.name}: {sentence}", file=sys.stderr)
        evidence.sign(path, key)
        try:
            signer = evidence.read_verified(path, ROOT / gate.ALLOWED_SIGNERS).signer
        except MigrationError as error:
            print(f"The gate will not take this signature.\n{error.message()}", file=sys.stderr)
            status = 1
        else:
            print(f"{path} is signed by {signer}. Commit both files, so that whoever promotes this tree has them.")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
