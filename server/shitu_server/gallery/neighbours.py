"""Finding rows that may be the nearest without comparing all: a graph of neighbours (HNSW), or lists around centroids (IVF).

Either is made of a fixed set of rows, its positions, and only generates candidates: what it finds is scored again from the float32
rows. It is never changed while it can be searched, since FAISS segfaults then: taking rows in makes another. Rows that died stay in it.

Nor are dead rows or those that a filter does not allow passed over inside (FAISS has selectors for that): who asks for more than he
needs and drops them himself sees whether enough of the nearest were left. A selector fills up with allowed rows that happened to lie
by the way, and nobody knows what nearer ones it missed: where 3 of 100 rows were allowed, all queries got enough (efSearch 64), and 64
of 100 of that was right.

FAISS compares by L2 under both metrics; of L2-normalised vectors the order is the same. Of vectors that are near to one another, 16 bits
tell the distances much better than the inner products: of heaps as narrow as pictures of the same thing, 0.996 against 0.91 of the
nearest ten were found.
"""

from __future__ import annotations

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final, cast

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from shitu_server.gallery.exact import Places, Scores, nearly
from shitu_server.gallery.index_files import read_files, write_files
from shitu_server.types import IndexKind, JsonValue, Metric, Vectors

_log = logging.getLogger(__name__)

faiss: Any = untyped_faiss  # its types name neither the Python forms of its constructors nor all of its classes

Positions = NDArray[np.int64]

GONE: Final = -1
"""Instead of the id of a row that died before the index was built or extended."""

FP16_GREATEST: Final = 65504.0

WIDTH_STEP: Final = 1.3


class BuildCancelledError(Exception):
    """The building was cancelled."""


@dataclass(frozen=True)
class Origin:
    """What an index was made of, beside the vectors."""

    metric: Metric
    dimension: int
    row_ids: NDArray[np.int64]
    """int64 [m], of each position; GONE where the row is no more."""
    scale: float
    """Vectors and queries are multiplied by it, a power of two: 16-bit numbers reach from 6e-8 to 65504 only."""
    trained_count: int
    """Rows that there were when the lists were made."""
    widths: Mapping[int, int] = field(default_factory=dict)
    """How widely one must look to find the nearest 10, 100 ..., ascending; see `calibration`."""


@dataclass(frozen=True)
class Indexed:
    """Graph or lists, and which of their rows still live."""

    neighbours: Neighbours
    places: Places
    """int64 [m], of each position; of the dead it is of no use."""
    alive: NDArray[np.bool_]
    """bool [m]."""
    alive_count: int


class Neighbours(ABC):
    """Finds candidates among m rows. It does not change; any number of threads may search it, unless a subclass says otherwise."""

    kind: ClassVar[IndexKind]

    def __init__(self, origin: Origin) -> None:
        self.origin: Final = origin

    @property
    def count(self) -> int:
        """Positions, dead ones too."""
        return len(self.origin.row_ids)

    @abstractmethod
    def cost_us(self, reach: int) -> float:
        """Return about how many microseconds `find` takes for a query of 512 numbers, see `exact.exact_us`."""

    @abstractmethod
    def find(self, queries: Vectors, reach: int) -> tuple[Scores, Positions]:
        """Return the nearest rows, dead ones too; of 100 that should be among them 99 are.

        Args:
            queries: float32 [n, dimension].
            reach: rows wanted of each query.

        Returns:
            Scores float32 [n, reach or less], nearly right; and positions int64 of the same shape, -1 where there are no more.
        """

    def extends_to(self, count: int) -> bool:  # noqa: ARG002  # of subclasses
        """Return whether rows may be taken in until there are so many, rather than building anew."""
        return True

    @abstractmethod
    def save(self, folder: Path, name: str, stamp: Mapping[str, JsonValue]) -> None:
        """Replace what is there under a name, at once and durably.

        Args:
            folder: is there.
            name: of letters, digits and hyphens.
            stamp: returned by `load`: which state of the gallery this was built of, that is, when `GalleryIndex.wish` returned the
                job.

        Raises:
            OSError: the disk refuses; what was there before is still there.
        """

    @classmethod
    def load(cls, folder: Path, name: str) -> tuple[Neighbours, Mapping[str, JsonValue]] | None:
        """Return what was saved and its stamp; None where nothing usable is there: it is built anew."""
        return _loaded(folder, name)


