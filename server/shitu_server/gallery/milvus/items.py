"""Rows of one gallery in Milvus: read, written, removed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymilvus.grpc_gen import common_pb2, milvus_pb2

from shitu_server.errors import InvalidArgumentError
from shitu_server.gallery.milvus.catalogue import Bound, pairs
from shitu_server.gallery.milvus.expressions import ID, among
from shitu_server.gallery.milvus.rows import DIGEST, KEPT, ROW_ID, VECTOR, Row, columns_of, rows_of, values_of
from shitu_server.gallery.milvus.rpc import AbsentError, MilvusConnection, TooLargeError
from shitu_server.gallery.parts import built
from shitu_server.gallery.refusals import no_gallery

MOST_TWINS: Final = 16384
"""Milvus gives no more rows of a query."""
INLINE_NUMBERS: Final = 16 * 1024
"""Of vectors; they become a message in about 1 ms."""


@dataclass(frozen=True)
class Items:
    """The rows of a gallery, for one call. Every method may raise NotFoundError: the gallery was deleted."""

    connection: MilvusConnection
    bound: Bound
    deadline_s: float | None

    async def count(self, moment: int) -> int:
        """Return how many there are."""
        fields = await self._query("", ("count(*)",), moment)
        return int(values_of(fields[0])[0])

    async def row_ids(self, ids: Collection[str], moment: int) -> dict[str, int]:
        """Return the row ids of those ids that are there."""
        fields = {f.field_name: values_of(f) for f in await self._query(among(ID, tuple(ids)), (ID, ROW_ID), moment)}
        return dict(zip(fields[ID], fields[ROW_ID], strict=True))

    async def with_digests(self, digests: Collection[str], moment: int) -> dict[str, list[str]]:
        """Return the ids of the items that were made of these pictures, by digest, the oldest first."""
        if not digests:
            return {}
        fields = {
            field.field_name: values_of(field)
            for field in await self._query(among(DIGEST, sorted(digests)), (ID, DIGEST, ROW_ID), moment, MOST_TWINS)
        }
        twins: dict[str, list[str]] = {}
        for _, item_id, digest in sorted(zip(fields[ROW_ID], fields[ID], fields[DIGEST], strict=True)):
            twins.setdefault(digest, []).append(item_id)
        return twins

    async def rows(self, expression: str, moment: int, *, most: int = 0, vectors: bool = False) -> list[Row]:
        """Return rows that an expression allows, ordered by id, of which there are up to `most`, or all where it is 0."""
        return rows_of(await self._query(expression, (*KEPT, VECTOR) if vectors else KEPT, moment, most))

    async def upsert(self, rows: Sequence[Row]) -> int:
        """Put rows, which have vectors, in place of those of the same ids; return the timestamp of the write."""
        large = len(rows) * self.bound.dimension > INLINE_NUMBERS
        columns = await built(lambda: columns_of(rows), large=large)
        request = milvus_pb2.UpsertRequest(
            collection_name=self.bound.collection, fields_data=columns, num_rows=len(rows)
        )
        return int((await self._write("Upsert", request)).timestamp)

    async def remove(self, ids: Collection[str]) -> int:
        """Remove rows; return a timestamp that is not before the write."""
        request = milvus_pb2.DeleteRequest(collection_name=self.bound.collection, expr=among(ID, tuple(ids)))
        await self._write("Delete", request)
        return await self.connection.timestamp(self.deadline_s)  # Milvus 2.3 does not tell the write's own

    async def _query(self, expression: str, fields: Sequence[str], moment: int, most: int = 0) -> Sequence[Any]:
        request = milvus_pb2.QueryRequest(
            collection_name=self.bound.collection,
            expr=expression,
            output_fields=fields,
            guarantee_timestamp=moment,
            consistency_level=common_pb2.ConsistencyLevel.Customized,
            query_params=pairs({"limit": str(most)}) if most else (),
        )
        try:
            reply = await self.connection.read("Query", request, self.deadline_s)
        except AbsentError as error:
            raise no_gallery(self.bound.name) from error
        except TooLargeError as error:
            message = "the items hold more than Milvus sends in one reply; ask for fewer"
            raise InvalidArgumentError("page_size", message) from error
        columns: Sequence[Any] = reply.fields_data
        return columns

    async def _write(self, method: str, request: Any) -> Any:
        try:
            return await self.connection.write(method, request, self.deadline_s)
        except AbsentError as error:
            raise no_gallery(self.bound.name) from error
        except TooLargeError as error:
            message = "the items are more than Milvus takes in one call; send fewer at once"
            raise InvalidArgumentError("items", message) from error
