"""How the two demo models are trained and exported: data, sizes and settings put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import paddle

from shitu_models.specs import SPECS, Task
from shitu_train.architectures.catalogue import DecodedDetector
from shitu_train.architectures.clip_vit import DEMO_REC, ClipEncoder
from shitu_train.architectures.picodet import DEMO_DET, PicoDet, cell_centres
from shitu_train.conversion.export import export_model
from shitu_train.conversion.parity import Parity
from shitu_train.datasets.detector_batches import DetectorBatches
from shitu_train.datasets.drawn import load_crops, load_scenes
from shitu_train.datasets.encoder_batches import EncoderBatches, PhotoSet, load_photos
from shitu_train.datasets.grocery import grocery_split, read_photos
from shitu_train.plans import PHOTO_SHARE, TRAIN_PLAN, VALIDATION_PLAN
from shitu_train.records import source_commit, tool_versions, write_record
from shitu_train.training.budget import Budget
from shitu_train.training.checkpoint import Saver, load_checkpoint
from shitu_train.training.detector import DetectorLoss, DetectorRun, DetectorTrainer, train_detector
from shitu_train.training.encoder import EncoderRun, EncoderTrainer, train_encoder
from shitu_train.training.validation import detection_recall, drawn_retrieval, recall_of

SAVE_EVERY_S = 240.0


@dataclass(frozen=True)
class RunSettings:
    """Where a run finds and leaves things, and when it ends (`time_budget_s`, `steps`, or both)."""

    cache: Path
    checkpoint: Path
    grocery: Path | None
    time_budget_s: float | None
    steps: int | None
    batch: int
    seed: int

    def budget(self) -> Budget:
        """A fresh budget."""
        return Budget(self.steps, self.time_budget_s)

    def photos(self) -> PhotoSet | None:
        """The half of the real photos that may be trained on."""
        return load_photos(grocery_split(read_photos(self.grocery))[0]) if self.grocery else None

    def description(self, run: EncoderRun | DetectorRun, photos: PhotoSet | None) -> dict[str, Any]:
        """What a checkpoint says about how it came to be."""
        return {
            "seed": self.seed,
            "batch": self.batch,
            "drawn": asdict(TRAIN_PLAN),
            "grocery_photos": 0 if photos is None else len(photos.labels),
            "grocery_share": 0.0 if photos is None else PHOTO_SHARE,
            "settings": asdict(run),
            "commit": source_commit(),
        }


def train_demo_encoder(settings: RunSettings) -> None:
    """Train demo_rec on drawn crops and, where given, the even half of the Grocery Store photos."""
    cv2.setNumThreads(1)
    paddle.seed(settings.seed)
    crops, photos = load_crops(settings.cache / "train", TRAIN_PLAN), settings.photos()
    classes = int(crops.labels.max()) + 1
    batches = EncoderBatches(crops, photos, classes, DEMO_REC.input_px, settings.batch, PHOTO_SHARE, settings.seed)
    trainer = EncoderTrainer.of(ClipEncoder(DEMO_REC), batches.classes, EncoderRun())
    saver = Saver(settings.checkpoint, trainer.parts, settings.description(trainer.run, photos), SAVE_EVERY_S)
    budget = settings.budget()
    saver.resume(budget)
    train_encoder(trainer, batches, budget, saver, _encoder_validation(settings.cache / "val", trainer.encoder))


def _encoder_validation(folder: Path, encoder: ClipEncoder) -> Callable[[], str]:
    objects = int(load_scenes(folder, VALIDATION_PLAN).counts.sum())
    data = drawn_retrieval(load_crops(folder, VALIDATION_PLAN), objects, DEMO_REC.input_px)
    return lambda: f"recall@1 of {len(data.query_labels)} unseen drawn objects {recall_of(encoder, data):.4f}"


def train_demo_detector(settings: RunSettings) -> None:
    """Train demo_det on drawn scenes and, where given, the even half of the Grocery Store photos as single main bodies."""
    cv2.setNumThreads(1)
    paddle.seed(settings.seed)
    scenes, photos = load_scenes(settings.cache / "train", TRAIN_PLAN), settings.photos()
    centres, strides = cell_centres(DEMO_DET.input_px)
    batches = DetectorBatches(scenes, photos, centres, strides, settings.batch, PHOTO_SHARE, settings.seed)
    trainer = DetectorTrainer.of(PicoDet(DEMO_DET), DetectorLoss(DEMO_DET.input_px), DetectorRun())
    saver = Saver(settings.checkpoint, trainer.parts, settings.description(trainer.run, photos), SAVE_EVERY_S)
    budget = settings.budget()
    saver.resume(budget)
    train_detector(trainer, batches, budget, saver, _detector_validation(settings.cache / "val", trainer.detector))


def _detector_validation(folder: Path, detector: PicoDet) -> Callable[[], str]:
    scenes = load_scenes(folder, VALIDATION_PLAN)

    def validate() -> str:
        recall, precision = detection_recall(detector, scenes)
        return (
            f"{len(scenes.images)} scenes of unseen brands at score 0.5: recall {recall:.4f}, precision {precision:.4f}"
        )

    return validate


def export_demo_model(name: str, checkpoint: Path, repository: Path) -> Parity:
    """Export a checkpoint of demo_det or demo_rec into the model repository, through the parity gate, with its record."""
    spec = SPECS[name]
    if spec.task is Task.ENCODER:
        size: Any = DEMO_REC
        layer: paddle.nn.Layer = ClipEncoder(DEMO_REC)
        training = load_checkpoint(checkpoint, {"model": layer})
    else:
        size, detector = DEMO_DET, PicoDet(DEMO_DET)
        training = load_checkpoint(checkpoint, {"model": detector})
        layer = DecodedDetector(detector)
    parity = export_model(layer, spec, repository)
    sections = {
        "architecture": asdict(size),
        "training": training,
        "parity": asdict(parity),
        "versions": tool_versions(),
    }
    write_record(repository, name, **sections)
    return parity
