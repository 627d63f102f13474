"""Losses of the encoder and the detector."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn


class ArcMargin(nn.Layer):  # type: ignore[misc]
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
        widened = own * paddle.cos(paddle.to_tensor(margin)) - paddle.sqrt(1 - own * own) * paddle.sin(paddle.to_tensor(margin))
        # Past pi - margin the widened cosine would rise again; there the plain cosine less a constant keeps it falling.
        fallen = own - float(margin) * 0.2
        widened = paddle.where(own > -0.98, widened, fallen)
        return F.cross_entropy(self.scale * (cosine + true * (widened - own)), labels)
