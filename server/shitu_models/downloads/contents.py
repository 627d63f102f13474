"""Is a file what its name says? A look at its ends, which runs nothing: enough to know a portal's page or a cut from weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from shitu_models.downloads.archive import is_tar

_PICKLE: Final = b"\x80"
"""Opcode that a pickle begins with since protocol 2, the oldest that Paddle writes; the protocol's number follows."""
_PICKLE_PROTOCOLS: Final = range(2, 6)
_PICKLE_END: Final = b"."
"""Opcode that every pickle ends with."""
_HEAD_BYTES: Final = 1024
_SHOWN_BYTES: Final = 8
_KNOWN_HEADS: Final = {
    b"\x1f\x8b": "a gzip archive",
    b"PK\3\4": "a zip archive",
    b"<?xml": "an XML document",
    b"{": "what looks like JSON",
}


def fault_of(file: Path, name: str) -> str | None:
    """Return what was expected and what came where a file is not what an official one of this name is, else None.

    Args:
        file: on this machine.
        name: that it is published under; a `.pdparams` is a pickle, a `.tar` a tar, of others nothing is known.

    Raises:
        OSError: it cannot be read.
    """
    if name.endswith(".pdparams") and not _is_pickle(file):
        return f"expected a checkpoint of Paddle (a pickle), it is {_described(file)}"
    if name.endswith(".tar") and not is_tar(file):
        return f"expected a tar, it is {_described(file)}"
    return None


def _is_pickle(file: Path) -> bool:
    return _begins_as_pickle(_head(file)) and _last_byte(file) == _PICKLE_END


def _begins_as_pickle(head: bytes) -> bool:
    return head[:1] == _PICKLE and len(head) > 1 and head[1] in _PICKLE_PROTOCOLS


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_HEAD_BYTES)


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(-1, os.SEEK_END)
        return opened.read(1)


def _described(file: Path) -> str:
    head = _head(file)
    if not head:
        return "empty"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<!doctype html") or (text.startswith(b"<") and b"<html" in text):
        return "an HTML page"
    if is_tar(file):
        return "a tar"
    if _begins_as_pickle(head):
        return "a pickle" if _is_pickle(file) else "a pickle that was cut off"
    known = (said for begin, said in _KNOWN_HEADS.items() if text.startswith(begin.lower()))
    return next(known, f"something that begins with {head[:_SHOWN_BYTES]!r}")
