"""Values that the layers exchange. No protobuf, no framework: conversions stand at the edges."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from shitu_server.filters import Fields, Filter

JsonValue = Union[None, bool, float, str, Sequence["JsonValue"], Mapping[str, "JsonValue"]]
Metadata = Mapping[str, JsonValue]
Picture = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB, upright."""
Vectors = NDArray[np.float32]
"""float32 [n, dimension]."""
T = TypeVar("T")


@dataclass(frozen=True)
class GalleryState:
    """Generation and the number of the last write that is reflected."""

    generation: int
    sequence: int


class Metric(str, Enum):
    """What makes two vectors near. Under both a score is greater the nearer they are, and 1 where they are equal."""

    INNER_PRODUCT = "inner_product"
    """Of L2-normalised vectors, -1..1. The store normalises."""
    L2 = "l2"
    """1 - d**2 / 2 with d the Euclidean distance, at most 1: of L2-normalised vectors the same as the inner product. The store
    keeps vectors as they come."""


class IndexKind(str, Enum):
    """How the vectors of a gallery are searched."""

    AUTO = "auto"
    """Flat while there are few items, IVF from then on."""
    FLAT = "flat"
    """Every vector is compared: exact."""
    HNSW = "hnsw"
    """A graph of neighbours, over 16-bit copies of the vectors; what it finds is scored exactly."""
    IVF = "ivf"
    """Lists around centroids, over 16-bit copies of the vectors; what it finds is scored exactly. Sooner built than HNSW."""


@dataclass(frozen=True)
class GalleryOptions:
    """What a gallery is made with, beside its encoder."""

    metric: Metric = Metric.INNER_PRODUCT
    index_kind: IndexKind = IndexKind.AUTO
    fields: Fields = field(default_factory=dict)
    """Fields of the metadata that filters may name. Items need not have them, but where they do, of this type."""


@dataclass(frozen=True)
class IndexStatus:
    """What the search of a gallery runs on. None of it changes what is found, but how fast."""

    kind: IndexKind
    """FLAT, HNSW or IVF: what stands now."""
    indexed_count: int
    """Items that the graph, the lists or the memory of a GPU hold; the others are compared one by one on the CPU."""
    building: bool
    """Whether another is being built in the background."""


@dataclass(frozen=True)
class GalleryInfo:
    """A gallery as it is listed."""

    name: str
    encoder_fingerprint: str
    dimension: int
    item_count: int
    state: GalleryState
    create_time_s: float
    """Seconds since 1970, UTC."""
    options: GalleryOptions = field(default_factory=GalleryOptions)
    aliases: tuple[str, ...] = ()
    index: IndexStatus = IndexStatus(IndexKind.FLAT, 0, building=False)
    previous_generation: int = 0
    """The generation that a rollback would bring back; 0 where there is none."""


@dataclass(frozen=True)
class NewItem:
    """An item to store. The store normalises the vector, unless the gallery's metric is L2."""

    id: str
    label: str
    vector: NDArray[np.float32]
    """float32 [dimension], finite, not all zero."""
    metadata: Metadata = field(default_factory=dict)
    thumbnail: bytes = b""
    """JPEG, or empty."""
    image_digest: bytes = b""
    """SHA-256 of the picture that the item was made of, and of the part of it; empty where there was none."""


@dataclass(frozen=True)
class ItemUpdate:
    """A change of an item that is there; None leaves as it is."""

    id: str
    label: str | None = None
    metadata: Metadata | None = None
    """Replaces all metadata."""


@dataclass(frozen=True)
class Item:
    """A stored item."""

    id: str
    label: str
    metadata: Metadata
    thumbnail: bytes
    vector: NDArray[np.float32] | None
    """float32 [dimension], as it is stored; None in lists."""
    update_time_s: float
    image_digest: bytes = b""
    sequence: int = 0
    """Number of the write that changed the item last."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list; `next_token` is empty on the last one."""

    entries: tuple[T, ...]
    next_token: str


class Hit(NamedTuple):
    """An item that was found. Thousands are made in a second, each of these in a third of the time of a frozen dataclass."""

    item_id: str
    label: str
    score: float
    """At most 1, see `Metric`."""
    metadata: Metadata


@dataclass(frozen=True)
class SearchResult:
    """Hits of each query, best first; of equal scores the older item first."""

    hits: tuple[tuple[Hit, ...], ...]
    state: GalleryState


@dataclass(frozen=True)
class Added:
    """What became of one item."""

    replaced: bool
    """Whether one of the same id was there before."""
    duplicate_of: str = ""
    """Id of another item that was made of the same picture."""
    skipped: bool = False
    """Whether it was left out for that."""


