"""Items on their way into a gallery, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shitu.v1 import gallery_pb2, types_pb2
from shitu_client.errors import ShituClientError, error_of_status
from shitu_client.results import Box

MAX_ITEMS_PER_REQUEST: Final = 32
"""With pictures: each is decoded and embedded within the time of one request."""
MAX_VECTORS_PER_REQUEST: Final = 256
MAX_BYTES_PER_REQUEST: Final = 16 * 1024 * 1024
MAX_UPDATES_PER_REQUEST: Final = 256


@dataclass(frozen=True)
class NewItem:
    """A product picture, a vector, or both. `id` is unique in its gallery: the same id again replaces the item."""

    id: str
    label: str
    image: bytes = b""
    """JPEG, PNG, WebP or BMP; embedded by the server where there is no vector."""
    box: Box | None = None
    """The part of the picture that shows the product, in pixels; the whole picture where None."""
    vector: ArrayLike | None = None
    """[dimension], any length but 0."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    detect: bool = False
    """The picture shows more than the product: the object that the detector is surest of is taken. Excludes `box`."""

    def to_message(self) -> gallery_pb2.NewItem:
        """Return the item as it is sent."""
        message = gallery_pb2.NewItem(id=self.id, label=self.label, image=self.image, detect=self.detect)
        message.metadata.update(dict(self.metadata))
        if self.box is not None:
            message.box.CopyFrom(types_pb2.Box(**self.box._asdict()))
        if self.vector is not None:
            message.vector.CopyFrom(vector_message(self.vector))
        return message


@dataclass(frozen=True)
class ItemUpdate:
    """What shall change of an item that is there; its vector stays."""

    id: str
    label: str | None = None
    """None leaves it as it is."""
    metadata: Mapping[str, Any] | None = None
    """Replaces all metadata; None leaves it as it is."""

    def to_message(self) -> gallery_pb2.ItemUpdate:
        """Return the update as it is sent."""
        message = gallery_pb2.ItemUpdate(id=self.id, label=self.label)
        if self.metadata is not None:
            # Set even where it is empty: that takes all metadata away.
            message.metadata.SetInParent()
            message.metadata.update(dict(self.metadata))
        return message


@dataclass(frozen=True)
class ItemFailure:
    """An item that the server refused; the others of its request are stored."""

    id: str
    error: ShituClientError


@dataclass(frozen=True)
class Duplicate:
    """An item that was made of the same picture as another one of the gallery."""

    id: str
    of_id: str
    skipped: bool
    """It was left out for that."""


@dataclass(frozen=True)
class AddOutcome:
    """What became of items, each in one of `added_ids`, `replaced_ids`, skipped `duplicates` and `failures`.

    Where the server was called again because it was restarting, an item may count as replaced that is new: the first call had
    stored it.
    """

    added_ids: tuple[str, ...] = ()
    replaced_ids: tuple[str, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    """Also those that were stored."""
    failures: tuple[ItemFailure, ...] = ()

    @property
    def stored_count(self) -> int:
        """Items that are in the gallery now as they were sent."""
        return len(self.added_ids) + len(self.replaced_ids)

    @property
    def skipped(self) -> tuple[Duplicate, ...]:
        """Duplicates that were left out."""
        return tuple(one for one in self.duplicates if one.skipped)


def merged(outcomes: Sequence[AddOutcome]) -> AddOutcome:
    """Return what several calls did together, in their order."""
    return AddOutcome(
        tuple(chain.from_iterable(one.added_ids for one in outcomes)),
        tuple(chain.from_iterable(one.replaced_ids for one in outcomes)),
        tuple(chain.from_iterable(one.duplicates for one in outcomes)),
        tuple(chain.from_iterable(one.failures for one in outcomes)),
    )


def add_outcome_of(response: gallery_pb2.AddItemsResponse) -> AddOutcome:
    """Return what one call did."""
    failed = [result for result in response.results if result.HasField("error")]
    done = [(result.id, result.added) for result in response.results if not result.HasField("error")]
    return AddOutcome(
        tuple(item_id for item_id, added in done if not added.replaced and not added.skipped),
        tuple(item_id for item_id, added in done if added.replaced and not added.skipped),
        tuple(Duplicate(item_id, added.duplicate_of, added.skipped) for item_id, added in done if added.duplicate_of),
        tuple(ItemFailure(result.id, error_of_status(result.error)) for result in failed),
    )


def vector_message(vector: ArrayLike) -> types_pb2.Vector:
    """Return [dimension] numbers as they are sent."""
    values: NDArray[np.float32] = np.ascontiguousarray(vector, dtype="<f4")
    return types_pb2.Vector(data=values.tobytes(), dimension=values.size)


def chunked(items: Iterable[NewItem]) -> Iterator[list[NewItem]]:
    """Split items into requests that stay under the server's limits of count and bytes."""
    chunk: list[NewItem] = []
    size, most = 0, MAX_VECTORS_PER_REQUEST
    for item in items:
        most = MAX_ITEMS_PER_REQUEST if item.image else most
        if chunk and (len(chunk) >= most or size + len(item.image) > MAX_BYTES_PER_REQUEST):
            yield chunk
            chunk, size = [], 0
            most = MAX_ITEMS_PER_REQUEST if item.image else MAX_VECTORS_PER_REQUEST
        chunk.append(item)
        size += len(item.image)
    if chunk:
        yield chunk


def updates_chunked(updates: Sequence[ItemUpdate]) -> Iterator[Sequence[ItemUpdate]]:
    """Split updates into requests."""
    for start in range(0, len(updates), MAX_UPDATES_PER_REQUEST):
        yield updates[start : start + MAX_UPDATES_PER_REQUEST]
