"""Items as Milvus keeps them: the schema of a collection, rows to columns and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pymilvus.grpc_gen import common_pb2, schema_pb2

from shitu_server.errors import StorageError
from shitu_server.gallery.milvus.expressions import FIELDS, ID
from shitu_server.types import Item, Metadata, Vectors

LABEL: Final = "label"
METADATA: Final = "metadata"
DIGEST: Final = "image_digest"
ROW_ID: Final = "row_id"
SEQUENCE: Final = "sequence"
UPDATE_TIME: Final = "update_time_s"
VECTOR: Final = "vector"

KEPT: Final = (ID, LABEL, METADATA, FIELDS, DIGEST, ROW_ID, SEQUENCE, UPDATE_TIME)
"""All but the vector."""

_TYPE = schema_pb2.DataType
_TEXT_BYTES: Final = {ID: 1024, LABEL: 1024, METADATA: 65535, DIGEST: 64}
"""Most of each: 256 characters of up to 4 bytes, what Milvus takes at most, and a SHA-256 in hexadecimal digits."""
_TYPES: Final = {
    **dict.fromkeys(_TEXT_BYTES, _TYPE.VarChar),
    FIELDS: _TYPE.JSON,
    ROW_ID: _TYPE.Int64,
    SEQUENCE: _TYPE.Int64,
    UPDATE_TIME: _TYPE.Double,
    VECTOR: _TYPE.FloatVector,
}


@dataclass(frozen=True)
class Row:
    """An item as it is stored."""

    id: str
    label: str
    metadata: str
    """JSON, as text: Milvus refuses some of it as JSON, whole numbers of more than 308 digits."""
    fields: str
    """JSON of the declared fields, for filters."""
    image_digest: str
    """Hexadecimal, or empty."""
    row_id: int
    """Grows with the age of items; those that are replaced keep theirs."""
    sequence: int
    update_time_s: float
    vector: NDArray[np.float32] | None = None
    """float32 [dimension]; None where it was not asked for."""

    def item(self) -> Item:
        """Return the item. Raises StorageError where its metadata is damaged."""
        digest = bytes.fromhex(self.image_digest)
        metadata = parsed(self.id, self.metadata)
        return Item(self.id, self.label, metadata, b"", self.vector, self.update_time_s, digest, self.sequence)


def parsed(item_id: str, text: str) -> Metadata:
    """Return metadata of its JSON. Raises StorageError."""
    try:
        metadata: Metadata = json.loads(text)
    except ValueError as error:
        raise StorageError(f'the metadata of item "{item_id}" in Milvus is broken; send the item again') from error
    return metadata


def schema(collection: str, description: str, dimension: int) -> bytes:
    """Return the schema of a collection as CreateCollection takes it."""
    fields = [
        schema_pb2.FieldSchema(
            name=name, data_type=kind, is_primary_key=name == ID, type_params=_type_params(name, dimension)
        )
        for name, kind in _TYPES.items()
    ]
    message = schema_pb2.CollectionSchema(name=collection, description=description, fields=fields)
    content: bytes = message.SerializeToString()
    return content


def columns_of(rows: Sequence[Row]) -> list[Any]:
    """Return rows, which have vectors, as the columns of an upsert."""
    return [_column(name, [getattr(row, name) for row in rows]) for name in _TYPES]


def rows_of(fields_data: Sequence[Any]) -> list[Row]:
    """Return the rows of a query for `KEPT`, and for the vector or not."""
    columns = {field.field_name: values_of(field) for field in fields_data}
    return [Row(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def values_of(field: Any) -> Sequence[Any]:
    """Return the values of one column of a reply; vectors as float32 [dimension]."""
    if field.type == _TYPE.FloatVector:
        return list(np.array(field.vectors.float_vector.data, dtype=np.float32).reshape(-1, field.vectors.dim))
    scalars = field.scalars
    if field.type == _TYPE.VarChar:
        return list(scalars.string_data.data)
    if field.type == _TYPE.JSON:
        return [value.decode() for value in scalars.json_data.data]
    return list(scalars.double_data.data if field.type == _TYPE.Double else scalars.long_data.data)


def placeholders(queries: Vectors) -> bytes:
    """Return queries, float32 [n, dimension], as a search takes them."""
    values = [query.astype("<f4").tobytes() for query in queries]
    holder = common_pb2.PlaceholderValue(tag="$0", type=common_pb2.PlaceholderType.FloatVector, values=values)
    content: bytes = common_pb2.PlaceholderGroup(placeholders=[holder]).SerializeToString()
    return content


def _column(name: str, values: Sequence[Any]) -> Any:
    kind = _TYPES[name]
    if kind == _TYPE.FloatVector:
        vectors = np.stack(values)
        numbers = schema_pb2.FloatArray(data=vectors.ravel().tolist())
        field = schema_pb2.VectorField(dim=vectors.shape[1], float_vector=numbers)
        return schema_pb2.FieldData(field_name=name, type=kind, vectors=field)
    if kind == _TYPE.VarChar:
        scalars = schema_pb2.ScalarField(string_data=schema_pb2.StringArray(data=values))
    elif kind == _TYPE.JSON:
        texts = [value.encode() for value in values]
        scalars = schema_pb2.ScalarField(json_data=schema_pb2.JSONArray(data=texts))
    elif kind == _TYPE.Double:
        scalars = schema_pb2.ScalarField(double_data=schema_pb2.DoubleArray(data=values))
    else:
        scalars = schema_pb2.ScalarField(long_data=schema_pb2.LongArray(data=values))
    return schema_pb2.FieldData(field_name=name, type=kind, scalars=scalars)


def _type_params(name: str, dimension: int) -> list[Any]:
    if name == VECTOR:
        return [common_pb2.KeyValuePair(key="dim", value=str(dimension))]
    if name in _TEXT_BYTES:
        return [common_pb2.KeyValuePair(key="max_length", value=str(_TEXT_BYTES[name]))]
    return []
