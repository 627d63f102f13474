"""Drawn training data, rendered once by several processes into uint8 arrays on disk.

One pass over drawn scenes feeds both models: the whole scene with its boxes trains the detector, the objects cut out of it train the
encoder, together with gallery pictures of the same products.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shitu_train.arrays import float32
from shitu_train.render import Product, draw_picture, draw_scene, make_products

# A crop in the cache shows its box and a tenth of the box's size around it, so that training can shift and widen the cut.
CROP_PX = 152
CROP_MARGIN = 0.1
SCENE_PX = 320
MOST_BOXES = 12
# Raise it when a change of the drawing makes other pictures from the same plan.
RENDER_VERSION = 1
_SCENE_SIZES = ((640, 480), (640, 480), (640, 480), (480, 640), (560, 560))


@dataclass(frozen=True)
class DrawnPlan:
    """How much is drawn, and from which seed; `split` is the one of the brands."""

    seed: int
    products: int
    scenes: int
    pictures_per_product: int
    split: str = "train"


@dataclass(frozen=True)
class CropSet:
    """Encoder data: `images` uint8 RGB [n, 152, 152, 3] and `labels` int64 [n]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class SceneSet:
    """Detector data: `images` uint8 RGB [n, 320, 320, 3] with `boxes` float32 [n, 12, 4], x0 y0 x1 y1 in pixels.

    Rows of `boxes` beyond `counts` [n] are zero.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    counts: NDArray[np.int64]


def draw_cache(folder: Path, plan: DrawnPlan, processes: int) -> None:
    """Renders the plan into `folder` by `processes` processes, except the parts that are there already.

    Raises:
        ValueError: what is there was drawn to another plan, for another number of processes, or by other drawing code.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for done in folder.glob("part*.done"):
        _refuse_another(done, _made_of(plan, processes))
    parts = [(folder, plan, part, processes) for part in range(processes) if not (folder / f"part{part}.done").exists()]
    if parts:
        with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
            pool.starmap(_draw_part, parts)


def load_crops(folder: Path, plan: DrawnPlan) -> CropSet:
    """The encoder's data of a finished cache of that plan.

    Raises:
        FileNotFoundError: a part of the cache is not finished.
        ValueError: it was drawn to another plan or by other drawing code.
    """
    return CropSet(_joined(folder, plan, "crops"), _joined(folder, plan, "labels"))


def load_scenes(folder: Path, plan: DrawnPlan) -> SceneSet:
    """The detector's data of a finished cache of that plan.

    Raises:
        FileNotFoundError: a part of the cache is not finished.
        ValueError: it was drawn to another plan or by other drawing code.
    """
    return SceneSet(_joined(folder, plan, "scenes"), _joined(folder, plan, "boxes"), _joined(folder, plan, "counts"))


def _joined(folder: Path, plan: DrawnPlan, name: str) -> NDArray[Any]:
    finished = sorted(folder.glob("part*.done"))
    parts = _description(finished[0]).get("parts", 0) if finished else 1
    for done in finished:
        _refuse_another(done, _made_of(plan, parts))
    if len(finished) != parts:
        raise FileNotFoundError(
            f"expected {parts} finished parts of a cache in {folder}, found {len(finished)}; "
            "run `python -m shitu_train render-cache` first"
        )
    return np.concatenate([np.load(done.with_suffix(f".{name}.npy"), mmap_mode="r") for done in finished])


def _made_of(plan: DrawnPlan, parts: int) -> dict[str, Any]:
    """What decides every pixel of a cache; each finished part says it in its `.done` file."""
    return {"plan": asdict(plan), "parts": parts, "render_version": RENDER_VERSION}


def _description(done: Path) -> dict[str, Any]:
    try:
        read = json.loads(done.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return {}
    return read if isinstance(read, dict) else {}


def _refuse_another(done: Path, wanted: dict[str, Any]) -> None:
    found = _description(done)
    if found != wanted:
        raise ValueError(
            f"expected {done} to be of {json.dumps(wanted)}, it is of {json.dumps(found) if found else 'nothing it names'}; "
            "delete its folder and run `python -m shitu_train render-cache`, or name another --cache"
        )


def crop_with_margin(image: NDArray[np.uint8], box: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """The box and a tenth of its size around it, stretched to a square; what lies beyond the picture repeats its edge."""
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * (0.5 + CROP_MARGIN)
    scale = 2 * half / size
    matrix = float32([[scale[0], 0, centre[0] - half[0]], [0, scale[1], centre[1] - half[1]]])
    source = image
    if scale.max() > 1.5:
        source = np.asarray(cv2.blur(image, (max(int(scale[0]), 1), max(int(scale[1]), 1))), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(source, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _draw_part(folder: Path, plan: DrawnPlan, part: int, parts: int) -> None:
    cv2.setNumThreads(1)
    products = make_products(plan.seed, plan.products, plan.split)
    rng = np.random.default_rng([plan.seed, 7, part])
    scenes, boxes, counts, crops, labels = _scenes(products, rng, plan.scenes // parts)
    for number in range(part, len(products), parts):
        for _ in range(plan.pictures_per_product):
            crops.append(draw_picture(products[number], rng, CROP_PX))
            labels.append(number)
    arrays: dict[str, NDArray[Any]] = {
        "scenes": scenes,
        "boxes": boxes,
        "counts": counts,
        "crops": np.stack(crops),
        "labels": np.asarray(labels, np.int64),
    }
    for name, array in arrays.items():
        np.save(folder / f"part{part}.{name}.npy", array)
    (folder / f"part{part}.done").write_text(json.dumps(_made_of(plan, parts)) + "\n", encoding="utf-8")


def _scenes(
    products: tuple[Product, ...], rng: np.random.Generator, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64], list[NDArray[np.uint8]], list[int]]:
    number_of = {product: number for number, product in enumerate(products)}
    scenes = np.empty((count, SCENE_PX, SCENE_PX, 3), np.uint8)
    boxes, counts = np.zeros((count, MOST_BOXES, 4), np.float32), np.zeros(count, np.int64)
    crops: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for i in range(count):
        width, height = _SCENE_SIZES[rng.integers(len(_SCENE_SIZES))]
        cast = [products[j] for j in rng.choice(len(products), min(9, len(products)), replace=False)]
        scene = draw_scene(cast, rng, width, height)
        scenes[i] = cv2.resize(scene.image, (SCENE_PX, SCENE_PX), interpolation=cv2.INTER_CUBIC)
        counts[i] = len(scene.boxes)
        boxes[i, : counts[i]] = scene.boxes * float32([SCENE_PX / width, SCENE_PX / height] * 2)
        for box, product in zip(scene.boxes, scene.products, strict=True):
            crops.append(crop_with_margin(scene.image, box, CROP_PX))
            labels.append(number_of[product])
    return scenes, boxes, counts, crops, labels
