"""Quick figures of an encoder in training, on brands and photos that it is not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import paddle
from numpy.typing import NDArray

from shitu_models.boxes import nms
from shitu_models.specs import DEMO_DET as SPEC_DEMO_DET
from shitu_models.specs import DEMO_REC as SPEC_DEMO_REC
from shitu_train.architectures.clip_vit import ClipEncoder
from shitu_train.architectures.picodet import BoxDecoder, PicoDet
from shitu_train.datasets.drawn import CROP_MARGIN, CropSet, SceneSet
from shitu_train.evaluation import recall_at_1
from shitu_train.matching import match
from shitu_train.tensors import normalise


@dataclass(frozen=True)
class RetrievalSet:
    """Pictures uint8 RGB [n, S, S, 3] and labels int64 [n] of a gallery and of queries."""

    gallery: NDArray[np.uint8]
    gallery_labels: NDArray[np.int64]
    queries: NDArray[np.uint8]
    query_labels: NDArray[np.int64]


def drawn_retrieval(crops: CropSet, scene_objects: int, size_px: int) -> RetrievalSet:
    """The cache of one process: its first `scene_objects` crops, cut to their boxes, are the queries, its pictures the gallery."""
    side = crops.images.shape[1]
    margin = round(side * CROP_MARGIN / (1 + 2 * CROP_MARGIN))
    return RetrievalSet(
        _resized(crops.images[scene_objects:], size_px),
        crops.labels[scene_objects:],
        _resized(crops.images[:scene_objects, margin:-margin, margin:-margin], size_px),
        crops.labels[:scene_objects],
    )


def _resized(images: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    return np.stack([cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_CUBIC) for image in images])


def recall_of(encoder: ClipEncoder, data: RetrievalSet) -> float:
    """Recall@1 of the encoder on the set, 0 to 1."""
    gallery, queries = _embed(encoder, data.gallery), _embed(encoder, data.queries)
    return recall_at_1(gallery, data.gallery_labels, queries, data.query_labels)


def _embed(encoder: ClipEncoder, pictures: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float32]:
    encoder.eval()
    with paddle.no_grad():
        rows = [
            encoder(normalise(pictures[i : i + batch].astype(np.float32), SPEC_DEMO_REC)).numpy()
            for i in range(0, len(pictures), batch)
        ]
    embeddings = np.concatenate(rows)
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)


def detection_recall(
    detector: PicoDet, scenes: SceneSet, threshold: float = 0.5, batch: int = 20
) -> tuple[float, float]:
    """Recall and precision at IoU 0.5 of boxes that score at least `threshold`, on drawn scenes."""
    detector.eval()
    decode = BoxDecoder(detector.size.input_px)
    objects = found = right = 0
    for start in range(0, len(scenes.images), batch):
        with paddle.no_grad():
            decoded = decode(
                detector(normalise(scenes.images[start : start + batch].astype(np.float32), SPEC_DEMO_DET))
            )
        for row, (boxes, scores) in enumerate(zip(*(part.numpy() for part in decoded), strict=True)):
            likely = scores >= threshold
            kept = boxes[likely][nms(boxes[likely], scores[likely], SPEC_DEMO_DET.nms_iou)]
            truth = scenes.boxes[start + row, : scenes.counts[start + row]]
            objects, found, right = objects + len(truth), found + len(kept), right + len(match(kept, truth))
    return right / max(objects, 1), right / max(found, 1)
