"""A gallery with synthetic rows, written as the gallery process does, and that process on it: building, and starting again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psutil

from shitu_bench.errors import BenchError
from shitu_bench.galleries.synthetic_vectors import DIMENSION, Data
from shitu_bench.isolated import environment_without_settings
from shitu_server.filters import FieldType
from shitu_server.gallery.checks import CheckedItem
from shitu_server.gallery.client import GalleryClient
from shitu_server.gallery.environment import search_environment
from shitu_server.gallery.store import GalleryStore
from shitu_server.types import GalleryOptions, IndexKind

ENCODER: Final = "benchmark"
NAME: Final = "gallery"
_BUILD_TIMEOUT_S: Final = 3600
_START_TIMEOUT_S: Final = 600
_STOP_TIMEOUT_S: Final = 60


def write_rows(data: Data, kind: IndexKind, folder: Path) -> float:
    """Store the rows as the gallery process does, many in a transaction; returns seconds."""
    begin_s = time.monotonic()
    store = GalleryStore(folder)
    with store.transaction():
        options = GalleryOptions(index_kind=kind, fields={"permille": FieldType.NUMBER})
        generation = store.galleries.insert(NAME, ENCODER, DIMENSION, options, 0.0).generation
    for begin in range(0, len(data.rows), 5000):
        with store.transaction():
            rows = data.rows[begin : begin + 5000]
            for number, row in enumerate(rows, begin):
                metadata = f'{{"permille":{_permille(number)}}}'
                item = CheckedItem(f"item-{number}", f"label-{number // 10}", row, metadata, b"")
                store.items.upsert(generation, item, 2, 0.0)
            store.galleries.advance(generation, len(rows))
    store.close()
    return time.monotonic() - begin_s


def _permille(number: int) -> int:
    """Return the declared field of an item: 0 to 999, each as often as the others, in no order that the rows have."""
    return number * 7919 % 1000


async def process_figures(folder: Path, size: int, kind: IndexKind) -> dict[str, Any]:
    """Build the index in a real process; start it again."""
    figures: dict[str, Any] = {}
    async with _Process(folder) as process:
        figures["first_start_s"] = process.start_s
        begin_s = time.monotonic()
        while kind is not IndexKind.FLAT:
            index = (await process.client.get(NAME)).index
            if index.indexed_count == size and not index.building and _kept(folder):
                break
            if time.monotonic() - begin_s > _BUILD_TIMEOUT_S:
                raise BenchError(f"{kind.value} of {size} was not built in {_BUILD_TIMEOUT_S} s")
            await asyncio.sleep(0.5)
        figures["build_s"] = time.monotonic() - begin_s if kind is not IndexKind.FLAT else 0.0
    async with _Process(folder) as process:
        index = (await process.client.get(NAME)).index
        assert kind is IndexKind.FLAT or (index.kind, index.indexed_count) == (kind, size), index
        figures["restart_s"] = process.start_s
        figures["memory_bytes"] = psutil.Process(process.pid).memory_info().rss
    return figures


def _kept(folder: Path) -> bool:
    """Return whether the index was saved."""
    return any((folder / "indexes").glob("*.json"))


class _Process:
    """A gallery process on a folder, ready when entered."""

    def __init__(self, folder: Path) -> None:
        self._address = f"unix:{folder}/socket"
        own = {"SHITU_GALLERY_ADDRESS": self._address, "SHITU_DATA_DIR": str(folder)}
        self._environment = {**environment_without_settings(), **own}
        self._environment |= search_environment(1)
        self.start_s = 0.0

    async def __aenter__(self) -> _Process:
        begin_s = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-m", "shitu_server", "gallery"], env=self._environment)
        self.pid = self._process.pid
        self.client = GalleryClient(self._address)
        while True:
            try:
                await self.client.check()
                break
            except Exception:  # noqa: BLE001  # not ready yet
                if self._process.poll() is not None or time.monotonic() - begin_s > _START_TIMEOUT_S:
                    self._process.kill()
                    raise BenchError("the gallery process ended, or did not start") from None
                await asyncio.sleep(0.05)
        self.start_s = time.monotonic() - begin_s
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()
        self._process.terminate()
        self._process.wait(_STOP_TIMEOUT_S)