class FaissNeighbours(Neighbours):
    """On a FAISS index that holds 16-bit copies of the vectors."""

    LEAST_WIDTH: ClassVar[int]

    def __init__(self, origin: Origin, index: Any) -> None:
        super().__init__(origin)
        self._index = index
        self._widths: dict[int, int] = {}

    @property
    @abstractmethod
    def most_width(self) -> int:
        """What is never looked beyond."""

    def next_width(self, width: int) -> int:
        """Return a somewhat greater width."""
        return min(self.most_width, math.ceil(width * WIDTH_STEP))

    def width(self, reach: int) -> int:
        """Return how widely to look, by what was measured for some reaches."""
        if reach not in self._widths:
            reaches = list(self.origin.widths) or [1]
            widths = [self.origin.widths.get(one, self.LEAST_WIDTH) for one in reaches]
            width = float(np.exp(np.interp(math.log(reach), np.log(reaches), np.log(widths))))
            self._widths[reach] = min(self.most_width, round(width * max(1.0, reach / reaches[-1])))
        return self._widths[reach]

    def find(self, queries: Vectors, reach: int) -> tuple[Scores, Positions]:
        """See `Neighbours`."""
        return self.looked_up(queries, reach, self.width(reach))

    def looked_up(self, queries: Vectors, reach: int, width: int) -> tuple[Scores, Positions]:
        """Return what `find` does, looking so widely."""
        distances, positions = self._index.search(
            _scaled(queries, self.origin), min(reach, self.count), params=self._parameters(width)
        )
        scale = np.float32(self.origin.scale)
        with np.errstate(over="ignore"):  # where there are no more
            return nearly(distances / scale / scale, Metric.L2), positions

    def with_widths(self, widths: Mapping[int, int]) -> FaissNeighbours:
        """Return the same with other widths."""
        return type(self)(replace(self.origin, widths=widths), self._index)

    @classmethod
    @abstractmethod
    def empty_index(cls, origin: Origin, sample: Vectors) -> Any:
        """Return a FAISS index without vectors.

        Args:
            origin: of which it will be.
            sample: float32 [n, dimension], scaled vectors of it, to be trained with.
        """

    @classmethod
    def sample_count(cls, count: int) -> int:  # noqa: ARG003  # of subclasses
        """Return how many vectors of so many `empty_index` wants."""
        return 0

    @classmethod
    def built(
        cls, origin: Origin, sample: Vectors, batches: Iterable[Vectors], cancelled: threading.Event
    ) -> FaissNeighbours:
        """Build anew.

        Args:
            origin: of the vectors.
            sample: float32 [n, dimension], vectors of it.
            batches: all vectors, float32 [any, dimension], by position.
            cancelled: once set, BuildCancelledError is raised before the next batch.
        """
        index = cls.empty_index(origin, _scaled(sample, origin))
        _add(index, origin, batches, cancelled)
        return cls(origin, index)

    def extended(
        self, row_ids: NDArray[np.int64], batches: Iterable[Vectors], cancelled: threading.Event
    ) -> FaissNeighbours:
        """Build another that holds more.

        Args:
            row_ids: int64 [m], of all positions; those of this one come first.
            batches: the vectors of the others, by position.
            cancelled: see `built`.
        """
        origin = Origin(
            self.origin.metric, self.origin.dimension, row_ids, self.origin.scale, self.origin.trained_count
        )
        index = faiss.clone_index(self._index)
        _add(index, origin, batches, cancelled)
        return type(self)(origin, index)

    @abstractmethod
    def _parameters(self, width: int) -> Any: ...

    def save(self, folder: Path, name: str, stamp: Mapping[str, JsonValue]) -> None:
        """See `Neighbours`."""
        origin = self.origin
        content: Mapping[str, JsonValue] = {
            "stamp": stamp,
            "kind": self.kind.value,
            "metric": origin.metric.value,
            "dimension": origin.dimension,
            "count": self.count,
            "scale": origin.scale,
            "trained_count": origin.trained_count,
            "widths": {str(depth): width for depth, width in origin.widths.items()},
        }
        writers = {
            "faiss": lambda path: faiss.write_index(self._index, str(path)),
            "rows": lambda path: path.write_bytes(origin.row_ids.astype("<i8").tobytes()),
        }
        write_files(folder, name, content, writers)


class GraphNeighbours(FaissNeighbours):
    """HNSW."""

    kind = IndexKind.HNSW

    LINKS: Final = 32
    BUILD_WIDTH: Final = 128
    """efConstruction. Of 100,000 rows in clusters a graph of 40, 80, 160 took 11, 17, 33 s to build, and with an efSearch of 48 brought
0.94, 0.992, 0.997 of the nearest ten."""
    LEAST_WIDTH: ClassVar[int] = 48
    """With 32, 2 of 64 queries beside rows in clusters ended in a wrong one; with 48 none."""

    @property
    def most_width(self) -> int:
        """Rows that are looked at: all. See `FaissNeighbours`."""
        return self.count

    def cost_us(self, reach: int) -> float:
        """See `Neighbours`. Measured with 100,000 rows on one thread of a Zen 4; with a million it is up to twice as much."""
        return 30 + 2.0 * max(reach, self.width(reach))

    @classmethod
    def empty_index(cls, origin: Origin, sample: Vectors) -> Any:  # noqa: ARG003  # nothing to train
        """See `FaissNeighbours`."""
        index = faiss.IndexHNSWSQ(origin.dimension, faiss.ScalarQuantizer.QT_fp16, cls.LINKS, faiss.METRIC_L2)
        index.hnsw.efConstruction = cls.BUILD_WIDTH
        return index

    def _parameters(self, width: int) -> Any:
        return faiss.SearchParametersHNSW(efSearch=width)


