"""Values that the layers exchange. No protobuf, no framework: conversions stand at the edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True)
class NewItem:
    """An item to store. The store normalises the vector."""

    id: str
    label: str
    vector: NDArray[np.float32]
    """float32 [dimension], finite, not all zero."""
    metadata: Metadata = field(default_factory=dict)
    thumbnail: bytes = b""
    """JPEG, or empty."""


@dataclass(frozen=True)
class Item:
    """A stored item."""

    id: str
    label: str
    metadata: Metadata
    thumbnail: bytes
    vector: NDArray[np.float32] | None
    """float32 [dimension], L2-normalised; None in lists."""
    update_time_s: float


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list; `next_token` is empty on the last one."""

    entries: tuple[T, ...]
    next_token: str


@dataclass(frozen=True)
class Hit:
    """An item that was found."""

    item_id: str
    label: str
    score: float
    """Inner product of L2-normalised vectors, -1..1."""
    metadata: Metadata


@dataclass(frozen=True)
class SearchResult:
    """Hits of each query, best first; of equal scores the older item first."""

    hits: tuple[tuple[Hit, ...], ...]
    state: GalleryState


@dataclass(frozen=True)
class AddResult:
    """Whether each item, in the order given, replaced one of the same id."""

    replaced: tuple[bool, ...]
    state: GalleryState


@dataclass(frozen=True)
class RemoveResult:
    """Ids that were there and are gone."""

    removed_ids: tuple[str, ...]
    state: GalleryState


class Gallery(Protocol):
    """Galleries of vectors: in this process (`gallery.embedded`) or behind a socket (`gallery.client`).

    A write is durable and visible to the next search, wherever it comes from, before the call returns. Every method may raise
    UnavailableError, OverloadedError, DeadlineExceededError and InternalError beside those named.
    `deadline_s` is a time of `time.monotonic()`; None waits for the implementation's own limit.
    """

    async def create(
        self, name: str, encoder_fingerprint: str, dimension: int, *, deadline_s: float | None = None
    ) -> GalleryInfo:
        """Raises AlreadyExistsError, InvalidArgumentError (name, dimension), StorageError."""

    async def get(self, name: str, *, deadline_s: float | None = None) -> GalleryInfo:
        """Raises NotFoundError."""

    async def list_galleries(
        self, page_size: int, page_token: str, *, deadline_s: float | None = None
    ) -> Page[GalleryInfo]:
        """Ordered by name. Raises InvalidArgumentError (page_size, page_token)."""

    async def delete(self, name: str, *, deadline_s: float | None = None) -> None:
        """Raises NotFoundError, StorageError."""

    async def add(
        self, name: str, items: Sequence[NewItem], encoder_fingerprint: str, *, deadline_s: float | None = None
    ) -> AddResult:
        """All items or none. Raises NotFoundError, EncoderMismatchError (fingerprint or length), InvalidArgumentError, StorageError."""

    async def remove(self, name: str, ids: Sequence[str], *, deadline_s: float | None = None) -> RemoveResult:
        """Unknown ids are passed over. Raises NotFoundError, InvalidArgumentError, StorageError."""

    async def list_items(
        self, name: str, page_size: int, page_token: str, label: str = "", *, deadline_s: float | None = None
    ) -> Page[Item]:
        """Oldest first, without vectors and thumbnails. Raises NotFoundError, InvalidArgumentError (page_size, page_token)."""

    async def get_item(self, name: str, item_id: str, *, deadline_s: float | None = None) -> Item:
        """Raises NotFoundError (gallery or item)."""

    async def search(
        self,
        name: str,
        queries: Vectors,
        encoder_fingerprint: str,
        *,
        top_k: int,
        min_score: float = -1.0,
        deadline_s: float | None = None,
    ) -> SearchResult:
        """Queries are float32 [n, dimension], any n from 1 on, and need not be normalised.

        Many go in parts. Every part holds all writes up to the state that is returned; one may hold later writes too.
        Raises NotFoundError, EncoderMismatchError, InvalidArgumentError (NaN, all zero, no query, top_k, or more metadata than one
        call can bring).
        """


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
