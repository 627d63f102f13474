"""Which galleries there are in a Milvus, and how they are found.

A gallery is a collection of its own. Its name and its aliases are aliases of Milvus, which it moves at once for all, and which are
one namespace, as they must be. The name is set last when a gallery is made and taken away first when it is deleted: a collection
without it is what a crash left between, and is dropped when a gallery of its name is made again. What a gallery was made with
stands as JSON in the description of its collection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymilvus.grpc_gen import common_pb2, milvus_pb2

from shitu_server.errors import ShituError, StorageError
from shitu_server.filters import FieldType
from shitu_server.gallery.checks import NAME_PATTERN
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.milvus.rows import VECTOR, schema
from shitu_server.gallery.milvus.rpc import LOGICAL_BITS, AbsentError, MilvusConnection, TakenError
from shitu_server.gallery.refusals import alias_taken, is_alias, name_taken, no_alias, no_gallery
from shitu_server.types import GalleryOptions, IndexKind, IndexStatus, Metric

FORMAT_VERSION: Final = 1
LEFTOVER_AGE_S: Final = 3600.0
"""A collection without the name of its gallery may be one that is being made by another gateway, until it is so old."""
LOAD_POLL_S: Final = 0.05
UNDO_TIMEOUT_S: Final = 5.0

_METRIC_TYPES: Final = {Metric.INNER_PRODUCT: "IP", Metric.L2: "L2"}
_INDEXES: Final = {
    IndexKind.FLAT: ("FLAT", {}),
    IndexKind.HNSW: ("HNSW", {"M": 32, "efConstruction": 128}),
    IndexKind.IVF: ("IVF_FLAT", {"nlist": 1024}),
}
_COLLECTION_PATTERN: Final = re.compile(r"shitu_(.+)_g([0-9]+)")


@dataclass(frozen=True)
class Bound:
    """A gallery that is there."""

    name: str
    """Its own, also where it was found by an alias."""
    generation: int
    """The timestamp when it was made."""
    encoder_fingerprint: str
    dimension: int
    options: GalleryOptions
    create_time_s: float
    aliases: tuple[str, ...]

    @property
    def collection(self) -> str:
        """The name of its collection."""
        return f"{_milvus_alias(self.name)}_g{self.generation}"

    @property
    def metric_type(self) -> str:
        """Milvus' name of the metric."""
        return _METRIC_TYPES[self.options.metric]

    @property
    def index_kind(self) -> IndexKind:
        """What AUTO stands for here is HNSW: Milvus compares one by one what is in small segments."""
        kind = self.options.index_kind
        return IndexKind.HNSW if kind is IndexKind.AUTO else kind