class ListNeighbours(FaissNeighbours):
    """IVF."""

    kind = IndexKind.IVF

    LEAST_WIDTH: ClassVar[int] = 4
    """With tight clusters 1 or 2 lists hold the nearest ten of the rows, but queries are not rows."""
    ROWS_PER_LIST: Final = 8
    """At least, where there are few rows."""
    SAMPLES_PER_LIST: Final = 64
    """Building 2000 lists of a million rows took 103 s with these, beside other work."""
    RETRAIN_GROWTH: Final = 2

    def extends_to(self, count: int) -> bool:
        """See `Neighbours`: with twice as many rows the lists are too long, and their centroids no longer those of the rows."""
        return count < self.RETRAIN_GROWTH * self.origin.trained_count

    @property
    def most_width(self) -> int:
        """Lists. See `FaissNeighbours`."""
        return int(self._index.nlist)

    @classmethod
    def list_count(cls, count: int) -> int:
        """Return how many lists so many rows are put into."""
        return max(1, min(round(2 * math.sqrt(count)), count // cls.ROWS_PER_LIST))

    @classmethod
    def sample_count(cls, count: int) -> int:
        """See `FaissNeighbours`."""
        return min(count, cls.SAMPLES_PER_LIST * cls.list_count(count))

    def cost_us(self, reach: int) -> float:
        """See `Neighbours`. Measured as for the graph: 0.01 a list, to find those to look through, and 0.05 a row in these."""
        return 0.01 * self.most_width + 0.05 * self.width(reach) * self.count / self.most_width

    @classmethod
    def empty_index(cls, origin: Origin, sample: Vectors) -> Any:
        """See `FaissNeighbours`."""
        metric = faiss.METRIC_L2
        quantizer = faiss.IndexFlat(origin.dimension, metric)
        fp16, residual = faiss.ScalarQuantizer.QT_fp16, False
        count = cls.list_count(origin.trained_count)
        index = faiss.IndexIVFScalarQuantizer(quantizer, origin.dimension, count, fp16, metric, residual)
        index.cp.min_points_per_centroid = 1  # below 39 FAISS warns
        index.train(sample)
        return index

    def _parameters(self, width: int) -> Any:
        return faiss.SearchParametersIVF(nprobe=width)


KINDS: Final[Mapping[IndexKind, type[FaissNeighbours]]] = {
    IndexKind.HNSW: GraphNeighbours,
    IndexKind.IVF: ListNeighbours,
}


def scale_for(vectors: Vectors, metric: Metric) -> float:
    """Return a power of two that brings vectors into the middle of what 16-bit numbers hold; 1 for normalised ones."""
    if metric is Metric.INNER_PRODUCT or not len(vectors):
        return 1.0
    typical = float(np.sqrt(np.mean(np.square(vectors, dtype=np.float64))))
    return 2.0 ** -round(math.log2(typical)) if typical > 0 else 1.0


def set_build_threads(count: int) -> None:
    """Let FAISS use so many threads when it is called by this one."""
    faiss.omp_set_num_threads(count)


def _scaled(vectors: Vectors, origin: Origin) -> Vectors:
    if origin.scale == 1:
        return vectors
    return np.clip(vectors * np.float32(origin.scale), -FP16_GREATEST, FP16_GREATEST)


def _add(index: Any, origin: Origin, batches: Iterable[Vectors], cancelled: threading.Event) -> None:
    for batch in batches:
        if cancelled.is_set():
            raise BuildCancelledError
        index.add(_scaled(batch, origin))
    assert index.ntotal == len(origin.row_ids)


def _loaded(folder: Path, name: str) -> tuple[Neighbours, Mapping[str, JsonValue]] | None:
    read = read_files(folder, name)
    if read is None:
        return None
    content, paths = read
    try:
        return _parsed(content, paths), cast("Mapping[str, JsonValue]", content["stamp"])
    except (KeyError, ValueError, RuntimeError, OSError) as error:
        _log.warning("the index %s in %s cannot be used and is built anew: %s", name, folder, error)
        return None


def _parsed(content: Mapping[str, Any], paths: Mapping[str, Path]) -> Neighbours:
    row_ids = np.fromfile(paths["rows"], dtype="<i8").astype(np.int64)
    origin = Origin(
        Metric(content["metric"]),
        content["dimension"],
        row_ids,
        content["scale"],
        content["trained_count"],
        {int(depth): width for depth, width in content["widths"].items()},
    )
    index = faiss.read_index(str(paths["faiss"]))
    if not index.ntotal == len(row_ids) == content["count"] or index.d != origin.dimension:
        raise ValueError(f"{index.ntotal} vectors of {index.d} numbers and {len(row_ids)} ids")
    return KINDS[IndexKind(content["kind"])](origin, index)
