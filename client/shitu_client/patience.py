"""Waiting for a server that is away or busy: as long as it is worth it, and no longer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from shitu_client.errors import (
    DeadlineExceededError,
    ResourceExhaustedError,
    ShituClientError,
    UnavailableError,
    UnreachableError,
)

T = TypeVar("T")

DEFAULT_PATIENCE_S: Final = 120.0
_FIRST_DELAY_S: Final = 0.25
_MOST_DELAY_S: Final = 8.0
_MOST_DOUBLINGS: Final = 10
_SPREAD: Final = 0.2
"""Share by which delays differ, so that requests which failed together do not come together again."""


def is_transient(error: ShituClientError) -> bool:
    """Return whether the same call may do better later.

    RESOURCE_EXHAUSTED only where the server says when: gRPC has the same status for a message that is too large for ever.
    """
    if isinstance(error, ResourceExhaustedError):
        return error.retry_after_s is not None
    return isinstance(error, (UnavailableError, DeadlineExceededError))


@dataclass
class Attempts:
    """Of one request, from its first failure on."""

    first_failure_s: float = 0.0
    failure_count: int = 0


class Patience:
    """Shared by the requests of one run: each may fail and be tried again for `limit_s`.

    Where nobody ever answered there is nothing to wait for.
    """

    def __init__(
        self,
        limit_s: float = DEFAULT_PATIENCE_S,
        *,
        say: Callable[[str], None] | None = None,
        has_answered: bool = False,
    ) -> None:
        self.limit_s = limit_s
        self._say = say
        self._last_success_s = time.monotonic()
        self._has_answered = has_answered
        self._is_away = False

    def succeeded(self) -> None:
        """Note that the server did what it was asked."""
        self._last_success_s = time.monotonic()
        self._has_answered = True
        self._is_away = False

    def is_lost(self, attempts: Attempts) -> bool:
        """Return whether nothing succeeded since a request, for which patience has ended, failed first."""
        return self._last_success_s < attempts.first_failure_s

    async def wait(self, error: ShituClientError, attempts: Attempts) -> bool:
        """Wait until the request that failed may be tried again; returns False where its time is over."""
        self._has_answered |= not isinstance(error, UnreachableError)
        if not self._has_answered:
            return False
        now_s = time.monotonic()
        if attempts.failure_count == 0:
            attempts.first_failure_s = now_s
        left_s = attempts.first_failure_s + self.limit_s - now_s
        if left_s <= 0:
            return False
        self._tell(error)
        # The last attempt is made at the very end of the time.
        await asyncio.sleep(min(_delay_s(error, attempts.failure_count), left_s))
        attempts.failure_count += 1
        return True

    async def call(self, request: Callable[[], Awaitable[T]]) -> T:
        """Return what a request that may be repeated returns.

        Raises:
            ShituClientError: it failed for another reason, or for too long.
        """
        attempts = Attempts()
        while True:
            try:
                result = await request()
            except ShituClientError as error:
                self._has_answered |= not isinstance(error, UnreachableError)
                if not is_transient(error) or not await self.wait(error, attempts):
                    raise
            else:
                self.succeeded()
                return result

    def _tell(self, error: ShituClientError) -> None:
        """Say once that a server is away; one that is busy answers, and is no news."""
        if isinstance(error, ResourceExhaustedError) or self._is_away:
            return
        self._is_away = True
        if self._say is not None:
            self._say(f"the server does not answer, waiting up to {self.limit_s:g} s")


def _delay_s(error: ShituClientError, failure_count: int) -> float:
    backoff_s: float = min(_FIRST_DELAY_S * 2 ** min(failure_count, _MOST_DOUBLINGS), _MOST_DELAY_S)
    asked_s = error.retry_after_s or 0.0
    spread: float = random.uniform(1.0, 1.0 + _SPREAD)  # noqa: S311  no secret
    return max(backoff_s, asked_s) * spread
