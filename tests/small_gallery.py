"""A gallery service of a few lines, for tests of the client: what it must see of a server that is slow, busy or away."""

# ruff: noqa: ARG002, N802  names and signatures are gRPC's

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from shitu.v1 import gallery_pb2 as g
from shitu.v1 import gallery_pb2_grpc
from shitu_client import AsyncClient


class SmallGallery(gallery_pb2_grpc.GalleryServiceServicer):
    """One gallery in memory. Tests replace `before_add`, `snapshot_chunks` and `restored` to make it behave badly."""

    def __init__(self) -> None:
        self.exists = False
        self.items: dict[str, g.Item] = {}
        self.requests: list[g.AddItemsRequest] = []
        self.snapshot_chunks: list[bytes | Exception | float] = []
        self.restored: list[g.RestoreRequest] = []
        self.reembed_steps: list[g.ReembedResponse | Exception | float] = []

    async def before_add(self, request: g.AddItemsRequest, context) -> None:
        """Called before each AddItems."""

    def next_reembedding(self) -> list[g.ReembedResponse | Exception | float]:
        """Return what the next Reembed does."""
        return self.reembed_steps

    def error_of(self, item: g.NewItem) -> status_pb2.Status | None:
        """Return why an item is refused."""
        return None

    async def CreateGallery(self, request, context):
        if self.exists:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "there")
        self.exists = True
        return g.CreateGalleryResponse(gallery=g.Gallery(name=request.name))

    async def GetGallery(self, request, context):
        if not self.exists:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not there")
        return g.GetGalleryResponse(gallery=g.Gallery(name=request.name, item_count=len(self.items)))

    async def ListItems(self, request, context):
        ids = list(self.items)
        start = int(request.page_token or 0)
        page = ids[start : start + request.page_size]
        end = start + len(page)
        token = str(end) if end < len(ids) else ""
        return g.ListItemsResponse(items=[self.items[one] for one in page], next_page_token=token)

    async def AddItems(self, request, context):
        self.requests.append(request)
        await self.before_add(request, context)
        results = []
        for item in request.items:
            if error := self.error_of(item):
                results.append(g.AddItemResult(id=item.id, error=error))
                continue
            replaced = item.id in self.items
            digest = hashlib.sha256(item.image + (b"detect" if item.detect else b"")).digest()
            self.items[item.id] = g.Item(id=item.id, label=item.label, metadata=item.metadata, image_digest=digest)
            results.append(g.AddItemResult(id=item.id, added=g.AddedItem(replaced=replaced)))
        return g.AddItemsResponse(results=results)

    async def Snapshot(self, request, context):
        for chunk in self.snapshot_chunks:
            if isinstance(chunk, Exception):
                await context.abort(grpc.StatusCode.DATA_LOSS, str(chunk))
            if isinstance(chunk, float):
                await asyncio.sleep(chunk)
            else:
                yield g.SnapshotResponse(data=chunk)

    async def Restore(self, request_iterator, context):
        async for request in request_iterator:
            self.restored.append(request)
            if request.data.startswith(b"bad"):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "expected a snapshot")
            if request.data.startswith(b"hang"):
                await asyncio.sleep(60)
        return g.RestoreResponse(gallery=g.Gallery(name=self.restored[0].gallery))

    async def Reembed(self, request, context):
        for step in self.next_reembedding():
            if isinstance(step, Exception):
                await context.abort(grpc.StatusCode.UNAVAILABLE, str(step))
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                yield step


async def refuse(context, code: grpc.StatusCode, message: str, retry_after_s: float) -> None:
    """End a call as the server does where the caller may try again."""
    status = retry_status(code, message, retry_after_s)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, message, trailing_metadata=trailing)


def retry_status(code: grpc.StatusCode, message: str, retry_after_s: float) -> status_pb2.Status:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(round(retry_after_s * 1000))
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=code.value[0], message=message, details=[detail])


@asynccontextmanager
async def serving(gallery: SmallGallery, **options: float) -> AsyncIterator[AsyncClient]:
    """Serve it on a free loopback port; yields a client."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 * 1024 * 1024)])
    gallery_pb2_grpc.add_GalleryServiceServicer_to_server(gallery, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}", **options) as client:
            yield client
    finally:
        await server.stop(grace=None)
