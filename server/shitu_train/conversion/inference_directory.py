"""A model directory that PaddleX, PaddleClas or PaddleDetection exported: its program, and what its yml says of preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml

from shitu_models.fingerprint import weights_digest
from shitu_models.specs import Interpolation, ModelSpec, Task
from shitu_train.errors import ConversionError

CONFIG_NAMES: Final = ("inference.yml", "infer_cfg.yml")
"""PaddleX and PaddleClas, PaddleDetection."""
_PROGRAM_ENDINGS: Final = (".json", ".pdmodel")
"""PIR (Paddle 3) and ProgramDesc (Paddle 2)."""
_CV2_NUMBERS: Final = {1: Interpolation.BILINEAR, 2: Interpolation.BICUBIC}
_INTERPOLATIONS: Final = {
    "bilinear": Interpolation.BILINEAR,
    "linear": Interpolation.BILINEAR,
    "bicubic": Interpolation.BICUBIC,
    "cubic": Interpolation.BICUBIC,
}
_LEAST_SIDE_PX: Final = {Task.ENCODER: 32, Task.DETECTOR: 96}
"""A smaller detector has fewer cells than boxes are kept."""
_MOST_SIDE_PX: Final = 2048
_MOST_BOXES: Final = 1000
_ALL: Final = 1_000_000
"""More candidates than any input has cells."""
_Number = TypeVar("_Number", int, float)
_SCALE_TOLERANCE: Final = 1e-5
"""PaddleX writes 1/255 as 0.00392157 too."""


@dataclass(frozen=True)
class InferenceDirectory:
    """The files of an exported model."""

    program: Path
    """`<stem>.json` or `<stem>.pdmodel`; the weights stand in `<stem>.pdiparams` beside it."""
    config: Path | None

    @classmethod
    def open(cls, folder: Path) -> InferenceDirectory:
        """Find the files.

        Raises:
            ConversionError: there is no program with weights, or more than one.
        """
        programs = sorted(
            path
            for path in folder.iterdir()
            if path.suffix in _PROGRAM_ENDINGS and path.with_suffix(".pdiparams").is_file()
        )
        if len(programs) != 1:
            found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise ConversionError(
                f"{folder}: expected one inference.json or inference.pdmodel with inference.pdiparams beside it, found {found}"
            )
        config = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), None)
        return cls(programs[0], config)

    def digests(self) -> dict[str, str]:
        """sha256 of each file by its name."""
        files = [self.program, self.program.with_suffix(".pdiparams"), *([self.config] if self.config else [])]
        return {path.name: weights_digest(path) for path in files}

    def model_name(self) -> str:
        """Name of the model by the yml, or nothing."""
        section = self._read().get("Global")
        return str(section.get("model_name", "")) if isinstance(section, dict) else ""

    def spec(self, registered: ModelSpec) -> ModelSpec:
        """The registry's entry with what the yml says otherwise: size, interpolation, mean, deviation, suppression.

        Raises:
            ConversionError: the yml asks for something that is not served, e.g. a kept aspect ratio.
        """
        content = self._read()
        try:
            changes = _encoder_changes(content) if registered.task is Task.ENCODER else _detector_changes(content)
            return replace(registered, **changes)
        except ConversionError as error:
            raise ConversionError(f"{self.config}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConversionError(f"{self.config}: cannot be understood ({error!r})") from error

    def _read(self) -> Mapping[str, Any]:
        if self.config is None:
            return {}
        try:
            content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConversionError(f"{self.config} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise ConversionError(f"{self.config}: expected keys and values, got {type(content).__name__}")
        return content


def _encoder_changes(content: Mapping[str, Any]) -> dict[str, Any]:
    steps = content.get("PreProcess", {}).get("transform_ops", [])
    steps = {name: values or {} for step in steps for name, values in step.items()}
    changes: dict[str, Any] = {}
    if "ResizeImage" in steps:
        resize = steps["ResizeImage"]
        if "resize_short" in resize:
            raise ConversionError("PreProcess.ResizeImage: expected size, got resize_short; a kept ratio is not served")
        changes["input_size"] = _side(resize["size"], Task.ENCODER)
        changes |= _interpolation(resize.get("interpolation"))
    if "CropImage" in steps:
        raise ConversionError(
            "PreProcess.CropImage: expected none; PP-ShiTuV2 stretches pictures and does not crop them"
        )
    if "NormalizeImage" in steps:
        changes |= _normalisation(steps["NormalizeImage"])
    return changes


def _detector_changes(content: Mapping[str, Any]) -> dict[str, Any]:
    steps = {step["type"]: step for step in content.get("Preprocess", [])}
    changes: dict[str, Any] = {}
    if "Resize" in steps:
        resize = steps["Resize"]
        if resize.get("keep_ratio"):
            raise ConversionError("Preprocess.Resize.keep_ratio: expected false; the detector's input is stretched")
        changes["input_size"] = _side(resize["target_size"], Task.DETECTOR)
        changes |= _interpolation(resize.get("interp"))
    if "NormalizeImage" in steps:
        normalise = dict(steps["NormalizeImage"])
        normalise["scale"] = 1 / 255 if normalise.get("is_scale", True) else 1.0
        changes |= _normalisation(normalise)
    labels = content.get("label_list", ["mainbody"])
    if len(labels) != 1:
        raise ConversionError(f"label_list: expected the one class of a main-body detector, got {len(labels)}")
    return changes | _suppression(content.get("NMS") or {})


def _suppression(nms: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for field, name in (("nms_iou", "nms_threshold"), ("nms_min_score", "score_threshold")):
        if name in nms:
            changes[field] = _within(f"NMS.{name}", float(nms[name]), 0.0, 1.0)
    if "keep_top_k" in nms:
        changes["max_boxes"] = _within("NMS.keep_top_k", int(nms["keep_top_k"]), 1, _MOST_BOXES)
    if "nms_top_k" in nms:
        wished = int(nms["nms_top_k"])
        # In PaddleDetection -1 means all; the graph takes no more than there are.
        changes["nms_candidates"] = _within("NMS.nms_top_k", wished if wished >= 0 else _ALL, 1, _ALL)
    return changes


def _side(size: Any, task: Task) -> int:
    sides = {int(side) for side in (size if isinstance(size, (list, tuple)) else [size])}
    if len(sides) != 1:
        raise ConversionError(f"expected a square input, got {size}")
    return _within("size of the input", sides.pop(), _LEAST_SIDE_PX[task], _MOST_SIDE_PX)


def _within(name: str, value: _Number, least: _Number, most: _Number) -> _Number:
    if not least <= value <= most:
        raise ConversionError(f"{name}: expected {least} to {most}, got {value}")
    return value


def _interpolation(value: Any) -> dict[str, Any]:
    if value is None:  # the yml leaves it to the code that reads it; the registry says what the model was trained with
        return {}
    known = _CV2_NUMBERS.get(value) if isinstance(value, int) else _INTERPOLATIONS.get(str(value).lower())
    if known is None:
        raise ConversionError(f"expected bilinear or bicubic interpolation, got {value!r}")
    return {"interpolation": known}


def _normalisation(values: Mapping[str, Any]) -> dict[str, Any]:
    scale = values.get("scale", 1 / 255)
    if isinstance(scale, str):  # "1.0/255.0"
        above, _, below = scale.partition("/")
        scale = float(above) / float(below or 1)
    if abs(float(scale) * 255 - 1) > _SCALE_TOLERANCE:
        raise ConversionError(f"expected a scale of 1/255, got {values.get('scale')}")
    return {field: _three(values[field]) for field in ("mean", "std") if field in values}


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
