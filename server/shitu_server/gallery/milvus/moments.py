"""At which moments of Milvus reads and writes take place, so that a write is seen by every search that begins after it.

Milvus answers a read as soon as it has consumed all writes up to a timestamp that the read names. It consumes them in steps of 0.2 s
(`proxy.timeTickInterval`), so that a read which names the present waits for the next step. Who waits is a choice:

- Reads name the present and wait, 0.2 s each; writes return when Milvus has taken them.
- Reads name the moment `BOUND_S` ago, which is consumed already, and do not wait; a write returns when that moment has passed it.

Either way a write that was acknowledged is in every read that begins later, at whatever gateway, as long as all gateways have the
same choice, and also after Milvus was started anew: then reads wait until it has caught up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Collection, Hashable
from typing import Final

from shitu_server.errors import DeadlineExceededError
from shitu_server.gallery.milvus.rpc import LOGICAL_BITS, MilvusConnection

BOUND_S: Final = 0.5
"""Milvus is seldom further behind; of reads that name a moment 0.3 s ago, one in twenty had to wait."""
_BOUND: Final = int(BOUND_S * 1000) << LOGICAL_BITS
_REMEMBERED_S: Final = 4 * BOUND_S


class Moments:
    """Timestamps for reads, and waiting after writes."""

    def __init__(self, connection: MilvusConnection, *, searches_wait: bool) -> None:
        self._connection = connection
        self._bound = 0 if searches_wait else _BOUND

    async def present(self, deadline_s: float | None) -> int:
        """Return a timestamp later than that of any write which was acknowledged."""
        return await self._connection.timestamp(deadline_s)

    def readable(self, present: int) -> int:
        """Return the timestamp that a read which begins at `present` must name."""
        return present - self._bound

    async def of_read(self, deadline_s: float | None) -> int:
        """Return the timestamp that a read which begins now must name."""
        return self.readable(await self.present(deadline_s))

    async def pass_by(self, written: int, deadline_s: float | None) -> None:
        """Return when every read that begins later sees what was written at that timestamp.

        Raises:
            DeadlineExceededError: the deadline passed; the write is stored.
            UnavailableError: Milvus went away; the write is stored.
        """
        if not self._bound:
            return
        left_s = BOUND_S
        while left_s > 0:
            if deadline_s is not None and time.monotonic() + left_s > deadline_s:
                raise DeadlineExceededError("the deadline passed before the write could be seen by all; it is stored")
            await asyncio.sleep(left_s)
            missing = written - await self.of_read(deadline_s)
            left_s = (missing >> LOGICAL_BITS) / 1000 + 0.001 if missing > 0 else 0


class Claim:
    """What a write that has begun, or ended a moment ago, concerns."""

    def __init__(self, written: int) -> None:
        self.ended = asyncio.Event()
        self.written = written


class WriteOrder:
    """Writes of this process to the same items, one after another, each after it can read the one before.

    A write to Milvus reads first what is there. Writes that concern different items do so side by side.
    """

    def __init__(self) -> None:
        self._claims: dict[Hashable, Claim] = {}

    @contextlib.asynccontextmanager
    async def entered(self, keys: Collection[Hashable]) -> AsyncGenerator[Claim, None]:
        """Wait for the writes that have begun with one of the keys; `written` is then the timestamp of the last of them, or 0.

        Set it to the timestamp of this write.
        """
        while waiting := [claim for key in keys if (claim := self._claims.get(key)) and not claim.ended.is_set()]:
            await waiting[0].ended.wait()
        last = max((claim.written for key in keys if (claim := self._claims.get(key))), default=0)
        own = Claim(last)
        self._claims.update(dict.fromkeys(keys, own))
        try:
            yield own
        finally:
            own.ended.set()
            asyncio.get_running_loop().call_later(_REMEMBERED_S, self._forget, tuple(keys), own)

    def _forget(self, keys: Collection[Hashable], claim: Claim) -> None:
        for key in keys:
            if self._claims.get(key) is claim:
                del self._claims[key]
