"""Where PaddleX's and PaddleClas' own files of the official models are; they are downloaded by the user, never shipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from shitu_models.downloads.remote_file import RemoteFile
from shitu_models.specs import (
    PP_SHITUV2_DET,
    PP_SHITUV2_REC,
    PP_SHITUV2_REC_CLIP_VIT_BASE,
    PP_SHITUV2_REC_CLIP_VIT_LARGE,
)

PADDLEX_BASE: Final = "https://paddle-model-ecology.bj.bcebos.com/paddlex/"
PADDLECLAS_BASE: Final = "https://paddle-imagenet-models-name.bj.bcebos.com/"

_MB: Final = 1_000_000
_SLACK: Final = 4
"""Published sizes are rounded and of an older export, so a file may be this many times as large."""
_HEAD_MB: Final = 400
"""Beyond that a checkpoint may carry the head that it was trained with: 192,612 classes (PaddleClas, general recognition) x 512 x
4 bytes."""


class SourceKind(str, Enum):
    """Which of an official model's files."""

    CHECKPOINT = "checkpoint"
    EXPORTED = "exported"
    PADDLECLAS = "paddleclas"


@dataclass(frozen=True)
class OfficialSource:
    """The files that an official model can be converted from."""

    checkpoint: RemoteFile
    """Training checkpoint (`.pdparams`): what conversion starts from."""
    inference: RemoteFile
    """Tar of the inference directory that PaddleX exported from it."""
    paddleclas: RemoteFile | None = None
    """Tar of PaddleClas' older inference directory of the same model, where there is one."""

    @property
    def files(self) -> Mapping[SourceKind, RemoteFile]:
        """Those that there are."""
        files = {SourceKind.CHECKPOINT: self.checkpoint, SourceKind.EXPORTED: self.inference}
        return files if self.paddleclas is None else {**files, SourceKind.PADDLECLAS: self.paddleclas}


def _source(name: str, published_mb: float, paddleclas: RemoteFile | None = None) -> OfficialSource:
    inference_bytes = int(published_mb * _SLACK * _MB)
    return OfficialSource(
        checkpoint=RemoteFile(
            f"official_pretrained_model/{name}_pretrained.pdparams", PADDLEX_BASE, inference_bytes + _HEAD_MB * _MB
        ),
        inference=RemoteFile(f"official_inference_model/paddle3.0.0/{name}_infer.tar", PADDLEX_BASE, inference_bytes),
        paddleclas=paddleclas,
    )


_PADDLECLAS_DET: Final = RemoteFile(
    "dygraph/rec/models/inference/picodet_PPLCNet_x2_5_mainbody_lite_v1.0_infer.tar",
    PADDLECLAS_BASE,
    30 * _SLACK * _MB,
)

_PADDLECLAS_REC: Final = RemoteFile(
    "dygraph/rec/models/inference/PP-ShiTuV2/general_PPLCNetV2_base_pretrained_v1.0_infer.tar",
    PADDLECLAS_BASE,
    19 * _SLACK * _MB,
    # Not from Paddle, which publishes no digests: a public project that converts this tar records it in its script and in
    # its notes. It has the 64 digits of a sha256.
    sha256="b55f63f2f93eb42b0ff232154180f5e54d99da0891a200a2439d7a0a0ef8c026",
)

OFFICIAL: Final[Mapping[str, OfficialSource]] = MappingProxyType(
    {
        PP_SHITUV2_DET.name: _source(PP_SHITUV2_DET.name, 27.54, _PADDLECLAS_DET),
        PP_SHITUV2_REC.name: _source(PP_SHITUV2_REC.name, 16.3, _PADDLECLAS_REC),
        PP_SHITUV2_REC_CLIP_VIT_BASE.name: _source(PP_SHITUV2_REC_CLIP_VIT_BASE.name, 306.6),
        PP_SHITUV2_REC_CLIP_VIT_LARGE.name: _source(PP_SHITUV2_REC_CLIP_VIT_LARGE.name, 1050),
    }
)
"""By the model's name; sizes in MB as PaddleX publishes them."""
