"""What galleries are and hold: plain values, no protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np
from google.protobuf import timestamp_pb2
from numpy.typing import NDArray

from shitu.v1 import gallery_pb2
from shitu_client.results import metadata_of, name_of, vector_of


@dataclass(frozen=True)
class IndexStatus:
    """How a gallery is searched at the moment."""

    kind: str = ""
    """`flat`, `hnsw` or `ivf`."""
    indexed_count: int = 0
    """Items that the graph or the lists hold; the others are compared one by one."""
    building: bool = False
    """Another is being built in the background."""


@dataclass(frozen=True)
class GalleryInfo:
    """A gallery."""

    name: str
    encoder_fingerprint: str
    dimension: int
    item_count: int
    generation: int
    sequence: int
    metric: str = ""
    """`inner_product` or `l2`."""
    index_kind: str = ""
    """As it was asked for: `auto`, `flat`, `hnsw` or `ivf`."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Name and type (`string`, `number`, `boolean`) of what filters may name, besides `label` and `id`."""
    aliases: tuple[str, ...] = ()
    index: IndexStatus = IndexStatus()
    previous_generation: int = 0
    """The one that a rollback would bring back; 0 where there is none."""
    create_time: datetime | None = None


@dataclass(frozen=True)
class Item:
    """A stored item; lists leave `thumbnail` empty and `vector` None."""

    id: str
    label: str
    metadata: Mapping[str, Any]
    thumbnail: bytes
    vector: NDArray[np.float32] | None
    update_time: datetime | None = None
    image_digest: bytes = b""
    """Of the picture and the part of it, see `shitu_client.digests`; empty where the item came as a vector only."""
    sequence: int = 0
    """Number of the write that changed the item last."""


@dataclass(frozen=True)
class ItemPage:
    """A part of a list; `next_page_token` is empty on the last one."""

    items: tuple[Item, ...]
    next_page_token: str


@dataclass(frozen=True)
class ReembedProgress:
    """How far re-embedding is; writes that come meanwhile may change both counts."""

    embedded_count: int
    item_count: int
    published: GalleryInfo | None
    """In the last one: the gallery with its new generation."""


@dataclass(frozen=True)
class Capabilities:
    """What the server's gallery backend promises; see `GetCapabilitiesResponse` in gallery.proto."""

    backend: str
    """`embedded` or `milvus`."""
    thumbnails: bool
    lists_oldest_first: bool
    ties_oldest_first: bool
    exact_sequences: bool
    all_or_nothing: bool
    snapshots: bool
    reembedding: bool
    l2: bool
    index_kinds: tuple[str, ...]


def gallery_of(message: gallery_pb2.Gallery) -> GalleryInfo:
    """Return a gallery."""
    return GalleryInfo(
        message.name,
        message.encoder_fingerprint,
        message.dimension,
        message.item_count,
        message.state.generation,
        message.state.sequence,
        metric=name_of(gallery_pb2.Metric, message.metric, "METRIC_"),
        index_kind=_index_kind(message.index_kind),
        fields={one.name: name_of(gallery_pb2.FieldType, one.type, "FIELD_TYPE_") for one in message.fields},
        aliases=tuple(message.aliases),
        index=IndexStatus(_index_kind(message.index.kind), message.index.indexed_count, message.index.building),
        previous_generation=message.previous_generation,
        create_time=_time_of(message.create_time) if message.HasField("create_time") else None,
    )


def item_of(message: gallery_pb2.Item) -> Item:
    """Return an item."""
    return Item(
        message.id,
        message.label,
        metadata_of(message.metadata),
        message.thumbnail,
        vector_of(message.vector) if message.HasField("vector") else None,
        update_time=_time_of(message.update_time) if message.HasField("update_time") else None,
        image_digest=message.image_digest,
        sequence=message.sequence,
    )


def reembed_progress_of(message: gallery_pb2.ReembedResponse) -> ReembedProgress:
    """Return how far re-embedding is."""
    published = gallery_of(message.published) if message.HasField("published") else None
    return ReembedProgress(message.embedded_count, message.item_count, published)


def capabilities_of(message: gallery_pb2.GetCapabilitiesResponse) -> Capabilities:
    """Return what a backend promises."""
    return Capabilities(
        backend=message.backend,
        thumbnails=message.thumbnails,
        lists_oldest_first=message.lists_oldest_first,
        ties_oldest_first=message.ties_oldest_first,
        exact_sequences=message.exact_sequences,
        all_or_nothing=message.all_or_nothing,
        snapshots=message.snapshots,
        reembedding=message.reembedding,
        l2=message.l2,
        index_kinds=tuple(map(_index_kind, message.index_kinds)),
    )


def _index_kind(value: int) -> str:
    return name_of(gallery_pb2.IndexKind, value, "INDEX_KIND_")


def _time_of(stamp: timestamp_pb2.Timestamp) -> datetime:
    moment: datetime = stamp.ToDatetime(tzinfo=timezone.utc)
    return moment
