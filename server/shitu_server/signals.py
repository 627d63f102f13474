"""SIGTERM and SIGINT as an event."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals(stopping: asyncio.Event) -> Iterator[None]:
    """Let both signals, however often they come, set the event; call it on the event loop of the main thread.

    Afterwards they are ignored: the process ends anyway, and one more Ctrl-C must not turn an orderly end into a crash.
    """
    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
