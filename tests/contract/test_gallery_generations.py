"""What `types.Gallery` promises of drafts, rollbacks and snapshots, asked of the gallery in this process and behind a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import numpy as np
import pytest
from tests.contract.test_gallery import ENCODER, KINDS, items, process, vectors, with_drinks

from shitu_server.errors import (
    AlreadyExistsError,
    EncoderMismatchError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
)
from shitu_server.filters import Eq
from shitu_server.types import DraftItem, Gallery, Item, ItemUpdate, NewItem, SearchOptions

__all__ = ["process"]

OTHER = "encoder-2"
WIDTH = 8
"""Of the other encoder's vectors."""


@pytest.fixture(params=KINDS)
async def gallery(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gallery]:
    """As of `test_gallery`, but not in Milvus, which has no generations."""
    async with with_drinks(request, tmp_path) as prepared:
        yield prepared


def other_vector(item: Item | NewItem) -> np.ndarray:
    """Return what the other encoder makes of an item's picture."""
    return np.random.default_rng(list(item.thumbnail)).standard_normal(WIDTH).astype(np.float32)


async def filled(gallery: Gallery, draft: int, page: int = 7) -> int:
    """Fill a draft up; return how many items were embedded."""
    count = 0
    while changes := await gallery.draft_changes("drinks", draft, page):
        new = [DraftItem(item.id, item.sequence, other_vector(item)) for item in changes]
        await gallery.add_to_draft("drinks", draft, new)
        count += len(changes)
    return count


async def listed(gallery: Gallery, name: str) -> list[Item]:
    ids = [item.id for item in (await gallery.list_items(name, 1000, "")).entries]
    return [await gallery.get_item(name, item_id) for item_id in ids]


async def test_draft_is_filled_beside_the_live_generation_and_published(gallery: Gallery):
    await gallery.add("drinks", items(40), ENCODER)
    before = await gallery.get("drinks")
    draft = await gallery.begin_draft("drinks", OTHER, WIDTH)
    assert (draft.item_count, draft.wanted_count) == (0, 40)
    assert await filled(gallery, draft.generation) == 40
    assert await gallery.get("drinks") == before or (await gallery.get("drinks")).state == before.state
    published = await gallery.publish("drinks", draft.generation)
    assert (published.encoder_fingerprint, published.dimension, published.item_count) == (OTHER, WIDTH, 40)
    assert (published.state.generation, published.previous_generation) == (draft.generation, before.state.generation)
    assert published.state.sequence > before.state.sequence
    assert (published.create_time_s, published.options) == (before.create_time_s, before.options)
    stored = await listed(gallery, "drinks")
    assert [item.id for item in stored] == [f"item-{i}" for i in range(40)]
    queries = np.stack([other_vector(item) for item in stored])
    found = await gallery.search("drinks", queries, OTHER, SearchOptions(1))
    assert [(hits[0].item_id, round(hits[0].score, 5)) for hits in found.hits] == [(f"item-{i}", 1) for i in range(40)]
    assert found.state == published.state
    only = await gallery.search("drinks", queries[:1], OTHER, SearchOptions(50, where=Eq("n", 7)))
    assert [hit.item_id for hit in only.hits[0]] == ["item-7"]
    with pytest.raises(EncoderMismatchError):
        await gallery.add("drinks", items(1), ENCODER)
    with pytest.raises(NotFoundError, match="draft"):
        await gallery.publish("drinks", draft.generation)


async def test_draft_follows_the_writes_that_come_meanwhile(gallery: Gallery):
    await gallery.add("drinks", items(30), ENCODER)
    draft = (await gallery.begin_draft("drinks", OTHER, WIDTH)).generation
    first = await gallery.draft_changes("drinks", draft, 10)
    stale = [DraftItem(item.id, item.sequence, other_vector(item)) for item in first]
    await gallery.update_items("drinks", [ItemUpdate("item-1", "new label")])
    await gallery.remove("drinks", ["item-2", "item-20"])
    await gallery.add_to_draft("drinks", draft, stale)  # passes over what changed
    await filled(gallery, draft)
    await gallery.add("drinks", [NewItem("late", "l", vectors(1)[0], {}, b"jpeg late")], ENCODER)
    with pytest.raises(PreconditionError):
        await gallery.publish("drinks", draft)
    replaced = NewItem("item-5", "replaced", vectors(1)[0], {"n": 5}, b"another jpeg")
    await gallery.add("drinks", [replaced], ENCODER)
    await gallery.remove("drinks", ["item-6"])
    assert {item.id for item in await gallery.draft_changes("drinks", draft, 10)} == {"late", "item-5"}
    await filled(gallery, draft)
    await gallery.publish("drinks", draft)
    stored = {item.id: item for item in await listed(gallery, "drinks")}
    assert stored.keys() == {f"item-{i}" for i in range(30)} - {"item-2", "item-20", "item-6"} | {"late"}
    assert (stored["item-1"].label, stored["item-5"].label) == ("new label", "replaced")
    for item in stored.values():
        np.testing.assert_allclose(item.vector, other_vector(item) / np.linalg.norm(other_vector(item)), atol=1e-6)
    assert (await gallery.get("drinks")).item_count == len(stored)


