"""Puts compiled code beside the sources in what Ansible sends to a host for a module.

Ansible sends sources, which Python on the host compiles again for each task: for a small module that is two fifths of
the processor time until it begins, and for a large one more than half. Python takes the code where it was compiled by
its own version, and the source beside it everywhere else.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import pickle
import zipfile
from functools import cache
from importlib.util import MAGIC_NUMBER, source_hash
from marshal import dumps

# By its path Ansible tells in which of its modules something is that will go; code keeps the path that it was compiled
# with. What is said of Ansible's utilities to go has no owner then.
_LEFT_AS_SOURCE = "ansible/modules/"
# In the header of code: it was made of the source with the hash that follows, which is not read to compare it.
_UNCHECKED_HASH = (1).to_bytes(4, "little")


def with_code(archive: bytes) -> bytes:
    """Return what Ansible keeps of a module with the code of each source in it.

    :param archive: as Ansible has kept it; returned as it is where another release of Ansible keeps something else.
    """
    try:
        kept = pickle.loads(archive)  # noqa: S301  # made by this run, in a directory of its own
        sent = compiled(base64.b64decode(kept.zip_data))
        return pickle.dumps(dataclasses.replace(kept, zip_data=base64.b64encode(sent)))
    except Exception:  # whatever it keeps
        return archive


def compiled(sent: bytes) -> bytes:
    """Return a zip archive of sources with the code of each."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sent)) as old, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            source = old.read(entry)
            new.writestr(entry, source)
            if entry.filename.endswith(".py") and not entry.filename.startswith(_LEFT_AS_SOURCE):
                code = zipfile.ZipInfo(f"{entry.filename}c", entry.date_time)
                code.compress_type = entry.compress_type
                new.writestr(code, _code(source, f"/{entry.filename}"))
    return whole.getvalue()


@cache
def _code(source: bytes, path: str) -> bytes:
    """Return a source as Python keeps it compiled: most are in the archive of every module.

    :param path: for who reads where an error has come from.
    """
    code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    return MAGIC_NUMBER + _UNCHECKED_HASH + source_hash(source) + dumps(code)