@dataclass(frozen=True)
class AddResult:
    """What became of each item, in the order given."""

    added: tuple[Added, ...]
    state: GalleryState


@dataclass(frozen=True)
class UpdateResult:
    """Ids that were there and are changed."""

    updated_ids: tuple[str, ...]
    state: GalleryState


@dataclass(frozen=True)
class RemoveResult:
    """Ids that were there and are gone."""

    removed_ids: tuple[str, ...]
    state: GalleryState


@dataclass(frozen=True)
class SearchOptions:
    """What a search asks for."""

    top_k: int
    """Most hits of a query; where they are grouped, most labels."""
    min_score: float = -math.inf
    """Least score of a hit."""
    where: Filter | None = None
    """Which items may be found; all where None."""
    per_label: int = 0
    """Most hits of one label; 0 does not group."""
    generation: int = 0
    """The generation that must answer: the live one, or for a while the one before it; 0 takes the live one."""

    @property
    def most_hits(self) -> int:
        """Of one query."""
        return self.top_k * max(1, self.per_label)


@dataclass(frozen=True)
class Capabilities:
    """What a gallery backend promises beyond the common contract. `gallery.embedded` promises all of it."""

    backend: str
    thumbnails: bool
    """Pictures are kept, and come back with `get_item`."""
    lists_oldest_first: bool
    """`list_items` keeps the order in which items came."""
    ties_oldest_first: bool
    """Of hits with equal scores the older item comes first."""
    exact_sequences: bool
    """A state tells exactly which writes are reflected; else it only grows."""
    all_or_nothing: bool
    """A call that fails half-way leaves nothing behind."""
    snapshots: bool
    reembedding: bool
    """Another generation can be filled beside the live one, published and rolled back."""
    l2: bool
    index_kinds: tuple[IndexKind, ...]


