"""A real gallery process that kills itself by SIGKILL at a named point of its work. Run as `python -m tests.dying_gallery gallery`.

Environment: DIE_AT names a point and, behind a colon, the how manieth time it is passed, e.g. `after sync:3`; without it the process
lives. Graphs and lists are built of few items already, so that building takes part.
"""

from __future__ import annotations

import asyncio
import functools
import os
import pathlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shitu_server.gallery.builds import IndexBuilder, IndexFiles
from shitu_server.gallery.gallery_rows import GalleryRows
from shitu_server.gallery.item_rows import ItemRows
from shitu_server.gallery.ledger import Ledger
from shitu_server.gallery.limits import IndexOptions
from shitu_server.gallery.searching import GallerySearch
from shitu_server.gallery.store import GalleryStore
from shitu_server.gallery_process import serve_gallery

TUNING = IndexOptions(least_delta_rows=48, dead_share=0.1)

POINTS: dict[str, tuple[Any, str]] = {
    "after append": (ItemRows, "upsert"),
    "after relabel": (ItemRows, "relabel"),
    "after removal": (ItemRows, "remove"),
    "before sync": (GalleryRows, "advance"),
    "after sync": (Ledger, "_reflect"),
    "after publish": (Ledger, "_publish"),
    "after purge": (GalleryStore, "purge"),
    "after retire": (GalleryRows, "retire"),
    "after going live": (GalleryRows, "go_live"),
    "after alias": (GalleryRows, "set_alias"),
    "after copy to draft": (ItemRows, "copy"),
    "after build": (IndexBuilder, "_built"),
    "after save of index": (IndexFiles, "save"),
    "during save of index": (pathlib.Path, "replace"),
    "after search": (GallerySearch, "_search_batch"),
}
"""By name: what is wrapped. `after sync` is the first thing that happens when a commit has returned."""
BEFORE = {"after sync"}
"""Die before what is wrapped runs, not after."""


def arm(order: str) -> None:
    """Let the process die as DIE_AT says."""
    name, _, count = order.partition(":")
    owner, attribute = POINTS[name]
    left = [int(count)]

    def passed() -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, attribute, wrapped(getattr(owner, attribute), passed, before=name in BEFORE))


def wrapped(method: Callable[..., Any], passed: Callable[[], None], *, before: bool) -> Callable[..., Any]:
    if asyncio.iscoroutinefunction(method):

        @functools.wraps(method)
        async def later(*arguments: Any, **named: Any) -> Any:
            result = await method(*arguments, **named)
            passed()
            return result

        return later

    @functools.wraps(method)
    def now(*arguments: Any, **named: Any) -> Any:
        if before:
            passed()
        result = method(*arguments, **named)
        if not before:
            passed()
        return result

    return now


def main() -> None:
    if order := os.environ.get("DIE_AT"):
        arm(order)
    address, data_dir = os.environ["SHITU_GALLERY_ADDRESS"], Path(os.environ["SHITU_DATA_DIR"])
    asyncio.run(serve_gallery(address, data_dir, tuning=TUNING))


if __name__ == "__main__":
    main()
