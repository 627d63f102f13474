"""How much one gateway does at a time, where the settings leave it open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shitu_server.settings import Settings

_PICTURES_PER_PROCESSOR: Final = 6
"""At work where the models run on the same processors: with 2 there is less to merge (12 % fewer pictures a second), with 8 pictures
wait for each other (p99 at 0.8 of the peak 1.4 times as long). Measured with the demo models on 2 processors."""
_MOST_MODEL_CALLS: Final = 64
"""More than there will be: only what is asked in the same turn of the event loop shares a call."""


@dataclass(frozen=True)
class Capacity:
    """What one gateway does side by side."""

    image_threads: int
    """That decode and crop."""
    pictures_at_work: int
    """Of those in flight; the others stand in line."""
    model_calls: int
    """In flight, to each version of a model; what is asked meanwhile shares the next."""
    long_calls: int | None
    """In flight, to all models together, of those that want the processors of an instance for themselves; None where the models have
    others."""


def capacity_of(settings: Settings, *, embedded: bool, processor_count: int) -> Capacity:
    """Return what a gateway does at a time.

    Args:
        settings: what they say holds; what they leave open depends on where the models run.
        embedded: whether Triton is ours, on this machine.
        processor_count: that this process and the models may use, all gateways together.
    """
    processors = processor_count / settings.workers
    if embedded and not settings.accelerator.is_on_gpu:
        threads, pictures = processors / 2, max(2, int(_PICTURES_PER_PROCESSOR * processors))
        calls, long_calls = settings.instances, settings.instances
    else:  # models must not wait for the next call, and the processors are ours
        threads, pictures = processors, settings.max_pictures_in_flight
        calls, long_calls = _MOST_MODEL_CALLS, None
    return Capacity(
        settings.image_threads or max(1, int(threads)), settings.max_pictures_at_work or pictures, calls, long_calls
    )
