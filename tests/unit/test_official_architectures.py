"""The four official networks: sizes, names and what fusing changes. Paddle's own of them are compared by the peer tests."""

from __future__ import annotations

import numpy as np
import pytest

paddle = pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from shitu_bench.models.spread_weights import spread  # noqa: E402
from shitu_models.specs import OFFICIAL_SPECS, SPECS  # noqa: E402
from shitu_train.architectures.catalogue import ARCHITECTURES  # noqa: E402
from shitu_train.architectures.clip_vit import CLIP_VIT_LARGE, ClipEncoder, ClipVitSize  # noqa: E402
from shitu_train.architectures.picodet_lcnet import LcNetDet, LcNetDetSize  # noqa: E402
from shitu_train.architectures.pp_lcnet_v2 import LcNetV2Encoder, LcNetV2Size  # noqa: E402
from shitu_train.conversion.loading import architecture_of, load_state  # noqa: E402
from shitu_train.errors import ConversionError  # noqa: E402

TINY_REC = LcNetV2Size(input_px=64, scale=0.25, depths=(1, 1, 2, 2), embedding=16)
TINY_DET = LcNetDetSize(input_px=128, scale=0.5, neck=16, head_depth=2)


def pictures(side, count=6):
    return paddle.to_tensor(np.random.default_rng(3).normal(0, 1, (count, 3, side, side)).astype(np.float32))


def arrays(layer):
    return {name: value.numpy() for name, value in layer.state_dict().items()}


def test_every_model_of_the_registry_has_its_network():
    assert set(ARCHITECTURES) == set(SPECS)
    for spec in OFFICIAL_SPECS[:3]:  # the large one takes seconds and a gigabyte; the end-to-end test makes it
        layer = ARCHITECTURES[spec.name].build(spec.input_size)
        millions = sum(int(np.prod(p.shape)) for p in layer.parameters()) / 1e6
        expected = {"PP-ShiTuV2_det": 7.08, "PP-ShiTuV2_rec": 4.78, "PP-ShiTuV2_rec_CLIP_vit_base": 86.5}[spec.name]
        assert millions == pytest.approx(expected, rel=0.01)


def test_the_large_clip_means_all_tokens_and_the_base_one_the_patches():
    sizes = {"patch_px": 16, "width": 24, "depth": 2, "heads": 2, "projection": 16, "embedding": 8}
    images = pictures(32)
    paddle.seed(0)
    base = ClipEncoder(ClipVitSize(input_px=32, **sizes))
    large = ClipEncoder(ClipVitSize(input_px=32, **sizes, mean_with_class_token=True))
    large.set_state_dict(base.state_dict())
    base.eval()
    large.eval()
    assert CLIP_VIT_LARGE.mean_with_class_token
    assert np.abs(base(images).numpy() - large(images).numpy()).max() > 1e-3


def test_fused_branches_compute_the_same():
    images = pictures(64)
    encoder = spread(LcNetV2Encoder(TINY_REC), images)
    before, names = encoder(images).numpy(), set(encoder.state_dict())
    assert any("dw_conv_list.2" in name for name in names)
    encoder.fuse()
    encoder.fuse()  # twice is once
    assert not any("dw_conv_list" in name for name in encoder.state_dict())
    assert np.abs(encoder(images).numpy() - before).max() / np.abs(before).max() < 1e-5
    assert np.ptp(before, axis=0).max() / np.abs(before).max() > 0.1, "pictures give different vectors"


def test_the_detector_gives_logits_of_every_cell():
    detector = spread(LcNetDet(TINY_DET), pictures(128))
    logits = detector(pictures(128)).numpy()
    assert logits.shape == (6, 16**2 + 8**2 + 4**2 + 2**2, 33)
    assert np.ptp(logits[:, :, 0], axis=0).max() > 0.01


def test_a_checkpoint_says_which_architecture_it_is_of():
    for name in ("PP-ShiTuV2_rec", "demo_det"):
        state = arrays(ARCHITECTURES[name].build(SPECS[name].input_size))
        if name == "PP-ShiTuV2_rec":
            state["head.fc.weight"] = np.zeros((512, 3), np.float32)
        assert architecture_of(state) == name


def test_weights_that_do_not_fit_are_told_apart():
    layer = LcNetV2Encoder(TINY_REC)
    state = arrays(layer)
    load_state(layer, {**state, "head.fc.weight": np.zeros(3)}, ("head.",))
    with pytest.raises(ConversionError, match=r"1 unknown \(head\.fc\.weight\)"):
        load_state(layer, {**state, "head.fc.weight": np.zeros(3)})
    with pytest.raises(ConversionError, match=r"1 missing \(neck\.feat_bn\.bias\)"):
        load_state(layer, {name: value for name, value in state.items() if name != "neck.feat_bn.bias"})
    with pytest.raises(ConversionError, match=r"1 of another shape \(neck\.feat_bn\.bias \[3\] for \[16\]\)"):
        load_state(layer, {**state, "neck.feat_bn.bias": np.zeros(3)})


def test_the_same_seed_spreads_the_same_weights():
    spec = SPECS["PP-ShiTuV2_rec"]
    pictures = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32))
    one, other = (spread(ARCHITECTURES[spec.name].build(spec.input_size), pictures, 3).state_dict() for _ in range(2))
    assert all(np.array_equal(one[name].numpy(), other[name].numpy()) for name in one)
