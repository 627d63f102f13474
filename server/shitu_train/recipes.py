"""How the two demo models are trained: data, sizes and settings put together."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import paddle

from shitu_models.specs import SPECS, Task
from shitu_train.architectures.clip_vit import DEMO_REC, ClipEncoder
from shitu_train.architectures.picodet import DEMO_DET, PicoDet, cell_centres
from shitu_train.conversion.export import DecodedDetector, export_model
from shitu_train.datasets.detector_batches import DetectorBatches
from shitu_train.datasets.drawn import load_crops, load_scenes
from shitu_train.datasets.encoder_batches import EncoderBatches, load_photos
from shitu_train.datasets.grocery import grocery_split, read_photos
from shitu_train.parity import Parity
from shitu_train.training.budget import Budget
from shitu_train.training.checkpoint import load_checkpoint
from shitu_train.training.detector import DetectorRun, train_detector
from shitu_train.training.encoder import EncoderRun, train_encoder
from shitu_train.training.validation import detection_recall, drawn_retrieval, recall_of

# Of each batch of either model; the real photos are few, and more would only be repeated more often.
PHOTO_SHARE = 0.15


def train_demo_encoder(options: argparse.Namespace) -> None:
    """Trains demo_rec on drawn crops and, where given, the even half of the Grocery Store photos."""
    cv2.setNumThreads(1)
    paddle.seed(options.seed)
    crops = load_crops(options.cache / "train")
    photos = load_photos(grocery_split(read_photos(options.grocery))[0]) if options.grocery else None
    classes = int(crops.labels.max()) + 1
    batches = EncoderBatches(crops, photos, classes, DEMO_REC.input_px, options.batch, PHOTO_SHARE, options.seed)
    budget = Budget(options.steps, options.time_budget_s)
    run = EncoderRun(options.checkpoint, options.seed)
    train_encoder(ClipEncoder(DEMO_REC), batches, budget, run, _encoder_validation(options))


def _encoder_validation(options: argparse.Namespace) -> Callable[[ClipEncoder], str]:
    folder = options.cache / "val"
    data = drawn_retrieval(load_crops(folder), int(load_scenes(folder).counts.sum()), DEMO_REC.input_px)
    return lambda encoder: f"recall@1 of {len(data.query_labels)} unseen drawn objects {recall_of(encoder, data):.4f}"


def train_demo_detector(options: argparse.Namespace) -> None:
    """Trains demo_det on drawn scenes and, where given, the even half of the Grocery Store photos as single main bodies."""
    cv2.setNumThreads(1)
    paddle.seed(options.seed)
    scenes = load_scenes(options.cache / "train")
    photos = load_photos(grocery_split(read_photos(options.grocery))[0]) if options.grocery else None
    centres, strides = cell_centres(DEMO_DET.input_px)
    batches = DetectorBatches(scenes, photos, centres, strides, options.batch, PHOTO_SHARE, options.seed)
    budget = Budget(options.steps, options.time_budget_s)
    run = DetectorRun(options.checkpoint, options.seed)
    train_detector(PicoDet(DEMO_DET), batches, budget, run, _detector_validation(options))


def _detector_validation(options: argparse.Namespace) -> Callable[[PicoDet], str]:
    scenes = load_scenes(options.cache / "val")

    def validate(detector: PicoDet) -> str:
        recall, precision = detection_recall(detector, scenes)
        return f"{len(scenes.images)} scenes of unseen brands at score 0.5: recall {recall:.4f}, precision {precision:.4f}"

    return validate


def export_demo_model(name: str, checkpoint: Path, repository: Path) -> Parity:
    """Exports a checkpoint of demo_det or demo_rec into the model repository, through the parity gate."""
    spec = SPECS[name]
    if spec.task is Task.ENCODER:
        layer: paddle.nn.Layer = ClipEncoder(DEMO_REC)
        load_checkpoint(checkpoint, {"model": layer})
    else:
        detector = PicoDet(DEMO_DET)
        load_checkpoint(checkpoint, {"model": detector})
        layer = DecodedDetector(detector)
    return export_model(layer, spec, repository)
