"""Labels and pictures of a gallery, written to files that `shitu gallery build` reads."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

from rich.console import Console

from shitu_client.client import AsyncClient
from shitu_client.errors import InputError, said_of
from shitu_client.gallery_results import Item
from shitu_client.listings import full_items
from shitu_client.pictures import SUFFIXES
from shitu_client.progress import progress_bar
from shitu_client.whole_files import whole_file

_MOST_NAME_BYTES: Final = 240
"""Of a file's name; file systems take 255."""


@dataclass
class ExportOutcome:
    """What was written; failures by the item's id."""

    item_count: int = 0
    renamed_labels: set[str] = field(default_factory=set)
    """Labels that no folder can be called; the label file has them right."""
    failures: dict[str, str] = field(default_factory=dict)


async def export_labels(
    client: AsyncClient, gallery: str, file: Path, pictures: Path | None, console: Console
) -> ExportOutcome:
    """Write a line `id<tab>label` for each item or, with `pictures`, save these and write their paths.

    Args:
        client: of the server.
        gallery: name of the gallery.
        file: label file, which is there when all is written.
        pictures: folder for a folder of thumbnails for each label.
        console: for progress.
    """
    info = await client.get_gallery(gallery)
    source = client.iterate_items(gallery) if pictures is None else full_items(client, gallery)
    folders = None if pictures is None else _Folders(pictures)
    outcome = ExportOutcome()
    with whole_file(file) as lines, progress_bar(console, "items") as progress:
        task = progress.add_task("exporting", total=info.item_count)
        async with aclosing(source) as items:
            async for item in items:
                try:
                    await _export(item, folders, lines)
                    outcome.item_count += 1
                except (InputError, OSError) as error:
                    outcome.failures[item.id] = said_of(error)
                progress.advance(task)
    if folders is not None:
        outcome.renamed_labels = folders.renamed_labels
    return outcome


async def _export(item: Item, folders: _Folders | None, lines: BinaryIO) -> None:
    path = item.id
    if folders is not None:
        if not item.thumbnail:
            raise InputError("has no picture: it came as a vector")
        path = await asyncio.to_thread(folders.save, item)
    lines.write(_line(path, item.label).encode())


def _line(path: str, label: str) -> str:
    """Return a line that reads back as it was written."""
    if any(end in text for text in (path, label) for end in "\t\r\n"):
        raise InputError("cannot stand in a label file: it has a tab or the end of a line in it")
    if path != path.strip() or label != label.strip():
        raise InputError("cannot stand in a label file: it begins or ends with a space")
    return f"{path}\t{label}\n"


class _Folders:
    """Pictures in folders that are called as their labels."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._taken: set[str] = set()
        self.renamed_labels: set[str] = set()

    def save(self, item: Item) -> str:
        """Save a picture; returns its path below the root."""
        path = self._free(f"{self._folder_of(item.label)}/{_file_name(item)}")
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(item.thumbnail)
        return path

    def _folder_of(self, label: str) -> str:
        if label not in {".", ".."} and not set("/\0") & set(label) and len(label.encode()) <= _MOST_NAME_BYTES:
            return label
        self.renamed_labels.add(label)
        return _short(quote(label, safe="").replace(".", "%2E"))

    def _free(self, path: str) -> str:
        stem, dot, suffix = path.rpartition(".")
        number = 1
        while path in self._taken:
            number += 1
            path = f"{stem}_{number}{dot}{suffix}"
        self._taken.add(path)
        return path


def _file_name(item: Item) -> str:
    """Return what the picture is called: as it was when the gallery was built of such folders, so that ids stay what they are."""
    folder, _, name = item.id.rpartition("/")
    name = name if folder == item.label else quote(item.id, safe=" ")
    if Path(name).suffix.lower() not in SUFFIXES:
        name += ".jpg"
    suffix = Path(name).suffix
    return _short(name.removesuffix(suffix)) + suffix


def _short(name: str) -> str:
    """Return a name that a file can have; one that is too long ends with its digest."""
    if len(name.encode()) <= _MOST_NAME_BYTES and "\0" not in name:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"{name.encode()[:150].decode(errors='ignore')}-{digest}".replace("\0", "")
