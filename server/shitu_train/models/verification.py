"""Is a placed model what its card says, and does it still compute what Paddle computes?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from shitu_models.cards import CARD_FILE, read_card
from shitu_models.fingerprint import weights_digest
from shitu_models.repository import check_models, placed_any, version_folder, weights_path
from shitu_models.specs import PIXELS, ModelSpec, Precision
from shitu_train.errors import ConversionError
from shitu_train.extras import paddle_module

_BATCHES = (1, 2, 8)


def verified(repository: Path, name: str, source: Path | None = None) -> Iterator[str]:
    """Check the newest version of a model step by step; each step that passed gives a line.

    Args:
        repository: folder of the models.
        name: of the model.
        source: what it was converted from, to compare the placed graph with Paddle anew.

    Raises:
        RepositoryError, CardError: there is no such model, or a file of it is missing or damaged.
        ConversionError: the weights are not those of the card, or the graph does not do what the specification says.
        ParityError: the graph computes something else than Paddle.
    """
    model = placed_any(repository, name)
    check_models(repository, [model.spec])
    path = weights_path(repository, model.spec, model.version)
    yield f"{path}: whole, with its configuration"
    card_path = version_folder(repository, name, model.version) / CARD_FILE
    digest, architecture = weights_digest(path), ""
    if card_path.exists():
        card = read_card(card_path)
        architecture = card.architecture
        if card.weights_sha256 != digest:
            raise ConversionError(
                f"{path}: expected sha256 {card.weights_sha256} by {card_path.name}, got {digest}; convert the model again"
            )
        yield f"sha256 {digest}, as its card says"
    yield from _ran(path, model.spec)
    if source is not None:
        yield _compared(path, name, model.precision, source, architecture)


def _ran(path: Path, spec: ModelSpec) -> Iterator[str]:
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has an exception for each of its status codes
        raise ConversionError(f"{path}: ONNX Runtime cannot load it ({error}); convert it again") from error
    rng = np.random.default_rng(7)
    for batch in [size for size in _BATCHES if size <= spec.max_batch]:
        pixels = rng.integers(0, 256, (batch, spec.input_size, spec.input_size, 3), np.uint8)
        outputs = session.run([tensor.name for tensor in spec.outputs], {PIXELS: pixels})
        for tensor, values in zip(spec.outputs, outputs, strict=True):
            if values.shape != (batch, *tensor.shape) or not np.isfinite(values).all():
                raise ConversionError(
                    f"{path}: expected finite {tensor.name} {(batch, *tensor.shape)}, got {values.shape}; convert it again"
                )
        yield f"batch {batch}: {', '.join(str(values.shape) for values in outputs)}, all finite"


def _compared(path: Path, name: str, precision: Precision, source: Path, architecture: str) -> str:
    if precision is not Precision.FP32:
        raise ConversionError(
            f"{name} computes in {precision.value}, which Paddle's FP32 cannot vouch for; its drift stands in `shitu models info {name}`"
        )
    converter = paddle_module("shitu_train.conversion.converter")
    parity = converter.parity_of(source, path, architecture)
    return f"{source} in Paddle: difference {parity.max_abs_difference:.1e}, cosine {parity.min_cosine:.9f}"