class MilvusCatalogue:
    """Makes, finds and deletes galleries and their aliases."""

    def __init__(self, connection: MilvusConnection, limits: GalleryLimits) -> None:
        self._connection = connection
        self._limits = limits

    async def find(self, name: str, deadline_s: float | None) -> Bound:
        """Return the gallery of a name or an alias. Raises NotFoundError, StorageError."""
        bound = await self._described(_milvus_alias(name), deadline_s) if NAME_PATTERN.fullmatch(name) else None
        if bound is None:
            raise no_gallery(name)
        return bound

    async def names(self, deadline_s: float | None) -> list[str]:
        """Return the names of all galleries, sorted; some may be gone when they are looked up."""
        return sorted({name for name, _ in await self._collections(deadline_s)})

    async def create(
        self, name: str, encoder_fingerprint: str, dimension: int, options: GalleryOptions, deadline_s: float | None
    ) -> Bound:
        """Make an empty gallery; takes Milvus some seconds. Raises AlreadyExistsError, StorageError."""
        await self._check_free(name, deadline_s)
        generation = await self._connection.timestamp(deadline_s)
        bound = Bound(name, generation, encoder_fingerprint, dimension, options, time.time(), ())
        try:
            await self._make_collection(bound, deadline_s)
            await self._set_alias("CreateAlias", name, bound, deadline_s)
        except TakenError as error:
            await self._drop_quietly(bound.collection)
            raise name_taken(name, by_alias=False) from error
        except BaseException:
            await self._drop_quietly(bound.collection)
            raise
        return bound

    async def delete(self, name: str, deadline_s: float | None) -> None:
        """Delete a gallery and its aliases. Raises NotFoundError, InvalidArgumentError."""
        bound = await self.find(name, deadline_s)
        if bound.name != name:
            raise is_alias(name, bound.name)
        try:
            for one in (*bound.aliases, name):
                request = milvus_pb2.DropAliasRequest(alias=_milvus_alias(one))
                await self._connection.write("DropAlias", request, deadline_s)
            await self._drop(bound.collection, deadline_s)
        except AbsentError as error:  # another call was faster
            raise no_gallery(name) from error

    async def set_alias(self, alias: str, gallery: str, deadline_s: float | None) -> Bound:
        """Make or move an alias. Raises NotFoundError, AlreadyExistsError."""
        bound = await self.find(gallery, deadline_s)
        holder = await self._described(_milvus_alias(alias), deadline_s)
        if holder is not None and holder.name == alias:
            raise alias_taken(alias)
        try:
            try:
                await self._set_alias("AlterAlias", alias, bound, deadline_s)
            except AbsentError:
                await self._set_alias("CreateAlias", alias, bound, deadline_s)
        except AbsentError as error:
            raise no_gallery(gallery) from error
        except TakenError as error:
            raise alias_taken(alias) from error
        return await self.find(bound.name, deadline_s)

    async def delete_alias(self, alias: str, deadline_s: float | None) -> None:
        """Raises NotFoundError."""
        holder = await self._described(_milvus_alias(alias), deadline_s) if NAME_PATTERN.fullmatch(alias) else None
        if holder is None or holder.name == alias:
            raise no_alias(alias)
        request = milvus_pb2.DropAliasRequest(alias=_milvus_alias(alias))
        await self._connection.write("DropAlias", request, deadline_s)

    async def index_status(self, bound: Bound, deadline_s: float | None) -> IndexStatus:
        """Return what searches run on. Raises NotFoundError."""
        request = milvus_pb2.DescribeIndexRequest(collection_name=bound.collection)
        try:
            reply = await self._connection.read("DescribeIndex", request, deadline_s)
        except AbsentError as error:
            raise no_gallery(bound.name) from error
        index = reply.index_descriptions[0]
        counted = 0 if bound.index_kind is IndexKind.FLAT else int(index.indexed_rows)
        return IndexStatus(bound.index_kind, counted, building=index.pending_index_rows > 0)

    async def _check_free(self, name: str, deadline_s: float | None) -> None:
        holder = await self._described(_milvus_alias(name), deadline_s)
        if holder is not None:
            raise name_taken(name, by_alias=holder.name != name)
        collections = await self._collections(deadline_s)
        if len(collections) >= self._limits.gallery_count:
            raise StorageError(f"there are {len(collections)} galleries already, which is the limit; delete one")
        for other, generation in collections:
            if other == name and (generation >> LOGICAL_BITS) / 1000 < time.time() - LEFTOVER_AGE_S:
                await self._drop(f"{_milvus_alias(name)}_g{generation}", deadline_s)

    async def _make_collection(self, bound: Bound, deadline_s: float | None) -> None:
        name, call = bound.collection, self._connection.write
        content = schema(name, _description(bound), bound.dimension)
        collection = milvus_pb2.CreateCollectionRequest(collection_name=name, schema=content, shards_num=1)
        await call("CreateCollection", collection, deadline_s)
        kind, parameters = _INDEXES[bound.index_kind]
        index = {"index_type": kind, "metric_type": bound.metric_type, "params": json.dumps(parameters)}
        request = milvus_pb2.CreateIndexRequest(
            collection_name=name, field_name=VECTOR, index_name=VECTOR, extra_params=pairs(index)
        )
        await call("CreateIndex", request, deadline_s)
        load = milvus_pb2.LoadCollectionRequest(collection_name=name, replica_number=1)
        await call("LoadCollection", load, deadline_s)
        state = milvus_pb2.GetLoadStateRequest(collection_name=name)
        while (await call("GetLoadState", state, deadline_s)).state != common_pb2.LoadState.LoadStateLoaded:  # noqa: ASYNC110
            await asyncio.sleep(LOAD_POLL_S)  # Milvus tells in no other way

    async def _described(self, collection_or_alias: str, deadline_s: float | None) -> Bound | None:
        """Return a gallery that is made and not deleted. Raises StorageError."""
        request = milvus_pb2.DescribeCollectionRequest(collection_name=collection_or_alias)
        try:
            reply = await self._connection.read("DescribeCollection", request, deadline_s)
        except AbsentError:
            return None
        bound = _bound_of(reply)
        return bound if _milvus_alias(bound.name) in reply.aliases else None

    async def _collections(self, deadline_s: float | None) -> list[tuple[str, int]]:
        """Return name and generation of each gallery."""
        reply = await self._connection.read("ShowCollections", milvus_pb2.ShowCollectionsRequest(), deadline_s)
        matches = [_COLLECTION_PATTERN.fullmatch(name) for name in reply.collection_names]
        return [(_decoded(match[1]), int(match[2])) for match in matches if match]

    async def _set_alias(self, method: str, alias: str, bound: Bound, deadline_s: float | None) -> None:
        requests = {"CreateAlias": milvus_pb2.CreateAliasRequest, "AlterAlias": milvus_pb2.AlterAliasRequest}
        request = requests[method](alias=_milvus_alias(alias), collection_name=bound.collection)
        await self._connection.write(method, request, deadline_s)

    async def _drop_quietly(self, collection: str) -> None:
        with contextlib.suppress(ShituError):
            await self._drop(collection, time.monotonic() + UNDO_TIMEOUT_S)

    async def _drop(self, collection: str, deadline_s: float | None) -> None:
        request = milvus_pb2.DropCollectionRequest(collection_name=collection)
        await self._connection.write("DropCollection", request, deadline_s)


