"""Photos, and models with random weights that find and tell apart something on them, for PaddleX and for us alike."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
from tests.conftest import SHARED_DATA

from shitu_bench.models.spread_weights import spread
from shitu_models.preprocessing import resize
from shitu_models.specs import SPECS, Task
from shitu_train.architectures.catalogue import ARCHITECTURES
from shitu_train.conversion.paddlex_directory import write_inference_directory
from shitu_train.tensors import normalise

CELLS_OVER_HALF = 10
"""Of the photo with the fewest; the suppression leaves at least five boxes."""
PHOTOS_OF_EACH = 25


def photos():
    """Fifty photos: shelves and single products of two data sets, the same at each call."""
    shelves = sorted((SHARED_DATA / "freiburg_dev" / "images").glob("*.jpg"))
    products = sorted((SHARED_DATA / "grocery" / "train").rglob("*.jpg"))
    return [*_every(shelves, PHOTOS_OF_EACH), *_every(products, PHOTOS_OF_EACH)]


def gallery():
    """A hundred pictures that are not among `photos`, each with a label of its own."""
    folder = SHARED_DATA / "grocery"
    iconic = sorted((folder / "iconic").rglob("*.jpg"))
    others = sorted(set((folder / "train").rglob("*.jpg")) - set(photos()))
    chosen = [*iconic, *_every(others, 100 - len(iconic))]
    return [(path, path.relative_to(folder).as_posix()) for path in chosen]


def _every(paths, count):
    return [paths[index * len(paths) // count] for index in range(count)]


def pictures(spec, paths):
    """Float32 [n, S, S, 3], RGB."""
    read = [np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1]) for path in paths]
    return np.stack([resize(picture, spec) for picture in read]).astype(np.float32)


def spread_state(name, paths):
    """The weights of an architecture, by their names: spread on some photos; a detector finds something on each."""
    spec = SPECS[name]
    all_pictures = pictures(spec, paths)
    layer = spread(ARCHITECTURES[name].build(spec.input_size), normalise(all_pictures[::4], spec))
    if spec.task is Task.DETECTOR:
        _find_on_each(layer, all_pictures, spec)
    return {key: value.numpy() for key, value in layer.state_dict().items()}


def _find_on_each(detector, all_pictures, spec):
    with paddle.no_grad():
        parts = [all_pictures[start : start + 5] for start in range(0, len(all_pictures), 5)]
        logits = np.concatenate([detector(normalise(part, spec))[:, :, 0].numpy() for part in parts])
    shift = -np.sort(logits, axis=1)[:, -CELLS_OVER_HALF].min()
    for level in range(4):
        bias = getattr(detector.head, f"head_cls{level}").bias
        values = bias.numpy()
        values[0] += shift
        bias.set_value(values)


def write_directory(name, state, folder):
    """Write a model as PaddleX exports it."""
    architecture, spec = ARCHITECTURES[name], SPECS[name]
    layer = architecture.build(spec.input_size)
    layer.set_state_dict(state)
    layer.eval()
    return write_inference_directory(architecture.served(layer), spec, folder)
