"""What galleries are made with and what backends promise, as messages and back."""

from __future__ import annotations

import dataclasses
from typing import Final

from shitu.v1 import gallery_pb2 as pb
from shitu_server.errors import InvalidArgumentError
from shitu_server.filters import FieldType
from shitu_server.types import Capabilities, GalleryOptions, IndexKind, IndexStatus, Metric

_METRICS: Final = {
    pb.METRIC_UNSPECIFIED: Metric.INNER_PRODUCT,
    pb.METRIC_INNER_PRODUCT: Metric.INNER_PRODUCT,
    pb.METRIC_L2: Metric.L2,
}
_INDEX_KINDS: Final = {
    pb.INDEX_KIND_UNSPECIFIED: IndexKind.AUTO,
    pb.INDEX_KIND_AUTO: IndexKind.AUTO,
    pb.INDEX_KIND_FLAT: IndexKind.FLAT,
    pb.INDEX_KIND_HNSW: IndexKind.HNSW,
    pb.INDEX_KIND_IVF: IndexKind.IVF,
}
_FIELD_TYPES: Final = {
    pb.FIELD_TYPE_STRING: FieldType.STRING,
    pb.FIELD_TYPE_NUMBER: FieldType.NUMBER,
    pb.FIELD_TYPE_BOOLEAN: FieldType.BOOLEAN,
}
_METRIC_VALUES: Final = {metric: value for value, metric in _METRICS.items()}
_INDEX_KIND_VALUES: Final = {kind: value for value, kind in _INDEX_KINDS.items()}
_FIELD_TYPE_VALUES: Final = {kind: value for value, kind in _FIELD_TYPES.items()}


def options_of(message: pb.CreateGalleryRequest | pb.Gallery) -> GalleryOptions:
    """Return the options that a message names.

    Raises:
        InvalidArgumentError: a value that this version does not know, or a field that is declared twice.
    """
    if message.metric not in _METRICS:
        raise InvalidArgumentError("metric", f"expected a metric of this version, came {message.metric}")
    if message.index_kind not in _INDEX_KINDS:
        raise InvalidArgumentError("index_kind", f"expected a kind of this version, came {message.index_kind}")
    fields: dict[str, FieldType] = {}
    for i, field in enumerate(message.fields):
        if field.type not in _FIELD_TYPES:
            raise InvalidArgumentError(f"fields[{i}].type", "expected string, number or boolean")
        if field.name in fields:
            raise InvalidArgumentError(f"fields[{i}].name", "expected different names, this one was declared before")
        fields[field.name] = _FIELD_TYPES[field.type]
    return GalleryOptions(_METRICS[message.metric], _INDEX_KINDS[message.index_kind], fields)


def metric_value(metric: Metric) -> pb.Metric:
    """Return a metric as it is sent."""
    return _METRIC_VALUES[metric]


def index_kind_value(kind: IndexKind) -> pb.IndexKind:
    """Return a kind as it is sent."""
    return _INDEX_KIND_VALUES[kind]


def field_messages(options: GalleryOptions) -> list[pb.MetadataField]:
    """Return the declared fields as they are sent."""
    return [pb.MetadataField(name=name, type=_FIELD_TYPE_VALUES[kind]) for name, kind in options.fields.items()]


def index_status_message(status: IndexStatus) -> pb.IndexStatus:
    """Return what a search runs on, as it is sent."""
    return pb.IndexStatus(
        kind=index_kind_value(status.kind), indexed_count=status.indexed_count, building=status.building
    )


def index_status_of(message: pb.IndexStatus) -> IndexStatus:
    """Return what a search runs on."""
    return IndexStatus(_INDEX_KINDS[message.kind], message.indexed_count, message.building)


def capabilities_message(capabilities: Capabilities) -> pb.GetCapabilitiesResponse:
    """Return what a backend promises, as it is sent; the fields have the same names."""
    kinds = [index_kind_value(kind) for kind in capabilities.index_kinds]
    return pb.GetCapabilitiesResponse(**{**vars(capabilities), "index_kinds": kinds})


def capabilities_of(message: pb.GetCapabilitiesResponse) -> Capabilities:
    """Return what a backend promises."""
    values = {field.name: getattr(message, field.name) for field in dataclasses.fields(Capabilities)}
    return Capabilities(**{**values, "index_kinds": tuple(_INDEX_KINDS[kind] for kind in message.index_kinds)})
