"""The gallery process as an operator sees it: addresses, directories, signals."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.gallery_process import GalleryProcess

from shitu_server.errors import (
    InvalidArgumentError,
    OverloadedError,
    PreconditionError,
    StorageError,
    UnavailableError,
)
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.gallery.schema import PAGE_SIZE_BYTES
from shitu_server.gallery.store import FILE_NAME
from shitu_server.types import AddResult, NewItem, SearchOptions

ROWS = np.random.default_rng(0).standard_normal((256, 128)).astype(np.float32)


@pytest.fixture
def launch() -> Iterator[Callable[..., GalleryProcess]]:
    """Start processes that end with the test at the latest."""
    with contextlib.ExitStack() as ends:

        def start(folder: Path, address: str = "", **variables: str) -> GalleryProcess:
            process = GalleryProcess(folder, address, **variables)
            ends.callback(process.kill)
            return process

        yield start


async def test_addresses_and_directories_in_use(launch, tmp_path: Path):
    first = launch(tmp_path)
    async with first.client() as client:
        assert stat.S_IMODE(os.stat(f"{tmp_path}/gallery.sock").st_mode) == 0o600  # noqa: PTH116  # takes no time
        same_address = launch(tmp_path / "other", first.address)
        same_directory = launch(tmp_path, f"unix:{tmp_path}/other.sock")
        assert f"another process listens on {first.address}" in same_address.refusal()
        assert f"in use by process {first.process.pid}" in same_directory.refusal()
        await client.create("g", "encoder", 128)  # unharmed
        first.kill()
        second = launch(tmp_path)  # the socket of the killed process is replaced
        await second.wait_until_serving(client)
        assert (await client.get("g")).item_count == 0


async def test_database_that_is_none_any_more_is_refused_for_good(launch, tmp_path: Path):
    """Another exit status than that of a crash: the supervisor would start it again for ever."""
    process = launch(tmp_path)
    async with process.client() as client:
        await client.create("g", "encoder", 128)
    process.stop()
    path = process.data_dir / FILE_NAME
    with path.open("r+b") as file:
        file.write(bytes(PAGE_SIZE_BYTES))
    process.start()
    said = process.refusal()
    assert f"{path} cannot be read" in said
    assert f"Restore a copy of {process.data_dir}" in said


async def test_flipped_bit_is_named_and_a_snapshot_restores_the_gallery(launch, tmp_path: Path):
    process = launch(tmp_path)
    items = [NewItem(f"item-{i}", "l", row) for i, row in enumerate(ROWS)]
    async with process.client() as client:
        for name in ("whole", "flipped"):
            await client.create(name, "encoder", 128)
            await client.add(name, items, "encoder")
        found = await client.search("flipped", ROWS[:9], "encoder", SearchOptions(20))
        snapshot = [part async for part in client.snapshot("flipped")]
        process.stop()
        flip_a_bit_of(process.data_dir / FILE_NAME, ROWS[200])
        process.start()
        await process.wait_until_serving(client)
        for call in (
            client.search("flipped", ROWS[:1], "encoder", SearchOptions(1)),
            client.add("flipped", items[:1], "encoder"),
            client.get_item("flipped", "item-200"),
        ):
            with pytest.raises(StorageError, match='item "item-200" is not as it was written'):
                await call
        assert (await client.get_item("flipped", "item-1")).label == "l"
        assert (await client.search("whole", ROWS[:9], "encoder", SearchOptions(20))).hits == found.hits
        await client.delete("flipped")
        assert (await client.restore("flipped", parts(snapshot))).item_count == len(ROWS)
        assert (await client.search("flipped", ROWS[:9], "encoder", SearchOptions(20))).hits == found.hits


def flip_a_bit_of(path: Path, row: np.ndarray) -> None:
    """Flip the lowest bit of a stored vector's last number, in the last copy that there is of it."""
    vector = (row.astype(np.float64) / np.linalg.norm(row.astype(np.float64))).astype("<f4").tobytes()
    content = bytearray(path.read_bytes())
    place = content.rindex(vector) + len(vector) - 4
    content[place] ^= 1
    path.write_bytes(content)


async def parts(content: list[bytes]) -> AsyncIterator[bytes]:
    for part in content:
        yield part


async def test_tcp_address(launch, tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}" in launch(tmp_path, address).refusal()
    async with launch(tmp_path, address).client() as client:
        await client.create("g", "encoder", 128)


@pytest.mark.parametrize("address", ["unix:relative.sock", f"unix:/tmp/{'a' * 120}"])
def test_socket_path_that_cannot_be(launch, address: str, tmp_path: Path):
    assert "absolute path of at most 107 bytes" in launch(tmp_path, address).refusal()


