"""Batches made by a background thread while the model computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], first: int, ahead: int = 4) -> Generator[T, None, None]:
    """Yields `make(first)`, `make(first + 1)`, ... without end; an error in `make` is raised here. Closing it ends the thread."""
    ready: queue.Queue[T | Exception] = queue.Queue(ahead)
    stop = threading.Event()

    def offer(item: T | Exception) -> None:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def work() -> None:
        step = first
        while not stop.is_set():
            try:
                offer(make(step))
            except Exception as error:  # noqa: BLE001 - handed to the consumer, which raises it
                offer(error)
                return
            step += 1

    worker = threading.Thread(target=work, name="feed", daemon=True)
    worker.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stop.set()
        worker.join()
