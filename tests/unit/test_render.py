"""The renderer: seeded, splits apart, boxes tight, layout as documented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from shitu_train.render import KINDS, SPLITS, DemoSizes, draw_picture, draw_scene, make_products, write_demo_dataset
from shitu_train.render.body import draw_body, random_pose
from shitu_train.render.words import owner_of


def test_same_seed_draws_same_pixels():
    first, second = (make_products(3, 6, "demo") for _ in range(2))
    assert first == second
    pictures = [draw_picture(first[0], np.random.default_rng(1), 96) for _ in range(2)]
    assert np.array_equal(*pictures)
    scenes = [draw_scene(first, np.random.default_rng(2), 320, 240) for _ in range(2)]
    assert np.array_equal(scenes[0].image, scenes[1].image)
    assert np.array_equal(scenes[0].boxes, scenes[1].boxes)


def test_other_seed_draws_other_products():
    assert set(make_products(3, 20, "demo")).isdisjoint(make_products(4, 20, "demo"))


def test_brands_of_splits_never_coincide():
    words = {
        split: {word for seed in range(4) for p in make_products(seed, 300, split) for word in (p.brand, p.variant)}
        for split in SPLITS
    }
    for split in SPLITS:
        assert {owner_of(word) for word in words[split]} == {split}
        for other in set(SPLITS) - {split}:
            assert words[split].isdisjoint(words[other])


def test_labels_are_unique_and_families_share_a_brand():
    products = make_products(11, 400, "train")
    assert len({product.label for product in products}) == 400
    assert len({product.brand for product in products}) < 250
    assert {product.kind for product in products} == set(KINDS)


def test_variants_differ_to_the_eye():
    products = make_products(5, 12, "demo")
    pose = random_pose(np.random.default_rng(0), 128)
    for left, right in pairwise(products):
        if left.brand == right.brand:
            one, two = (draw_body(p, pose, np.random.default_rng(0)) for p in (left, right))
            assert one.shape == two.shape
            assert np.abs(one.astype(int) - two).mean() > 3


@pytest.mark.parametrize("kind", KINDS)
def test_cut_out_is_tight(kind):
    product = next(p for p in make_products(9, 60, "val") if p.kind == kind)
    cut_out = draw_body(product, random_pose(np.random.default_rng(4), 150), np.random.default_rng(4))
    solid = cut_out[..., 3] > 127
    assert solid[0].any()
    assert solid[-1].any()
    assert solid[:, 0].any()
    assert solid[:, -1].any()


def test_scene_has_three_to_nine_objects_inside_the_picture():
    products = make_products(1, 12, "val")
    for seed in range(25):
        scene = draw_scene(products, np.random.default_rng(seed), 640, 480)
        assert scene.image.shape == (480, 640, 3)
        assert scene.image.dtype == np.uint8
        assert scene.boxes.dtype == np.float32
        assert 3 <= len(scene.boxes) == len(scene.products) <= 9
        assert (scene.boxes[:, :2] >= 0).all()
        assert (scene.boxes[:, 2:] <= (640, 480)).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] > 12).all()


def test_boxes_hold_the_objects():
    """Inside the true boxes a picture differs from its surroundings: saturated print against a muted background."""
    products = make_products(1, 12, "val")
    inside, outside = [], []
    for seed in range(12):
        scene = draw_scene(products, np.random.default_rng(seed), 640, 480)
        detail = np.abs(np.diff(scene.image.astype(int), axis=1)).sum(axis=2)
        mask = np.zeros(detail.shape, bool)
        for x0, y0, x1, y1 in scene.boxes.astype(int):
            mask[y0:y1, x0:x1] = True
        inside.append(detail[mask].mean())
        outside.append(detail[~mask].mean())
    assert np.mean(inside) > 1.5 * np.mean(outside)


@pytest.mark.parametrize(("count", "split"), [(0, "demo"), (3, "nonsense")])
def test_refuses_bad_requests(count, split):
    with pytest.raises(ValueError, match="expected"):
        make_products(1, count, split)


def test_scene_refuses_no_products_and_tiny_pictures():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least one product"):
        draw_scene([], rng, 640, 480)
    with pytest.raises(ValueError, match="160x120"):
        draw_scene(make_products(1, 2, "demo"), rng, 100, 100)


def test_demo_dataset_layout(tmp_path):
    sizes = DemoSizes(products=4, gallery_pictures_per_product=2, scenes=3, gallery_picture_px=96)
    steps = []
    products = write_demo_dataset(tmp_path, 5, sizes, advance=lambda: steps.append(1))
    lines = [line.split("\t") for line in (tmp_path / "gallery.txt").read_text(encoding="utf-8").splitlines()]
    assert [label for _, label in lines] == [p.label for p in products for _ in range(2)]
    for name, _ in lines:
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (96, 96)
    truth = json.loads((tmp_path / "test_truth.json").read_text(encoding="utf-8"))
    assert sorted(truth) == sorted(f"test_images/{path.name}" for path in (tmp_path / "test_images").iterdir())
    known = {product.label for product in products}
    for scene in truth.values():
        assert len(scene["boxes"]) == len(scene["labels"]) >= 3
        assert set(scene["labels"]) <= known
    assert len(steps) == 4 * 2 + 3


def test_product_is_determined_by_its_fields():
    product = make_products(8, 1, "demo")[0]
    again = type(product)(**{f.name: getattr(product, f.name) for f in fields(product)})
    pictures = [draw_picture(p, np.random.default_rng(3), 80) for p in (product, again)]
    assert np.array_equal(*pictures)


def test_renderer_does_not_import_paddle():
    code = "import sys, shitu_train.render; sys.exit('paddle' in sys.modules or 'onnxruntime' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, env={"PYTHONPATH": os.pathsep.join(sys.path)}
        ).returncode
        == 0
    )
