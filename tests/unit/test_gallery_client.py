"""The gallery's client against a process that does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from shitu_server.errors import DeadlineExceededError, UnavailableError
from shitu_server.gallery import client as module
from shitu_server.gallery.client import GalleryClient
from shitu_server.types import NewItem, SearchOptions

VECTORS = np.ones((1, 4), np.float32)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[GalleryClient]:
    """Connected to a gRPC server whose methods hang."""

    async def hang(_request: bytes, _context: object) -> bytes:
        await asyncio.sleep(60)
        return b""

    class Hanging(grpc.GenericRpcHandler):
        def service(self, _details: object) -> object:
            return grpc.unary_unary_rpc_method_handler(hang)

    server = grpc.aio.server(handlers=[Hanging()])
    address = f"unix:{tmp_path}/hanging.sock"
    server.add_insecure_port(address)
    await server.start()
    connected = GalleryClient(address)
    yield connected
    await connected.close()
    await server.stop(None)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("READ_TIMEOUT_S", "WRITE_TIMEOUT_S"):
        monkeypatch.setattr(module, name, 0.3)


@pytest.mark.parametrize("left_s", [None, 3600.0])
async def test_our_limit_is_unavailable_with_a_retry(client: GalleryClient, left_s: float | None):
    deadline_s = None if left_s is None else time.monotonic() + left_s
    calls = (
        client.search("g", VECTORS, "e", SearchOptions(1), deadline_s=deadline_s),
        client.add("g", [NewItem("a", "b", VECTORS[0])], "e", deadline_s=deadline_s),
        client.get("g", deadline_s=deadline_s),
    )
    begin_s = time.monotonic()
    for call in calls:
        with pytest.raises(UnavailableError, match=r"no answer within 0\.3 s") as caught:
            await call
        assert caught.value.retry_after_s > 0
    assert time.monotonic() - begin_s < 10


async def test_deadline_of_the_caller_is_the_callers(client: GalleryClient):
    with pytest.raises(DeadlineExceededError, match="before the deadline"):
        await client.get("g", deadline_s=time.monotonic() + 0.1)


async def test_check_of_a_process_that_hangs(client: GalleryClient):
    with pytest.raises(UnavailableError):
        await client.check()
