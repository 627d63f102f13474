"""Batches that a server ran, and the same work given to ONNX Runtime alone: its arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np

_SEQUENCE_LENGTH: Final = 256
"""Batches after which a sequence begins again."""


@dataclass(frozen=True)
class Executions:
    """How many batches of each size a model ran."""

    counts: Mapping[int, int]

    @property
    def batch_count(self) -> int:
        """Batches."""
        return sum(self.counts.values())

    @property
    def item_count(self) -> int:
        """Pictures or crops in them."""
        return sum(size * count for size, count in self.counts.items())

    @property
    def mean_size(self) -> float:
        """Items of a batch; 0 where there was none."""
        return self.item_count / self.batch_count if self.batch_count else 0.0

    def since(self, before: Executions) -> Executions:
        """Return what was run after a moment."""
        more = {size: count - before.counts.get(size, 0) for size, count in self.counts.items()}
        return Executions({size: count for size, count in more.items() if count})

    def described(self) -> dict[str, Any]:
        """Return this as it is kept in results."""
        return {
            "execution_count": self.batch_count,
            "item_count": self.item_count,
            "mean_batch": round(self.mean_size, 3),
            "batches": {str(size): count for size, count in self.counts.items()},
        }


def added(before: Mapping[str, Executions], after: Mapping[str, Executions]) -> dict[str, Executions]:
    """Return what was run between two moments, by model; models that ran nothing are left out."""
    models = {name: now.since(before.get(name, Executions({}))) for name, now in after.items()}
    return {name: model for name, model in models.items() if model.batch_count}


def executions_of(statistics: Iterable[Any]) -> dict[str, Executions]:
    """Return what ran by model, all versions together, as Triton's ModelStatistics tell it (`model_stats`)."""
    models: dict[str, Counter[int]] = {}
    for one in statistics:
        counts = models.setdefault(one.name, Counter())
        for batch in one.batch_stats:
            counts[int(batch.batch_size)] += int(batch.compute_infer.count)
    return {name: Executions(dict(sorted(counts.items()))) for name, counts in models.items()}


@dataclass(frozen=True)
class Batch:
    """Something to run."""

    model: str
    size: int


def sequence(executed: Mapping[str, Executions], seed: int) -> tuple[Batch, ...]:
    """Return batches in an order of chance, of each model and size in the share that was run; each at least once."""
    total = sum(one.batch_count for one in executed.values())
    if not total or not all(one.batch_count for one in executed.values()):
        raise ValueError(f"expected batches of each model, got {dict(executed)}")
    scale = min(1.0, _SEQUENCE_LENGTH / total)
    batches = [
        Batch(model, size)
        for model, one in executed.items()
        for size, count in sorted(one.counts.items())
        for _ in range(max(1, round(scale * count)))
    ]
    order = np.random.default_rng(seed).permutation(len(batches))
    return tuple(batches[place] for place in order.tolist())


@dataclass(frozen=True)
class Work:
    """What ONNX Runtime did of one model."""

    item_count: int
    busy_s: float
    """Of all callers together."""


def pictures_per_s(done: Mapping[str, Work], items_per_picture: Mapping[str, float], callers: int) -> float:
    """Return how many pictures a second the models alone could do, if callers always run one batch each.

    What was done need not be in the very ratio of the models' items for a picture: each model's time for an item counts as often
    as a picture needs it.

    Args:
        done: of each model.
        items_per_picture: of each model: 1 of the detector, of the encoder the crops.
        callers: threads that ran batches side by side.
    """
    per_picture_s = sum(items_per_picture[model] * work.busy_s / work.item_count for model, work in done.items())
    return callers / per_picture_s


def steady_rate(samples: Sequence[tuple[float, int]]) -> float:
    """Return items a second between the first and the last batch that ended while somebody looked.

    A large batch of a slow model ends every ten seconds: a count over a window that knows nothing of that would be off by a batch.

    Args:
        samples: moments in seconds, and how many items had been run by then.

    Raises:
        ValueError: fewer than two batches ended.
    """
    ends = [after for before, after in pairwise(samples) if after[1] > before[1]]
    if len(ends) < 2:  # noqa: PLR2004  # two ends make a time
        raise ValueError(f"expected at least two batches that end, got {len(ends)}")
    (first_s, first_items), (last_s, last_items) = ends[0], ends[-1]
    return (last_items - first_items) / (last_s - first_s)
