"""Pieces that the convolutional networks share; sublayers have the names of the official checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import paddle
import paddle.nn.functional as F
from paddle import nn

Activation = Callable[[paddle.Tensor], paddle.Tensor]


class ConvUnit(nn.Layer):
    """Convolution `conv`, batch normalisation `bn`, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: Activation | None = F.relu,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2D(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias_attr=False)
        self.bn = nn.BatchNorm2D(outputs)
        self._activation = activation

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features float32 [n, outputs, h, w]."""
        x = self.bn(self.conv(x))
        return x if self._activation is None else self._activation(x)


class SqueezeExcite(nn.Layer):
    """Scales each channel by what `conv1` and `conv2` make of all channels' means."""

    def __init__(self, channels: int, gate: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels // 4, 1)
        self.conv2 = nn.Conv2D(channels // 4, channels, 1)
        self._gate = gate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features of the same shape."""
        means = F.adaptive_avg_pool2d(x, 1)
        scaled: paddle.Tensor = x * self._gate(self.conv2(F.relu(self.conv1(means))))
        return scaled


def divisible(channels: float, divisor: int = 8) -> int:
    """The multiple of 8 that is nearest to a scaled number of channels, at least 90 % of it (as PaddleClas scales its networks)."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest
