"""Interleavings of writes, drafts, restores and builds that only the gallery in this process can be made to show."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import struct
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from shitu.v1 import snapshot_pb2 as pb
from shitu_server.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    EncoderMismatchError,
    InvalidArgumentError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from shitu_server.gallery import ledger
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.index import BuildJob, Neighbours
from shitu_server.gallery.limits import GalleryLimits, IndexOptions
from shitu_server.gallery.snapshots import MAGIC, SnapshotReader
from shitu_server.gallery.writer import GroupWriter
from shitu_server.types import DraftItem, GalleryOptions, IndexKind, Item, NewItem, SearchOptions

WIDTH = 8
ROWS = np.random.default_rng(0).standard_normal((3000, WIDTH)).astype(np.float32)
TUNING = IndexOptions(least_delta_rows=100)
HNSW = GalleryOptions(index_kind=IndexKind.HNSW)


@pytest.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[EmbeddedGallery]:
    opened = await EmbeddedGallery.open(tmp_path, tuning=TUNING)
    yield opened
    await opened.close()


def items(begin: int, end: int) -> list[NewItem]:
    return [NewItem(str(i), "l", ROWS[i], {}, b"jpeg") for i in range(begin, end)]


def drafted(changes: tuple[Item, ...], offset: int = 0) -> list[DraftItem]:
    return [DraftItem(item.id, item.sequence, ROWS[int(item.id) + offset]) for item in changes]


async def fill(gallery: EmbeddedGallery, draft: int, most: int = 256) -> None:
    while changes := await gallery.draft_changes("g", draft, most):
        await gallery.add_to_draft("g", draft, drafted(changes))


async def ids_found(gallery: EmbeddedGallery, encoder: str = "a") -> list[str]:
    found = await gallery.search("g", ROWS[:1], encoder, SearchOptions(1000))
    return sorted(hit.item_id for hit in found.hits[0])


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it does not come")


async def parts(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def snapshot(gallery: EmbeddedGallery) -> bytes:
    return b"".join([part async for part in gallery.snapshot("g")])


@contextlib.contextmanager
def together(gallery: EmbeddedGallery) -> Iterator[None]:
    """What is begun inside is committed together: the writer is busy so long."""
    end = threading.Event()
    gallery._writer._executor.submit(end.wait)
    try:
        yield
    finally:
        end.set()


async def begun(*calls) -> list[asyncio.Task]:
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0.1)
    return tasks


async def test_items_of_version_1_are_embedded_anew(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 5), "a")
    with gallery._store.transaction():
        gallery._store._connection.execute("UPDATE items SET sequence = 0")  # as the migration leaves them
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    await fill(gallery, draft)
    assert (await gallery.publish("g", draft)).item_count == 5


async def test_gallery_made_anew_and_filled_in_one_commit(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    with together(gallery):
        tasks = await begun(gallery.get("g"), gallery.delete("g"), gallery.create("g", "a", WIDTH), gallery.add("g", items(0, 3), "a"))
    await asyncio.gather(*tasks)
    assert await ids_found(gallery) == ["0", "1", "2"]


async def test_first_items_of_a_draft_and_a_removal_in_one_commit(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 5), "a")
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    changes = await gallery.draft_changes("g", draft, 10)
    with together(gallery):
        tasks = await begun(gallery.add_to_draft("g", draft, drafted(changes)), gallery.remove("g", ["3"]))
    await asyncio.gather(*tasks)
    await fill(gallery, draft)
    await gallery.publish("g", draft)
    assert await ids_found(gallery, "b") == ["0", "1", "2", "4"]


async def published(gallery: EmbeddedGallery, count: int, options: GalleryOptions | None = None) -> None:
    await gallery.create("g", "a", WIDTH, options)
    for begin in range(0, count, 256):
        await gallery.add("g", items(begin, min(count, begin + 256)), "a")
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    await fill(gallery, draft)
    await gallery.publish("g", draft)


async def test_rollback_to_a_generation_that_was_let_go_of_is_built_again(
    gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ledger, "RETIRED_S", 0.0)
    await published(gallery, 50, HNSW)
    await until(lambda: not gallery._ledger.catalogue.retired)
    await gallery.rollback("g")
    await gallery.add("g", items(50, 300), "a")
    await until(lambda: gallery._live("g").info.index.kind is IndexKind.HNSW)


async def test_index_that_cannot_be_kept_does_not_end_the_builder(
    gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise RuntimeError("faiss: write error: No space left on device")

    monkeypatch.setattr("shitu_server.gallery.neighbours.GraphNeighbours.save", fail)
    for name in ("g", "h"):
        await gallery.create(name, "a", WIDTH, HNSW)
        await gallery.add(name, items(0, 200), "a")
        await until(lambda name=name: gallery._live(name).info.index.kind is IndexKind.HNSW)


async def test_what_came_during_a_build_is_built_in_without_another_write(
    gallery: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch
):
    goes_on, run = threading.Event(), BuildJob.run

    def slow(job: BuildJob) -> Neighbours:
        goes_on.wait(10)
        return run(job)

    monkeypatch.setattr(BuildJob, "run", slow)
    await gallery.create("g", "a", WIDTH, HNSW)
    await gallery.add("g", items(0, 200), "a")
    for begin in range(200, 1000, 200):
        await gallery.add("g", items(begin, begin + 200), "a")
    goes_on.set()
    await until(lambda: gallery._live("g").info.index.indexed_count == 1000)


async def test_wake_during_tidying_is_not_lost():
    class Tidied:
        count = 0

        def tidy(self) -> bool:
            self.count += 1
            if self.count == 1:
                loop.call_soon_threadsafe(group.wake)
            return False

    loop, tidied = asyncio.get_running_loop(), Tidied()
    group = GroupWriter(tidied, GalleryLimits())  # type: ignore[arg-type]
    await until(lambda: tidied.count == 2)
    await group.close()


async def test_deleted_galleries_are_purged_under_writes(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    await gallery.create("gone", "a", WIDTH)
    await gallery.add("gone", items(0, 200), "a")
    done = False

    async def write_on() -> None:
        while not done:
            await gallery.add("g", items(0, 1), "a")
            await asyncio.sleep(0.001)

    writers = [asyncio.ensure_future(write_on()) for _ in range(32)]
    await gallery.delete("gone")
    await asyncio.sleep(3)
    count = await gallery._reads.read(lambda reader: reader._rows("SELECT COUNT(*) FROM galleries", ())[0][0], None)
    done = True
    await asyncio.gather(*writers)
    assert count == 1


async def test_draft_begun_while_the_live_generation_is_replaced(gallery: EmbeddedGallery):
    await published(gallery, 5)
    end = threading.Event()
    reading = asyncio.ensure_future(gallery._reads.read(lambda _: end.wait(), None))
    (begin,) = await begun(gallery.begin_draft("g", "c", WIDTH))
    await gallery.rollback("g")
    end.set()
    await reading
    with pytest.raises(UnavailableError, match="made anew"):
        await begin
    draft = await gallery.begin_draft("g", "c", WIDTH)
    await fill(gallery, draft.generation)
    await gallery.publish("g", draft.generation)


async def test_item_that_comes_twice_for_a_draft_is_refused(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 3), "a")
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    new = drafted(await gallery.draft_changes("g", draft, 10))
    with pytest.raises(InvalidArgumentError, match=r"items\[3\].id"):
        await gallery.add_to_draft("g", draft, [*new, new[0]])
    with pytest.raises(EncoderMismatchError):
        await gallery.add_to_draft("g", draft, [new[0], DraftItem("1", 2, np.ones(3, np.float32))])
    await fill(gallery, draft)
    await gallery.publish("g", draft)
    assert await ids_found(gallery, "b") == ["0", "1", "2"]


async def test_what_is_being_restored_is_no_draft_of_a_new_gallery(gallery: EmbeddedGallery):
    await gallery.create("g", "b", WIDTH)
    await gallery.add("g", items(0, 100), "b")
    content = await snapshot(gallery)
    await gallery.delete("g")
    goes_on = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield content[:-100]
        await goes_on.wait()
        yield content[-100:]

    restoring = asyncio.ensure_future(gallery.restore("g", slowly()))
    await asyncio.sleep(0.2)
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 3), "a")
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    goes_on.set()
    with pytest.raises(AlreadyExistsError):
        await restoring
    await fill(gallery, draft)
    await gallery.publish("g", draft)
    assert await ids_found(gallery, "b") == ["0", "1", "2"]


async def test_index_of_a_draft_is_not_taken_for_one_of_later_items(tmp_path: Path):
    """A draft numbers its writes from 1 on, its items have the numbers of the live generation."""
    gallery = await EmbeddedGallery.open(tmp_path, tuning=TUNING)
    await gallery.create("g", "a", WIDTH, HNSW)
    for begin in range(0, 1000, 250):
        await gallery.add("g", items(begin, begin + 250), "a")
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    await fill(gallery, draft, 32)
    await until(lambda: gallery._ledger._indexes[draft].status.indexed_count > 900)
    await asyncio.sleep(0.5)  # it may be kept by now
    moved = [str(i) for i in range(50)]
    await gallery.add("g", items(0, 50), "a")
    while changes := await gallery.draft_changes("g", draft, 256):
        assert {item.id for item in changes} <= set(moved)
        await gallery.add_to_draft("g", draft, drafted(changes, offset=2000))
    await gallery.close()
    gallery = await EmbeddedGallery.open(tmp_path, tuning=TUNING)
    index = gallery._ledger._indexes[draft]
    indexed = index._indexed
    if indexed is not None:
        living = indexed.neighbours.origin.row_ids[indexed.alive].tolist()
        connection = gallery._store._connection
        rows = [connection.execute("SELECT row_id FROM items WHERE generation = ? AND item_id = ?", (draft, i)).fetchone()[0] for i in moved]
        assert not set(rows) & set(living)
    await gallery.close()


def block_of(**content) -> bytes:
    message = pb.SnapshotBlock(**content).SerializeToString()
    return struct.pack("<II", len(message), zlib.crc32(message)) + message


def made_by_hand(header: dict[str, object], *items: dict[str, object]) -> bytes:
    """Return a file whose checksums are right."""
    whole = {"name": "g", "encoder_fingerprint": "a", "dimension": 2, "metric": "inner_product", "index_kind": "auto"}
    whole |= {"fields": {"n": "number", "s": "string"}, "sequence": 5, "create_time_s": 1.0}
    item = {"id": "1", "label": "l", "metadata_json": "{}", "vector": UNIT, "sequence": 2, "update_time_s": 1.0}
    content = MAGIC + block_of(header=pb.SnapshotHeader(**(whole | header)))
    content += block_of(items=pb.SnapshotItems(items=[pb.SnapshotItem(**(item | one)) for one in items]))
    return content + block_of(end=pb.SnapshotEnd(item_count=len(items), sha256=hashlib.sha256(content).digest()))


UNIT = np.array([1, 0], dtype="<f4").tobytes()
UNBELIEVED: list[tuple[dict[str, object], list[dict[str, object]]]] = [
    ({"create_time_s": math.nan}, []),
    ({"create_time_s": math.inf}, []),
    ({"create_time_s": -1.0}, []),
    ({"sequence": 0}, []),
    ({"sequence": 2**63 - 1}, []),
    ({}, [{"update_time_s": math.nan}]),
    ({}, [{"update_time_s": 1e300}]),
    ({}, [{"sequence": 6}]),
    ({}, [{"sequence": -1}]),
    ({}, [{"id": ""}]),
    ({}, [{"label": "x" * 257}]),
    ({}, [{"vector": np.array([2, 0], dtype="<f4").tobytes()}]),
    ({"metric": "l2"}, [{"vector": np.array([1e30, 0], dtype="<f4").tobytes()}]),
    ({}, [{"metadata_json": "[]"}]),
    ({}, [{"metadata_json": '{"a":NaN}'}]),
    ({}, [{"metadata_json": '{"a":' * 5000}]),
    ({}, [{"metadata_json": '{"s":[]}'}]),
    ({}, [{"image_digest": b"short"}]),
    ({}, [{"thumbnail": b"x" * 300_000}]),
    ({}, [{}, {}]),
]


@pytest.mark.parametrize(("header", "wrong"), UNBELIEVED)
async def test_nothing_of_a_file_made_by_hand_is_believed(gallery: EmbeddedGallery, header, wrong):
    assert (await gallery.restore("whole", parts(made_by_hand({}, {}, {"id": "2"})))).item_count == 2
    with pytest.raises(InvalidArgumentError, match="nothing was restored"):
        await gallery.restore("g", parts(made_by_hand(header, *wrong)))
    assert [info.name for info in (await gallery.list_galleries(10, "")).entries] == ["whole"]


async def test_item_of_an_earlier_block_that_comes_again(gallery: EmbeddedGallery):
    twice = [{"id": "1"}] + [{"id": str(i)} for i in range(2, 65)]
    content = made_by_hand({}, *twice)
    again = block_of(items=pb.SnapshotItems(items=[pb.SnapshotItem(id="1", label="l", metadata_json="{}", vector=UNIT, sequence=2)]))
    end = len(block_of(end=pb.SnapshotEnd(item_count=64, sha256=bytes(32))))
    content = content[:-end] + again
    content += block_of(end=pb.SnapshotEnd(item_count=65, sha256=hashlib.sha256(content).digest()))
    with pytest.raises(InvalidArgumentError, match="nothing was restored"):
        await gallery.restore("g", parts(content))


async def test_restoring_that_stalls_ends_with_its_deadline(gallery: EmbeddedGallery):
    content = made_by_hand({}, {})

    async def stalling() -> AsyncIterator[bytes]:
        yield content[:-20]
        await asyncio.sleep(60)

    with pytest.raises(DeadlineExceededError):
        await gallery.restore("g", stalling(), deadline_s=time.monotonic() + 0.3)
    assert (await gallery.restore("g", parts(content))).item_count == 1


async def test_list_goes_on_in_its_generation(gallery: EmbeddedGallery):
    await published(gallery, 30)
    first = await gallery.list_items("g", 10, "")
    await gallery.rollback("g")
    second = await gallery.list_items("g", 10, first.next_token)
    third = await gallery.list_items("g", 10, second.next_token)
    assert [item.id for page in (first, second, third) for item in page.entries] == [str(i) for i in range(30)]
    assert third.next_token == ""
    await gallery.delete("g")
    await gallery.create("g", "a", WIDTH)
    with pytest.raises(InvalidArgumentError, match="page_token"):
        await gallery.list_items("g", 10, first.next_token)


async def test_snapshot_of_what_is_being_purged_is_refused(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    for begin in range(0, 2000, 250):
        await gallery.add("g", items(begin, begin + 250), "a")
    reader = SnapshotReader(gallery._store.path, gallery._live("g").info)
    with gallery._store.transaction():
        gallery._store.galleries.hide(1)
        gallery._store.purge(100)
    with pytest.raises(NotFoundError):
        list(reader.blocks())


async def test_snapshot_that_lacks_rows_is_refused(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 3), "a")
    with gallery._store.transaction():
        gallery._store._connection.execute("DELETE FROM items WHERE item_id = '1'")
    with pytest.raises(StorageError, match="should hold 3 items, 2 are there"):
        await snapshot(gallery)


async def test_hold_ends_with_its_gallery(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    await gallery.hold_writes("g", draft, 10)
    await gallery.delete("g")
    await gallery.create("g", "a", WIDTH)
    await asyncio.wait_for(gallery.add("g", items(0, 1), "a"), 1)
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    await gallery.hold_writes("g", draft, 10)
    await gallery.begin_draft("g", "c", WIDTH)
    await asyncio.wait_for(gallery.add("g", items(0, 1), "a"), 1)
    await published_again(gallery)
    draft = (await gallery.begin_draft("g", "d", WIDTH)).generation
    await gallery.hold_writes("g", draft, 10)
    await gallery.rollback("g")
    await asyncio.wait_for(gallery.add("g", items(0, 1), "a"), 1)
    assert not gallery._rebuilds._drafts


async def published_again(gallery: EmbeddedGallery) -> None:
    draft = (await gallery.begin_draft("g", "c", WIDTH)).generation
    await fill(gallery, draft)
    await gallery.publish("g", draft)
