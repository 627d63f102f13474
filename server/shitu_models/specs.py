"""One specification per model, from which preprocessing, `config.pbtxt`, conversion and documentation follow."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
"""Channel means, RGB, of pixels scaled to 0..1; PaddleX uses them for the detector and for all encoders (inference.yml)."""

IMAGENET_STD: Final = (0.229, 0.224, 0.225)

PIXELS: Final = "pixels"
"""Name of the input of every model: uint8 [N, input_size, input_size, 3], RGB."""

EMBEDDING: Final = "embedding"
"""Name of an encoder's output: float32 [N, embedding_dimension], L2-normalised."""

DET_BOXES: Final = "det_boxes"
"""Name of a detector's first output: float32 [N, max_boxes, 4], x1 y1 x2 y2 in input pixels, zero-padded."""

DET_SCORES: Final = "det_scores"
"""Name of a detector's second output: float32 [N, max_boxes], descending, zero-padded."""


NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A model's name is that of its folder, and nothing of it may lead out of the repository."""


class Task(str, Enum):
    """What a model does."""

    DETECTOR = "detector"
    ENCODER = "encoder"


class Interpolation(str, Enum):
    """How a picture is resized to a model's input."""

    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class CropRounding(str, Enum):
    """How a box in fractions of a pixel becomes a crop of whole ones."""

    OUTWARD = "outward"
    """To the pixels that hold the box."""
    TRUNCATED = "truncated"
    """Towards zero on all four sides, as PaddleX's CropByBoxes does (3.3.13, crop_image_regions.py)."""


class Precision(str, Enum):
    """What a model computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class Profile(str, Enum):
    """Whose preprocessing pictures go through."""

    TRAINED = "trained"
    """What the model was trained with."""
    PADDLEX = "paddlex"
    """What PaddleX serves the model with, so that scores against vectors of PaddleX stay what they were."""


class DataType(str, Enum):
    """Element types of tensors, by numpy's names."""

    UINT8 = "uint8"
    FLOAT32 = "float32"


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a model; `shape` leaves the batch dimension out."""

    name: str
    data_type: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelSpec:
    """A model as it is served: the name is Triton's model name and the folder in the model repository."""

    name: str
    task: Task
    input_size: int
    """Side of the square input, in pixels; pictures are stretched to it."""
    interpolation: Interpolation
    default_threshold: float
    """Least score that counts where a request does not say: 0..1 for a detector, -1..1 for an encoder."""
    embedding_dimension: int = 0
    """Length of an encoder's vectors; 0 for a detector."""
    max_boxes: int = 0
    """Boxes that a detector returns for each picture; 0 for an encoder."""
    max_batch: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_rounding: CropRounding = CropRounding.OUTWARD
    """How detected and requested boxes are cut out for an encoder."""
    nms_iou: float = 0.6
    """IoU over which a detector's graph drops the weaker box (PaddleDetection, picodet_lcnet_x2_5_640_mainbody.yml)."""
    nms_min_score: float = 0.025
    """Score under which a detector's graph drops a box (same source)."""
    nms_candidates: int = 1000
    """Boxes that enter the NMS (nms_top_k, same source)."""

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(
                f"the name of a model: expected 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit, "
                f"got {self.name!r}"
            )
        if (self.embedding_dimension > 0) == (self.max_boxes > 0):
            raise ValueError(
                f"{self.name}: a model has either embedding_dimension (encoder) or max_boxes (detector), not both"
            )

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The single input, `pixels`."""
        return (TensorSpec(PIXELS, DataType.UINT8, (self.input_size, self.input_size, 3)),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """`embedding` of an encoder; `det_boxes` and `det_scores` of a detector."""
        if self.task is Task.ENCODER:
            return (TensorSpec(EMBEDDING, DataType.FLOAT32, (self.embedding_dimension,)),)
        return (
            TensorSpec(DET_BOXES, DataType.FLOAT32, (self.max_boxes, 4)),
            TensorSpec(DET_SCORES, DataType.FLOAT32, (self.max_boxes,)),
        )


DEMO_DET: Final = ModelSpec(
    name="demo_det",
    task=Task.DETECTOR,
    input_size=320,
    interpolation=Interpolation.BICUBIC,
    default_threshold=0.5,
    max_boxes=100,
    max_batch=16,
)

DEMO_REC: Final = ModelSpec(
    name="demo_rec",
    task=Task.ENCODER,
    input_size=128,
    interpolation=Interpolation.BICUBIC,
    default_threshold=0.75,  # of 1,066 right matches on drawn scenes 99 % score more
    embedding_dimension=128,
    max_batch=32,
)

PP_SHITUV2_DET: Final = ModelSpec(
    name="PP-ShiTuV2_det",
    task=Task.DETECTOR,
    input_size=640,
    interpolation=Interpolation.BICUBIC,
    default_threshold=0.5,  # PaddleX's det_threshold
    max_boxes=100,
    max_batch=16,
)

PP_SHITUV2_REC: Final = ModelSpec(
    name="PP-ShiTuV2_rec",
    task=Task.ENCODER,
    input_size=224,
    interpolation=Interpolation.BILINEAR,
    default_threshold=0.5,  # PaddleX's rec_threshold, for all three encoders
    embedding_dimension=512,
)

PP_SHITUV2_REC_CLIP_VIT_BASE: Final = ModelSpec(
    name="PP-ShiTuV2_rec_CLIP_vit_base",
    task=Task.ENCODER,
    input_size=224,
    # Trained with bicubic resizing (PaddleX, PP-ShiTuV2_rec_CLIP_vit_base.yaml); PaddleX serves it with bilinear all the same.
    interpolation=Interpolation.BICUBIC,
    default_threshold=0.5,
    embedding_dimension=512,
)

PP_SHITUV2_REC_CLIP_VIT_LARGE: Final = replace(PP_SHITUV2_REC_CLIP_VIT_BASE, name="PP-ShiTuV2_rec_CLIP_vit_large")

DEMO_SPECS: Final = (DEMO_DET, DEMO_REC)
"""The small models that ship."""

OFFICIAL_SPECS: Final = (
    PP_SHITUV2_DET,
    PP_SHITUV2_REC,
    PP_SHITUV2_REC_CLIP_VIT_BASE,
    PP_SHITUV2_REC_CLIP_VIT_LARGE,
)
"""PaddleX's models, whose weights are downloaded and converted on the user's machine."""

SPECS: Final = {spec.name: spec for spec in (*DEMO_SPECS, *OFFICIAL_SPECS)}


def with_profile(spec: ModelSpec, profile: Profile) -> ModelSpec:
    """Return the model as a profile serves it.

    PaddleX resizes for every encoder with bilinear interpolation, whatever inference.yml says (3.3.13,
    image_feature/predictor.py, build_resize), and truncates the corners of crops. Its detector is served as it was trained.
    """
    if profile is Profile.TRAINED or spec.task is Task.DETECTOR:
        return spec
    return replace(spec, interpolation=Interpolation.BILINEAR, crop_rounding=CropRounding.TRUNCATED)
