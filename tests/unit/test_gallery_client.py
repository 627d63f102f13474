"""The gallery's client against a process that does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from shitu_server.errors import DeadlineExceededError, InvalidArgumentError, OverloadedError, UnavailableError
from shitu_server.filters import Eq
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


async def test_searches_behind_one_that_hangs_wait_no_longer(client: GalleryClient):
    begin_s = time.monotonic()
    searches = [client.search("g", VECTORS, "e", SearchOptions(top_k)) for top_k in range(1, 9)]
    for outcome in await asyncio.gather(*searches, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)
    assert time.monotonic() - begin_s < 2 * 0.3


async def test_searches_in_line_are_limited(client: GalleryClient):
    searches = [client.search("g", np.ones((64, 4), np.float32), "e", SearchOptions(1)) for _ in range(40)]
    outcomes = await asyncio.gather(*searches, return_exceptions=True)
    assert {type(one) for one in outcomes} == {UnavailableError, OverloadedError}


async def test_who_closes_ends_searches_that_wait(client: GalleryClient):
    searches = [asyncio.create_task(client.search("g", VECTORS, "e", SearchOptions(top_k))) for top_k in range(1, 9)]
    await asyncio.sleep(0.05)
    await client.close()
    for outcome in await asyncio.gather(*searches, return_exceptions=True):
        assert isinstance(outcome, UnavailableError)


async def test_no_query_is_refused(client: GalleryClient):
    with pytest.raises(InvalidArgumentError, match="at least 1 query"):
        await client.search("g", VECTORS[:0], "e", SearchOptions(1))


async def test_filters_that_python_takes_for_equal_are_not(client: GalleryClient, monkeypatch: pytest.MonkeyPatch):
    asked = []

    async def merged(key: object, parts: Sequence[np.ndarray], _deadline_s: float | None) -> list[int]:
        asked.append(key)
        return [0] * len(parts)

    monkeypatch.setattr(client._searches, "_call", merged)
    filters = [Eq("price", 1.0), Eq("price", True), Eq("price", 1.0)]
    await asyncio.gather(*(client.search("g", VECTORS, "e", SearchOptions(1, where=one)) for one in filters))
    assert len(asked) == 2


async def test_deadline_of_the_caller_is_the_callers(client: GalleryClient):
    with pytest.raises(DeadlineExceededError, match="before the deadline"):
        await client.get("g", deadline_s=time.monotonic() + 0.1)


async def test_check_of_a_process_that_hangs(client: GalleryClient):
    with pytest.raises(UnavailableError):
        await client.check()
