"""The index against brute force in numpy, over any order of adds, replacements and removals."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shitu_server.gallery.index import Entry, ExactIndex, IndexSnapshot

DIMENSION = 5
DIRECTIONS = np.random.default_rng(3).standard_normal((12, DIMENSION)).astype(np.float32)
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
"""Few, so that equal scores are common."""

IDS = st.integers(0, 30).map(str)
PUT = st.dictionaries(IDS, st.integers(0, len(DIRECTIONS) - 1), min_size=1, max_size=12)
CHANGES = st.lists(st.one_of(PUT, st.lists(IDS, max_size=12)), max_size=25)

Model = dict[str, tuple[int, int]]
"""Row id and direction of each item."""


def expected(model: Model, query: np.ndarray, k: int) -> list[tuple[str, float]]:
    scored = [
        (-np.float32(np.dot(query.astype(np.float64), DIRECTIONS[d])), row, name) for name, (row, d) in model.items()
    ]
    return [(name, -float(score)) for score, _, name in sorted(scored)[:k]]


def check(snapshot: IndexSnapshot, model: Model, k: int) -> None:
    assert snapshot.count == len(model)
    for query, found in zip(DIRECTIONS, snapshot.search(DIRECTIONS, k), strict=True):
        wanted = expected(model, query, k)
        assert [f.entry.item_id for f in found] == [name for name, _ in wanted]
        np.testing.assert_allclose([f.score for f in found], [score for _, score in wanted], atol=1e-6)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(changes=CHANGES, chunk_rows=st.integers(1, 80), least_dead=st.integers(0, 60), k=st.integers(1, 40))
def test_search_equals_brute_force(changes, chunk_rows: int, least_dead: int, k: int):
    index = ExactIndex(DIMENSION, chunk_rows=chunk_rows, least_dead=least_dead)
    model: Model = {}
    next_row = 1
    kept: list[tuple[IndexSnapshot, Model]] = []
    for change in changes:
        kept.append((index.snapshot(), dict(model)))
        if isinstance(change, dict):
            rows = []
            for name in change:
                rows.append(model[name][0] if name in model else next_row)  # replaced items keep their age
                next_row += name not in model
            entries = [Entry(row, name, "", "{}") for row, name in zip(rows, change, strict=True)]
            index.put(entries, DIRECTIONS[list(change.values())])
            model.update({name: (row, d) for row, (name, d) in zip(rows, change.items(), strict=True)})
        else:
            index.remove(change)
            model = {name: value for name, value in model.items() if name not in change}
    check(index.snapshot(), model, k)
    for snapshot, then in kept[-4:]:
        check(snapshot, then, k)  # later changes reach no snapshot
