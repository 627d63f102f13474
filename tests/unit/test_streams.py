"""Snapshots, restores and re-embedding over real gRPC: they end, and leave nothing half done."""

from __future__ import annotations

import asyncio
import errno
import json
import os

import grpc
import pytest
from tests.small_gallery import SmallGallery, refuse, serving

from shitu.v1 import gallery_pb2 as g
from shitu.v1 import recognition_pb2 as r
from shitu_client import (
    AsyncClient,
    Client,
    DeadlineExceededError,
    InvalidArgumentError,
    NewItem,
    ServerError,
    UnavailableError,
)
from shitu_client.connection import _REPEATABLE, _RETRIES
from shitu_client.errors import InputError, said_of
from shitu_client.patience import Patience
from shitu_client.reembeddings import reembed_gallery
from shitu_client.whole_files import save_stream, whole_file


async def test_a_snapshot_is_saved_whole(tmp_path):
    gallery = SmallGallery()
    gallery.snapshot_chunks = [b"one", b"", b"two"]
    told = []
    async with serving(gallery) as client:
        size = await client.snapshot_gallery("a", tmp_path / "a.snap", progress=told.append)
    assert (tmp_path / "a.snap").read_bytes() == b"onetwo"
    assert (size, told) == (6, [3, 3, 6])
    assert [path.name for path in tmp_path.iterdir()] == ["a.snap"]


@pytest.mark.parametrize("fault", [RuntimeError("broken"), 30.0])
async def test_a_snapshot_that_fails_or_stalls_leaves_what_was_there(tmp_path, fault):
    gallery = SmallGallery()
    gallery.snapshot_chunks = [b"one", fault]
    (tmp_path / "a.snap").write_bytes(b"the former")
    async with serving(gallery, stall_timeout_s=0.3) as client:
        with pytest.raises(DeadlineExceededError if isinstance(fault, float) else ServerError) as caught:
            await client.snapshot_gallery("a", tmp_path / "a.snap")
    assert "no progress for 0.3 s" in str(caught.value) or "broken" in str(caught.value)
    assert (tmp_path / "a.snap").read_bytes() == b"the former"
    assert [path.name for path in tmp_path.iterdir()] == ["a.snap"]


async def test_a_snapshot_into_a_folder_that_is_not_there(tmp_path):
    gallery = SmallGallery()
    gallery.snapshot_chunks = [b"one"]
    async with serving(gallery) as client:
        with pytest.raises(FileNotFoundError):
            await client.snapshot_gallery("a", tmp_path / "nowhere" / "a.snap")


