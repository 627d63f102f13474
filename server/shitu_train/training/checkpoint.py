"""Checkpoints: written whole or not at all, so that an interrupted run resumes from the last good one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle

from shitu_train.training.budget import Budget


def save_checkpoint(path: Path, parts: Mapping[str, Any], budget: Budget, description: Mapping[str, Any]) -> None:
    """Save the state of every part (layers and optimisers by name), what of the budget is spent, and a description."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    state["spent_steps"], state["spent_s"] = budget.spent_steps, budget.spent_s
    state["description"] = dict(description)
    unfinished = path.with_name(path.name + ".tmp")
    paddle.save(state, str(unfinished))
    unfinished.replace(path)


def load_checkpoint(path: Path, parts: Mapping[str, Any], budget: Budget | None = None) -> dict[str, Any]:
    """Put a checkpoint's state into the parts, and what was spent into `budget`.

    Returns:
        What the run was: its description, and `steps` and `minutes` spent.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it holds no state for one of the parts, or a layer's parameters do not fit.
    """
    if not path.exists():
        raise FileNotFoundError(f"expected a checkpoint at {path}, found none; train first or give another path")
    state = paddle.load(str(path))
    for name, part in parts.items():
        if name not in state:
            raise ValueError(f"expected {path} to hold {name!r}, it holds {sorted(state)}")
        unfit = part.set_state_dict(state[name])
        if isinstance(unfit, tuple) and any(unfit):
            raise ValueError(f"{path}: parameters of {name!r} do not fit: missing {unfit[0]}, unexpected {unfit[1]}")
    steps, seconds = int(state["spent_steps"]), float(state["spent_s"])
    if budget is not None:
        budget.spent_steps, budget.spent_s = steps, seconds
    return {**state.get("description", {}), "steps": steps, "minutes": round(seconds / 60, 1)}


class Saver:
    """Writes a run's checkpoint every so often."""

    def __init__(self, path: Path, parts: Mapping[str, Any], description: Mapping[str, Any], every_s: float) -> None:
        self._path, self._parts, self._every_s = path, parts, every_s
        self._description = dict(description)
        self._saved_s = time.monotonic()

    def resume(self, budget: Budget) -> None:
        """Go on from the checkpoint, if there is one; the description then says under `before` what had been run so far."""
        if self._path.exists():
            self._description["before"] = load_checkpoint(self._path, self._parts, budget)

    def save_if_due(self, budget: Budget) -> bool:
        """Save if it is time or the budget is spent; says whether it did."""
        if time.monotonic() - self._saved_s < self._every_s and budget.progress < 1:
            return False
        save_checkpoint(self._path, self._parts, budget, self._description)
        self._saved_s = time.monotonic()
        return True