class Gallery(Protocol):
    """Galleries of vectors: in this process (`gallery.embedded`), behind a socket (`gallery.client`), or in Milvus.

    A write is durable and visible to the next search, wherever it comes from, before the call returns. Wherever the name of a
    gallery is taken, an alias will do. Every method may raise UnavailableError, OverloadedError, DeadlineExceededError and
    InternalError beside those named; a backend that cannot do something raises UnsupportedError, see `capabilities`.
    `deadline_s` is a time of `time.monotonic()`; None waits for the implementation's own limit.
    """

    async def capabilities(self, *, deadline_s: float | None = None) -> Capabilities:
        """What this backend promises."""

    async def create(
        self,
        name: str,
        encoder_fingerprint: str,
        dimension: int,
        options: GalleryOptions | None = None,
        *,
        deadline_s: float | None = None,
    ) -> GalleryInfo:
        """Raises AlreadyExistsError (gallery or alias), InvalidArgumentError (name, dimension, fields), StorageError."""

    async def get(self, name: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """The gallery's own name is told, also for an alias. Raises NotFoundError."""

    async def list_galleries(
        self, page_size: int, page_token: str, *, deadline_s: float | None = None
    ) -> Page[GalleryInfo]:
        """Ordered by name. Raises InvalidArgumentError (page_size, page_token)."""

    async def delete(self, name: str, *, deadline_s: float | None = None) -> None:
        """With its aliases; an alias itself is refused. Raises NotFoundError, StorageError, InvalidArgumentError."""

    async def set_alias(self, alias: str, gallery: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """Make an alias, or move it at once for all. Raises NotFoundError, AlreadyExistsError (a gallery), InvalidArgumentError."""

    async def delete_alias(self, alias: str, *, deadline_s: float | None = None) -> None:
        """Raises NotFoundError."""

    async def add(
        self,
        name: str,
        items: Sequence[NewItem],
        encoder_fingerprint: str,
        *,
        skip_duplicates: bool = False,
        deadline_s: float | None = None,
    ) -> AddResult:
        """All items or none, save those that are skipped because another item was made of the same picture.

        Raises NotFoundError, EncoderMismatchError (fingerprint or length), InvalidArgumentError, StorageError.
        """

    async def update_items(
        self, name: str, updates: Sequence[ItemUpdate], *, deadline_s: float | None = None
    ) -> UpdateResult:
        """Unknown ids are passed over. Raises NotFoundError, InvalidArgumentError, StorageError."""

    async def remove(self, name: str, ids: Sequence[str], *, deadline_s: float | None = None) -> RemoveResult:
        """Unknown ids are passed over. Raises NotFoundError, InvalidArgumentError, StorageError."""

    async def list_items(
        self, name: str, page_size: int, page_token: str, label: str = "", *, deadline_s: float | None = None
    ) -> Page[Item]:
        """Oldest first, without vectors and thumbnails. Raises NotFoundError, InvalidArgumentError (page_size, page_token)."""

    async def get_item(self, name: str, item_id: str, *, deadline_s: float | None = None) -> Item:
        """Raises NotFoundError (gallery or item), StorageError (damaged)."""

    async def search(
        self,
        name: str,
        queries: Vectors,
        encoder_fingerprint: str,
        options: SearchOptions,
        *,
        deadline_s: float | None = None,
    ) -> SearchResult:
        """Queries are float32 [n, dimension], any n from 1 on, and need not be normalised.

        Many go in parts. Every part holds all writes up to the state that is returned; one may hold later writes too.
        Raises NotFoundError, EncoderMismatchError, InvalidArgumentError (NaN, all zero, no query, top_k, where, or more metadata
        than one call can bring), UnavailableError (the generation is gone).
        """

    def snapshot(self, name: str, *, deadline_s: float | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes of one file that holds the gallery as it is at the begin. Raises NotFoundError, StorageError."""

    async def restore(
        self, name: str, content: AsyncIterator[bytes], *, deadline_s: float | None = None
    ) -> GalleryInfo:
        """Make a gallery of such a file. Raises AlreadyExistsError, InvalidArgumentError (the file is damaged or none of ours)."""

    async def begin_draft(
        self, name: str, encoder_fingerprint: str, dimension: int, *, deadline_s: float | None = None
    ) -> Draft:
        """Begin another generation for another encoder, beside the live one, or go on with one that was begun.

        A draft of yet another encoder is discarded. Raises NotFoundError, StorageError, PreconditionError (items without pictures).
        """

    async def draft_changes(
        self, name: str, draft: int, most: int, *, deadline_s: float | None = None
    ) -> tuple[Item, ...]:
        """Return up to `most` items, with thumbnails, that the draft lacks or has in an older version; none where it has all.

        Raises NotFoundError (draft).
        """

    async def add_to_draft(
        self, name: str, draft: int, items: Sequence[DraftItem], *, deadline_s: float | None = None
    ) -> None:
        """Put the new vectors of items into the draft; what was changed or removed meanwhile is passed over.

        Raises NotFoundError (draft), InvalidArgumentError, StorageError.
        """

    async def hold_writes(self, name: str, draft: int, seconds: float, *, deadline_s: float | None = None) -> None:
        """Let writes to the gallery wait until the draft is published or discarded, for so long at most. Raises NotFoundError."""

    async def publish(self, name: str, draft: int, *, deadline_s: float | None = None) -> GalleryInfo:
        """Make the draft the live generation, at once for all; the former one can be brought back by `rollback`.

        Raises NotFoundError (draft), PreconditionError (it lacks items: `draft_changes` has more), StorageError.
        """

    async def discard_draft(self, name: str, draft: int, *, deadline_s: float | None = None) -> None:
        """Raises NotFoundError (draft), StorageError."""

    async def rollback(
        self, name: str, *, discard_writes: bool = False, deadline_s: float | None = None
    ) -> GalleryInfo:
        """Bring the former generation back; a second rollback undoes the first.

        Raises NotFoundError, PreconditionError (there is none, or writes since would be lost and `discard_writes` is not set).
        """


@dataclass(frozen=True)
class Draft:
    """A generation that is being filled."""

    generation: int
    item_count: int
    """Items that it holds already."""
    wanted_count: int
    """Items of the live generation."""


@dataclass(frozen=True)
class DraftItem:
    """The new vector of an item."""

    id: str
    sequence: int
    """Of the item that it was made of."""
    vector: NDArray[np.float32]


class BoxSource(Enum):
    """Where an object's box comes from."""

    DETECTED = "detected"
    REQUESTED = "requested"
    WHOLE_IMAGE = "whole_image"


@dataclass(frozen=True)
class Detections:
    """Boxes float32 [n, 4] in pixels of the picture, scores float32 [n], best first."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


class Detector(Protocol):
    """Finds objects."""

    async def detect(self, pixels: NDArray[np.uint8], *, deadline_s: float | None = None) -> Detections:
        """Boxes in input pixels for one resized picture, uint8 [1, S, S, 3]. Raises UnavailableError, OverloadedError, DeadlineExceededError."""


class Encoder(Protocol):
    """Turns crops into vectors."""

    fingerprint: str
    dimension: int

    async def embed(self, pixels: NDArray[np.uint8], *, deadline_s: float | None = None) -> Vectors:
        """float32 [n, dimension], L2-normalised, for uint8 [n, S, S, 3]; n may be over the model's batch. Raises as Detector."""
