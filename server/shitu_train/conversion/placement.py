"""Puts a converted model into a model repository: whole, with its card, or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shitu_models.cards import CARD_FILE, CardError, ModelCard, read_card, write_card
from shitu_models.fingerprint import weights_digest
from shitu_models.repository import CONFIG_FILE, WEIGHTS_FILE, RepositoryError, placed_any, version_folder, versions_of
from shitu_models.specs import ModelSpec, Precision
from shitu_models.triton_config import Accelerator, TritonConfigOptions, render
from shitu_train.errors import ConversionError

_DRAFT: Final = ".draft-"
_LOCK: Final = ".placing"
_STALE_AFTER_S: Final = 3600.0
"""A draft is written in seconds; an older one is of a conversion that was killed."""


def place(repository: Path, content: bytes, card: ModelCard) -> Path:
    """Write a new version of a model and return its folder; weights that are the newest version already are left there.

    Nobody sees a part of a version: its folder appears by being renamed. Older versions are never touched.

    Raises:
        ConversionError: the model is there already with other tensors or another precision, or the disk refuses.
    """
    draft = repository / f"{_DRAFT}{uuid.uuid4().hex}"
    try:
        repository.mkdir(parents=True, exist_ok=True)
        _write_draft(draft, content, card)
        with _alone(repository):
            return _published(repository, draft, card)
    except OSError as error:
        raise ConversionError(
            f"{repository} cannot be written: {error.strerror}; free the disk or choose another repository"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_fits(repository: Path, spec: ModelSpec, precision: Precision) -> None:
    """Raise ConversionError where a model of this name is there and is another: one configuration serves all its versions."""
    if not versions_of(repository, spec.name):
        return
    try:
        there = placed_any(repository, spec.name)
    except RepositoryError as error:
        raise ConversionError(str(error)) from error
    wanted, found = _shape(spec, precision), _shape(there.spec, there.precision)
    if wanted != found:
        raise ConversionError(
            f"{repository / spec.name} holds a model of {found}, and this one is of {wanted}; give this one another --name"
        )


def _shape(spec: ModelSpec, precision: Precision) -> str:
    outputs = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in spec.outputs)
    return f"{spec.input_size} px to {outputs}, batches up to {spec.max_batch}, {precision.value}"


def _published(repository: Path, draft: Path, card: ModelCard) -> Path:
    check_fits(repository, card.spec, card.precision)
    _sweep(repository)
    model = repository / card.spec.name
    present = _same_version(repository, card)
    if present is not None:
        return present
    model.mkdir(exist_ok=True)
    if not versions_of(repository, card.spec.name):  # else whoever runs this repository may have chosen other options
        _write_config(model / CONFIG_FILE, card)
    numbers = [int(path.name) for path in model.iterdir() if path.name.isdecimal()]
    return draft.rename(model / str(max(numbers, default=0) + 1))


def _same_version(repository: Path, card: ModelCard) -> Path | None:
    """The newest version, if it is this very model, and its file is still what its card says."""
    if not versions_of(repository, card.spec.name):
        return None
    newest = version_folder(repository, card.spec.name)
    try:
        there = read_card(newest / CARD_FILE)
    except CardError:
        return None
    same = (there.weights_sha256, there.spec, there.precision) == (card.weights_sha256, card.spec, card.precision)
    return newest if same and weights_digest(newest / WEIGHTS_FILE) == card.weights_sha256 else None


def _write_draft(draft: Path, content: bytes, card: ModelCard) -> None:
    draft.mkdir()
    with (draft / WEIGHTS_FILE).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    write_card(draft / CARD_FILE, card)


def _write_config(path: Path, card: ModelCard) -> None:
    accelerator = Accelerator.OPENVINO if card.precision is Precision.BF16 else Accelerator.NONE
    options = TritonConfigOptions(accelerator=accelerator, precision=card.precision)
    unfinished = path.with_name(f"{_DRAFT}{path.name}")
    unfinished.write_text(render(card.spec, options), encoding="utf-8")
    unfinished.replace(path)


def _sweep(repository: Path) -> None:
    for draft in repository.glob(f"{_DRAFT}*"):
        if time.time() - draft.stat().st_mtime > _STALE_AFTER_S:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Others wait: numbers are given, and a configuration is written, by one at a time."""
    with (repository / _LOCK).open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
