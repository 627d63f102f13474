"""Graphs and lists for the search are built in the background, one after another, and kept in files beside the database."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
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
    generation: int
    neighbours: Neighbours | None
    """None where it failed."""


@dataclass(eq=False)
class _Order:
    index: GalleryIndex
    generation: int
    sequence: int | None
    job: BuildJob
    is_wanted: bool = True


class IndexFiles:
    """Derived: whatever is missing or damaged is built anew."""

    def __init__(self, directory: Path, identity: str) -> None:
        self._folder = directory / FOLDER_NAME
        self._identity = identity
        self._gone: set[int] = set()

    def save(self, generation: int, sequence: int, neighbours: Neighbours) -> None:
        """Keep an index, in place of the one of that generation before it. Raises OSError, RuntimeError where the disk refuses.

        The generation may be removed meanwhile, by another thread: then nothing is kept.
        """
        self._folder.mkdir(exist_ok=True)
        stamp: dict[str, JsonValue] = {"identity": self._identity, "sequence": sequence}
        try:
            neighbours.save(self._folder, str(generation), stamp)
        except (OSError, RuntimeError):  # the latter is of FAISS
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

    def check(self, generation: int, sequence: int) -> None:
        """Remove what was kept of a generation where it is of another history: later, a rollback gives it a greater state."""
        self.load(generation, sequence)

    def remove(self, generation: int) -> None:
        """Remove what was kept of a generation that is no more."""
        self._gone.add(generation)
        self._unlink(generation)

    def _unlink(self, generation: int) -> None:
        for path in self._folder.glob(f"{generation}.*"):
            with contextlib.suppress(OSError):  # it is not loaded in any case
                path.unlink(missing_ok=True)

    def keep_only(self, generations: set[int]) -> None:
        """Remove what was kept of generations that are no more."""
        for path in self._folder.glob("*"):
            number = path.name.partition(".")[0]
            if not number.isdecimal() or int(number) not in generations:
                with contextlib.suppress(OSError):  # none of ours, such as the lost+found of a disk
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
        self._open: list[_Order] = []
        """Those that wait, and the one that is worked on."""
        self._thread: threading.Thread | None = None

    def submit(self, index: GalleryIndex, generation: int, sequence: int | None, job: BuildJob) -> None:
        """Build what an index wishes for when those before it are done; keep it as of a state, or not at all where that is None."""
        order = _Order(index, generation, sequence, job)
        self._open.append(order)
        self._orders.put(order)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gallery-builder", daemon=True)
            self._thread.start()

    def cancel(self, generation: int) -> None:
        """Stop what is being built for a generation, and begin nothing that was ordered for it; it may order again."""
        self._cancel([order for order in tuple(self._open) if order.generation == generation])

    def close(self) -> None:
        """Stop, and begin nothing more."""
        self._closing = True
        self._cancel(tuple(self._open))
        self._orders.put(None)

    def _cancel(self, orders: Sequence[_Order]) -> None:
        for order in orders:
            order.is_wanted = False
            order.job.cancel()

    def _run(self) -> None:
        while (order := self._orders.get()) is not None and not self._closing:
            if order.is_wanted:
                self._work(order)
            self._open.remove(order)

    def _work(self, order: _Order) -> None:
        neighbours = self._built(order)
        self.finished.append(Built(order.index, order.generation, neighbours))
        self._on_built()
        if neighbours is not None and order.sequence is not None:
            self._save(order.generation, order.sequence, neighbours)

    def _built(self, order: _Order) -> Neighbours | None:
        try:
            return order.job.run()
        except BuildCancelledError:
            return None
        except Exception:  # noqa: BLE001  # whatever it is: every vector is compared until the next build
            _log.exception("the index of generation %d cannot be built", order.generation)
            return None

    def _save(self, generation: int, sequence: int, neighbours: Neighbours) -> None:
        try:
            self._files.save(generation, sequence, neighbours)
        except Exception as error:  # noqa: BLE001  # FAISS raises RuntimeError where the disk is full
            _log.warning(
                "the index of generation %d cannot be kept, and is built anew after a restart: %s", generation, error
            )
