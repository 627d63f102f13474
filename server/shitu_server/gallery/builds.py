"""Graphs and lists for the search are built in the background, one after another, and kept in files beside the database."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shitu_server.gallery.index import BuildCancelledError, BuildJob, GalleryIndex, Neighbours
from shitu_server.types import JsonValue

_log = logging.getLogger(__name__)

FOLDER_NAME: Final = "indexes"


@dataclass(frozen=True)
class Built:
    """The end of a build."""

    index: GalleryIndex
    """That wished for it."""
    neighbours: Neighbours | None
    """None where it failed."""


@dataclass(frozen=True)
class _Order:
    index: GalleryIndex
    generation: int
    sequence: int
    job: BuildJob


class IndexFiles:
    """Derived: whatever is missing or damaged is built anew."""

    def __init__(self, directory: Path, identity: str) -> None:
        self._folder = directory / FOLDER_NAME
        self._identity = identity
        self._gone: set[int] = set()

    def save(self, generation: int, sequence: int, neighbours: Neighbours) -> None:
        """Keep an index, in place of the one of that generation before it. Raises OSError where the disk refuses.

        The generation may be removed meanwhile, by another thread: then nothing is kept.
        """
        self._folder.mkdir(exist_ok=True)
        stamp: dict[str, JsonValue] = {"identity": self._identity, "sequence": sequence}
        try:
            neighbours.save(self._folder, str(generation), stamp)
        except OSError:
            if generation not in self._gone:
                raise
        if generation in self._gone:
            self.remove(generation)

    def load(self, generation: int, sequence: int) -> tuple[Neighbours, int] | None:
        """Return what was kept of a generation whose state is `sequence`, and the state that it was built of."""
        loaded = Neighbours.load(self._folder, str(generation)) if self._folder.is_dir() else None
        if loaded is None:
            return None
        neighbours, stamp = loaded
        built_at = stamp.get("sequence")
        # A database that was put back from a copy counts on from an older state: what is newer than it is of another history.
        if stamp.get("identity") != self._identity or not isinstance(built_at, int) or built_at > sequence:
            self._unlink(generation)
            return None
        return neighbours, built_at

    def remove(self, generation: int) -> None:
        """Remove what was kept of a generation that is no more."""
        self._gone.add(generation)
        self._unlink(generation)

    def _unlink(self, generation: int) -> None:
        for path in self._folder.glob(f"{generation}.*"):
            path.unlink(missing_ok=True)

    def keep_only(self, generations: set[int]) -> None:
        """Remove what was kept of generations that are no more."""
        for path in self._folder.glob("*"):
            number = path.name.partition(".")[0]
            if not number.isdecimal() or int(number) not in generations:
                path.unlink(missing_ok=True)


class IndexBuilder:
    """Builds in a thread of its own, which ends with the process: FAISS cannot be stopped in the middle of a batch of vectors."""

    def __init__(self, files: IndexFiles, on_built: Callable[[], None]) -> None:
        """`on_built` is called in that thread, after something was appended to `finished`."""
        self.finished: Final[deque[Built]] = deque()
        self._files = files
        self._on_built = on_built
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._closing = False
        self._unwanted: set[int] = set()
        self._running: _Order | None = None
        self._thread: threading.Thread | None = None

    def submit(self, index: GalleryIndex, generation: int, sequence: int, job: BuildJob) -> None:
        """Build what an index wishes for when those before it are done."""
        self._orders.put(_Order(index, generation, sequence, job))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gallery-builder", daemon=True)
            self._thread.start()

    def cancel(self, generation: int) -> None:
        """Stop what is being built for a generation that is no more, and begin nothing for it."""
        self._unwanted.add(generation)
        running = self._running
        if running is not None and running.generation == generation:
            running.job.cancel()

    def close(self) -> None:
        """Stop, and begin nothing more."""
        self._closing = True
        running = self._running
        if running is not None:
            running.job.cancel()
        self._orders.put(None)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None and not self._closing:
            if order.generation in self._unwanted:
                continue
            self._running = order
            neighbours = self._built(order)
            self._running = None
            self.finished.append(Built(order.index, neighbours))
            self._on_built()
            if neighbours is not None:
                self._save(order, neighbours)

    def _built(self, order: _Order) -> Neighbours | None:
        try:
            return order.job.run()
        except BuildCancelledError:
            return None
        except Exception:  # noqa: BLE001  # whatever it is: every vector is compared until the next build
            _log.exception("the index of generation %d cannot be built", order.generation)
            return None

    def _save(self, order: _Order, neighbours: Neighbours) -> None:
        try:
            self._files.save(order.generation, order.sequence, neighbours)
        except OSError as error:
            _log.warning(
                "the index of generation %d cannot be kept, and is built anew after a restart: %s",
                order.generation,
                error,
            )
