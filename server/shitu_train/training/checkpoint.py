"""Checkpoints: written whole or not at all, so that an interrupted run resumes from the last good one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paddle

from shitu_train.training.budget import Budget


def save_checkpoint(path: Path, parts: Mapping[str, Any], budget: Budget) -> None:
    """Saves the state of every part (layers and optimisers by name) and what of the budget is spent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    state["spent_steps"], state["spent_s"] = budget.spent_steps, budget.spent_s
    unfinished = path.with_suffix(".tmp")
    paddle.save(state, str(unfinished))
    os.replace(unfinished, path)


def load_checkpoint(path: Path, parts: Mapping[str, Any], budget: Budget | None = None) -> None:
    """Puts a checkpoint's state into the parts, and what was spent into `budget`.

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
    if budget is not None:
        budget.spent_steps, budget.spent_s = int(state["spent_steps"]), float(state["spent_s"])