async def test_a_snapshot_never_takes_the_place_of_what_is_no_file(tmp_path):
    gallery = SmallGallery()
    gallery.snapshot_chunks = [b"one"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/full")
    os.mkfifo(tmp_path / "pipe")
    async with serving(gallery) as client:
        for name in ("folder", "device", "pipe"):
            said = f"{name}: expected a file or a new name, there is a {name}; nothing was written"
            with pytest.raises(InputError, match=said):
                await client.snapshot_gallery("a", tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device", "folder", "pipe"]
    assert (tmp_path / "device").is_char_device()


async def test_what_fails_names_the_file_that_was_meant(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, whole_file(tmp_path / "nowhere" / "a"):
        pass
    assert said_of(caught.value) == f"{tmp_path / 'nowhere' / 'a'}: there is no such folder"
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "a.jpg").read_bytes()
    assert said_of(caught.value) == f"{tmp_path / 'a.jpg'}: there is no such file"

    async def full():
        yield b"one"
        raise OSError(errno.ENOSPC, "No space left on device", "/another")

    with pytest.raises(OSError) as full_disk:
        await save_stream(tmp_path / "a", full())
    assert said_of(full_disk.value) == "/another: no space left on the device"


async def test_a_restore_sends_the_file_in_pieces(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "a.snap").write_bytes(content)
    gallery, told = SmallGallery(), []
    async with serving(gallery) as client:
        info = await client.restore_gallery("new", tmp_path / "a.snap", progress=told.append)
    assert info.name == "new"
    assert [one.gallery for one in gallery.restored] == ["new", "", ""]
    assert b"".join(one.data for one in gallery.restored) == content
    assert told[-1] == len(content)


async def test_an_empty_file_reaches_the_server(tmp_path):
    (tmp_path / "a.snap").write_bytes(b"")
    gallery = SmallGallery()
    async with serving(gallery) as client:
        await client.restore_gallery("new", tmp_path / "a.snap")
    assert [(one.gallery, one.data) for one in gallery.restored] == [("new", b"")]


async def test_a_restore_that_the_server_refuses_early(tmp_path):
    (tmp_path / "a.snap").write_bytes(b"bad" + bytes(64 * 1024 * 1024))
    gallery = SmallGallery()
    async with serving(gallery) as client:
        with pytest.raises(InvalidArgumentError, match="expected a snapshot"):
            await client.restore_gallery("new", tmp_path / "a.snap")
    assert len(gallery.restored) == 1


async def test_a_restore_that_nobody_takes_ends(tmp_path):
    (tmp_path / "a.snap").write_bytes(b"hang" + bytes(64 * 1024 * 1024))
    async with serving(SmallGallery(), stall_timeout_s=0.3) as client:
        with pytest.raises(DeadlineExceededError, match="no progress"):
            await client.restore_gallery("new", tmp_path / "a.snap")


async def test_a_restore_of_a_file_that_is_not_there(tmp_path):
    gallery = SmallGallery()
    async with serving(gallery) as client:
        with pytest.raises(FileNotFoundError):
            await client.restore_gallery("new", tmp_path / "nothing")
    assert gallery.restored == []


async def test_reembedding_tells_how_far_it_is_and_ends_when_nothing_moves():
    gallery = SmallGallery()
    gallery.reembed_steps = [
        g.ReembedResponse(embedded_count=1, item_count=2),
        g.ReembedResponse(embedded_count=2, item_count=2, published=g.Gallery(name="a")),
    ]
    async with serving(gallery, stall_timeout_s=0.3) as client:
        steps = [step async for step in client.reembed("a", encoder="b")]
        assert [(step.embedded_count, step.item_count) for step in steps] == [(1, 2), (2, 2)]
        assert steps[0].published is None
        assert steps[1].published is not None
        gallery.reembed_steps = [g.ReembedResponse(embedded_count=1, item_count=2), 30.0]
        with pytest.raises(DeadlineExceededError, match="no progress"):
            _ = [step async for step in client.reembed("a")]


async def test_reembedding_goes_on_over_a_server_that_restarts():
    gallery, told = SmallGallery(), []
    runs = [
        [g.ReembedResponse(embedded_count=1, item_count=3), RuntimeError("restarting")],
        [RuntimeError("restarting")],
        [g.ReembedResponse(embedded_count=2, item_count=3), RuntimeError("restarting")],
        [g.ReembedResponse(embedded_count=3, item_count=3, published=g.Gallery(name="a"))],
    ]
    gallery.next_reembedding = lambda: runs.pop(0)
    async with serving(gallery) as client:
        info = await reembed_gallery(client, "a", "b", Patience(5.0), lambda step: told.append(step.embedded_count))
    assert (info.name, told) == ("a", [1, 2, 3])


async def test_reembedding_that_does_not_go_on_ends():
    gallery = SmallGallery()
    gallery.reembed_steps = [g.ReembedResponse(embedded_count=1, item_count=3), RuntimeError("restarting")]
    async with serving(gallery) as client:
        with pytest.raises(UnavailableError, match="restarting"):
            await reembed_gallery(client, "a", "b", Patience(0.5), lambda _: None)


async def test_the_blocking_client_iterates():
    gallery = SmallGallery()
    gallery.reembed_steps = [g.ReembedResponse(embedded_count=n, item_count=3) for n in range(3)]
    async with serving(gallery) as connected:
        address = connected._server

        def blocking() -> tuple[list[int], int]:
            with Client(address) as client:
                counts = [step.embedded_count for step in client.reembed("a")]
                # Left early: nothing hangs.
                first = next(iter(client.reembed("a")))
                return counts, first.embedded_count

        assert await asyncio.to_thread(blocking) == ([0, 1, 2], 0)


@pytest.mark.parametrize("size", [1000, 1_000_000, 16_000_000])
async def test_a_large_request_is_repeated_too(size):
    class Restarting(SmallGallery):
        calls = 0

        async def before_add(self, request, context):  # noqa: ARG002
            self.calls += 1
            if self.calls < 3:
                await refuse(context, grpc.StatusCode.UNAVAILABLE, "restarting", 0.01)

    gallery = Restarting()
    async with serving(gallery) as client:
        outcome = await client.add_items("a", [NewItem("x", "y", bytes(size))])
    assert (outcome.added_ids, gallery.calls) == (("x",), 3)


def test_every_method_that_may_be_repeated_is_there():
    services = {file.name: file for pb in (g, r) for file in pb.DESCRIPTOR.services_by_name.values()}
    for service, methods in _REPEATABLE.items():
        known = {method.name for method in services[service.rpartition(".")[2]].methods}
        assert set(methods) <= known
    named = {one["method"] for config in json.loads(_RETRIES)["methodConfig"] for one in config["name"]}
    # Done twice, these would answer or leave something else.
    once = {"CreateGallery", "DeleteGallery", "RemoveItems", "DeleteAlias", "Restore", "Reembed", "Rollback"}
    galleries = {method.name for method in services["GalleryService"].methods}
    assert named & galleries == galleries - once


def test_both_clients_have_the_same_methods():
    def methods(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert methods(AsyncClient) - methods(Client) == {"recognize_stream"}
    assert methods(Client) - methods(AsyncClient) == set()
