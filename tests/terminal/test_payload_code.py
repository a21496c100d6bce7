"""The compiled code beside the sources in what is sent to a host, and when Python there takes it."""

from __future__ import annotations

import base64
import dataclasses
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible.executor.module_common import _CachedModule

from ansible_collections.swarm.sqlite_to_postgresql.plugins.plugin_utils import payload_code

from .support import Bench, Load


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return whole.getvalue()


def unpacked(archive: bytes) -> dict[str, bytes]:
    """Return the files of a zip archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as whole:
        return {name: whole.read(name) for name in whole.namelist()}


def printed(directory: Path, archive: bytes, program: str) -> str:
    """Return what a Python program prints, or the end of its error, that imports from an archive."""
    path = directory / "archive.zip"
    path.write_bytes(archive)
    environment = {**os.environ, "PYTHONPATH": str(path)}
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    return (answer.stdout + answer.stderr).strip()


def test_python_takes_the_code_that_its_own_version_has_compiled(tmp_path: Path) -> None:
    source = b"VALUE = 1\nassert not VALUE, 'one is not zero'\n"
    files = unpacked(payload_code.compiled(packed({"one.py": source})))
    assert files["one.py"] == source
    # The source is another one meanwhile, which nobody sees who takes the code.
    read = printed(tmp_path, packed({**files, "one.py": b"VALUE = 2\n"}), "import one")
    assert read.endswith("AssertionError: one is not zero")
    # Ansible shows an error with the line of the source.
    program = "try: import one\nexcept AssertionError: import traceback; traceback.print_exc()"
    assert "    assert not VALUE" in printed(tmp_path, packed(files), program)


def test_python_takes_the_source_where_another_version_has_compiled_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import one; print(one.__file__.rpartition('/')[2], one.VALUE)"
    sent = packed({"one.py": b"VALUE = 1\n"})
    assert printed(tmp_path, payload_code.compiled(sent), program) == "one.pyc 1"
    monkeypatch.setattr(payload_code, "MAGIC_NUMBER", b"\x00\x00\r\n")
    payload_code._code.cache_clear()
    try:
        assert printed(tmp_path, payload_code.compiled(sent), program) == "one.py 1"
    finally:
        payload_code._code.cache_clear()


def test_a_module_of_ansible_itself_is_left_as_a_source() -> None:
    sent = packed({"ansible/modules/stat.py": b"", "ansible/module_utils/basic.py": b"", "one.txt": b""})
    added = unpacked(payload_code.compiled(sent)).keys() - unpacked(sent).keys()
    assert added == {"ansible/module_utils/basic.pyc"}


def test_what_is_no_archive_of_this_ansible_is_kept_as_it_is() -> None:
    assert payload_code.with_code(b"of another release") == b"of another release"


def test_ansible_itself_takes_what_was_kept_and_python_the_code_in_it(tmp_path: Path, load: Load) -> None:
    bench = Bench(tmp_path, load)
    plays = [{"hosts": "one", "gather_facts": False, "tasks": [{"name": "Look", "ansible.builtin.ping": {}}]}]
    environment = {
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "SQLITE_TO_POSTGRESQL_PAYLOADS": str(tmp_path / "kept"),
        "SQLITE_TO_POSTGRESQL_COMPILED_PAYLOADS": "true",
    }
    assert bench.run(plays, **environment).status == 0
    (archive,) = tmp_path.glob("kept/*/ansible.modules.ping-*")
    kept = _CachedModule.load(str(archive))
    files = unpacked(base64.b64decode(kept.zip_data))
    files["ansible/module_utils/basic.pyc"] = payload_code._code(b"raise SystemExit('other code')", "basic")
    dataclasses.replace(kept, zip_data=base64.b64encode(packed(files))).dump(str(archive))
    # Only a run that takes the archive, and Python only where it takes the code in it, stumbles over other code.
    ended = bench.run(plays, **environment)
    assert ended.status != 0
    assert "other code" in ended.output
    # Nor does a run stumble that asks for none: what it keeps is apart, and holds sources alone.
    assert bench.run(plays, **{**environment, "SQLITE_TO_POSTGRESQL_COMPILED_PAYLOADS": "false"}).status == 0
    (other,) = set(tmp_path.glob("kept/*/ansible.modules.ping-*")) - {archive}
    assert not [name for name in unpacked(base64.b64decode(_CachedModule.load(str(other)).zip_data)) if name[-1] == "c"]
