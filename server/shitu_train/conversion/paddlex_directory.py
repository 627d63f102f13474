"""Writes a model as PaddleX exports it, so that what is trained here runs there: `inference.{json,pdiparams,yml}`, NMS inside."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any, Final

import paddle
import yaml

from shitu_models.specs import PP_SHITUV2_DET, PP_SHITUV2_REC, Interpolation, ModelSpec, Task
from shitu_train.architectures.picodet import STRIDES
from shitu_train.errors import ConversionError

STEM: Final = "inference"
_CV2_NUMBERS: Final = {Interpolation.BILINEAR: 1, Interpolation.BICUBIC: 2}
_NO_CLASS: Final = -1
"""Of the classes none is the background."""


class _Suppressed(paddle.nn.Layer):
    """A decoded detector with PaddleX's inputs and outputs.

    Pictures [1, 3, S, S] and scale factors [1, 2] (height, width) to rows [m, 6] of class, score and box in pixels of the picture
    before it was resized, and how many rows there are.
    """

    def __init__(self, decoded: paddle.nn.Layer, spec: ModelSpec) -> None:
        super().__init__()
        self.decoded, self._spec = decoded, spec

    def forward(self, image: paddle.Tensor, scale_factor: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        boxes, scores = self.decoded(image)
        high, wide = paddle.split(scale_factor, 2, axis=-1)
        boxes = boxes / paddle.concat([wide, high, wide, high], axis=-1).reshape([-1, 1, 4])
        spec = self._spec
        rows, _, count = paddle._C_ops.multiclass_nms3(  # noqa: SLF001  # the operator has no public function
            boxes,
            scores.unsqueeze(1),
            None,  # type: ignore[arg-type]  # no picture has a row count of its own
            spec.nms_min_score,
            spec.nms_candidates,
            spec.max_boxes,
            spec.nms_iou,
            True,
            1.0,
            _NO_CLASS,
        )
        return rows, count


def write_inference_directory(layer: paddle.nn.Layer, spec: ModelSpec, folder: Path) -> Path:
    """Write a layer as it is served (an encoder, or a decoded detector) to a new folder, and return it.

    PaddleX knows models by name only: the yml names the official one of the same task, unless `spec` is one of them.

    Raises:
        ConversionError: the folder holds something, or cannot be written.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise ConversionError(f"{folder} holds something already; give an empty or a new folder")
    layer.eval()
    side = paddle.static.InputSpec([None, 3, spec.input_size, spec.input_size], "float32", "x")
    inputs = [side]
    if spec.task is Task.DETECTOR:
        layer = _Suppressed(layer, spec)
        layer.eval()
        # PaddleX feeds by the names' order; the suppression's operator takes one picture.
        inputs = [
            paddle.static.InputSpec([1, 3, spec.input_size, spec.input_size], "float32", "image"),
            paddle.static.InputSpec([1, 2], "float32", "scale_factor"),
        ]
    draft = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    try:
        draft.mkdir(parents=True)
        paddle.jit.save(layer, str(draft / STEM), input_spec=inputs)
        (draft / f"{STEM}.yml").write_text(yaml.safe_dump(_config(spec), sort_keys=False), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except OSError as error:
        raise ConversionError(
            f"{folder} cannot be written: {error.strerror}; free the disk or choose another folder"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _config(spec: ModelSpec) -> dict[str, Any]:
    official = spec.name.startswith("PP-ShiTuV2_")
    if spec.task is Task.ENCODER:
        return _encoder_config(spec, spec.name if official else PP_SHITUV2_REC.name)
    return _detector_config(spec, spec.name if official else PP_SHITUV2_DET.name)


def _encoder_config(spec: ModelSpec, name: str) -> dict[str, Any]:
    size = [spec.input_size, spec.input_size]
    return {
        "Global": {"model_name": name},
        "PreProcess": {
            "transform_ops": [
                {"ResizeImage": {"size": size, "interpolation": spec.interpolation.value, "backend": "cv2"}},
                {"NormalizeImage": {"scale": 1 / 255, "mean": list(spec.mean), "std": list(spec.std), "order": ""}},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {"NormalizeFeatures": None},
    }


def _detector_config(spec: ModelSpec, name: str) -> dict[str, Any]:
    size = [spec.input_size, spec.input_size]
    return {
        "Global": {"model_name": name},
        "mode": "paddle",
        "draw_threshold": spec.default_threshold,
        "arch": "GFL",
        "Preprocess": [
            {
                "type": "Resize",
                "interp": _CV2_NUMBERS[spec.interpolation],
                "keep_ratio": False,
                "target_size": size,
            },
            {"type": "NormalizeImage", "is_scale": True, "mean": list(spec.mean), "std": list(spec.std)},
            {"type": "Permute"},
        ],
        "label_list": ["mainbody"],
        "NMS": {
            "nms_threshold": spec.nms_iou,
            "score_threshold": spec.nms_min_score,
            "nms_top_k": spec.nms_candidates,
            "keep_top_k": spec.max_boxes,
        },
        "fpn_stride": list(STRIDES),
    }
