"""Signals as events: SIGTERM and SIGINT stop a server, SIGHUP lets it look for new models."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_TERMINAL_GONE_S: Final = 0.05


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


@contextmanager
def reload_signal(wanted: asyncio.Event, stopping: asyncio.Event) -> Iterator[None]:
    """Let SIGHUP set `wanted`, or `stopping` where it says that the terminal is gone; afterwards it is ignored.

    Call it on the event loop of the main thread.
    """
    loop = asyncio.get_running_loop()
    had_terminal = _has_terminal()

    def tell() -> None:
        (stopping if had_terminal and not _has_terminal() else wanted).set()

    # The kernel may send the signal a moment before it takes the terminal away.
    loop.add_signal_handler(signal.SIGHUP, lambda: loop.call_later(_TERMINAL_GONE_S, tell))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
