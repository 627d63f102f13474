"""PicoDet on LCNet with CSP-PAN, as PP-ShiTuV2_det uses it (PaddleDetection: picodet_lcnet_x2_5_640_mainbody).

Parameter names, shapes and order of use are the official checkpoint's: `backbone` (LCNet), `neck` (CSPPAN), `head` (PicoHead). What
its head holds for training alone (`p3_feat.scale_reg` to `p6_feat.scale_reg`, `distribution_project.project`) has no place here.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from shitu_train.architectures.picodet import BINS, STRIDES, cells_across
from shitu_train.architectures.units import ConvUnit, SqueezeExcite, divisible

_KERNEL = 5
"""Of the depthwise convolutions in neck and head."""


@dataclass(frozen=True)
class LcNetDetSize:
    """Sizes of the detector."""

    input_px: int
    scale: float
    """Of all channels of the backbone."""
    neck: int
    """Channels of neck and head."""
    head_depth: int = 4
    """Pairs of convolutions before the head's output, for each level."""


PP_SHITUV2_DET = LcNetDetSize(input_px=640, scale=2.5, neck=128)

# For each group of blocks: (kernel, inputs, outputs, stride) of its first block, and how many follow of (kernel, outputs, outputs, 1).
_BACKBONE = {
    "blocks2": ((3, 16, 32, 1), (3, 0)),
    "blocks3": ((3, 32, 64, 2), (3, 1)),
    "blocks4": ((3, 64, 128, 2), (3, 1)),
    "blocks5": ((3, 128, 256, 2), (5, 5)),
    "blocks6": ((5, 256, 512, 2), (5, 1)),
}
_GATED = "blocks6"
_FEATURES = {"blocks4": 128, "blocks5": 256, "blocks6": 512}
"""Groups whose outputs are the features of stride 8, 16 and 32, with their channels before scaling."""


