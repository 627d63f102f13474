"""What the engine and its generator processes tell each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shitu_bench.load.plans import LoadPlan, LoadRequest


@dataclass(frozen=True)
class GeneratorTask:
    """The part of a plan that one process does."""

    address: str
    requests: Sequence[LoadRequest]
    plan: LoadPlan
    """Rate and concurrency are this process' share."""
    number: int
    """Of the process, from 0."""


@dataclass(frozen=True)
class Ready:
    """The connections stand."""


@dataclass(frozen=True)
class Progressed:
    """Answers until now, of the whole run."""

    answered_count: int
    failed_count: int


@dataclass(frozen=True)
class Failed:
    """The process cannot go on."""

    message: str
