"""Writers and an operator of one gallery for tests of crashes, and the book that they keep of what must be there."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from shitu_server.errors import (
    EncoderMismatchError,
    NotFoundError,
    PreconditionError,
    ShituError,
    UnavailableError,
)
from shitu_server.gallery.client import GalleryClient
from shitu_server.types import (
    DraftItem,
    GalleryOptions,
    IndexKind,
    Item,
    ItemUpdate,
    NewItem,
    SearchOptions,
)

GALLERY = "crash"
DIMENSIONS = {"encoder-a": 48, "encoder-b": 32}
WRITERS = 4
IDS_PER_WRITER = 150
ITEMS_PER_CALL = 24
PICTURE_BYTES = 24


@dataclass(frozen=True)
class Kept:
    """An item as it must be."""

    label: str
    version: int
    picture: bytes

    def vector(self, encoder: str) -> np.ndarray:
        """Return what an encoder makes of the picture: float32, not normalised."""
        seed = [*encoder.encode(), *self.picture]
        return np.random.default_rng(seed).standard_normal(DIMENSIONS[encoder]).astype(np.float32)


State = Mapping[str, "Kept | None"]
"""Of items by id; None where there is none."""


@dataclass
class Book:
    """What was acknowledged, and of each writer the call that was not: all of it happened, or nothing."""

    kept: dict[str, Kept] = field(default_factory=dict)
    open_calls: dict[int, State] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    unanswered_kept: int = 0
    aliases: set[str] = field(default_factory=lambda: {GALLERY})
    """Which galleries the alias may stand for."""

    def settle(self, changes: State) -> None:
        for item_id, kept in changes.items():
            if kept is None:
                self.kept.pop(item_id, None)
            else:
                self.kept[item_id] = kept


class Workload:
    """Writers, each of its own ids, one searching reader and an operator, over one client."""

    _WORKS = ("_reembed", "_snapshot_and_restore", "_move_alias", "_roll_back", "_replace_spare")
    _REBUILDS = ("_reembed", "_reembed", "_roll_back", "_snapshot_and_restore")

    def __init__(self, client: GalleryClient, seed: int) -> None:
        self.client = client
        self.book = Book()
        self._random = random.Random(seed)
        self._versions = 0
        self._snapshot: tuple[dict[str, Kept], int] | None = None

    async def prepare(self) -> None:
        options = GalleryOptions(index_kind=IndexKind.HNSW)
        await self.client.create(GALLERY, "encoder-a", DIMENSIONS["encoder-a"], options)
        await self.client.create(
            "spare", "encoder-a", DIMENSIONS["encoder-a"], GalleryOptions(index_kind=IndexKind.IVF)
        )
        await self.client.set_alias("current", GALLERY)

    async def run(self, *, rebuilding: bool = False) -> None:
        """Work until the process is gone: four writers as fast as they can, or one that leaves time for a gallery to be made anew."""
        operator = self._operate(self._REBUILDS if rebuilding else self._WORKS)
        writers = [self._write(0, pause_s=0.02)] if rebuilding else [self._write(n) for n in range(WRITERS)]
        await asyncio.gather(*(self._until_gone(work) for work in (*writers, operator, self._search())))

    async def _until_gone(self, work: AsyncIterator[None]) -> None:
        try:
            async for _ in work:
                pass
        except UnavailableError:
            return

    async def _write(self, writer: int, pause_s: float = 0.0) -> AsyncIterator[None]:
        chance = random.Random(self._random.random())
        encoder = (await self.client.get(GALLERY)).encoder_fingerprint
        while True:
            kind, changes = self._next_call(chance, writer)
            self.book.open_calls[writer] = changes
            try:
                await self._send(kind, changes, encoder)
            except EncoderMismatchError:  # published in between
                del self.book.open_calls[writer]
                encoder = (await self.client.get(GALLERY)).encoder_fingerprint
                continue
            except UnavailableError as error:
                if "made anew during the call" not in error.message:
                    raise
                del self.book.open_calls[writer]
                continue
            self.book.settle(self.book.open_calls.pop(writer))
            self.book.acknowledged[kind] += 1
            yield
            await asyncio.sleep(pause_s)

    def _next_call(self, chance: random.Random, writer: int) -> tuple[str, State]:
        ids = [f"{writer}-{n}" for n in chance.sample(range(IDS_PER_WRITER), chance.randint(1, ITEMS_PER_CALL))]
        there = [item_id for item_id in ids if item_id in self.book.kept]
        kind = chance.choices(["add", "update", "remove"], [6, 2, 2])[0]
        self._versions += 1
        if kind == "update" and there:
            return kind, {i: replace(self.book.kept[i], label=f"label {self._versions}") for i in there}
        if kind == "remove" and there:
            return kind, dict.fromkeys(there)
        return "add", {i: Kept(f"label {self._versions}", self._versions, chance.randbytes(PICTURE_BYTES)) for i in ids}

    async def _send(self, kind: str, changes: State, encoder: str) -> None:
        if kind == "remove":
            removed = await self.client.remove(GALLERY, list(changes))
            assert set(removed.removed_ids) == changes.keys()
            return
        kept = {item_id: one for item_id, one in changes.items() if one is not None}
        if kind == "update":
            updated = await self.client.update_items(GALLERY, [ItemUpdate(i, one.label) for i, one in kept.items()])
            assert set(updated.updated_ids) == changes.keys()
            return
        items = [
            NewItem(i, one.label, one.vector(encoder), {"version": one.version}, one.picture) for i, one in kept.items()
        ]
        await self.client.add(GALLERY, items, encoder)

    async def _search(self) -> AsyncIterator[None]:
        """Ask with vectors of any encoder: errors other than those of the encoder are none that a search may give."""
        while True:
            for encoder, dimension in DIMENSIONS.items():
                queries = np.random.default_rng(self._versions).standard_normal((3, dimension)).astype(np.float32)
                try:
                    await self.client.search(GALLERY, queries, encoder, SearchOptions(3))
                except EncoderMismatchError:
                    continue
            yield
            await asyncio.sleep(0.01)

    async def _operate(self, works: Sequence[str]) -> AsyncIterator[None]:
        chance = random.Random(self._random.random())
        while True:
            work = chance.choice(works)
            try:
                await getattr(self, work)(chance)
            except UnavailableError:
                raise
            except ShituError as error:
                assert isinstance(error, (PreconditionError, NotFoundError)), error
            else:
                self.book.acknowledged[work] += 1
            yield

    async def _reembed(self, chance: random.Random) -> None:
        del chance
        live = (await self.client.get(GALLERY)).encoder_fingerprint
        encoder = next(one for one in DIMENSIONS if one != live)
        draft = (await self.client.begin_draft(GALLERY, encoder, DIMENSIONS[encoder])).generation
        held = False
        while True:
            items = await self.client.draft_changes(GALLERY, draft, 64)
            if items:
                new = [DraftItem(item.id, item.sequence, kept_of(item).vector(encoder)) for item in items]
                await self.client.add_to_draft(GALLERY, draft, new)
                continue
            try:
                await self.client.publish(GALLERY, draft)
            except PreconditionError:
                if not held:
                    await self.client.hold_writes(GALLERY, draft, 1)
                    held = True
                continue
            return

    async def _roll_back(self, chance: random.Random) -> None:
        del chance
        await self.client.rollback(GALLERY)  # is refused where writes would be lost

    async def _snapshot_and_restore(self, chance: random.Random) -> None:
        name = f"restored-{chance.randrange(10**9)}"
        content = [part async for part in self.client.snapshot(GALLERY)]

        async def parts() -> AsyncIterator[bytes]:
            for part in content:
                yield part

        restored = await self.client.restore(name, parts())
        assert restored.item_count == await count_listed(self.client, name)
        await self.client.delete(name)

    async def _move_alias(self, chance: random.Random) -> None:
        target = chance.choice([GALLERY, "spare"])
        self.book.aliases |= {target}
        await self.client.set_alias("current", target)
        self.book.aliases = {target}

    async def _replace_spare(self, chance: random.Random) -> None:
        encoder = "encoder-a"
        rows = np.random.default_rng(chance.randrange(10**6)).standard_normal((80, DIMENSIONS[encoder]))
        items = [NewItem(str(i), "spare", row.astype(np.float32)) for i, row in enumerate(rows)]
        await self.client.add("spare", items, encoder)

    async def check(self, *, everything: bool) -> None:
        """Compare what is there with the book: nothing lost, nothing invented, nothing by halves; then go on from what is there."""
        info = await self.client.get(GALLERY)
        ids = await listed(self.client, GALLERY)
        assert len(ids) == len(set(ids)) == info.item_count
        assert (await self.client.get("current")).name in self.book.aliases
        there = set(ids)
        changed = set().union(*self.book.open_calls.values()) if self.book.open_calls else set()
        assert there - changed == self.book.kept.keys() - changed
        for changes in self.book.open_calls.values():
            await self._settle_open(changes, there)
        self.book.open_calls.clear()
        assert there == self.book.kept.keys()
        chosen = ids if everything else self._random.sample(ids, min(24, len(ids)))
        await self._check_items({*chosen, *(changed & there)}, info.encoder_fingerprint)
        for extra in await self._galleries():
            assert extra.startswith("restored-")
            await self.client.delete(extra)

    async def _galleries(self) -> list[str]:
        names = [info.name for info in (await self.client.list_galleries(1000, "")).entries]
        return [name for name in names if name not in {GALLERY, "spare"}]

    async def _settle_open(self, changes: State, there: set[str]) -> None:
        """Find out whether a call that was not answered was done."""
        seen = {i: kept_of(await self.client.get_item(GALLERY, i)) if i in there else None for i in changes}
        before = {item_id: self.book.kept.get(item_id) for item_id in changes}
        assert seen in (changes, before), (seen, changes, before)
        self.book.unanswered += 1
        self.book.unanswered_kept += seen == changes != before
        self.book.settle(seen)

    async def _check_items(self, item_ids: set[str], encoder: str) -> None:
        chosen = sorted(item_ids)
        for begin in range(0, len(chosen), 64):
            part = chosen[begin : begin + 64]
            stored = await asyncio.gather(*(self.client.get_item(GALLERY, item_id) for item_id in part))
            wanted = [self.book.kept[item_id].vector(encoder) for item_id in part]
            for item, vector in zip(stored, wanted, strict=True):
                assert kept_of(item) == self.book.kept[item.id]
                assert item.vector is not None
                assert float(np.abs(item.vector - vector / np.linalg.norm(vector)).max()) < 1e-6
            found = await self.client.search(GALLERY, np.stack(wanted), encoder, SearchOptions(1))
            assert [hits[0].item_id for hits in found.hits] == part
            assert all(hits[0].score > 0.99999 for hits in found.hits)


def kept_of(item: Item) -> Kept:
    version = item.metadata["version"]
    assert isinstance(version, int)
    return Kept(item.label, version, item.thumbnail)


async def listed(client: GalleryClient, name: str) -> list[str]:
    ids, token = [], ""
    while True:
        page = await client.list_items(name, 1000, token)
        ids += [item.id for item in page.entries]
        token = page.next_token
        if not token:
            return ids


async def count_listed(client: GalleryClient, name: str) -> int:
    return len(await listed(client, name))