class LcNetDet(nn.Layer):
    """Normalised pictures float32 [n, 3, S, S] to logits [n, cells, 1 + 4 x 8], levels of stride 8, 16, 32 and 64 after each other."""

    def __init__(self, size: LcNetDetSize) -> None:
        super().__init__()
        self.size = size
        self.backbone = _LcNet(size.scale)
        self.neck = _CspPan([divisible(c * size.scale) for c in _FEATURES.values()], size)
        self.head = _PicoHead(size)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Logits of `image`."""
        logits: paddle.Tensor = self.head(self.neck(self.backbone(image)))
        return logits


class _LcNet(nn.Layer):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv1 = ConvUnit(3, divisible(16 * scale), stride=2, activation=F.hardswish)
        for name, ((kernel, inputs, outputs, stride), (next_kernel, more)) in _BACKBONE.items():
            wide = divisible(outputs * scale)
            blocks = [_Separable(divisible(inputs * scale), wide, kernel, stride, gated=name == _GATED)]
            blocks += [_Separable(wide, wide, next_kernel, 1, gated=name == _GATED) for _ in range(more)]
            setattr(self, name, nn.Sequential(*blocks))

    def forward(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        x, features = self.conv1(image), []
        for name in _BACKBONE:
            x = getattr(self, name)(x)
            if name in _FEATURES:
                features.append(x)
        return features


class _Separable(nn.Layer):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, *, gated: bool) -> None:
        super().__init__()
        self.dw_conv = ConvUnit(inputs, inputs, kernel, stride, groups=inputs, activation=F.hardswish)
        self._gated = gated
        if gated:
            self.se = SqueezeExcite(inputs, F.hardsigmoid)
        self.pw_conv = ConvUnit(inputs, outputs, 1, activation=F.hardswish)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.dw_conv(x)
        mixed: paddle.Tensor = self.pw_conv(self.se(x) if self._gated else x)
        return mixed


class _DepthPoint(nn.Layer):
    """A depthwise and a pointwise convolution, each with batch normalisation and activation."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.dwconv = nn.Conv2D(channels, channels, _KERNEL, stride, _KERNEL // 2, groups=channels, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(channels)
        self.pwconv = nn.Conv2D(channels, channels, 1, bias_attr=False)
        self.bn2 = nn.BatchNorm2D(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.hardswish(self.bn1(self.dwconv(x)))
        return F.hardswish(self.bn2(self.pwconv(x)))


class _Bottleneck(nn.Layer):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1, activation=F.hardswish)
        self.conv2 = _DepthPoint(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        mixed: paddle.Tensor = self.conv2(self.conv1(x))
        return mixed


class _CspLayer(nn.Layer):
    """Two levels' features to one level's: half of the channels past a bottleneck, half beside it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.main_conv = ConvUnit(2 * channels, half, 1, activation=F.hardswish)
        self.short_conv = ConvUnit(2 * channels, half, 1, activation=F.hardswish)
        self.final_conv = ConvUnit(2 * half, channels, 1, activation=F.hardswish)
        self.blocks = nn.Sequential(_Bottleneck(half))

    def forward(self, upper: paddle.Tensor, lower: paddle.Tensor) -> paddle.Tensor:
        x = paddle.concat([upper, lower], axis=1)
        short = self.short_conv(x)
        mixed: paddle.Tensor = self.final_conv(paddle.concat([self.blocks(self.main_conv(x)), short], axis=1))
        return mixed


class _ChannelMaps(nn.Layer):
    def __init__(self, inputs: list[int], outputs: int) -> None:
        super().__init__()
        self.convs = nn.LayerList([ConvUnit(channels, outputs, 1, activation=F.hardswish) for channels in inputs])

    def forward(self, features: list[paddle.Tensor]) -> list[paddle.Tensor]:
        # A plain zip: the conversion to a static graph does not know `strict`.
        return [conv(feature) for conv, feature in zip(self.convs, features)]  # noqa: B905


class _CspPan(nn.Layer):
    def __init__(self, inputs: list[int], size: LcNetDetSize) -> None:
        super().__init__()
        channels, steps = size.neck, len(inputs) - 1
        self.conv_t = _ChannelMaps(inputs, channels)
        self.first_top_conv = _DepthPoint(channels, stride=2)
        self.second_top_conv = _DepthPoint(channels, stride=2)
        self.top_down_blocks = nn.LayerList([_CspLayer(channels) for _ in range(steps)])
        self.downsamples = nn.LayerList([_DepthPoint(channels, stride=2) for _ in range(steps)])
        self.bottom_up_blocks = nn.LayerList([_CspLayer(channels) for _ in range(steps)])
        # An explicit size: paddle2onnx cannot convert a scale factor.
        self._sides = [cells_across(size.input_px, stride) for stride in STRIDES]

    def forward(self, features: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """One merged feature map per stride, 8 to 64."""
        mapped = self.conv_t(features)
        inner = [mapped[-1]]
        for step in range(len(mapped) - 1):
            level = len(mapped) - 2 - step
            side = self._sides[level]
            larger = F.interpolate(inner[0], size=[side, side], mode="nearest")
            inner = [self.top_down_blocks[step](larger, mapped[level]), *inner]
        merged = [inner[0]]
        for step in range(len(mapped) - 1):
            merged.append(self.bottom_up_blocks[step](self.downsamples[step](merged[-1]), inner[step + 1]))
        return [*merged, self.first_top_conv(mapped[-1]) + self.second_top_conv(merged[-1])]


class _NormUnit(nn.Layer):
    """Convolution `conv`, batch normalisation `norm`, activation."""

    def __init__(self, channels: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2D(channels, channels, kernel, 1, kernel // 2, groups=groups, bias_attr=False)
        self.norm = nn.BatchNorm2D(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.hardswish(self.norm(self.conv(x)))


class _PicoFeat(nn.Layer):
    def __init__(self, size: LcNetDetSize) -> None:
        super().__init__()
        self._depth = size.head_depth
        for level in range(len(STRIDES)):
            for i in range(size.head_depth):
                self.add_sublayer(f"cls_conv_dw{level}.{i}", _NormUnit(size.neck, _KERNEL, groups=size.neck))
                self.add_sublayer(f"cls_conv_pw{level}.{i}", _NormUnit(size.neck, 1))

    def of_level(self, x: paddle.Tensor, level: int) -> paddle.Tensor:
        for i in range(self._depth):
            x = self._sub_layers[f"cls_conv_pw{level}.{i}"](self._sub_layers[f"cls_conv_dw{level}.{i}"](x))
        return x


class _PicoHead(nn.Layer):
    def __init__(self, size: LcNetDetSize) -> None:
        super().__init__()
        self.conv_feat = _PicoFeat(size)
        for level in range(len(STRIDES)):
            setattr(self, f"head_cls{level}", nn.Conv2D(size.neck, 1 + 4 * BINS, 1))

    def forward(self, features: list[paddle.Tensor]) -> paddle.Tensor:
        """Logits float32 [n, cells, 33]: of each cell its score's, then eight bins for each of four distances."""
        levels = [getattr(self, f"head_cls{i}")(self.conv_feat.of_level(x, i)) for i, x in enumerate(features)]
        return paddle.concat([level.flatten(2) for level in levels], axis=2).transpose([0, 2, 1])
