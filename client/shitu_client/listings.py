"""All items of a gallery with what lists leave out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from shitu_client.client import AsyncClient
from shitu_client.errors import NotFoundError
from shitu_client.gallery_results import Item

_ITEMS_IN_FLIGHT: Final = 16


async def full_items(client: AsyncClient, gallery: str) -> AsyncGenerator[Item, None]:
    """Yield all items with their vectors and pictures, oldest first; those that are removed meanwhile are passed over."""
    waiting: list[Item] = []
    async with aclosing(client.iterate_items(gallery)) as items:
        async for item in items:
            waiting.append(item)
            if len(waiting) == _ITEMS_IN_FLIGHT:
                for full in await _full(client, gallery, waiting):
                    yield full
                waiting = []
    for full in await _full(client, gallery, waiting):
        yield full


async def _full(client: AsyncClient, gallery: str, items: Sequence[Item]) -> list[Item]:
    async def one(item: Item) -> Item | None:
        try:
            return await client.get_item(gallery, item.id)
        except NotFoundError:
            return None

    return [full for full in await asyncio.gather(*map(one, items)) if full is not None]
