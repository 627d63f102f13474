"""Interleavings of writes, drafts, restores and builds that only the gallery in this process can be made to show."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import shutil
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
    ConfigurationError,
    DeadlineExceededError,
    EncoderMismatchError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    StorageError,
    UnavailableError,
)
from shitu_server.gallery import ledger
from shitu_server.gallery.embedded import EmbeddedGallery
from shitu_server.gallery.index import BuildJob, Neighbours
from shitu_server.gallery.limits import GalleryLimits, IndexOptions
from shitu_server.gallery.snapshots import MAGIC, SnapshotReader
from shitu_server.gallery.store import FILE_NAME, GalleryStore
from shitu_server.gallery.writer import GroupWriter
from shitu_server.gallery.writes import DeleteAlias
from shitu_server.types import DraftItem, GalleryOptions, IndexKind, Item, ItemUpdate, NewItem, SearchOptions

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


async def by_the_writer(gallery: EmbeddedGallery, work: Callable[[GalleryStore], object]) -> None:
    """Change the database behind the gallery's back, but not beside its writer."""

    def change() -> None:
        with gallery._store.transaction():
            work(gallery._store)

    await asyncio.wrap_future(gallery._writer._executor.submit(change))


async def test_items_of_version_1_are_embedded_anew(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 5), "a")
    await by_the_writer(
        gallery, lambda store: store._connection.execute("UPDATE items SET sequence = 0")
    )  # as migrated
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    await fill(gallery, draft)
    assert (await gallery.publish("g", draft)).item_count == 5


async def test_gallery_made_anew_and_filled_in_one_commit(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    with together(gallery):
        tasks = await begun(
            gallery.get("g"), gallery.delete("g"), gallery.create("g", "a", WIDTH), gallery.add("g", items(0, 3), "a")
        )
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


async def test_tidied_while_writes_never_cease(monkeypatch: pytest.MonkeyPatch):
    class Busy:
        tidied = 0
        applied = 0

        def apply(self, writes: list[object]) -> list[None]:
            self.applied += 1
            if self.tidied < 3:
                asyncio.run_coroutine_threadsafe(again(), loop).result()  # before the writer looks what waits
            return [None] * len(writes)

        def tidy(self) -> bool:
            self.tidied += 1
            return False

    async def again() -> None:
        written.append(asyncio.ensure_future(group.write(DeleteAlias("a"), None)))
        await asyncio.sleep(0)

    monkeypatch.setattr("shitu_server.gallery.writer.BUSY_TIDY_INTERVAL_S", 0.05)
    loop, busy, written = asyncio.get_running_loop(), Busy(), list[asyncio.Task[None]]()
    group = GroupWriter(busy, GalleryLimits())  # type: ignore[arg-type]
    await again()
    await until(lambda: busy.tidied >= 3)
    assert busy.applied > 20
    await group.close()
    await asyncio.gather(*written)


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
        rows = [
            connection.execute("SELECT row_id FROM items WHERE generation = ? AND item_id = ?", (draft, i)).fetchone()[
                0
            ]
            for i in moved
        ]
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
    again = block_of(
        items=pb.SnapshotItems(items=[pb.SnapshotItem(id="1", label="l", metadata_json="{}", vector=UNIT, sequence=2)])
    )
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

    def hide(store: GalleryStore) -> None:
        store.galleries.hide(1)
        store.purge(100)

    await by_the_writer(gallery, hide)
    with pytest.raises(NotFoundError):
        list(reader.blocks())


async def test_snapshot_that_lacks_rows_is_refused(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 3), "a")
    await by_the_writer(gallery, lambda store: store._connection.execute("DELETE FROM items WHERE item_id = '1'"))
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


