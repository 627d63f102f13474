"""Which configuration PaddleX is fastest with on this machine: tried, not assumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from shitu_bench.errors import BenchError
from shitu_bench.load.measurements import available_cores, rounded
from shitu_bench.peers.environment import PeerConfiguration, PeerEnvironment, PeerModels
from shitu_bench.peers.paddlex import PeerServer
from shitu_bench.peers.pictures import Pictures
from shitu_bench.peers.rivals import PaddlexRival
from shitu_bench.peers.slices import SlicePlan, Told, measured_rounds
from shitu_bench.summaries import quantiles

_ENCODER_BATCH: Final = 4
"""Crops at once: about as many as a picture has."""
_LEAST_REQUESTS: Final = 24


@dataclass(frozen=True)
class Trial:
    """A configuration, and how fast it was or why it does not work."""

    configuration: PeerConfiguration
    rate_per_s: float = 0.0
    latency_ms: tuple[float, float] | None = None
    """p50 and p99."""
    error: str = ""

    def described(self) -> dict[str, Any]:
        """Return it as it is kept in results."""
        figures: dict[str, Any] = {"error": self.error}
        if self.latency_ms is not None:
            p50, p99 = self.latency_ms
            figures = rounded({"rate_per_s": self.rate_per_s, "p50_ms": p50, "p99_ms": p99})
        return {"configuration": str(self.configuration), **asdict(self.configuration), **figures}


@dataclass(frozen=True)
class TrialGround:
    """What all configurations are tried with."""

    environment: PeerEnvironment
    models: PeerModels
    pictures: Pictures
    index_key: Callable[[PeerServer], str]
    """Of the gallery, which may have to be made first."""
    folder: Path
    storage: Path
    plan: SlicePlan
    told: Told

    def trial_of(self, configuration: PeerConfiguration, number: int) -> Trial:
        """Serve with a configuration under load for a moment."""
        try:
            folder = self.folder / f"trial-{number}"
            with PeerServer(self.environment, self.models, configuration, folder, self.storage) as server:
                rival = PaddlexRival(server, self.pictures, self.index_key(server))
                name = f"trying PaddleX with {configuration}"
                (one,) = measured_rounds({name: rival}, self.plan, 1, time.monotonic(), self.told)[name]
        except BenchError as error:
            return Trial(configuration, error=_essence(str(error)))
        if not one.latencies_ms:
            return Trial(configuration, error=f"no answer without error: {dict(one.codes)}")
        latencies = quantiles(one.latencies_ms)
        return Trial(configuration, one.rate_per_s, (latencies["p50"], latencies["p99"]))


def trial_plan(duration_s: float, concurrency: int) -> SlicePlan:
    """Return under which load configurations are tried."""
    return SlicePlan(duration_s, concurrency=concurrency, least_requests=_LEAST_REQUESTS)


def tried(try_one: Callable[[PeerConfiguration, int], Trial], cores: int | None = None) -> tuple[Trial, list[Trial]]:
    """Return the fastest trial and all: one thing after the other, each beside the fastest so far.

    Raises:
        BenchError: none works.
    """
    trials: list[Trial] = []
    for step in _steps(cores or available_cores()):
        for configuration in step(_fastest(trials).configuration if trials else PeerConfiguration()):
            if all(configuration != trial.configuration for trial in trials):
                trials.append(try_one(configuration, len(trials)))
    return fastest_of(trials), trials


def fastest_of(trials: Sequence[Trial]) -> Trial:
    """Return the fastest.

    Raises:
        BenchError: none works.
    """
    fastest = _fastest(trials)
    if not fastest.rate_per_s:
        raise BenchError(f"PaddleX works in no configuration that was tried; the last one: {trials[-1].error}")
    return fastest


def _steps(cores: int) -> Iterator[Callable[[PeerConfiguration], list[PeerConfiguration]]]:
    """Yield what to try next, given the fastest so far."""
    yield lambda best: [best, replace(best, threads=1), replace(best, threads=cores)]
    yield lambda best: [replace(best, is_onednn_on=False)]
    yield lambda best: [replace(best, encoder_batch=_ENCODER_BATCH)]
    yield lambda best: [replace(best, processes=cores, threads=threads) for threads in (1, cores)]
    # Its command line has the plugin, its packages for pip do not: it is tried where it was installed, and said to be missing else.
    yield lambda _: [PeerConfiguration(is_plugin_used=True)]


def _fastest(trials: Sequence[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.rate_per_s)


def _essence(message: str) -> str:
    """Return the line of a log that says what went wrong, without colours."""
    lines = [line.replace("\x1b[0m", "").strip() for line in message.splitlines() if line.strip()]
    with suppress(StopIteration):
        return next(line for line in reversed(lines) if "Error" in line or "error" in line)
    return lines[-1]
