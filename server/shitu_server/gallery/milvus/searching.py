"""Searches of one gallery in Milvus: hits in order, and grouped by label."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from shitu_server.errors import InvalidArgumentError
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.milvus.catalogue import Bound, pairs
from shitu_server.gallery.milvus.expressions import both
from shitu_server.gallery.milvus.labels import SPARE, Found, LabelSearch
from shitu_server.gallery.milvus.rows import LABEL, METADATA, ROW_ID, VECTOR, parsed, placeholders, values_of
from shitu_server.gallery.milvus.rpc import AbsentError, MilvusConnection, TooLargeError
from shitu_server.gallery.parts import built
from shitu_server.gallery.refusals import no_gallery
from shitu_server.types import Hit, IndexKind, Metric, Vectors

MOST_FOUND: Final = 16384
"""Milvus gives no more for a query."""
LABELS_AT_ONCE: Final = 8
"""Queries whose labels are looked for side by side."""
LEAST_WIDTH: Final = 64
WIDTH_PER_HIT: Final = 3
LISTS: Final = 32
"""That are looked through, of 1024 of each segment."""
INLINE_HITS: Final = 64


@dataclass(frozen=True)
class Search:
    """Searches of a gallery at a moment, among what an expression allows."""

    connection: MilvusConnection
    limits: GalleryLimits
    bound: Bound
    where: str
    """Empty for all."""
    moment: int
    deadline_s: float | None

    async def hits(self, queries: Vectors, top_k: int, min_score: float, per_label: int) -> tuple[tuple[Hit, ...], ...]:
        """Return the hits of each query, best first.

        Args:
            queries: float32 [n, dimension], as the gallery keeps vectors.
            top_k: most hits of a query; where they are grouped, most labels.
            min_score: least score of a hit.
            per_label: most hits of one label; 0 does not group.

        Raises:
            NotFoundError: the gallery was deleted.
            InvalidArgumentError: the hits hold too much metadata.
            StorageError: the metadata of an item is damaged.
        """
        if per_label:
            found = await self._grouped(queries, top_k, min_score, per_label)
        else:
            found = await self._found(queries, top_k)
        kept = [[one for one in row if one.score >= min_score] for row in found]
        characters = sum(len(one.metadata) for row in kept for one in row)
        if characters > self.limits.hits_metadata_characters:
            raise _too_much_metadata(self.limits)
        large = sum(map(len, kept)) > INLINE_HITS
        return await built(lambda: tuple(tuple(map(_hit, row)) for row in kept), large=large)

    async def _found(self, queries: Vectors, most: int, where: str = "") -> Sequence[Sequence[Found]]:
        """Return up to `most` rows of each query, best first, of equal scores that came the older first."""
        request = milvus_pb2.SearchRequest(
            collection_name=self.bound.collection,
            dsl=both(self.where, where),
            dsl_type=common_pb2.DslType.BoolExprV1,
            placeholder_group=placeholders(queries),
            output_fields=[LABEL, METADATA, ROW_ID],
            search_params=pairs(self._parameters(most)),
            guarantee_timestamp=self.moment,
            consistency_level=common_pb2.ConsistencyLevel.Customized,
            nq=len(queries),
        )
        try:
            reply = await self.connection.read("Search", request, self.deadline_s)
        except AbsentError as error:
            raise no_gallery(self.bound.name) from error
        except TooLargeError as error:
            raise _too_much_metadata(self.limits) from error
        metric = self.bound.options.metric
        return await built(lambda: _rows(reply.results, metric), large=len(reply.results.scores) > INLINE_HITS)

    def _parameters(self, most: int) -> dict[str, str]:
        widths: Mapping[IndexKind, dict[str, int]] = {
            IndexKind.HNSW: {"ef": max(LEAST_WIDTH, WIDTH_PER_HIT * most)},
            IndexKind.IVF: {"nprobe": LISTS},
        }
        return {
            "anns_field": VECTOR,
            "topk": str(most),
            "metric_type": self.bound.metric_type,
            "params": json.dumps(widths.get(self.bound.index_kind, {})),
            "round_decimal": "-1",
        }

    async def _grouped(
        self, queries: Vectors, top_k: int, min_score: float, per_label: int
    ) -> Sequence[Sequence[Found]]:
        asked = min(MOST_FOUND, SPARE * top_k * per_label)
        places = asyncio.Semaphore(LABELS_AT_ONCE)

        async def by_label(query: Vectors, first: Sequence[Found]) -> Sequence[Found]:
            async def find(most: int, where: str) -> Sequence[Found]:
                return (await self._found(query, most, where))[0]

            async with places:
                return await LabelSearch(find, top_k, per_label, min_score).found(first, asked)

        firsts = await self._found(queries, asked)
        return await asyncio.gather(*(by_label(queries[i : i + 1], first) for i, first in enumerate(firsts)))


def _rows(results: Any, metric: Metric) -> list[list[Found]]:
    columns = {field.field_name: values_of(field) for field in results.fields_data}
    scores = _scores(np.array(results.scores, dtype=np.float32), metric)
    if not len(scores):
        return [[] for _ in results.topks]
    found = [
        Found(*values)
        for values in zip(
            results.ids.str_id.data, columns[LABEL], scores, columns[ROW_ID], columns[METADATA], strict=True
        )
    ]
    ends = np.cumsum(results.topks).tolist()
    return [
        sorted(found[end - count : end], key=lambda one: (-one.score, one.row_id))
        for end, count in zip(ends, results.topks, strict=True)
    ]


def _hit(found: Found) -> Hit:
    return Hit(found.item_id, found.label, found.score, parsed(found.item_id, found.metadata))


def _scores(distances: Any, metric: Metric) -> list[float]:
    """Return scores of what Milvus measures: the inner product, or the squared distance."""
    scores = np.clip(distances, -1, 1) if metric is Metric.INNER_PRODUCT else 1 - distances / 2
    return [float(score) for score in scores]


def _too_much_metadata(limits: GalleryLimits) -> InvalidArgumentError:
    return InvalidArgumentError(
        "top_k", f"the hits hold more metadata than {limits.hits_metadata_characters} characters, ask for fewer hits"
    )
