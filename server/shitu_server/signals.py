"""Signals as events: SIGTERM and SIGINT stop a server, SIGHUP lets it look for new models."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_TERMINAL_GONE_S: Final = 0.05
_TERMINAL_LOOK_S: Final = 0.5
_TERMINAL_LOST_S: Final = 2.0
"""SIGHUP that comes this long after the terminal was seen last means its end; a shell passes it on to its jobs a moment later."""


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
    """Let SIGHUP set `wanted`, or `stopping` where it comes because the terminal closes; afterwards it is ignored.

    A process that was started with SIGHUP ignored, as by nohup, is not stopped by it; neither is one that outlived its terminal.
    Call it on the event loop of the main thread.
    """
    loop = asyncio.get_running_loop()
    terminal = None if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else _Terminal(loop)

    def tell() -> None:
        (stopping if terminal is not None and terminal.just_gone else wanted).set()

    # The kernel may send the signal a moment before it takes the terminal away.
    loop.add_signal_handler(signal.SIGHUP, lambda: loop.call_later(_TERMINAL_GONE_S, tell))
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if terminal is not None:
            terminal.close()


class _Terminal:
    """This process' controlling terminal, looked at now and then: who lost it long ago is not told so by a signal of today."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._seen_s = -math.inf
        self._next: asyncio.TimerHandle | None = None
        self._look()

    @property
    def just_gone(self) -> bool:
        """Whether there is none, and was one until a moment ago."""
        return not _has_terminal() and self._loop.time() - self._seen_s < _TERMINAL_LOST_S

    def close(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()

    def _look(self) -> None:
        self._next = None
        if _has_terminal():  # one that is gone does not come back
            self._seen_s = self._loop.time()
            self._next = self._loop.call_later(_TERMINAL_LOOK_S, self._look)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
