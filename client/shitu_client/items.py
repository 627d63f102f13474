"""Items on their way into a gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shitu.v1 import gallery_pb2, types_pb2
from shitu_client.errors import ShituClientError
from shitu_client.results import Box

MAX_ITEMS_PER_REQUEST: Final = 32
MAX_BYTES_PER_REQUEST: Final = 16 * 1024 * 1024


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

    def to_message(self) -> gallery_pb2.NewItem:
        """Return the item as it is sent."""
        message = gallery_pb2.NewItem(id=self.id, label=self.label, image=self.image)
        message.metadata.update(dict(self.metadata))
        if self.box is not None:
            message.box.CopyFrom(types_pb2.Box(**self.box._asdict()))
        if self.vector is not None:
            message.vector.CopyFrom(vector_message(self.vector))
        return message


@dataclass(frozen=True)
class ItemFailure:
    """An item that the server refused; the others of its request are stored."""

    id: str
    error: ShituClientError


def vector_message(vector: ArrayLike) -> types_pb2.Vector:
    """Return [dimension] numbers as they are sent."""
    values: NDArray[np.float32] = np.ascontiguousarray(vector, dtype="<f4")
    return types_pb2.Vector(data=values.tobytes(), dimension=values.size)


def chunked(items: Sequence[NewItem]) -> Iterator[list[NewItem]]:
    """Split items into requests that stay under the server's limits of count and bytes."""
    chunk: list[NewItem] = []
    size = 0
    for item in items:
        if chunk and (len(chunk) == MAX_ITEMS_PER_REQUEST or size + len(item.image) > MAX_BYTES_PER_REQUEST):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item.image)
    if chunk:
        yield chunk
