"""`model.json` beside a model's weights: what was converted, from what, and how exactly; written once, when the weights are placed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from shitu_models.specs import ModelSpec, Precision

CARD_FILE: Final = "model.json"
"""Stands in the folder of a version, beside `model.onnx`."""


class CardError(Exception):
    """A card cannot be read or is none; the message names the file and what to do."""


@dataclass(frozen=True)
class Source:
    """What a model was converted from."""

    kind: str
    """`checkpoint` (.pdparams), `inference` (an exported directory) or `layer` (trained here)."""
    files: dict[str, str]
    """sha256 of each file, 64 hex digits, by its name."""
    note: str = ""
    """What a user should know of the conversion, e.g. that a graph was cut before its NMS."""


@dataclass(frozen=True)
class Drift:
    """How far a reduced precision moves an encoder's vectors, or a detector's boxes, from those of FP32."""

    pictures: int
    min_cosine: float
    """Of a picture's vectors in both precisions, the least; -1..1. Of a detector: the least IoU of boxes in both, 0..1."""
    mean_cosine: float
    recall_change: float
    """recall@1 (of a detector: recall of FP32's boxes, less 1) in the reduced precision less that in FP32, -1..1."""


@dataclass(frozen=True)
class ModelCard:
    """What one version of a model is."""

    spec: ModelSpec
    """As it is served: registry entry, with what inference.yml said otherwise."""
    architecture: str
    """Name of the entry in the registry whose architecture it has."""
    precision: Precision
    weights_sha256: str
    """Of `model.onnx`, 64 hex digits."""
    source: Source
    max_abs_difference: float
    """Paddle against ONNX Runtime in FP32, over all fixed pictures: the parity gate."""
    min_cosine: float
    drift: Drift | None = None
    """None in FP32."""
    versions: dict[str, str] | None = None
    """Of the tools that converted it."""


_CARDS: Final = TypeAdapter(ModelCard)


def write_card(path: Path, card: ModelCard) -> None:
    """Write a card."""
    path.write_bytes(_CARDS.dump_json(card, indent=2) + b"\n")


def read_card(path: Path) -> ModelCard:
    """Return the card in a file.

    Raises:
        CardError: it cannot be read, or says something that is none of a card's fields.
    """
    try:
        return _CARDS.validate_json(path.read_bytes())
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error}); convert the model again") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:3])
        raise CardError(f"{path} is no description of a model ({faults}); convert the model again") from error
