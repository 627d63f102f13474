"""The calls of GalleryService."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from numpy.typing import ArrayLike

from shitu.v1 import gallery_pb2
from shitu_client.connection import Connection
from shitu_client.errors import InvalidArgumentError
from shitu_client.filters import Condition
from shitu_client.gallery_results import (
    Capabilities,
    GalleryInfo,
    Item,
    ItemPage,
    ReembedProgress,
    capabilities_of,
    gallery_of,
    item_of,
    reembed_progress_of,
)
from shitu_client.images import ImageSource, content_of
from shitu_client.items import (
    AddOutcome,
    ItemUpdate,
    NewItem,
    add_outcome_of,
    chunked,
    merged,
    updates_chunked,
    vector_message,
)
from shitu_client.results import Match, match_of
from shitu_client.whole_files import Progress, file_chunks, save_stream

_PAGE_SIZE: Final = 500


class GalleryCalls(Connection):
    """Galleries, their items, search. Wherever the name of a gallery is taken, an alias will do."""

    async def create_gallery(
        self,
        name: str,
        *,
        encoder: str = "",
        encoder_fingerprint: str = "",
        dimension: int = 0,
        metric: str = "",
        index: str = "",
        fields: Mapping[str, str] | None = None,
    ) -> GalleryInfo:
        """Create a gallery, bound to the server's default encoder, to the named one, or to one of your own.

        Args:
            name: of the gallery.
            encoder: name of an encoder that the server runs.
            encoder_fingerprint: of an encoder of your own, if you will bring vectors.
            dimension: length of those vectors.
            metric: `inner_product`, which is the default, or `l2`.
            index: `auto`, which is the default, `flat`, `hnsw` or `ivf`.
            fields: of the items' metadata that filters may name, each with its type: `string`, `number` or `boolean`.
        """
        request = gallery_pb2.CreateGalleryRequest(
            name=name,
            encoder=encoder,
            encoder_fingerprint=encoder_fingerprint,
            dimension=dimension,
            metric=_value_of(gallery_pb2.Metric, "METRIC_", metric, "metric"),
            index_kind=_value_of(gallery_pb2.IndexKind, "INDEX_KIND_", index, "index"),
            fields=[
                gallery_pb2.MetadataField(
                    name=field, type=_value_of(gallery_pb2.FieldType, "FIELD_TYPE_", kind, f"fields: type of {field}")
                )
                for field, kind in (fields or {}).items()
            ],
        )
        # What is the default anyway, every server does.
        await self._require(
            {
                "fields of metadata": fields,
                "choice of the metric": metric not in {"", "inner_product"},
                "choice of the index": index not in {"", "auto"},
            }
        )
        return gallery_of((await self._call(self._galleries.CreateGallery, request)).gallery)

    async def get_gallery(self, name: str) -> GalleryInfo:
        """Return one gallery."""
        response = await self._call(self._galleries.GetGallery, gallery_pb2.GetGalleryRequest(name=name))
        return gallery_of(response.gallery)

    async def list_galleries(self) -> list[GalleryInfo]:
        """Return all galleries, ordered by name."""
        found: list[GalleryInfo] = []
        token = ""
        while True:
            request = gallery_pb2.ListGalleriesRequest(page_token=token)
            response = await self._call(self._galleries.ListGalleries, request)
            found.extend(gallery_of(gallery) for gallery in response.galleries)
            token = response.next_page_token
            if not token:
                return found

    async def delete_gallery(self, name: str) -> None:
        """Delete a gallery and its items."""
        await self._call(self._galleries.DeleteGallery, gallery_pb2.DeleteGalleryRequest(name=name))

    async def add_items(
        self,
        gallery: str,
        items: Iterable[NewItem],
        *,
        encoder_fingerprint: str = "",
        skip_duplicates: bool = False,
    ) -> AddOutcome:
        """Add items, or replace those whose ids are there, in as many requests as it takes, one after the other.

        Args:
            gallery: name of the gallery.
            items: to add; an iterator is asked for more only when a request is full.
            encoder_fingerprint: of the encoder that made the vectors; required where an item brings one.
            skip_duplicates: leave out an item whose picture another item of the gallery was made of.

        Returns:
            What became of each: a bad item fails alone.
        """
        outcomes = []
        for chunk in chunked(items):
            await self._require({"skip_duplicates": skip_duplicates, "detect": any(item.detect for item in chunk)})
            request = gallery_pb2.AddItemsRequest(
                gallery=gallery,
                items=[item.to_message() for item in chunk],
                encoder_fingerprint=encoder_fingerprint,
                skip_duplicates=skip_duplicates,
            )
            outcomes.append(add_outcome_of(await self._call(self._galleries.AddItems, request)))
        return merged(outcomes)

    async def update_items(self, gallery: str, updates: Sequence[ItemUpdate]) -> list[str]:
        """Change labels and metadata of items; returns the ids that were there."""
        updated: list[str] = []
        for chunk in updates_chunked(updates):
            messages = [update.to_message() for update in chunk]
            request = gallery_pb2.UpdateItemsRequest(gallery=gallery, updates=messages)
            updated.extend((await self._call(self._galleries.UpdateItems, request)).updated_ids)
        return updated

    async def remove_items(self, gallery: str, ids: Sequence[str]) -> list[str]:
        """Remove items; returns the ids that were there."""
        response = await self._call(
            self._galleries.RemoveItems, gallery_pb2.RemoveItemsRequest(gallery=gallery, ids=ids)
        )
        return list(response.removed_ids)

    async def list_items(
        self, gallery: str, *, page_size: int = 100, page_token: str = "", label: str = ""
    ) -> ItemPage:
        """Return one page of items, oldest first."""
        request = gallery_pb2.ListItemsRequest(gallery=gallery, page_size=page_size, page_token=page_token, label=label)
        response = await self._call(self._galleries.ListItems, request)
        return ItemPage(tuple(item_of(item) for item in response.items), response.next_page_token)

    async def iterate_items(self, gallery: str, *, label: str = "") -> AsyncGenerator[Item, None]:
        """Yield all items, oldest first, page by page."""
        token = ""
        while True:
            page = await self.list_items(gallery, page_size=_PAGE_SIZE, page_token=token, label=label)
            for item in page.items:
                yield item
            token = page.next_page_token
            if not token:
                return

    async def get_item(self, gallery: str, item_id: str) -> Item:
        """Return one item with its vector and picture."""
        request = gallery_pb2.GetItemRequest(gallery=gallery, id=item_id)
        return item_of((await self._call(self._galleries.GetItem, request)).item)

    async def search(
        self,
        gallery: str,
        query: ImageSource | ArrayLike | None = None,
        *,
        item_id: str = "",
        encoder_fingerprint: str = "",
        top_k: int | None = None,
        match_threshold: float | None = None,
        where: Condition | None = None,
        matches_per_label: int = 0,
    ) -> list[Match]:
        """Return the nearest items of a picture, a vector, or an item.

        Args:
            gallery: name of the gallery.
            query: a picture, which is embedded whole, or a vector.
            item_id: instead of `query`, an item of the gallery; it is not itself among the matches.
            encoder_fingerprint: of the encoder that made the vector; required with one.
            top_k: most matches.
            match_threshold: least score of a match.
            where: which items may be found (see `shitu_client.filters`).
            matches_per_label: most matches of one label, and top_k is the number of labels; not grouped where 0.
        """
        request = gallery_pb2.SearchRequest(
            gallery=gallery,
            queries=[await _query_message(query, item_id)],
            top_k=top_k,
            match_threshold=match_threshold,
            encoder_fingerprint=encoder_fingerprint,
            where=where.to_message() if where is not None else None,
            matches_per_label=matches_per_label,
        )
        await self._require({"filters": where is not None, "matches_per_label": matches_per_label, "item_id": item_id})
        response = await self._call(self._galleries.Search, request)
        return [match_of(match) for match in response.results[0].matches]

    async def set_alias(self, alias: str, gallery: str) -> GalleryInfo:
        """Make an alias of a gallery, or move it there from another, at once for all; returns the gallery."""
        request = gallery_pb2.SetAliasRequest(alias=alias, gallery=gallery)
        return gallery_of((await self._call(self._galleries.SetAlias, request)).gallery)

    async def delete_alias(self, alias: str) -> None:
        """Delete an alias; the gallery stays."""
        await self._call(self._galleries.DeleteAlias, gallery_pb2.DeleteAliasRequest(alias=alias))

    async def snapshot_gallery(
        self, name: str, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> int:
        """Save the gallery as it is now to a file; returns its size in bytes.

        The file appears under its name when all of it has come and is on disk; a file that stood there is replaced then.

        Args:
            name: of the gallery.
            path: of the file, in a folder that is there.
            progress: called with the number of bytes so far.
        """
        responses = self._download(self._galleries.Snapshot, gallery_pb2.SnapshotRequest(gallery=name))
        async with aclosing(responses):
            return await save_stream(Path(path), (response.data async for response in responses), progress)

    async def restore_gallery(
        self, name: str, path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> GalleryInfo:
        """Make a gallery, of which there must be none, from the file of a snapshot; there is none until all of it is checked.

        Args:
            name: of the gallery to be made.
            path: of the file.
            progress: called with the number of bytes so far.
        """
        response = await self._upload(self._galleries.Restore, _restore_requests(name, Path(path), progress))
        return gallery_of(response.gallery)

    async def reembed(self, gallery: str, *, encoder: str = "") -> AsyncGenerator[ReembedProgress, None]:
        """Embed all pictures of a gallery with another encoder while it is served; yields how far it is.

        The last value has the gallery as it was published. Who stops reading stops the work; called again, it goes on.

        Args:
            gallery: name of the gallery.
            encoder: name of an encoder that the server runs, whose newest version is taken; the default one where empty.
        """
        request = gallery_pb2.ReembedRequest(gallery=gallery, encoder=encoder)
        async with aclosing(self._download(self._galleries.Reembed, request)) as responses:
            async for response in responses:
                yield reembed_progress_of(response)

    async def rollback(self, gallery: str, *, discard_writes: bool = False) -> GalleryInfo:
        """Bring back the generation before the last re-embedding; again, it undoes that.

        Args:
            gallery: name of the gallery.
            discard_writes: since the re-embedding, which the former generation lacks; with such it is refused where this is False.
        """
        request = gallery_pb2.RollbackRequest(gallery=gallery, discard_writes=discard_writes)
        return gallery_of((await self._call(self._galleries.Rollback, request)).gallery)

    async def capabilities(self) -> Capabilities:
        """Return what the server's gallery backend promises."""
        return capabilities_of(await self._call(self._galleries.GetCapabilities, gallery_pb2.GetCapabilitiesRequest()))


