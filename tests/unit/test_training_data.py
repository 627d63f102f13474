"""Training data without Paddle: splits, cuts, assignment, figures."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from shitu_train.assignment import assign
from shitu_train.datasets.augmentation import disturb, jittered_cut, random_cut, shift_colours
from shitu_train.datasets.detector_batches import zoomed
from shitu_train.datasets.drawn import (
    CROP_PX,
    RENDER_VERSION,
    DrawnPlan,
    crop_with_margin,
    draw_cache,
    load_crops,
    load_scenes,
)
from shitu_train.datasets.encoder_batches import EncoderBatches
from shitu_train.datasets.grocery import Photo, grocery_split, read_photos
from shitu_train.evaluation import recall_at_1
from shitu_train.matching import match
from shitu_train.training.budget import Budget, learning_rate
from shitu_train.training.feed import prefetch

STRIDES = (8, 16, 32, 64)


def grid(side=320):
    centres, strides = [], []
    for stride in STRIDES:
        ticks = (np.arange(side // stride, dtype=np.float32) + 0.5) * stride
        ys, xs = np.meshgrid(ticks, ticks, indexing="ij")
        centres.append(np.stack([xs.ravel(), ys.ravel()], axis=1))
        strides.append(np.full(xs.size, stride, np.float32))
    return np.concatenate(centres), np.concatenate(strides)


def test_grocery_halves_are_disjoint_and_even_comes_first(tmp_path):
    photos = [Photo(tmp_path / f"{i}.jpg", i % 3) for i in range(20)]
    even, odd = grocery_split(photos)
    assert set(even).isdisjoint(odd)
    assert set(even) | set(odd) == set(photos)
    for label in range(3):
        own = [photo for photo in photos if photo.label == label]
        assert [photo for photo in even if photo.label == label] == own[::2]


def test_grocery_list_names_its_broken_line(tmp_path):
    (tmp_path / "train.txt").write_text("train/a.jpg, 3, 1\ntrain/b.jpg; 4\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"train\.txt:2: expected"):
        read_photos(tmp_path)


def test_crop_with_margin_shows_the_box_and_a_tenth_around():
    image = np.zeros((200, 300, 3), np.uint8)
    image[60:120, 100:180] = 255
    crop = crop_with_margin(image, np.float32([100, 60, 180, 120]), 120)
    assert crop[60, 60].tolist() == [255, 255, 255]
    bright = np.flatnonzero(crop[60, :, 0] > 127)
    assert abs(int(bright[0]) - 10) <= 1
    assert abs(int(bright[-1]) - 109) <= 1


def test_jittered_cut_stays_near_the_box():
    image = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
    inner = round(CROP_PX / 12)
    image[inner:-inner, inner:-inner] = 255
    for seed in range(10):
        cut = jittered_cut(image, np.random.default_rng(seed), 64)
        assert cut.shape == (64, 64, 3)
        assert cut.mean() > 190


def test_changes_are_seeded_and_keep_the_range():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    one, two = (
        disturb(random_cut(image, np.random.default_rng(5), 64, mirror=True), np.random.default_rng(6)) for _ in "ab"
    )
    assert np.array_equal(one, two)
    shifted = shift_colours(np.stack([one, two]), np.random.default_rng(7))
    assert shifted.dtype == np.float32
    assert shifted.min() >= 0
    assert shifted.max() <= 255
    assert not np.array_equal(shifted[0], shifted[1])


def test_zoom_moves_boxes_with_the_picture():
    for seed in range(20):
        image = np.zeros((320, 320, 3), np.uint8)
        image[100:180, 140:200] = (0, 255, 0)
        cut, boxes = zoomed(image, np.float32([[140, 100, 200, 180]]), np.random.default_rng(seed))
        for box in boxes:
            ys, xs = np.nonzero(cut[..., 1] > 127)
            assert np.abs(np.float32([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - box).max() < 3.5


def test_every_box_gets_cells_and_they_lie_inside():
    centres, strides = grid()
    rng = np.random.default_rng(3)
    for _ in range(20):
        low = rng.uniform(0, 200, (4, 2))
        boxes = np.hstack([low, low + rng.uniform(24, 110, (4, 2))]).astype(np.float32)
        owner = assign(centres, strides, boxes)
        for i, box in enumerate(boxes):
            own = centres[owner == i]
            assert ((own > box[:2]) & (own < box[2:])).all()
        assert (owner >= 0).sum() >= 3
    assert (assign(centres, strides, np.zeros((0, 4), np.float32)) == -1).all()


def test_match_is_one_to_one_and_best_first():
    truth = np.float32([[0, 0, 10, 10], [20, 0, 30, 10]])
    found = np.float32([[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]])
    assert match(found, truth) == {0: 0}


def test_recall_at_1_counts_nearest_labels():
    gallery, labels = np.eye(3, dtype=np.float32), np.array([5, 6, 7])
    queries = np.float32([[0.9, 0.1, 0], [0, 0.2, 0.8]])
    assert recall_at_1(gallery, labels, queries, np.array([5, 6])) == 0.5


PLAN = DrawnPlan(seed=2, products=4, scenes=2, pictures_per_product=1, split="val")


def test_cache_is_drawn_once_and_feeds_batches(tmp_path):
    plan = PLAN
    draw_cache(tmp_path, plan, 1)
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    draw_cache(tmp_path, plan, 1)
    assert written == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    crops, scenes = load_crops(tmp_path, plan), load_scenes(tmp_path, plan)
    assert len(crops.images) == scenes.counts.sum() + 4
    batches = EncoderBatches(crops, None, 4, 64, batch=6, photo_share=0.5, seed=1)
    pictures, labels = batches.make(3)
    assert pictures.shape == (6, 64, 64, 3)
    assert np.array_equal(pictures, batches.make(3)[0])
    assert not np.array_equal(pictures, batches.make(4)[0])
    assert set(labels) <= set(range(4))


def test_missing_cache_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="render-cache"):
        load_crops(tmp_path, PLAN)


def said_to_be_drawn(folder, **changes):
    """A finished part of two, as its `.done` file describes it."""
    description = {"plan": dataclasses.asdict(PLAN), "parts": 2, "render_version": RENDER_VERSION, **changes}
    (folder / "part0.done").write_text(json.dumps(description), encoding="utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": {**dataclasses.asdict(PLAN), "seed": 3}},
        {"parts": 3},
        {"render_version": RENDER_VERSION + 1},
    ],
)
def test_a_cache_of_something_else_is_not_drawn_on(tmp_path, changes):
    said_to_be_drawn(tmp_path, **changes)
    with pytest.raises(ValueError, match="delete its folder"):
        draw_cache(tmp_path, PLAN, 2)


def test_a_cache_that_does_not_say_what_it_is_is_refused(tmp_path):
    (tmp_path / "part0.done").touch()
    with pytest.raises(ValueError, match="nothing it names"):
        draw_cache(tmp_path, PLAN, 1)
    with pytest.raises(ValueError, match="nothing it names"):
        load_crops(tmp_path, PLAN)


def test_a_cache_of_another_plan_is_not_trained_on(tmp_path):
    draw_cache(tmp_path, PLAN, 1)
    other = dataclasses.replace(PLAN, products=5)
    for load in (load_crops, load_scenes):
        with pytest.raises(ValueError, match=r'"products": 5.*"products": 4'):
            load(tmp_path, other)


def test_half_a_cache_is_not_trained_on(tmp_path):
    said_to_be_drawn(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"expected 2 finished parts.*found 1"):
        load_crops(tmp_path, PLAN)


def test_rate_warms_up_and_falls_to_a_hundredth():
    budget = Budget(steps=100)
    assert learning_rate(1.0, budget, 10) == pytest.approx(0.1)
    budget.spent_steps = 20
    high = learning_rate(1.0, budget, 10)
    budget.spent_steps = 100
    assert budget.progress == 1.0
    assert learning_rate(1.0, budget, 10) == pytest.approx(0.01)
    assert high > 0.85
    with pytest.raises(ValueError, match="expected a limit"):
        Budget()


def test_prefetch_keeps_the_order_and_hands_errors_over():
    feed = prefetch(lambda step: step * 2, 3)
    assert [next(feed) for _ in range(5)] == [6, 8, 10, 12, 14]
    feed.close()

    def broken(step):
        raise RuntimeError(f"step {step}")

    with pytest.raises(RuntimeError, match="step 7"):
        next(prefetch(broken, 7))
