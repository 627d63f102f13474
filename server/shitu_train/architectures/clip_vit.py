"""CLIP's vision transformer with the neck of PP-ShiTuV2_rec_CLIP_vit_base and _large, at any size.

Parameter names, shapes and the order `norm -> @proj -> mean -> neck` are those of the official checkpoints:
`backbone.{pos_embed, cls_token, proj, patch_embed.proj.weight, ln_pre, blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2},
norm}` and `neck.fc`. Its `head.weight` (the class centres of the loss) has no place here: the encoder ends with the neck.
"""

from __future__ import annotations

from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

_EPSILON = 1e-5


@dataclass(frozen=True)
class ClipVitSize:
    """Sizes of a CLIP encoder."""

    input_px: int
    patch_px: int
    width: int
    depth: int
    heads: int
    projection: int
    embedding: int
    mean_with_class_token: bool = False
    """Whether the mean of the tokens includes the class token's, as in PaddleClas for the large model, but not for the base one."""

    @property
    def tokens(self) -> int:
        """How many patches one picture has."""
        return (self.input_px // self.patch_px) ** 2


DEMO_REC = ClipVitSize(input_px=128, patch_px=16, width=192, depth=6, heads=3, projection=128, embedding=128)
CLIP_VIT_BASE = ClipVitSize(input_px=224, patch_px=16, width=768, depth=12, heads=12, projection=512, embedding=512)
CLIP_VIT_LARGE = ClipVitSize(
    input_px=224,
    patch_px=14,
    width=1024,
    depth=24,
    heads=16,
    projection=512,
    embedding=512,
    mean_with_class_token=True,
)


class _Attention(nn.Layer):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        tokens, width = x.shape[1], self.heads * self.head_width
        # Splitting before the reshape, and scaling the query, trains 1.8 times as fast as slicing a five-dimensional transpose.
        query, key, value = (
            part.reshape([-1, tokens, self.heads, self.head_width]).transpose([0, 2, 1, 3])
            for part in self.qkv(x).split(3, axis=-1)
        )
        weights = F.softmax((query * self.head_width**-0.5).matmul(key.transpose([0, 1, 3, 2])), axis=-1)
        merged: paddle.Tensor = self.proj(weights.matmul(value).transpose([0, 2, 1, 3]).reshape([-1, tokens, width]))
        return merged


class _Mlp(nn.Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        mixed: paddle.Tensor = self.fc2(F.gelu(self.fc1(x)))
        return mixed


class _Block(nn.Layer):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, epsilon=_EPSILON)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, epsilon=_EPSILON)
        self.mlp = _Mlp(width)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.attn(self.norm1(x))
        mixed: paddle.Tensor = x + self.mlp(self.norm2(x))
        return mixed


class _PatchEmbed(nn.Layer):
    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2D(3, width, patch_px, patch_px, bias_attr=False)

    def forward(self, image: paddle.Tensor) -> paddle.Tensor:
        patches: paddle.Tensor = self.proj(image)
        return patches.flatten(2).transpose([0, 2, 1])


class ClipBackbone(nn.Layer):
    """Patches to projected tokens' mean, float32 [n, projection]."""

    def __init__(self, size: ClipVitSize) -> None:
        super().__init__()
        normal = nn.initializer.TruncatedNormal(std=0.02)
        self.size = size
        self.pos_embed = self.create_parameter([1, size.tokens + 1, size.width], default_initializer=normal)
        self.cls_token = self.create_parameter([1, 1, size.width], default_initializer=normal)
        self.proj = self.create_parameter(
            [size.width, size.projection], default_initializer=nn.initializer.Normal(std=size.width**-0.5)
        )
        self.patch_embed = _PatchEmbed(size.width, size.patch_px)
        self.ln_pre = nn.LayerNorm(size.width, epsilon=_EPSILON)
        self.blocks = nn.LayerList([_Block(size.width, size.heads) for _ in range(size.depth)])
        self.norm = nn.LayerNorm(size.width, epsilon=_EPSILON)

    def forward(self, image: paddle.Tensor, kept_patches: paddle.Tensor | None = None) -> paddle.Tensor:
        """`image` float32 [n, 3, S, S] normalised. `kept_patches` int64 [k] trains on these patches only (cheaper, and a regulariser)."""
        patches = self.patch_embed(image)
        cls = self.cls_token.expand([paddle.shape(patches)[0], 1, self.size.width])
        # Added as a whole, like the official layer does: what an exported program uses a weight for tells which one it is.
        x = paddle.concat([cls, patches], axis=1) + self.pos_embed
        if kept_patches is not None:
            x = paddle.index_select(x, paddle.concat([paddle.zeros([1], kept_patches.dtype), kept_patches + 1]), axis=1)
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        pooled = x if self.size.mean_with_class_token else x[:, 1:]
        projected: paddle.Tensor = self.norm(pooled).matmul(self.proj)
        return projected.mean(axis=1)


class _Neck(nn.Layer):
    def __init__(self, projection: int, embedding: int) -> None:
        super().__init__()
        self.fc = nn.Linear(projection, embedding)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        embedding: paddle.Tensor = self.fc(x)
        return embedding


class ClipEncoder(nn.Layer):
    """Backbone and neck: normalised pictures float32 [n, 3, S, S] to embeddings [n, embedding], not yet L2-normalised."""

    def __init__(self, size: ClipVitSize) -> None:
        super().__init__()
        self.size = size
        self.backbone = ClipBackbone(size)
        self.neck = _Neck(size.projection, size.embedding)

    def forward(self, image: paddle.Tensor, kept_patches: paddle.Tensor | None = None) -> paddle.Tensor:
        """Embeddings of `image`; see ClipBackbone for `kept_patches`."""
        embedding: paddle.Tensor = self.neck(self.backbone(image, kept_patches))
        return embedding
