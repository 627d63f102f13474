"""Writes to a gallery wait while the last of them are taken over into another generation."""

from __future__ import annotations

import asyncio
import contextlib
import time

from shitu_server.gallery.waiting import within


class WriteHolds:
    """By gallery; each ends by itself, so that nobody who dies can hold writes back for good. For one event loop."""

    def __init__(self) -> None:
        self._ends: dict[str, tuple[asyncio.Event, float]] = {}

    def hold(self, name: str, seconds: float) -> None:
        """Let writes wait from now on; a hold that is there goes on until the new time."""
        event = self._ends[name][0] if name in self._ends else asyncio.Event()
        self._ends[name] = (event, time.monotonic() + seconds)

    def end(self, name: str) -> None:
        """Let writes go on."""
        held = self._ends.pop(name, None)
        if held is not None:
            held[0].set()

    async def passed(self, name: str, deadline_s: float | None) -> None:
        """Return as soon as the gallery is not held. Raises DeadlineExceededError."""
        await within(self._passed(name), deadline_s)

    async def _passed(self, name: str) -> None:
        while (held := self._ends.get(name)) is not None:
            event, until_s = held
            rest_s = until_s - time.monotonic()
            if rest_s <= 0:
                self.end(name)
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), rest_s)
