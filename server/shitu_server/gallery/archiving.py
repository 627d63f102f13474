"""Snapshots of galleries in this process, and galleries made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from shitu_server.errors import OverloadedError, PreconditionError, ShituError
from shitu_server.gallery.catalogue import LiveGallery
from shitu_server.gallery.checks import check_fields, check_name, check_range, check_text
from shitu_server.gallery.generations import AddRestored, BeginRestore, DiscardDraft, PublishRestored
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.snapshots import SnapshotHeader, SnapshotParser, SnapshotReader
from shitu_server.gallery.waiting import within
from shitu_server.gallery.writer import GroupWriter

RETRY_AFTER_S: Final = 5.0


class Archive:
    """Each snapshot is read by a thread and a connection of its own; restoring goes through the writer, block by block."""

    def __init__(
        self, path: Path, live: Callable[[str], LiveGallery], writer: GroupWriter, limits: GalleryLimits
    ) -> None:
        """`path` is the database; `live` finds a gallery, or raises NotFoundError."""
        self._path = path
        self._live = live
        self._writer = writer
        self._limits = limits
        self._reading = 0
        self._restoring: set[str] = set()

    async def snapshot(self, name: str, deadline_s: float | None) -> AsyncGenerator[bytes, None]:
        """See `types.Gallery.snapshot`."""
        info = self._live(name).info
        if self._reading >= self._limits.snapshots_in_flight:
            raise OverloadedError(f"{self._reading} snapshots are being made already", RETRY_AFTER_S)
        self._reading += 1
        executor = ThreadPoolExecutor(1, "gallery-snapshot")
        blocks = SnapshotReader(self._path, info).blocks()
        loop = asyncio.get_running_loop()
        try:
            while (block := await within(loop.run_in_executor(executor, next, blocks, None), deadline_s)) is not None:
                yield block
        finally:
            self._reading -= 1
            executor.submit(blocks.close)  # its connection is its thread's
            executor.shutdown(wait=False)

    async def restore(self, name: str, content: AsyncIterator[bytes], deadline_s: float | None) -> None:
        """See `types.Gallery.restore`."""
        check_name(name)
        if name in self._restoring:
            raise PreconditionError(f'gallery "{name}" is being restored already')
        self._restoring.add(name)
        try:
            parser = SnapshotParser(content, self._limits)
            header = await within(parser.header(), deadline_s)
            self._check(header)
            await self._fill(name, parser, header, deadline_s)
        finally:
            self._restoring.discard(name)

    async def _fill(self, name: str, parser: SnapshotParser, header: SnapshotHeader, deadline_s: float | None) -> None:
        begin = BeginRestore(name, header.encoder_fingerprint, header.dimension, header.options, header.create_time_s)
        draft = (await self._writer.write(begin, deadline_s)).generation
        try:
            blocks = parser.items()
            while (items := await within(anext(blocks, None), deadline_s)) is not None:
                await self._writer.write(AddRestored(name, draft, items), deadline_s)
            await self._writer.write(PublishRestored(name, draft, header.sequence), deadline_s)
        except BaseException:
            await self._drop(name, draft)
            raise

    async def _drop(self, name: str, draft: int) -> None:
        """Delete what was restored in vain. Where that fails too, the next gallery of the name or the next start does it."""
        while True:
            try:
                await asyncio.shield(self._writer.write(DiscardDraft(name, draft), None))
            except OverloadedError as error:
                await asyncio.sleep(error.retry_after_s)
            except ShituError:
                return
            else:
                return

    def _check(self, header: SnapshotHeader) -> None:
        check_text("encoder_fingerprint", header.encoder_fingerprint, self._limits.fingerprint_characters)
        check_range("dimension", header.dimension, self._limits.dimension)
        check_fields(header.options.fields, self._limits)