def pairs(values: dict[str, str]) -> Sequence[Any]:
    """Return values as Milvus takes parameters."""
    return [common_pb2.KeyValuePair(key=key, value=value) for key, value in values.items()]


def _milvus_alias(name: str) -> str:
    """Return Milvus' alias for a name or an alias of a gallery: it knows letters, digits and underscores only."""
    return "shitu_" + name.replace("_", "__").replace("-", "_h")


def _decoded(text: str) -> str:
    return re.sub("_[_h]", lambda match: "_" if match.group() == "__" else "-", text)


def _description(bound: Bound) -> str:
    options = bound.options
    return json.dumps(
        {
            "format": FORMAT_VERSION,
            "name": bound.name,
            "generation": bound.generation,
            "encoder_fingerprint": bound.encoder_fingerprint,
            "dimension": bound.dimension,
            "create_time_s": bound.create_time_s,
            "metric": options.metric.value,
            "index_kind": options.index_kind.value,
            "fields": {name: kind.value for name, kind in options.fields.items()},
        }
    )


def _bound_of(reply: Any) -> Bound:
    try:
        content = json.loads(reply.schema.description)
        if content["format"] > FORMAT_VERSION:
            raise StorageError("the gallery in Milvus was made by a later version of this program; run that one")
        fields = {name: FieldType(kind) for name, kind in content["fields"].items()}
        options = GalleryOptions(Metric(content["metric"]), IndexKind(content["index_kind"]), fields)
        name = content["name"]
        aliases = sorted(_decoded(one.removeprefix("shitu_")) for one in reply.aliases if one != _milvus_alias(name))
        return Bound(
            name,
            content["generation"],
            content["encoder_fingerprint"],
            content["dimension"],
            options,
            content["create_time_s"],
            tuple(aliases),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f'the description of collection "{reply.schema.name}" in Milvus is none of ours') from error
