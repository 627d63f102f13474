"""Messages of gallery.proto and the gallery's values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from google.protobuf import struct_pb2, timestamp_pb2
from numpy.typing import NDArray

from shitu.v1 import gallery_pb2, types_pb2
from shitu_server.errors import InvalidArgumentError
from shitu_server.types import (
    Added,
    GalleryInfo,
    GalleryState,
    Hit,
    Item,
    ItemUpdate,
    JsonValue,
    Metadata,
    NewItem,
    SearchOptions,
    SearchResult,
    Vectors,
)
from shitu_server.wire.filters import filter_message
from shitu_server.wire.options import (
    field_messages,
    index_kind_value,
    index_status_message,
    index_status_of,
    metric_value,
    options_of,
)

MOST_NESTING: Final = 32
"""Of metadata; protobuf itself refuses to read messages nested over 100 deep."""


def vector_message(vector: NDArray[np.float32]) -> types_pb2.Vector:
    """Return float32 [dimension] as a message."""
    return types_pb2.Vector(data=vector.astype("<f4", copy=False).tobytes(), dimension=vector.shape[0])


def vector_of(message: types_pb2.Vector, field: str) -> NDArray[np.float32]:
    """Return float32 [dimension].

    Raises:
        InvalidArgumentError: the bytes are not 4 for each number, or there is no number.
    """
    if message.dimension < 1 or len(message.data) != 4 * message.dimension:
        raise InvalidArgumentError(
            field,
            "expected 4 bytes (float32, little-endian) for each of at least 1 numbers, "
            f"came {len(message.data)} bytes for a dimension of {message.dimension}",
        )
    return np.frombuffer(message.data, dtype="<f4").astype(np.float32, copy=False)


def state_message(state: GalleryState) -> types_pb2.GalleryState:
    """Return the state of a gallery as a message."""
    return types_pb2.GalleryState(generation=state.generation, sequence=state.sequence)


def state_of(message: types_pb2.GalleryState) -> GalleryState:
    """Return the state that a message tells."""
    return GalleryState(message.generation, message.sequence)


def gallery_message(info: GalleryInfo) -> gallery_pb2.Gallery:
    """Return a gallery as it is listed."""
    return gallery_pb2.Gallery(
        name=info.name,
        encoder_fingerprint=info.encoder_fingerprint,
        dimension=info.dimension,
        item_count=info.item_count,
        state=state_message(info.state),
        create_time=_timestamp(info.create_time_s),
        metric=metric_value(info.options.metric),
        index_kind=index_kind_value(info.options.index_kind),
        fields=field_messages(info.options),
        aliases=info.aliases,
        index=index_status_message(info.index),
        previous_generation=info.previous_generation,
    )


def gallery_of(message: gallery_pb2.Gallery) -> GalleryInfo:
    """Return the gallery that a message tells of."""
    return GalleryInfo(
        name=message.name,
        encoder_fingerprint=message.encoder_fingerprint,
        dimension=message.dimension,
        item_count=message.item_count,
        state=state_of(message.state),
        create_time_s=_seconds(message.create_time),
        options=options_of(message),
        aliases=tuple(message.aliases),
        index=index_status_of(message.index),
        previous_generation=message.previous_generation,
    )


def new_item_message(item: NewItem) -> gallery_pb2.NewItem:
    """Return an item to store; its thumbnail goes as the image beside the vector."""
    return gallery_pb2.NewItem(
        id=item.id,
        label=item.label,
        metadata=struct_message(item.metadata) if item.metadata else None,
        image=item.thumbnail,
        vector=vector_message(item.vector),
        image_digest=item.image_digest,
    )


def item_update_message(update: ItemUpdate) -> gallery_pb2.ItemUpdate:
    """Return a change of an item as a message."""
    metadata = None if update.metadata is None else struct_message(update.metadata)
    return gallery_pb2.ItemUpdate(id=update.id, label=update.label, metadata=metadata)


def item_update_of(message: gallery_pb2.ItemUpdate, field: str) -> ItemUpdate:
    """Return the change of an item that a message tells. Raises InvalidArgumentError (metadata)."""
    return ItemUpdate(
        message.id,
        message.label if message.HasField("label") else None,
        metadata_of(message.metadata, f"{field}.metadata") if message.HasField("metadata") else None,
    )


def item_message(item: Item) -> gallery_pb2.Item:
    """Return a stored item as a message."""
    return gallery_pb2.Item(
        id=item.id,
        label=item.label,
        metadata=struct_message(item.metadata),
        thumbnail=item.thumbnail,
        vector=None if item.vector is None else vector_message(item.vector),
        update_time=_timestamp(item.update_time_s),
        image_digest=item.image_digest,
        sequence=item.sequence,
    )


def item_of(message: gallery_pb2.Item) -> Item:
    """Return the stored item that a message tells of."""
    return Item(
        id=message.id,
        label=message.label,
        metadata=metadata_of(message.metadata, "metadata"),
        thumbnail=message.thumbnail,
        vector=vector_of(message.vector, "vector") if message.HasField("vector") else None,
        update_time_s=_seconds(message.update_time),
        image_digest=message.image_digest,
        sequence=message.sequence,
    )


def match_message(hit: Hit) -> types_pb2.Match:
    """Return a hit as a message."""
    metadata = struct_message(hit.metadata) if hit.metadata else None
    return types_pb2.Match(item_id=hit.item_id, label=hit.label, score=hit.score, metadata=metadata)


def search_request(
    gallery: str, queries: Vectors, encoder_fingerprint: str, options: SearchOptions
) -> gallery_pb2.SearchRequest:
    """Return a request for the neighbours of vectors, float32 [n, dimension]."""
    return gallery_pb2.SearchRequest(
        gallery=gallery,
        queries=[gallery_pb2.Query(vector=vector_message(query)) for query in queries],
        top_k=options.top_k,
        match_threshold=None if math.isinf(options.min_score) else options.min_score,
        encoder_fingerprint=encoder_fingerprint,
        where=None if options.where is None else filter_message(options.where),
        matches_per_label=options.per_label,
        generation=options.generation,
    )


def search_response(result: SearchResult) -> gallery_pb2.SearchResponse:
    """Return the reply of Search."""
    results = [gallery_pb2.SearchResult(matches=[match_message(hit) for hit in hits]) for hits in result.hits]
    return gallery_pb2.SearchResponse(results=results, state=state_message(result.state))


def search_result_of(message: gallery_pb2.SearchResponse) -> SearchResult:
    """Return what a search found."""
    hits = tuple(
        tuple(Hit(m.item_id, m.label, m.score, _metadata_of_match(m)) for m in result.matches)
        for result in message.results
    )
    return SearchResult(hits, state_of(message.state))


def _metadata_of_match(message: types_pb2.Match) -> Metadata:
    return metadata_of(message.metadata, "metadata") if message.HasField("metadata") else {}


def struct_message(metadata: Metadata) -> struct_pb2.Struct:
    """Return metadata as a message. Numbers become float64, so whole numbers are exact up to 2**53.

    Raises:
        InvalidArgumentError: nested too deeply.
    """
    message = struct_pb2.Struct()
    for name, value in metadata.items():
        _fill(message.fields[name], value, 1)
    return message


def metadata_of(message: struct_pb2.Struct, field: str) -> Metadata:
    """Return the metadata that a message holds; whole numbers come as int.

    Raises:
        InvalidArgumentError: nested too deeply.
    """
    return {name: _value(value, field, 1) for name, value in message.fields.items()}


def _fill(message: struct_pb2.Value, value: JsonValue, depth: int) -> None:
    _check_nesting("metadata", depth)
    if value is None:
        message.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, (int, float)):
        message.number_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, Mapping):
        message.struct_value.SetInParent()
        for name, entry in value.items():
            _fill(message.struct_value.fields[name], entry, depth + 1)
    else:
        message.list_value.SetInParent()
        for entry in value:
            _fill(message.list_value.values.add(), entry, depth + 1)


def _value(message: struct_pb2.Value, field: str, depth: int) -> JsonValue:
    _check_nesting(field, depth)
    kind = message.WhichOneof("kind")
    if kind == "number_value":
        number = message.number_value
        return int(number) if number.is_integer() else number
    if kind == "struct_value":
        return {name: _value(entry, field, depth + 1) for name, entry in message.struct_value.fields.items()}
    if kind == "list_value":
        return [_value(entry, field, depth + 1) for entry in message.list_value.values]
    return None if kind in (None, "null_value") else _plain(message, kind)


def _plain(message: struct_pb2.Value, kind: str) -> str | bool:
    value: str | bool = getattr(message, kind)
    return value


def _check_nesting(field: str, depth: int) -> None:
    if depth > MOST_NESTING:
        raise InvalidArgumentError(field, f"nested over {MOST_NESTING} deep")


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromMicroseconds(round(seconds * 1_000_000))
    return message


def _seconds(message: timestamp_pb2.Timestamp) -> float:
    return message.ToMicroseconds() / 1_000_000


def added_message(added: Added) -> gallery_pb2.AddedItem:
    """Return what became of an item."""
    return gallery_pb2.AddedItem(replaced=added.replaced, duplicate_of=added.duplicate_of, skipped=added.skipped)


def added_of(results: Sequence[gallery_pb2.AddItemResult]) -> tuple[Added, ...]:
    """Return what became of items, of results without an error."""
    outcomes = (result.added for result in results)
    return tuple(Added(added.replaced, added.duplicate_of, added.skipped) for added in outcomes)