async def test_draft_is_gone_on_with_or_begun_anew(gallery: Gallery):
    await gallery.add("drinks", items(20), ENCODER)
    first = await gallery.begin_draft("drinks", OTHER, WIDTH)
    changes = await gallery.draft_changes("drinks", first.generation, 12)
    new = [DraftItem(item.id, item.sequence, other_vector(item)) for item in changes]
    await gallery.add_to_draft("drinks", first.generation, new)
    again = await gallery.begin_draft("drinks", OTHER, WIDTH)
    assert (again.generation, again.item_count, again.wanted_count) == (first.generation, 12, 20)
    assert await filled(gallery, again.generation) == 8
    third = await gallery.begin_draft("drinks", "encoder-3", WIDTH)
    assert third.generation != first.generation
    with pytest.raises(NotFoundError, match="draft"):
        await gallery.publish("drinks", first.generation)
    await gallery.discard_draft("drinks", third.generation)
    with pytest.raises(NotFoundError, match="draft"):
        await gallery.draft_changes("drinks", third.generation, 1)
    assert (await gallery.get("drinks")).encoder_fingerprint == ENCODER


async def test_draft_that_is_not_full_is_not_published(gallery: Gallery):
    await gallery.add("drinks", items(5), ENCODER)
    draft = (await gallery.begin_draft("drinks", OTHER, WIDTH)).generation
    with pytest.raises(PreconditionError):
        await gallery.publish("drinks", draft)
    with pytest.raises(EncoderMismatchError):
        await gallery.add_to_draft("drinks", draft, [DraftItem("item-0", 2, np.ones(WIDTH + 1, np.float32))])
    with pytest.raises(InvalidArgumentError):
        await gallery.add_to_draft("drinks", draft, [DraftItem("item-0", 2, np.zeros(WIDTH, np.float32))])
    with pytest.raises(NotFoundError):
        await gallery.begin_draft("no", OTHER, WIDTH)
    await gallery.add("drinks", [NewItem("vector only", "l", vectors(1)[0])], ENCODER)
    with pytest.raises(PreconditionError, match="1 of 6 items"):
        await gallery.begin_draft("drinks", OTHER, WIDTH)


async def test_held_writes_wait_and_searches_do_not(gallery: Gallery):
    await gallery.add("drinks", items(10), ENCODER)
    draft = (await gallery.begin_draft("drinks", OTHER, WIDTH)).generation
    await filled(gallery, draft)
    await gallery.hold_writes("drinks", draft, 5)
    write = asyncio.ensure_future(gallery.update_items("drinks", [ItemUpdate("item-0", "held")]))
    await asyncio.sleep(0.2)
    assert not write.done()
    assert (await gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1))).hits[0][0].label == "label-0"
    published = await gallery.publish("drinks", draft)
    updated = await asyncio.wait_for(write, 2)
    assert (updated.updated_ids, updated.state.generation) == (("item-0",), published.state.generation)
    with pytest.raises(NotFoundError):
        await gallery.hold_writes("drinks", draft, 5)


async def test_a_hold_ends_by_itself(gallery: Gallery):
    await gallery.add("drinks", items(3), ENCODER)
    draft = (await gallery.begin_draft("drinks", OTHER, WIDTH)).generation
    await gallery.hold_writes("drinks", draft, 0.3)
    await asyncio.wait_for(gallery.remove("drinks", ["item-0"]), 2)
    for seconds in (0, -1, 11):
        with pytest.raises(InvalidArgumentError):
            await gallery.hold_writes("drinks", draft, seconds)


async def test_calls_that_began_before_a_publication_end_well(gallery: Gallery):
    await gallery.add("drinks", items(10), ENCODER)
    old = await gallery.get("drinks")
    draft = (await gallery.begin_draft("drinks", OTHER, WIDTH)).generation
    await filled(gallery, draft)
    await gallery.publish("drinks", draft)
    pinned = SearchOptions(1, generation=old.state.generation)
    found = await gallery.search("drinks", vectors(1), ENCODER, pinned)
    assert (found.hits[0][0].item_id, found.state) == ("item-0", old.state)
    with pytest.raises(EncoderMismatchError):
        await gallery.search("drinks", vectors(1), ENCODER, SearchOptions(1))