async def test_page_of_a_draft_fits_into_a_reply(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    large = [NewItem(str(i), "l", ROWS[i], {}, bytes(256 * 1024)) for i in range(100)]
    await gallery.add("g", large, "a")
    draft = (await gallery.begin_draft("g", "b", WIDTH)).generation
    assert len(await gallery.draft_changes("g", draft, 256)) == 64
    await fill(gallery, draft)
    assert (await gallery.publish("g", draft)).item_count == 100


async def test_what_was_restored_in_vain_is_deleted_as_soon_as_the_queue_has_room(tmp_path: Path):
    gallery = await EmbeddedGallery.open(tmp_path, GalleryLimits(write_queue_calls=2))
    await gallery.create("other", "a", WIDTH)
    content = made_by_hand({}, {})
    fills = asyncio.Event()

    async def broken_off() -> AsyncIterator[bytes]:
        yield content[:-40]
        await fills.wait()

    restoring = asyncio.ensure_future(gallery.restore("g", broken_off()))
    await asyncio.sleep(0.2)
    with together(gallery):
        writes = await begun(*(gallery.add("other", items(i, i + 1), "a") for i in range(1)))
        writes += await begun(*(gallery.add("other", items(i, i + 1), "a") for i in range(1, 3)))
        fills.set()
        await asyncio.sleep(0.2)
    await asyncio.gather(*writes)
    with pytest.raises(InvalidArgumentError, match="nothing was restored"):
        await restoring
    assert gallery._store.galleries.drafts() == []
    await gallery.close()


async def test_metric_that_is_none_is_told_at_the_start(tmp_path: Path):
    gallery = await EmbeddedGallery.open(tmp_path)
    await gallery.create("g", "a", WIDTH)
    await by_the_writer(
        gallery, lambda store: store._connection.execute("UPDATE galleries SET metric = 'inner_producu'")
    )
    await gallery.close()
    with pytest.raises(ConfigurationError, match="inner_producu"):
        await EmbeddedGallery.open(tmp_path)


async def test_updates_and_removals_that_wait_count_by_their_size(gallery: EmbeddedGallery):
    await gallery.create("g", "a", WIDTH)
    gallery._writer._limits = GalleryLimits(write_queue_bytes=100_000)
    with together(gallery):
        await begun(gallery.add("g", items(0, 1), "a"))
        updates = [ItemUpdate(str(i), None, {"k": "x" * 10_000}) for i in range(9)]
        await begun(gallery.update_items("g", updates))
        with pytest.raises(OverloadedError):
            await gallery.update_items("g", updates)
        with pytest.raises(OverloadedError):
            await gallery.remove("g", ["x" * 200 + str(i) for i in range(100)])


async def test_index_of_another_history_is_not_brought_back_by_a_rollback(tmp_path: Path):
    """The database was put back from a copy; the files of indexes were not."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    gallery = await EmbeddedGallery.open(data, tuning=TUNING)
    await published(gallery, 300, HNSW)
    await gallery.close()
    shutil.copy(data / FILE_NAME, copy)
    gallery = await EmbeddedGallery.open(data, tuning=TUNING)
    await gallery.rollback("g")
    for begin in range(300, 900, 200):
        await gallery.add("g", items(begin, begin + 200), "a")
    await until((data / "indexes" / "1.json").exists)
    await until(lambda: gallery._live("g").info.index.indexed_count > 800)
    last = gallery._live("g").info.state.sequence
    await gallery.close()
    shutil.copy(copy, data / FILE_NAME)
    gallery = await EmbeddedGallery.open(data, tuning=IndexOptions())
    while gallery._live("g").info.state.sequence < last:
        await gallery.add("g", items(0, 1), "b")
    await gallery.rollback("g", discard_writes=True)
    assert gallery._live("g").info.index.indexed_count == 0
    await gallery.close()


async def test_items_of_a_full_gallery_can_be_replaced(tmp_path: Path):
    gallery = await EmbeddedGallery.open(tmp_path, GalleryLimits(items_per_gallery=10))
    await gallery.create("g", "a", WIDTH)
    await gallery.add("g", items(0, 10), "a")
    assert (await gallery.add("g", items(0, 10), "a")).added[0].replaced
    with pytest.raises(StorageError, match="full"):
        await gallery.add("g", items(9, 11), "a")
    await gallery.close()
