"""Checkpoints and exports of the official layers (PaddleClas, PaddleDetection): their names and their outputs are ours."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tests.peer.interpreter import peer_python, peer_python_of_paddle_2, run_peer

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytest.importorskip("paddle2onnx", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [
    pytest.mark.train,
    pytest.mark.peer,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore"),
]

import paddle  # noqa: E402

from shitu_models.specs import SPECS, Task  # noqa: E402
from shitu_train.architectures.catalogue import ARCHITECTURES, DecodedDetector  # noqa: E402
from shitu_train.conversion.converter import convert  # noqa: E402
from shitu_train.conversion.loading import architecture_of, load_state  # noqa: E402
from shitu_train.conversion.options import ConversionOptions  # noqa: E402
from shitu_train.conversion.pdparams import read_pdparams  # noqa: E402

MOST_DIFFERENCE = 1e-5
"""Of the largest magnitude among the official layer's outputs."""
TRAINING_ONLY = {
    "PP-ShiTuV2_rec": {"head.fc.weight"},
    "PP-ShiTuV2_rec_CLIP_vit_base": {"head.weight"},
    "PP-ShiTuV2_rec_CLIP_vit_large": {"head.weight"},
    "PP-ShiTuV2_det": {
        *(f"head.p{level}_feat.scale_reg" for level in range(3, 7)),
        "head.distribution_project.project",
    },
}
PERTURBED = {
    "PP-ShiTuV2_rec": "backbone.stages.2.3.dw_conv_list.1.conv.weight",
    "PP-ShiTuV2_rec_CLIP_vit_base": "backbone.blocks.7.attn.qkv.weight",
    "PP-ShiTuV2_rec_CLIP_vit_large": "backbone.blocks.17.mlp.fc2.bias",
    "PP-ShiTuV2_det": "head.conv_feat.cls_conv_dw3.2.norm._variance",
}
"""One weight of each, somewhere in the middle."""
LARGE = "PP-ShiTuV2_rec_CLIP_vit_large"
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == LARGE else name for name in TRAINING_ONLY]


class Official:
    """What the peer saved of one official layer with random weights."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.checkpoint = folder / "checkpoint.pdparams"
        self.state = read_pdparams(self.checkpoint)
        self.inputs = np.load(folder / "inputs.npy")
        with np.load(folder / "outputs.npz") as outputs:
            self.outputs = {key: outputs[key] for key in outputs.files}

    def ours(self, state=None, *, fused=False):
        """Our architecture with these weights, ready to run."""
        architecture, spec = ARCHITECTURES[self.name], SPECS[self.name]
        layer = architecture.build(spec.input_size)
        load_state(layer, state or self.state, architecture.training_only)
        layer.eval()
        return architecture.served(layer) if fused or spec.task is Task.DETECTOR else layer

    def difference(self, layer):
        """The largest difference of any output, over the largest magnitude of that output at the official layer."""
        with paddle.no_grad():
            got = layer(paddle.to_tensor(self.inputs))
        got = list(got) if isinstance(got, (list, tuple)) else [got]
        wanted = list(self.outputs.values())
        assert [part.shape for part in got] == [list(part.shape) for part in wanted]
        pairs = zip((part.numpy() for part in got), wanted, strict=True)
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.fixture(scope="module", params=NAMES)
def official(request, tmp_path_factory):
    python = peer_python()
    folder = tmp_path_factory.mktemp(request.param)
    try:
        run_peer(python, "official.py", "checkpoint", request.param, folder)
        yield Official(request.param, folder)
    finally:
        shutil.rmtree(folder)  # gibibytes


def test_every_name_is_ours_or_for_training_alone(official):
    layer = ARCHITECTURES[official.name].build(SPECS[official.name].input_size)
    assert layer.state_dict().keys() - official.state.keys() == set()
    assert official.state.keys() - layer.state_dict().keys() == TRAINING_ONLY[official.name]
    assert architecture_of(official.state) == official.name


def test_outputs_mean_something(official):
    """Equality of outputs that are alike for all pictures would prove little."""
    assert all(np.isfinite(values).all() for values in official.outputs.values())
    if official.name == "PP-ShiTuV2_det":
        assert official.outputs["boxes"].std(axis=0).mean() > 1, "pixels"
        assert (official.outputs["scores"] > 0.5).sum(axis=1).min() >= 5
        assert official.outputs["scores"].std(axis=0).mean() > 0.01
    else:
        vectors = official.outputs["embeddings"]
        assert vectors.std(axis=0).mean() > 0.01 * np.abs(vectors).max()


def test_outputs_are_the_official_ones(official, capsys):
    differences = {"as it was trained": official.difference(official.ours())}
    if official.name == "PP-ShiTuV2_rec":
        fused = official.ours(fused=True)
        assert not any("dw_conv_list" in name for name in fused.state_dict())
        differences["fused"] = official.difference(fused)
    with capsys.disabled():
        print(f"\n{official.name}: largest difference, of the outputs' scale: {differences}")  # noqa: T201
    assert max(differences.values()) <= MOST_DIFFERENCE


def test_a_perturbed_weight_is_noticed(official):
    name = PERTURBED[official.name]
    perturbed = official.ours({**official.state, name: official.state[name] * np.float32(1.02)})
    assert official.difference(perturbed) > 3 * MOST_DIFFERENCE
    assert isinstance(perturbed, DecodedDetector) == (official.name == "PP-ShiTuV2_det")


@pytest.mark.parametrize("ending", [".json", ".pdmodel"])
def test_exports_of_the_official_layer_convert(official, ending, tmp_path):
    python = peer_python() if ending == ".json" else peer_python_of_paddle_2()
    exported = tmp_path / "exported"
    exported.mkdir()
    run_peer(python, "official.py", "export", official.name, official.checkpoint, exported)
    assert (exported / f"inference{ending}").is_file()
    try:
        placed = convert(exported, ConversionOptions(repository=tmp_path / "models", architecture=official.name))
        card = placed.card
        assert (card.architecture, card.source.kind, card.source.note) == (official.name, "inference", "")
        assert set(card.source.files) == {f"inference{ending}", "inference.pdiparams"}
        assert card.max_abs_difference < 1e-4
        assert card.min_cosine > 0.99999
    finally:
        shutil.rmtree(tmp_path)