async def test_rollback_and_back_again(gallery: Gallery):
    await gallery.add("drinks", items(10), ENCODER)
    with pytest.raises(PreconditionError, match="no generation"):
        await gallery.rollback("drinks")
    old = await gallery.get("drinks")
    draft = (await gallery.begin_draft("drinks", OTHER, WIDTH)).generation
    await filled(gallery, draft)
    new = await gallery.publish("drinks", draft)
    back = await gallery.rollback("drinks")
    assert (back.encoder_fingerprint, back.item_count, back.state.generation) == (ENCODER, 10, old.state.generation)
    assert back.previous_generation == draft
    assert back.state.sequence > new.state.sequence
    found = await gallery.search("drinks", vectors(3), ENCODER, SearchOptions(1))
    assert [hits[0].item_id for hits in found.hits] == ["item-0", "item-1", "item-2"]
    again = await gallery.rollback("drinks")
    assert (again.encoder_fingerprint, again.state.generation) == (OTHER, draft)
    await gallery.remove("drinks", ["item-1"])
    with pytest.raises(PreconditionError, match="1 writes"):
        await gallery.rollback("drinks")
    forced = await gallery.rollback("drinks", discard_writes=True)
    assert (forced.encoder_fingerprint, forced.item_count) == (ENCODER, 10)


async def snapshot(gallery: Gallery, name: str = "drinks") -> bytes:
    return b"".join([part async for part in gallery.snapshot(name)])


async def parts(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


async def test_snapshot_is_restored_as_another_gallery(gallery: Gallery):
    await gallery.add("drinks", items(150), ENCODER)
    await gallery.remove("drinks", ["item-7"])
    content = await snapshot(gallery)
    info = await gallery.get("drinks")
    await gallery.add("drinks", [NewItem("later", "l", vectors(1)[0])], ENCODER)
    restored = await gallery.restore("tea", parts(content))
    assert (restored.name, restored.item_count, restored.options) == ("tea", 149, info.options)
    assert (restored.create_time_s, restored.state.sequence) == (info.create_time_s, info.state.sequence)
    await gallery.remove("drinks", ["later"])
    for old, new in zip(await listed(gallery, "drinks"), await listed(gallery, "tea"), strict=True):
        np.testing.assert_array_equal(old.vector, new.vector)
        for name in ("id", "label", "metadata", "thumbnail", "update_time_s", "image_digest", "sequence"):
            assert getattr(old, name) == getattr(new, name), name
    queries = vectors(5, 9)
    here = await gallery.search("drinks", queries, ENCODER, SearchOptions(149))
    there = await gallery.search("tea", queries, ENCODER, SearchOptions(149))
    assert here.hits == there.hits
    for name in ("drinks", "tea"):
        with pytest.raises(AlreadyExistsError):
            await gallery.restore(name, parts(content))
    with pytest.raises(NotFoundError):
        await snapshot(gallery, "no")


def damaged(content: bytes) -> Iterable[bytes]:
    """Return the file with one thing wrong each."""
    yield b""
    yield b"no snapshot at all, but long enough to be one"
    for end in (10, 100, len(content) // 2, len(content) - 1):
        yield content[:end]
    for place in (3, 17, 30, len(content) // 3, len(content) // 2, len(content) - 20, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 0x10
        yield bytes(flipped)
    yield content + b"x"


async def test_damaged_snapshot_leaves_nothing_behind(gallery: Gallery):
    await gallery.add("drinks", items(100), ENCODER)
    content = await snapshot(gallery)
    for wrong in damaged(content):
        with pytest.raises(InvalidArgumentError, match="nothing was restored"):
            await gallery.restore("tea", parts(wrong))
        with pytest.raises(NotFoundError):
            await gallery.get("tea")
    assert (await gallery.restore("tea", parts(content, 7))).item_count == 100


async def test_restoring_that_is_given_up_leaves_nothing_behind(gallery: Gallery):
    await gallery.add("drinks", items(100), ENCODER)
    content = await snapshot(gallery)

    async def endless() -> AsyncIterator[bytes]:
        yield content[: len(content) // 2]
        await asyncio.sleep(60)

    restoring = asyncio.ensure_future(gallery.restore("tea", endless()))
    await asyncio.sleep(0.3)
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    for _ in range(50):  # a process hears a little later that nobody waits any more
        try:
            assert (await gallery.restore("tea", parts(content))).item_count == 100
            break
        except PreconditionError:
            await asyncio.sleep(0.1)
    else:
        pytest.fail("the name stays taken")
