"""Puts a converted model into a model repository: whole, with its card, or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Final

from shitu_models.cards import CARD_FILE, CardError, ModelCard, read_card, write_card
from shitu_models.repository import CONFIG_FILE, WEIGHTS_FILE, RepositoryError, placed_any, version_folder, versions_of
from shitu_models.specs import ModelSpec, Precision
from shitu_models.triton_config import Accelerator, TritonConfigOptions, render
from shitu_train.errors import ConversionError

_ATTEMPTS: Final = 20
"""To take the next number while others place versions of the same model."""


def place(repository: Path, content: bytes, card: ModelCard) -> Path:
    """Write a new version of a model and return its folder; weights that are the newest version already are left there.

    Nobody sees a part of a version: its folder appears by being renamed. Older versions are never touched.

    Raises:
        ConversionError: the model is there already with other tensors, or the disk refuses.
    """
    check_fits(repository, card.spec)
    present = _same_version(repository, card)
    if present is not None:
        return present
    model = repository / card.spec.name
    is_new = not model.exists()
    draft = model / f".draft-{uuid.uuid4().hex}"
    try:
        _write_draft(draft, content, card)
        _write_config(model / CONFIG_FILE, card)
        return _published(repository, card.spec.name, draft)
    except OSError as error:
        raise ConversionError(
            f"{model} cannot be written: {error.strerror}; free the disk or choose another repository"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if is_new and not versions_of(repository, card.spec.name):
            shutil.rmtree(model, ignore_errors=True)


def check_fits(repository: Path, spec: ModelSpec) -> None:
    """Raise ConversionError where a model of this name is there with other tensors: one configuration serves all its versions."""
    if not versions_of(repository, spec.name):
        return
    try:
        there = placed_any(repository, spec.name).spec
    except RepositoryError as error:
        raise ConversionError(str(error)) from error
    wanted, found = ((s.inputs, s.outputs, s.max_batch) for s in (spec, there))
    if wanted != found:
        raise ConversionError(
            f"{repository / spec.name} holds a model with other tensors ({found}) than this one ({wanted}); give this one another --name"
        )


def _same_version(repository: Path, card: ModelCard) -> Path | None:
    if not versions_of(repository, card.spec.name):
        return None
    newest = version_folder(repository, card.spec.name)
    try:
        there = read_card(newest / CARD_FILE)
    except CardError:
        return None
    same = (there.weights_sha256, there.spec, there.precision) == (card.weights_sha256, card.spec, card.precision)
    return newest if same else None


def _write_draft(draft: Path, content: bytes, card: ModelCard) -> None:
    draft.mkdir(parents=True)
    with (draft / WEIGHTS_FILE).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    write_card(draft / CARD_FILE, card)


def _write_config(path: Path, card: ModelCard) -> None:
    if versions_of(path.parents[1], card.spec.name) and path.exists():
        return  # whoever runs this repository may have chosen other options
    accelerator = Accelerator.OPENVINO if card.precision is Precision.BF16 else Accelerator.NONE
    path.write_text(
        render(card.spec, TritonConfigOptions(accelerator=accelerator, precision=card.precision)), encoding="utf-8"
    )


def _published(repository: Path, name: str, draft: Path) -> Path:
    for _ in range(_ATTEMPTS):
        target = repository / name / str(max(versions_of(repository, name), default=0) + 1)
        try:
            draft.rename(target)
        except FileExistsError:
            continue
        except OSError:
            if target.is_dir():  # "directory not empty": another conversion took the number
                continue
            raise
        return target
    raise ConversionError(f"{repository / name}: other conversions took {_ATTEMPTS} numbers in a row; try again")