async def test_sigterm_finishes_what_is_in_flight(launch, tmp_path: Path):
    process = launch(tmp_path)
    async with process.client() as client:
        await client.create("g", "encoder", 128)
        calls = [[NewItem(f"{call}-{i}", "l", row) for i, row in enumerate(ROWS)] for call in range(10)]
        adding = [asyncio.create_task(client.add("g", items, "encoder")) for items in calls]
        await asyncio.wait(adding, return_when=asyncio.FIRST_COMPLETED)
        process.process.terminate()
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
        assert await asyncio.to_thread(process.process.wait, 20) == 0
        refused = [outcome for outcome in outcomes if isinstance(outcome, UnavailableError)]
        added = [outcome for outcome in outcomes if isinstance(outcome, AddResult)]
        assert added
        assert len(refused) + len(added) == len(outcomes)
        assert not list((tmp_path / "data").glob("*-wal"))  # closed, not dropped
        begin_s = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            await client.get("g")
        assert time.monotonic() - begin_s < 1
        assert all(error.retry_after_s > 0 for error in (*refused, caught.value))
        process.start()
        await process.wait_until_serving(client)  # the same client finds the new process by itself
        assert (await client.get("g")).item_count == len(added) * len(ROWS)


async def test_crowd_and_message_over_the_limits(launch, tmp_path: Path):
    """gRPC itself refuses both, with the same code; only one of them is worth another try."""
    process = launch(tmp_path)
    async with process.client() as client, grpc.aio.insecure_channel(process.address) as channel:
        await client.create("g", "encoder", 128)
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watching = [watch(health_pb2.HealthCheckRequest()) for _ in range(GalleryLimits().calls_in_flight)]
        for call in watching:
            await call.read()
        with pytest.raises(OverloadedError) as caught:
            await client.get("g")
        assert caught.value.retry_after_s > 0
        await client.check()  # crowded, but well
        for call in watching:
            call.cancel()
        await asyncio.sleep(0.5)
        heavy = NewItem("a", "b", ROWS[0], {}, bytes(1 << 18))
        with pytest.raises(InvalidArgumentError, match="size limit"):
            await client.add("g", [heavy] * 300, "encoder")


async def test_reflection_lists_the_services(launch, tmp_path: Path):
    process = launch(tmp_path)
    async with process.client(), grpc.aio.insecure_channel(process.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        replies = [reply async for reply in stub.ServerReflectionInfo(asked)]
    names = {service.name for service in replies[0].list_services_response.service}
    assert {"shitu.v1.GalleryService", "grpc.health.v1.Health"} <= names


async def test_replica_serves_snapshots_and_takes_no_writes(launch, tmp_path: Path):
    source = launch(tmp_path / "source")
    files = []
    async with source.client() as client:
        for name in ("drinks", "tea"):
            await client.create(name, "encoder", 128)
            await client.add(name, [NewItem(f"{name}-{i}", "l", row) for i, row in enumerate(ROWS)], "encoder")
            files.append(tmp_path / f"{name}.snapshot")
            files[-1].write_bytes(b"".join([part async for part in client.snapshot(name)]))
        found = await client.search("drinks", ROWS[:20], "encoder", SearchOptions(5))
    replica = launch(tmp_path / "replica", SHITU_SNAPSHOTS=",".join(map(str, files)))
    async with replica.client() as client:
        assert [info.name for info in (await client.list_galleries(10, "")).entries] == ["drinks", "tea"]
        assert (await client.search("drinks", ROWS[:20], "encoder", SearchOptions(5))).hits == found.hits
        assert (await client.get_item("tea", "tea-7")).label == "l"
        for write in (
            client.create("beer", "encoder", 128),
            client.add("tea", [NewItem("new", "l", ROWS[0])], "encoder"),
            client.remove("tea", ["tea-1"]),
            client.delete("tea"),
            client.set_alias("current", "tea"),
            client.begin_draft("tea", "other", 8),
            client.restore("beer", parts([files[0].read_bytes()])),
        ):
            with pytest.raises(PreconditionError, match="takes no writes"):
                await write
    replica.kill()  # what it leaves behind is swept by the next one
    replica.start(SHITU_SNAPSHOTS=str(files[1]))
    async with replica.client() as client:
        assert [info.name for info in (await client.list_galleries(10, "")).entries] == ["tea"]
    assert len(list(replica.data_dir.iterdir())) == 1
    replica.stop()
    assert list(replica.data_dir.iterdir()) == []
    files[0].write_bytes(files[0].read_bytes()[:-5])
    for wrong in (files[0], tmp_path / "missing"):
        replica.start(SHITU_SNAPSHOTS=str(wrong))
        assert f"the snapshot {wrong} cannot be served" in replica.refusal()
