"""Model repositories for tests: versions of encoders placed as the converter places them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from shitu_models.cards import CARD_FILE, ModelCard, Source, write_card
from shitu_models.repository import WEIGHTS_FILE
from shitu_models.specs import DEMO_REC, ModelSpec, Precision
from shitu_models.triton_config import write_configs

CHECKOUT_MODELS = Path(__file__).resolve().parents[1] / "model_repository"
DEMO_WEIGHTS = CHECKOUT_MODELS / "demo_rec" / "1" / WEIGHTS_FILE


def demo_repository(folder: Path) -> Path:
    """A copy of the demo models, to add to."""
    return Path(shutil.copytree(CHECKOUT_MODELS, folder))


def other_weights(seed: int) -> bytes:
    """The demo encoder with some noise on its weights: other vectors, as of another training."""
    model = onnx.load(DEMO_WEIGHTS)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            noisy = array * (1 + 0.2 * rng.standard_normal(array.shape, dtype=np.float32))
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(np.float32), tensor.name))
    return model.SerializeToString()


def place(repository: Path, spec: ModelSpec, weights: bytes, version: int = 1, sha256: str = "") -> Path:
    """Place a version at once, with its card; returns the path of the weights."""
    folder = repository / spec.name / str(version)
    draft = repository / f".draft-{spec.name}-{version}"
    draft.mkdir(parents=True)
    (draft / WEIGHTS_FILE).write_bytes(weights)
    digest = sha256 or hashlib.sha256(weights).hexdigest()
    card = ModelCard(spec, DEMO_REC.name, Precision.FP32, digest, Source("layer", {}), 0.0, 1.0)
    write_card(draft / CARD_FILE, card)
    folder.parent.mkdir(exist_ok=True)
    draft.rename(folder)
    write_configs(repository, [spec])
    return folder / WEIGHTS_FILE
