"""PP-LCNetV2_base as PP-ShiTuV2_rec uses it (PaddleClas: PPLCNetV2_base_ShiTu with BNNeck).

Parameter names, shapes and order of use are the official checkpoint's: `backbone.stem`, `backbone.stages`, `backbone.last_conv`,
`neck.feat_bn`. Its `head.fc` (the class centres of the loss) has no place here: the encoder ends with the neck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from shitu_train.architectures.units import ConvUnit, SqueezeExcite, divisible

_DROPOUT = 0.2
_EPSILON = 1e-5
"""Of Paddle's batch normalisation, which PaddleClas leaves as it is."""


@dataclass(frozen=True)
class LcNetV2Size:
    """Sizes of the encoder."""

    input_px: int
    scale: float
    """Of all channels of the backbone."""
    depths: tuple[int, int, int, int]
    """Blocks of each stage."""
    embedding: int


PP_SHITUV2_REC = LcNetV2Size(input_px=224, scale=1.0, depths=(2, 2, 6, 2), embedding=512)


@dataclass(frozen=True)
class _Stage:
    inputs: int
    kernel: int
    stride: int
    branched: bool = False
    """Whether the depthwise convolution is trained as a sum of kernels 5, 3 and 1."""
    gated: bool = False
    """With squeeze and excitation, and two pointwise convolutions instead of one."""


_STEM = _Stage(32, 3, 1)
# The last stage keeps its resolution (stride 1), unlike PP-LCNetV2 itself.
_STAGES = (
    _Stage(64, 3, 2),
    _Stage(128, 3, 2),
    _Stage(256, 5, 2, branched=True, gated=True),
    _Stage(512, 5, 1, branched=True),
)


class LcNetV2Encoder(nn.Layer):
    """Normalised pictures float32 [n, 3, S, S] to embeddings [n, embedding], not yet L2-normalised."""

    def __init__(self, size: LcNetV2Size) -> None:
        super().__init__()
        self.size = size
        self.backbone = _Backbone(size)
        self.neck = _BnNeck(size.embedding)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Embeddings of `image`."""
        embedding: paddle.Tensor = self.neck(self.backbone(image))
        return embedding

    def fuse(self) -> None:
        """Make each sum of depthwise convolutions one convolution that computes the same; for inference only."""
        for layer in self.sublayers():
            if isinstance(layer, _BranchedBlock):
                layer.fuse()


class _Backbone(nn.Layer):
    def __init__(self, size: LcNetV2Size) -> None:
        super().__init__()
        first, second = divisible(_STEM.inputs * size.scale), divisible(2 * _STEM.inputs * size.scale)
        self.stem = nn.Sequential(ConvUnit(3, first, stride=2), _Block(first, second, _STEM, stride=1))
        self.stages = nn.LayerList(
            [_stage(stage, depth, size.scale) for stage, depth in zip(_STAGES, size.depths, strict=True)]
        )
        self.last_conv = nn.Conv2D(divisible(2 * _STAGES[-1].inputs * size.scale), size.embedding, 1)
        self.dropout = nn.Dropout(_DROPOUT, mode="downscale_in_infer")

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
        features: paddle.Tensor = self.dropout(self.last_conv(F.adaptive_avg_pool2d(x, 1)))
        return features.flatten(1)


def _stage(stage: _Stage, depth: int, scale: float) -> nn.Layer:
    inputs, outputs = divisible(stage.inputs * scale), divisible(2 * stage.inputs * scale)
    kind = _BranchedBlock if stage.branched else _Block
    first = kind(inputs, outputs, stage, stage.stride)
    return nn.Sequential(first, *(kind(outputs, outputs, stage, stride=1) for _ in range(depth - 1)))


class _Block(nn.Layer):
    """Depthwise convolution, gate where the stage has one, and pointwise convolutions."""

    dw_conv: nn.Layer

    def __init__(self, inputs: int, outputs: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        self._gated = stage.gated
        # Only the last stage adds what comes in, where the shapes allow.
        self._shortcut = stage.branched and not stage.gated and inputs == outputs
        self._add_depthwise(inputs, stage, stride)
        if stage.gated:
            self.se = SqueezeExcite(inputs, F.sigmoid)
            self.pw_conv_1 = ConvUnit(inputs, outputs // 2, 1)
            self.pw_conv_2 = ConvUnit(outputs // 2, outputs, 1)
        else:
            self.pw_conv = ConvUnit(inputs, outputs, 1)

    def _add_depthwise(self, channels: int, stage: _Stage, stride: int) -> None:
        self.dw_conv = ConvUnit(channels, channels, stage.kernel, stride, groups=channels)

    def _depthwise(self, x: paddle.Tensor) -> paddle.Tensor:
        y: paddle.Tensor = self.dw_conv(x)
        return y

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self._depthwise(x)
        y = self.pw_conv_2(self.pw_conv_1(self.se(y))) if self._gated else self.pw_conv(y)
        added: paddle.Tensor = y + x if self._shortcut else y
        return added


class _BranchedBlock(_Block):
    """A block whose depthwise convolution is a sum of `dw_conv_list`, or after `fuse` the one `dw_conv`.

    A checkpoint of training holds both, and its `dw_conv` means nothing; an exported model holds `dw_conv` only.
    """

    def _add_depthwise(self, channels: int, stage: _Stage, stride: int) -> None:
        # A kernel of 1 cannot be a branch of a convolution that skips pixels.
        kernels = [kernel for kernel in range(stage.kernel, 0, -2) if kernel > 1 or stride == 1]
        self.dw_conv_list = nn.LayerList(
            [ConvUnit(channels, channels, kernel, stride, groups=channels, activation=None) for kernel in kernels]
        )
        self.dw_conv = nn.Conv2D(channels, channels, stage.kernel, stride, stage.kernel // 2, groups=channels)
        self._kernel, self._fused = stage.kernel, False

    def _depthwise(self, x: paddle.Tensor) -> paddle.Tensor:
        if self._fused:
            return F.relu(self.dw_conv(x))
        y = self.dw_conv_list[0](x)
        for branch in list(self.dw_conv_list)[1:]:
            y = y + branch(x)
        return F.relu(y)

    def fuse(self) -> None:
        """Put the branches' sum into `dw_conv` and drop them."""
        if self._fused:
            return
        kernels, biases = zip(*(_folded(branch, self._kernel) for branch in self.dw_conv_list), strict=True)
        self.dw_conv.set_state_dict({"weight": paddle.add_n(list(kernels)), "bias": paddle.add_n(list(biases))})
        del self.dw_conv_list
        self._fused = True


def _folded(branch: Any, kernel: int) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Kernel and bias of the one convolution that a branch with its batch normalisation is."""
    norm = branch.bn.state_dict()
    gain = norm["weight"] / (norm["_variance"] + _EPSILON).sqrt()
    margin = (kernel - branch.conv.weight.shape[-1]) // 2
    weight = F.pad(branch.conv.weight * gain.reshape([-1, 1, 1, 1]), [margin] * 4)
    return weight, norm["bias"] - norm["_mean"] * gain


class _BnNeck(nn.Layer):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.feat_bn = nn.BatchNorm1D(features)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        normalised: paddle.Tensor = self.feat_bn(x)
        return normalised
