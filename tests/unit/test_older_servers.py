"""A client against a server that is older than it: what that server would pass over in silence is refused."""

# ruff: noqa: N802  names are gRPC's

from __future__ import annotations

import grpc
import pytest
from tests.small_gallery import SmallGallery, serving

from shitu.v1 import gallery_pb2 as g
from shitu_client import AsyncClient, NewItem, UnsupportedError
from shitu_client.filters import field


class New(SmallGallery):
    """Has GetCapabilities."""

    asked_count = 0

    async def GetCapabilities(self, request, context):  # noqa: ARG002
        self.asked_count += 1
        return g.GetCapabilitiesResponse(backend="embedded")

    async def Search(self, request, context):  # noqa: ARG002
        return g.SearchResponse(results=[g.SearchResult()])


WISHES = {
    "filters": lambda client: client.search("a", b"x", where=field("price") > 2),
    "matches_per_label": lambda client: client.search("a", b"x", matches_per_label=1),
    "item_id": lambda client: client.search("a", item_id="b"),
    "fields of metadata": lambda client: client.create_gallery("a", fields={"price": "number"}),
    "choice of the metric": lambda client: client.create_gallery("a", metric="l2"),
    "choice of the index": lambda client: client.create_gallery("a", index="flat"),
    "skip_duplicates": lambda client: client.add_items("a", [NewItem("b", "c", b"x")], skip_duplicates=True),
    "detect": lambda client: client.add_items("a", [NewItem("b", "c", b"x", detect=True)]),
}
OF_RECOGNITION = {
    "filters": lambda client: client.recognize(b"x", "a", where=field("price") > 2),
    "matches_per_label": lambda client: client.recognize_batch([b"x"], "a", matches_per_label=1),
}


@pytest.mark.parametrize("wish", [*WISHES.items(), *OF_RECOGNITION.items()])
async def test_what_an_older_server_does_not_know_is_refused(wish):
    feature, call = wish
    gallery = SmallGallery()
    async with serving(gallery) as client:
        with pytest.raises(UnsupportedError) as caught:
            await call(client)
        assert str(caught.value).endswith(f": the server is older than this client and knows no {feature}; upgrade it")
        assert not gallery.exists
        assert gallery.requests == []
        # The defaults are what every server does.
        await client.create_gallery("a", metric="inner_product", index="auto")
        assert (await client.add_items("a", [NewItem("b", "c", b"x")])).added_ids == ("b",)


async def test_a_new_server_is_asked_once():
    gallery = New()
    async with serving(gallery) as client:
        for call in WISHES.values():
            gallery.exists = False
            await call(client)
    assert gallery.asked_count == 1


async def test_a_call_that_the_server_does_not_have():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(UnsupportedError) as caught:
                await client.capabilities()
    finally:
        await server.stop(grace=None)
    said = f"127.0.0.1:{port}: the server is older than this client and knows no such call; upgrade it"
    assert str(caught.value) == said
