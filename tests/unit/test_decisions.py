from __future__ import annotations

import numpy as np

from shitu_server.decisions import decided
from shitu_server.recognitions import Objects
from shitu_server.types import BoxSource, GalleryState, Hit, SearchResult

BOXES = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]], dtype=np.float32)
SCORES = np.array([0.9, 0.8, 0.7], dtype=np.float32)


def hits(*scores: float) -> tuple[Hit, ...]:
    return tuple(Hit(f"i{score}", f"label {score}", score, {}) for score in scores)


def found(*rows: tuple[Hit, ...]) -> SearchResult:
    return SearchResult(rows, GalleryState(1, 1))


def test_of_duplicates_the_better_recognised_stays():
    kept = decided(Objects(BOXES, SCORES, BoxSource.DETECTED), found(hits(0.5), hits(0.9), hits(0.7)), 0.0, 0.5)
    assert [o.box[0] for o in kept] == [1, 50]


def test_callers_boxes_are_all_kept():
    kept = decided(Objects(BOXES, SCORES * 0, BoxSource.REQUESTED), found(hits(0.5), hits(0.9), hits(0.7)), 0.0, 0.5)
    assert [o.box[0] for o in kept] == [0, 1, 50]


def test_every_match_must_reach_the_threshold_not_only_the_first():
    (only,) = decided(
        Objects(BOXES[:1], SCORES[:1], BoxSource.DETECTED),
        found(hits(0.8, 0.6, 0.4)),
        match_threshold=0.6,
        duplicate_iou=0.5,
    )
    assert [match.score for match in only.matches] == [0.8, 0.6]
    assert only.best is not None


def test_below_the_threshold_there_is_a_best_candidate_and_no_match():
    (only,) = decided(Objects(BOXES[:1], SCORES[:1], BoxSource.DETECTED), found(hits(0.4)), 0.5, 0.5)
    assert only.matches == ()
    assert only.best is not None
    assert only.best.score == 0.4


def test_an_empty_gallery_has_no_candidate():
    (only,) = decided(Objects(BOXES[:1], SCORES[:1], BoxSource.WHOLE_IMAGE), found(()), 0.5, 0.5)
    assert only.best is None
