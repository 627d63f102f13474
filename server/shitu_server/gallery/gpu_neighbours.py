"""All rows of a flat gallery in the memory of a GPU, to be compared there. It is a copy: what it finds is scored again from the rows.

FAISS' GPU indexes are not safe even for two threads that only search. The batches of searches come from one thread; a lock keeps
whoever else asks away.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import faiss as untyped_faiss
import numpy as np

from shitu_server.gallery.exact import METRICS, Scores, nearly
from shitu_server.gallery.neighbours import BuildCancelledError, Neighbours, Origin, Positions
from shitu_server.types import IndexKind, JsonValue, Vectors

_log = logging.getLogger(__name__)

faiss: Any = untyped_faiss  # its types do not name what only the GPU's package has

MOST_REACH: Final = 2048
"""Nearest rows that FAISS finds on a GPU at once."""
READ_BYTES_PER_US: Final = 300_000
"""Memory bandwidth of a T4 (320 GB/s by its data sheet), of which a batch of queries reads all rows about once."""
SCRATCH_BYTES: Final = 256 * 1024 * 1024
"""FAISS takes 1.5 GB of a GPU for itself where nobody says how much (facebookresearch/faiss#779)."""


def gpu_count() -> int:
    """Return how many GPUs FAISS can use here: none with its package for CPUs."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0


class GpuNeighbours(Neighbours):
    """Finds the nearest rows exactly. Once the GPU fails it finds nothing more, and all rows are compared on the CPU."""

    kind: ClassVar[IndexKind] = IndexKind.FLAT

    def __init__(self, origin: Origin, index: Any) -> None:
        super().__init__(origin)
        self._index = index
        self._searching = threading.Lock()
        self._is_broken = False

    @classmethod
    def built(cls, origin: Origin, batches: Iterable[Vectors], cancelled: threading.Event) -> GpuNeighbours:
        """Copy rows to the GPU.

        Args:
            origin: of the rows.
            batches: float32 [any, dimension], by position.
            cancelled: once set, BuildCancelledError is raised before the next batch.

        Raises:
            BuildCancelledError: it was cancelled.
            RuntimeError: the GPU's memory is too small, or it fails.
        """
        index = device_index(origin)
        for batch in batches:
            if cancelled.is_set():
                raise BuildCancelledError
            index.add(np.ascontiguousarray(batch))
        return cls(origin, index)

    def cost_us(self, reach: int) -> float:
        """See `Neighbours`. An estimate: it decides only whether all rows are compared on the CPU instead."""
        if self._is_broken or reach > MOST_REACH:
            return math.inf
        return self.count * self.origin.dimension * 4 / READ_BYTES_PER_US

    def find(self, queries: Vectors, reach: int) -> tuple[Scores, Positions]:
        """See `Neighbours`; exactly the nearest."""
        try:
            with self._searching:
                distances, positions = self._index.search(np.ascontiguousarray(queries), min(reach, self.count))
        except RuntimeError:
            _log.exception("the GPU fails; galleries are searched on the CPU until the process is started again")
            self._is_broken = True
            shape = (len(queries), 1)
            return np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1)
        return nearly(distances, self.origin.metric), positions

    def extends_to(self, count: int) -> bool:  # noqa: ARG002  # copying all takes less than a second for a million rows
        """See `Neighbours`: never, since rows cannot be added to an index that is searched."""
        return False

    def save(self, folder: Path, name: str, stamp: Mapping[str, JsonValue]) -> None:
        """Keep nothing: it is made of the rows again sooner than it could be read."""


def device_index(origin: Origin) -> Any:
    """Return an empty flat index in the memory of the first GPU, in float32."""
    settings = faiss.GpuIndexFlatConfig()
    settings.device = 0
    settings.useFloat16 = False
    return faiss.GpuIndexFlat(_resources(), origin.dimension, METRICS[origin.metric], settings)


@functools.cache
def _resources() -> Any:
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(SCRATCH_BYTES)
    return resources
