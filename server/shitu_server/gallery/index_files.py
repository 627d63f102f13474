"""Files of an index: several that belong together, and a manifest that names them and is replaced last.

The manifest holds size and CRC-32 of each file, and of itself. Each save writes files of new names, so that what was there before
can be read until the moment the manifest is replaced; then they are deleted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from shitu_server.types import JsonValue

_log = logging.getLogger(__name__)

FORMAT_VERSION: Final = 1
BLOCK_BYTES: Final = 4 * 1024 * 1024
TOKEN_BYTES: Final = 6

Content = Mapping[str, JsonValue]


def write_files(folder: Path, name: str, content: Content, writers: Mapping[str, Callable[[Path], None]]) -> None:
    """Replace what is there under a name, at once and durably.

    Args:
        folder: is there.
        name: of letters, digits and hyphens.
        content: what else the manifest shall tell.
        writers: each writes a file where it is told to.

    Raises:
        OSError: the disk refuses; what was there before is still there.
    """
    token = secrets.token_hex(TOKEN_BYTES)
    paths = {part: folder / f"{name}.{token}.{part}" for part in writers}
    try:
        for part, write in writers.items():
            write(paths[part])
            _sync(paths[part])
        files: JsonValue = {
            part: {"file": path.name, "bytes": path.stat().st_size, "crc32": _crc32(path)}
            for part, path in paths.items()
        }
        _write_manifest(folder, name, {"format": FORMAT_VERSION, "files": files, "content": content})
    except BaseException:
        for path in paths.values():
            path.unlink(missing_ok=True)
        raise
    _clean(folder, name, {path.name for path in paths.values()})


def read_files(folder: Path, name: str) -> tuple[Content, Mapping[str, Path]] | None:
    """Return content and files of what is there, found to be whole; None where nothing usable is, which the log tells."""
    path = _manifest_path(folder, name)
    try:
        manifest = _read_manifest(path)
        paths = {part: _checked(folder, file) for part, file in manifest["files"].items()}
    except FileNotFoundError as error:
        if Path(error.filename) != path:
            _log.warning("the index %s lacks %s and is built anew", path, error.filename)
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("the index %s cannot be used and is built anew: %s", path, error)
        return None
    return cast("Content", manifest["content"]), paths


def remove_files(folder: Path, name: str) -> None:
    """Delete what is there under a name, if anything."""
    _manifest_path(folder, name).unlink(missing_ok=True)
    _clean(folder, name, set())


def _manifest_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _write_manifest(folder: Path, name: str, manifest: dict[str, Any]) -> None:
    path = _manifest_path(folder, name)
    temporary = folder / f"{name}.{secrets.token_hex(TOKEN_BYTES)}.json.part"
    text = json.dumps({**manifest, "crc32": _manifest_crc32(manifest)}, indent=1)
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        _sync(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(folder)


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    if manifest.pop("crc32") != _manifest_crc32(manifest):
        raise ValueError("the manifest is damaged")
    if manifest["format"] != FORMAT_VERSION:
        raise ValueError(f"format {manifest['format']}, expected {FORMAT_VERSION}")
    return manifest


def _manifest_crc32(manifest: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(manifest, sort_keys=True).encode())


def _checked(folder: Path, file: Mapping[str, Any]) -> Path:
    path = folder / str(file["file"])
    if path.stat().st_size != file["bytes"] or _crc32(path) != file["crc32"]:
        raise ValueError(f"{path.name} is damaged")
    return path


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clean(folder: Path, name: str, kept: set[str]) -> None:
    """Delete files of former saves, and of those that were broken off."""
    for path in folder.glob(f"{name}.*.*"):
        if path.name not in kept:
            with contextlib.suppress(OSError):  # tried again by the next save
                path.unlink()
