"""Run by the peer's interpreter: the official layers of PaddleClas and PaddleDetection, their checkpoints, outputs and exports.

official.py checkpoint NAME FOLDER     writes checkpoint.pdparams, inputs.npy and outputs.npz
official.py export NAME CHECKPOINT FOLDER     writes inference.{json|pdmodel,pdiparams}
"""

import sys
from pathlib import Path

import numpy as np
import paddle

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from shitu_bench.models.spread_weights import spread

DETECTOR = "PP-ShiTuV2_det"
DETECTOR_CONFIG = Path(__file__).with_name("picodet_lcnet_x2_5_640_mainbody.yml")
_CLASSES = 10
"""Of the heads' class centres, which nobody compares."""
_ENCODERS = {
    "PP-ShiTuV2_rec": (
        {"name": "PPLCNetV2_base_ShiTu", "pretrained": False, "use_ssld": True, "class_expand": 512},
        {"name": "BNNeck", "num_features": 512},
        {"name": "FC", "embedding_size": 512, "class_num": _CLASSES, "bias_attr": False},
    ),
    **{
        f"PP-ShiTuV2_rec_CLIP_vit_{size}": (
            {"name": backbone, "pretrained": False, "return_embed": True, "return_mean_embed": True},
            {"name": "FC", "embedding_size": 512, "class_num": 512},
            {"name": "ArcMargin", "embedding_size": 512, "class_num": _CLASSES, "margin": 0.2, "scale": 30},
        )
        for size, backbone in (("base", "CLIP_vit_base_patch16_224"), ("large", "CLIP_vit_large_patch14_224"))
    },
}


class Encoder(paddle.nn.Layer):
    """An official encoder: pictures [n, 3, 224, 224] to embeddings [n, 512], not L2-normalised. So it is exported."""

    def __init__(self, official):
        super().__init__()
        self.official = official

    def forward(self, x):
        return self.official(x)["features"]


class Detector(paddle.nn.Layer):
    """An official detector: pictures [n, 3, 640, 640] to the logits [n, cells, 1] of its scores."""

    def __init__(self, official):
        super().__init__()
        self.official = official

    @property
    def head(self):
        """Where `spread` finds the biases of the scores."""
        return self.official.head

    def forward(self, image):
        outputs = self.head(self.official.neck(self.official.backbone({"image": image})))
        if self.training:  # for the statistics of the batch normalisations alone
            return outputs
        scores = outputs[0].transpose([0, 2, 1])
        return paddle.log(scores / (1 - scores))

    def outputs(self, image):
        """Boxes [n, cells, 4] and scores [n, cells] before the suppression, in evaluation mode."""
        self.official.export_nms = False
        found = self.official({"image": image, "scale_factor": paddle.ones([len(image), 2])})
        self.official.export_nms = True
        return {"boxes": found["bbox"].numpy(), "scores": found["scores"].numpy()[:, 0]}


def build(name):
    if name == DETECTOR:
        from ppdet.core.workspace import create, load_config

        load_config(str(DETECTOR_CONFIG))
        return Detector(create("PicoDet"))
    from paddleclas.ppcls.arch import build_model

    backbone, neck, head = _ENCODERS[name]
    arch = {"name": "RecModel", "infer_output_key": "features", "infer_add_softmax": False}
    arch |= {"Backbone": backbone, "BackboneStopLayer": {"name": "flatten"}, "Neck": neck, "Head": head}
    return Encoder(build_model({"Arch": arch, "Global": {}}, mode="eval"))


def pictures(name):
    """Fixed pictures float32: large patches of colour, so that they differ after a mean over cells too, and noise."""
    count, side = (4, 640) if name == DETECTOR else (8, 224)
    rng = np.random.default_rng(7)
    patches = np.kron(rng.normal(size=(count, 3, 8, 8)), np.ones((1, 1, side // 8, side // 8)))
    return (patches + 0.4 * rng.normal(size=(count, 3, side, side))).astype(np.float32)


def checkpoint(name, folder):
    layer = build(name)
    images = paddle.to_tensor(pictures(name))
    spread(layer, images)
    paddle.save(layer.official.state_dict(), str(folder / "checkpoint.pdparams"))
    with paddle.no_grad():
        outputs = layer.outputs(images) if name == DETECTOR else {"embeddings": layer(images).numpy()}
    np.save(folder / "inputs.npy", images.numpy())
    np.savez(folder / "outputs.npz", **outputs)


def export(name, state, folder):
    layer = build(name)
    missing, unexpected = layer.official.set_state_dict(paddle.load(str(state)))
    if missing or unexpected:
        raise ValueError(f"expected a checkpoint of {name}, missing {missing}, unexpected {unexpected}")
    layer.eval()
    if name == DETECTOR:
        _make_suppression_exportable()
        layer = layer.official
        spec = {
            "image": paddle.static.InputSpec([1, 3, 640, 640], "float32", name="image"),
            "scale_factor": paddle.static.InputSpec([1, 2], "float32", name="scale_factor"),
        }
    else:
        for part in layer.sublayers():
            if hasattr(part, "re_parameterize") and not getattr(part, "is_repped", False):
                part.re_parameterize()
        spec = paddle.static.InputSpec([None, 3, 224, 224], "float32")
    static = paddle.jit.to_static(layer, input_spec=[spec], full_graph=True)
    paddle.jit.save(static, str(folder / "inference"))


def _make_suppression_exportable():
    """PaddleDetection 2.6.0 appends the operator to the old kind of program, which Paddle 3 makes no more."""
    if paddle.__version__.startswith("2."):
        return
    from ppdet.modeling import ops

    def multiclass_nms(
        bboxes,
        scores,
        score_threshold,
        nms_top_k,
        keep_top_k,
        nms_threshold=0.3,
        normalized=True,
        nms_eta=1.0,
        background_label=-1,
        **_,
    ):
        limits = (score_threshold, nms_top_k, keep_top_k, nms_threshold, normalized, nms_eta, background_label)
        rows, _, count = paddle._C_ops.multiclass_nms3(bboxes, scores, None, *limits)
        return rows, count, None

    ops.multiclass_nms = multiclass_nms


if __name__ == "__main__":
    {"checkpoint": checkpoint, "export": export}[sys.argv[1]](sys.argv[2], *map(Path, sys.argv[3:]))
