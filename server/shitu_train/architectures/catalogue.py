"""Which network stands behind which model of the registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import paddle

from shitu_models.specs import (
    DEMO_DET,
    DEMO_REC,
    PP_SHITUV2_DET,
    PP_SHITUV2_REC,
    PP_SHITUV2_REC_CLIP_VIT_BASE,
    PP_SHITUV2_REC_CLIP_VIT_LARGE,
)
from shitu_train.architectures import clip_vit, picodet, picodet_lcnet, pp_lcnet_v2
from shitu_train.architectures.picodet import BoxDecoder


class DecodedDetector(paddle.nn.Layer):
    """A detector with its decoder: normalised pictures to boxes [n, cells, 4] and scores [n, cells]."""

    def __init__(self, detector: paddle.nn.Layer, *, clips: bool = True) -> None:
        super().__init__()
        self.detector = detector
        self.decode = BoxDecoder(detector.size.input_px, clips=clips)

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Boxes and scores of `image`."""
        boxes, scores = self.decode(self.detector(image))
        return boxes, scores


def _same(layer: paddle.nn.Layer) -> paddle.nn.Layer:
    return layer


def _fused(layer: paddle.nn.Layer) -> paddle.nn.Layer:
    layer.fuse()
    return layer


def _decoded_like_paddlex(detector: paddle.nn.Layer) -> paddle.nn.Layer:
    return DecodedDetector(detector, clips=False)


@dataclass(frozen=True)
class Architecture:
    """A network: how it is made, and what becomes of it before it is exported."""

    build: Callable[[int], paddle.nn.Layer]
    """Makes the layer whose parameters have the names of a checkpoint, for an input of so many pixels a side."""
    training_only: tuple[str, ...] = ()
    """Beginnings of names that an official checkpoint holds for its loss alone; they are left out."""
    served: Callable[[paddle.nn.Layer], paddle.nn.Layer] = _same
    """Makes of a loaded layer what is exported; may change the layer."""


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    DEMO_DET.name: Architecture(
        lambda px: picodet.PicoDet(replace(picodet.DEMO_DET, input_px=px)), served=DecodedDetector
    ),
    DEMO_REC.name: Architecture(lambda px: clip_vit.ClipEncoder(replace(clip_vit.DEMO_REC, input_px=px))),
    PP_SHITUV2_DET.name: Architecture(
        lambda px: picodet_lcnet.LcNetDet(replace(picodet_lcnet.PP_SHITUV2_DET, input_px=px)),
        training_only=(
            "head.p3_feat.",
            "head.p4_feat.",
            "head.p5_feat.",
            "head.p6_feat.",
            "head.distribution_project.",
        ),
        served=_decoded_like_paddlex,
    ),
    PP_SHITUV2_REC.name: Architecture(
        lambda px: pp_lcnet_v2.LcNetV2Encoder(replace(pp_lcnet_v2.PP_SHITUV2_REC, input_px=px)),
        training_only=("head.",),
        served=_fused,
    ),
    PP_SHITUV2_REC_CLIP_VIT_BASE.name: Architecture(
        lambda px: clip_vit.ClipEncoder(replace(clip_vit.CLIP_VIT_BASE, input_px=px)), training_only=("head.",)
    ),
    PP_SHITUV2_REC_CLIP_VIT_LARGE.name: Architecture(
        lambda px: clip_vit.ClipEncoder(replace(clip_vit.CLIP_VIT_LARGE, input_px=px)), training_only=("head.",)
    ),
}