async def _query_message(query: ImageSource | ArrayLike | None, item_id: str) -> gallery_pb2.Query:
    if (query is None) == (not item_id):
        got = "neither" if query is None else "both"
        raise InvalidArgumentError(f"expected a picture or a vector, or item_id; got {got}", field="query")
    if query is None:
        return gallery_pb2.Query(item_id=item_id)
    if isinstance(query, (bytes, str, os.PathLike)):
        return gallery_pb2.Query(image=await content_of(query))
    return gallery_pb2.Query(vector=vector_message(query))


async def _restore_requests(
    name: str, path: Path, progress: Progress | None
) -> AsyncGenerator[gallery_pb2.RestoreRequest, None]:
    first = gallery_pb2.RestoreRequest(gallery=name)
    async with aclosing(file_chunks(path, progress)) as chunks:
        async for chunk in chunks:
            first.data = chunk
            yield first
            first = gallery_pb2.RestoreRequest()
    if first.gallery:
        # The file is empty; the server says what is wrong with that.
        yield first


def _value_of(enum: EnumTypeWrapper, prefix: str, name: str, field: str) -> Any:
    """Return the value of a name as results have it; that of none is the unspecified one."""
    known = {key.removeprefix(prefix).lower(): value for key, value in enum.items()}
    unspecified = known.pop("unspecified")
    if not name:
        return unspecified
    if name not in known:
        raise InvalidArgumentError(f"{field}: expected {', '.join(known)}, got {name!r}", field=field)
    return known[name]
