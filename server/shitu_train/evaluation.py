"""What the models achieve: detection recall, label of found objects, recall@1; by ONNX Runtime in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shitu_models.boxes import clip, pixel_bounds
from shitu_models.preprocessing import resize
from shitu_models.specs import DET_BOXES, DET_SCORES, EMBEDDING, PIXELS, ModelSpec
from shitu_train.arrays import float32
from shitu_train.datasets.grocery import Photo, grocery_split, read_photos
from shitu_train.matching import match


def recall_at_1(
    gallery: NDArray[np.float32],
    gallery_labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    query_labels: NDArray[np.int64],
) -> float:
    """The share of queries whose nearest gallery vector (unit vectors, [n, d]) has their label, 0 to 1."""
    nearest = (queries @ gallery.T).argmax(axis=1)
    return float((gallery_labels[nearest] == query_labels).mean())


class OnnxModel:
    """An exported model in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, spec: ModelSpec, threads: int = 2) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.spec = spec
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def embed(self, pictures: list[NDArray[np.uint8]], batch: int = 16) -> NDArray[np.float32]:
        """Unit vectors float32 [n, d] of uint8 RGB pictures of any size."""
        pixels = [resize(picture, self.spec) for picture in pictures]
        rows = [
            self._session.run([EMBEDDING], {PIXELS: np.stack(pixels[i : i + batch])})[0]
            for i in range(0, len(pixels), batch)
        ]
        return np.concatenate(rows)

    def detect(self, picture: NDArray[np.uint8], threshold: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes float32 [n, 4] in the picture's pixels and scores [n] of at least `threshold`, best first."""
        pixels = resize(picture, self.spec)[None]
        boxes, scores = self._session.run([DET_BOXES, DET_SCORES], {PIXELS: pixels})
        height, width = picture.shape[:2]
        kept = scores[0] >= threshold
        scale = float32([width, height, width, height]) / self.spec.input_size
        return clip(boxes[0][kept] * scale, width, height), scores[0][kept]


def read_picture(path: Path) -> NDArray[np.uint8]:
    """uint8 RGB [H, W, 3].

    Raises:
        FileNotFoundError: the file is missing or is no picture.
    """
    decoded = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if decoded is None:
        raise FileNotFoundError(f"expected a readable picture at {path}")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True)
class SceneFigures:
    """Recall and precision of the detector at IoU 0.5, and the share of found objects whose nearest label is right."""

    scenes: int
    objects: int
    detection_recall: float
    detection_precision: float
    top1_of_found: float


def evaluate_scenes(folder: Path, detector: OnnxModel, encoder: OnnxModel, threshold: float) -> SceneFigures:
    """Figures on a data set that `write_demo_dataset` wrote: gallery pictures whole, scenes detected, cut and recognised."""
    lines = [line.split("\t") for line in (folder / "gallery.txt").read_text(encoding="utf-8").splitlines()]
    gallery = encoder.embed([read_picture(folder / name) for name, _ in lines])
    labels = [label for _, label in lines]
    truth = json.loads((folder / "test_truth.json").read_text(encoding="utf-8"))
    objects = found = named = right = 0
    for name, scene in truth.items():
        picture = read_picture(folder / name)
        boxes, _ = detector.detect(picture, threshold)
        answers = match(boxes, np.asarray(scene["boxes"], np.float32))
        objects, found, named = objects + len(scene["boxes"]), found + len(boxes), named + len(answers)
        right += _right(picture, boxes, answers, scene["labels"], (gallery, labels), encoder)
    return SceneFigures(len(truth), objects, named / objects, named / max(found, 1), right / max(named, 1))


def _right(
    picture: NDArray[np.uint8],
    boxes: NDArray[np.float32],
    answers: dict[int, int],
    wanted: list[str],
    gallery: tuple[NDArray[np.float32], list[str]],
    encoder: OnnxModel,
) -> int:
    if not answers:
        return 0
    height, width = picture.shape[:2]
    bounds = [pixel_bounds(boxes[i], width, height) for i in answers.values()]
    vectors = encoder.embed([picture[y0:y1, x0:x1] for x0, y0, x1, y1 in bounds])
    nearest = (vectors @ gallery[0].T).argmax(axis=1)
    return sum(gallery[1][n] == wanted[j] for j, n in zip(answers, nearest, strict=True))


@dataclass(frozen=True)
class GroceryFigures:
    """Recall@1 on the odd half of the Grocery Store photos, with the even half, or the iconic pictures, as the gallery."""

    queries: int
    from_even_half: float
    from_iconic: float


def evaluate_grocery(folder: Path, encoder: OnnxModel) -> GroceryFigures:
    """Recall@1 on whole photos (no detection)."""
    even, odd = grocery_split(read_photos(folder))
    queries, query_labels = _embedded(odd, encoder)
    iconic = _iconic_photos(folder)
    recalls = [recall_at_1(*_embedded(gallery, encoder), queries, query_labels) for gallery in (even, iconic)]
    return GroceryFigures(len(odd), *recalls)


def _embedded(photos: list[Photo], encoder: OnnxModel) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    vectors = encoder.embed([read_picture(photo.path) for photo in photos])
    return vectors, np.asarray([photo.label for photo in photos], np.int64)


def _iconic_photos(folder: Path) -> list[Photo]:
    rows = [line.split(",") for line in (folder / "classes.csv").read_text(encoding="utf-8").splitlines()[1:]]
    # classes.csv names the folder as the data set's repository does; here it is called iconic.
    names = [row[4].strip().replace("/iconic-images-and-descriptions", "iconic") for row in rows]
    return [Photo(folder / name, int(row[1])) for name, row in zip(names, rows, strict=True)]
