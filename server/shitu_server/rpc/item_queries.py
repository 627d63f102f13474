"""Queries that name an item of the gallery: they become its vector, and the item itself is no match of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shitu.v1 import gallery_pb2 as pb
from shitu_server.errors import UnavailableError
from shitu_server.types import Gallery, Hit, SearchResult
from shitu_server.wire.galleries import vector_message

_TRIES: Final = 3
"""A gallery is not made anew three times in a row."""


@dataclass(frozen=True)
class OwnQueries:
    """A request without items' ids."""

    request: pb.SearchRequest
    """Its queries are pictures and vectors."""
    item_ids: Sequence[str]
    """Of each query; empty where it names no item, and altogether where none does."""

    def wider(self, count: int, most: int = 1 << 30) -> int:
        """Return how many to search for, so that `count` are left without the items themselves."""
        return min(count + 1, most) if self.item_ids else count

    def without_themselves(self, result: SearchResult, top_k: int, per_label: int) -> SearchResult:
        """Return what was found without the items that were asked with."""
        if not self.item_ids:
            return result
        rows = zip(result.hits, self.item_ids, strict=True)
        return SearchResult(
            tuple(_cut([hit for hit in hits if hit.item_id != own], top_k, per_label) for hits, own in rows),
            result.state,
        )


async def resolved(request: pb.SearchRequest, gallery: Gallery, deadline_s: float | None) -> OwnQueries:
    """Return the request with the vectors of the items that it names, as of one generation.

    Raises:
        NotFoundError: there is no such gallery or item.
        UnavailableError: the gallery is made anew again and again.
    """
    item_ids = [query.item_id if query.WhichOneof("source") == "item_id" else "" for query in request.queries]
    if not any(item_ids):
        return OwnQueries(request, ())
    for _ in range(_TRIES):
        before = await gallery.get(request.gallery, deadline_s=deadline_s)
        own = pb.SearchRequest()
        own.CopyFrom(request)
        for query, item_id in zip(own.queries, item_ids, strict=True):
            if item_id:
                item = await gallery.get_item(before.name, item_id, deadline_s=deadline_s)
                assert item.vector is not None
                query.vector.CopyFrom(vector_message(item.vector))
        after = await gallery.get(before.name, deadline_s=deadline_s)
        if after.state.generation == before.state.generation:
            own.gallery = before.name
            own.encoder_fingerprint = own.encoder_fingerprint or before.encoder_fingerprint
            own.generation = own.generation or before.state.generation
            return OwnQueries(own, item_ids)
    raise UnavailableError(f'gallery "{request.gallery}" was made anew during the call; try again')


def _cut(hits: Sequence[Hit], top_k: int, per_label: int) -> tuple[Hit, ...]:
    if not per_label:
        return tuple(hits[:top_k])
    seen: Counter[str] = Counter()
    kept = []
    for hit in hits:
        if seen[hit.label] < per_label and (hit.label in seen or len(seen) < top_k):
            seen[hit.label] += 1
            kept.append(hit)
    return tuple(kept)
