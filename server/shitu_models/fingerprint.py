"""Says whether two encoders give vectors that may be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from shitu_models.specs import CropRounding, ModelSpec, Precision

_HEX_DIGITS: Final = 16
"""64 bits: a collision among a million encoders has a chance of 3e-8."""


def weights_digest(path: Path) -> str:
    """Return the sha256 of a model file, 64 hex digits.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(spec: ModelSpec, weights: Path, precision: Precision = Precision.FP32) -> str:
    """Return what identifies the vectors of an encoder, 16 hex digits.

    It is the start of a sha256 over the weights' digest and everything else that moves a vector: the interpolation and the
    size of the input, mean and standard deviation of the normalisation, how crops are rounded, and the precision it runs in.
    The name is left out: a model that was renamed gives the same vectors.

    Args:
        spec: the model.
        weights: its `model.onnx`.
        precision: what it computes in.

    Raises:
        OSError: the file cannot be read.
    """
    return fingerprint_of(spec, weights_digest(weights), precision)


def fingerprint_of(spec: ModelSpec, digest: str, precision: Precision = Precision.FP32) -> str:
    """Return the `fingerprint` of an encoder whose weights have this sha256, 64 hex digits."""
    parts = {
        "weights": digest,
        "interpolation": spec.interpolation.value,
        "input_size": spec.input_size,
        "mean": spec.mean,
        "std": spec.std,
        "precision": precision.value,
    }
    if (
        spec.crop_rounding is not CropRounding.OUTWARD
    ):  # younger than the first galleries, whose fingerprints stay as they are
        parts["crop_rounding"] = spec.crop_rounding.value
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_HEX_DIGITS]
