"""Waiting with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from shitu_server.errors import DeadlineExceededError

T = TypeVar("T")


async def within(work: Awaitable[T], deadline_s: float | None) -> T:
    """Return what `work` returns. Raises DeadlineExceededError once `time.monotonic()` is over `deadline_s`."""
    try:
        return await asyncio.wait_for(work, None if deadline_s is None else deadline_s - time.monotonic())
    except asyncio.TimeoutError as error:
        raise DeadlineExceededError("the deadline passed before the gallery answered") from error
