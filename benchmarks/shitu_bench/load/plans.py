"""What load is made of, and what came of it: the interface between programs and the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class WorkloadKind(str, Enum):
    """Which pictures are sent."""

    FIXED = "fixed"
    """640x480, three objects."""
    MIXED = "mixed"
    """320x240 to 1920x1080, one to six objects."""


@dataclass(frozen=True)
class LoadRequest:
    """A request that is sent again and again."""

    method: str
    """Full name, /package.Service/Method: any unary method."""
    content: bytes
    """The serialized message: making it again for every call would be the generator's cost, not the server's."""


@dataclass(frozen=True)
class LoadPlan:
    """How requests are sent. Open loop where `rate_per_s` is set, else closed loop."""

    duration_s: float
    """What is sent in this time counts."""
    warm_up_s: float = 2.0
    """What is sent before, at the same rate, does not."""
    rate_per_s: float | None = None
    """Mean of the Poisson arrivals of all processes together. A request is due at its time whether or not others are answered,
    and its latency counts from when it was due, not from when it left (no coordinated omission)."""
    concurrency: int = 16
    """Closed loop: callers of all processes together, each with one request in flight."""
    processes: int = 1
    connections: int = 4
    """Of each process; requests take them in turn."""
    deadline_s: float = 10.0
    """Of each call; a success after it is none."""
    most_in_flight: int = 4096
    """Open loop, of each process: what is due beyond it is not sent but counted as `unsent`."""
    seed: int = 5

    @property
    def is_open(self) -> bool:
        """Whether requests come at their own times."""
        return self.rate_per_s is not None


@dataclass(frozen=True)
class LoadOutcome:
    """What came of a plan; of its `duration_s` alone. Latencies in ms, from the due time in an open loop."""

    duration_s: float
    due_count: int
    unsent_count: int
    """Due when too many were in flight: the generator's limit, so the run is not valid where there are many."""
    late_ms: Mapping[str, float]
    """How late requests left after they were due (quantiles): the generator's own delay."""
    codes: Mapping[str, int]
    """Answers by status code, OK among them."""
    rate_per_s: float
    """OK answers a second (goodput: OK within the deadline)."""
    latencies_ms: Sequence[float]
    """Of OK answers."""
    refusal_latencies_ms: Sequence[float]
    """Of RESOURCE_EXHAUSTED answers."""
    retry_after_ms: Sequence[float]
    """What refusals asked for (RetryInfo)."""
    stages_us: Mapping[str, Sequence[float]]
    """Of OK answers to Recognize, by stage of the reply's StageTimings."""
    object_count: int
    """Objects in OK answers."""
    client_cpu_s: float
    """CPU time of the generator's processes."""


Progress = Callable[[float, int, int], None]
"""Called about twice a second with seconds since the begin, OK answers and other answers until now."""


class Observer(Protocol):
    """Looks at the server while it is under load: told in the process that runs the plan, so it must be quick."""

    def begin(self) -> None:
        """That begins which counts."""

    def end(self) -> None:
        """The last that counts is due; what is in flight then is about as much as was when it began."""
