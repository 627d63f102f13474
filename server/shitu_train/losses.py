"""Losses of the encoder and the detector."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class ArcMargin(nn.Layer):
    """Additive angular margin over learnt class centres (`head.weight` of the official CLIP checkpoints), scale 30."""

    def __init__(self, embedding: int, classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.scale = scale
        self.weight = self.create_parameter([embedding, classes], default_initializer=nn.initializer.Normal(std=0.02))

    def forward(self, embedding: paddle.Tensor, labels: paddle.Tensor, margin: float) -> paddle.Tensor:
        """Cross entropy of the scaled cosines, each true class' angle widened by `margin` radians (0.2 as in PaddleClas)."""
        cosine = F.normalize(embedding, axis=1).matmul(F.normalize(self.weight, axis=0))
        true = F.one_hot(labels, cosine.shape[1])
        own = (cosine * true).sum(axis=1, keepdim=True).clip(-1 + 1e-6, 1 - 1e-6)
        widened = own * paddle.cos(paddle.to_tensor(margin)) - paddle.sqrt(1 - own * own) * paddle.sin(
            paddle.to_tensor(margin)
        )
        # Past pi - margin the widened cosine would rise again; there the plain cosine less a constant keeps it falling.
        fallen = own - float(margin) * 0.2
        widened = paddle.where(own > -0.98, widened, fallen)
        return F.cross_entropy(self.scale * (cosine + true * (widened - own)), labels)


def giou(left: paddle.Tensor, right: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """IoU and generalised IoU of paired boxes [n, 4]."""
    overlap = (left[:, 2:].minimum(right[:, 2:]) - left[:, :2].maximum(right[:, :2])).clip(0).prod(axis=1)
    areas = (left[:, 2:] - left[:, :2]).prod(axis=1) + (right[:, 2:] - right[:, :2]).prod(axis=1)
    union = (areas - overlap).clip(1e-6)
    hull = (left[:, 2:].maximum(right[:, 2:]) - left[:, :2].minimum(right[:, :2])).prod(axis=1).clip(1e-6)
    return overlap / union, overlap / union - (hull - union) / hull


def varifocal(logits: paddle.Tensor, quality: paddle.Tensor) -> paddle.Tensor:
    """Varifocal loss (alpha .75, gamma 2 as in PicoDet), summed: positives weigh their quality, negatives their score squared."""
    scores = F.sigmoid(logits).detach()
    weight = paddle.where(quality > 0, quality, 0.75 * scores * scores)
    return F.binary_cross_entropy_with_logits(logits, quality, weight=weight, reduction="sum")


def distribution_focal(bins: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Distribution focal loss [n]: cross entropy of logits [n, 8] with the two bins around `distances` [n] (in strides, 0 to below 7)."""
    low = distances.floor()
    share = distances - low
    log_shares = F.log_softmax(bins, axis=1)
    left = (log_shares * F.one_hot(low.astype("int64"), bins.shape[1])).sum(axis=1)
    right = (log_shares * F.one_hot(low.astype("int64") + 1, bins.shape[1])).sum(axis=1)
    return -(left * (1 - share) + right * share)
