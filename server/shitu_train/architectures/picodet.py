"""PicoDet's head and outputs on a small backbone of plain convolutions, which (unlike depthwise ones) can be trained on a CPU.

Outputs as PicoDet's: levels of stride 8, 16, 32 and 64, per cell one class and 4 x 8 bins of edge distances, cell offset 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from numpy.typing import NDArray
from paddle import nn

from shitu_train.architectures.units import ConvUnit

STRIDES: tuple[int, ...] = (8, 16, 32, 64)
CELL_OFFSET = 0.5
# Distances are expectations over the bins 0 to 7, in strides.
BINS = 8


@dataclass(frozen=True)
class PicoDetSize:
    """Channels of the stem's two convolutions, of the four stages, of the neck, and how many convolutions each stage has."""

    input_px: int
    stem: tuple[int, int]
    stages: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    neck: int

    @property
    def cells(self) -> int:
        """How many cells all levels have together."""
        return sum(cells_across(self.input_px, stride) ** 2 for stride in STRIDES)


DEMO_DET = PicoDetSize(input_px=320, stem=(16, 32), stages=(64, 96, 128, 128), depths=(2, 2, 2, 1), neck=48)


class PlainBackbone(nn.Layer):
    """Features of stride 8, 16, 32 and 64."""

    def __init__(self, size: PicoDetSize) -> None:
        super().__init__()
        first, second = size.stem
        self.stem = nn.Sequential(ConvUnit(3, first, stride=2), ConvUnit(first, second, stride=2))
        stages, inputs = [], second
        for outputs, depth in zip(size.stages, size.depths, strict=True):
            units = [ConvUnit(inputs, outputs, stride=2)] + [ConvUnit(outputs, outputs) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*units))
            inputs = outputs
        self.stages = nn.LayerList(stages)

    def forward(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        """One feature map per stride."""
        x, features = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class TopDownNeck(nn.Layer):
    """A feature pyramid: lateral 1x1 convolutions, sums from the top down, and one 3x3 convolution per level."""

    def __init__(self, size: PicoDetSize) -> None:
        super().__init__()
        self.cells = [cells_across(size.input_px, stride) for stride in STRIDES]
        self.lateral = nn.LayerList([ConvUnit(channels, size.neck, kernel=1) for channels in size.stages])
        self.smooth = nn.LayerList([ConvUnit(size.neck, size.neck) for _ in STRIDES])

    def forward(self, features: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """One merged feature map per stride."""
        # Plain zips: the conversion to a static graph does not know `strict`.
        merged = [lateral(feature) for lateral, feature in zip(self.lateral, features)]  # noqa: B905
        for level in range(len(merged) - 2, -1, -1):
            # An explicit size: paddle2onnx cannot convert a scale factor.
            side = self.cells[level]
            merged[level] = merged[level] + F.interpolate(merged[level + 1], size=[side, side], mode="nearest")
        return [smooth(level) for smooth, level in zip(self.smooth, merged)]  # noqa: B905


class PicoHead(nn.Layer):
    """Per level one convolution and `head_cls{level}`, a 1x1 convolution to 1 + 4 x 8 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_feat = nn.LayerList([ConvUnit(channels, channels) for _ in STRIDES])
        for level in range(len(STRIDES)):
            head = nn.Conv2D(channels, 1 + 4 * BINS, 1, weight_attr=nn.initializer.Normal(std=0.01))
            # The usual prior of 1 %, so that the many empty cells do not swamp the first steps.
            head.bias.set_value(np.concatenate([[-np.log(99)], np.zeros(4 * BINS)]).astype(np.float32))
            setattr(self, f"head_cls{level}", head)

    def forward(self, features: list[paddle.Tensor]) -> paddle.Tensor:
        """Logits float32 [n, cells, 33]."""
        levels = [getattr(self, f"head_cls{i}")(self.conv_feat[i](x)) for i, x in enumerate(features)]
        return paddle.concat([level.flatten(2) for level in levels], axis=2).transpose([0, 2, 1])


class PicoDet(nn.Layer):
    """Normalised pictures float32 [n, 3, S, S] to logits [n, cells, 1 + 4 x 8]."""

    def __init__(self, size: PicoDetSize) -> None:
        super().__init__()
        self.size = size
        self.backbone = PlainBackbone(size)
        self.neck = TopDownNeck(size)
        self.head = PicoHead(size.neck)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        """Logits of `image`."""
        logits: paddle.Tensor = self.head(self.neck(self.backbone(image)))
        return logits


def cells_across(input_px: int, stride: int) -> int:
    """How many cells a side has: each convolution that halves it rounds up."""
    return -(-input_px // stride)


def cell_centres(input_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres float32 [cells, 2] (x, y in pixels) and strides float32 [cells] of all levels, in the order of the logits."""
    centres, strides = [], []
    for stride in STRIDES:
        side = (np.arange(cells_across(input_px, stride), dtype=np.float32) + CELL_OFFSET) * stride
        ys, xs = np.meshgrid(side, side, indexing="ij")
        centres.append(np.stack([xs.reshape(-1), ys.reshape(-1)], axis=1))
        strides.append(np.full(xs.size, stride, np.float32))
    return np.concatenate(centres), np.concatenate(strides)


class BoxDecoder(nn.Layer):
    """Logits [n, cells, 33] to boxes [n, cells, 4] (x0 y0 x1 y1 in input pixels) and scores [n, cells] in 0 to 1.

    Boxes are cut to the picture where `clips` says so. PaddleX cuts them after its NMS, which compares boxes that reach outside.
    """

    def __init__(self, input_px: int, *, clips: bool = True) -> None:
        super().__init__()
        centres, strides = cell_centres(input_px)
        self.input_px, self._clips = input_px, clips
        self.register_buffer("centres", paddle.to_tensor(centres), persistable=False)
        self.register_buffer("strides", paddle.to_tensor(strides[:, None]), persistable=False)
        self.register_buffer("bins", paddle.arange(BINS, dtype="float32").reshape([BINS, 1]), persistable=False)

    def forward(self, logits: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Boxes and scores."""
        cells = self.centres.shape[0]
        shares = F.softmax(logits[:, :, 1:].reshape([-1, cells, 4, BINS]), axis=-1)
        distances = shares.matmul(self.bins).reshape([-1, cells, 4]) * self.strides
        low = self.centres - distances[:, :, :2]
        high = self.centres + distances[:, :, 2:]
        boxes = paddle.concat([low, high], axis=2)
        if self._clips:
            boxes = boxes.clip(0.0, float(self.input_px))
        return boxes, F.sigmoid(logits[:, :, 0])
