"""The index against brute force in numpy, over any order of changes and builds, for every kind and metric."""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shitu_server.filters import And, Eq, FieldType, Filter, In, Not, Or, Range
from shitu_server.gallery.index import BuildJob, Entry, GalleryIndex, IndexSnapshot
from shitu_server.gallery.limits import IndexOptions
from shitu_server.types import GalleryOptions, IndexKind, Metric

DIMENSION = 5
FEW = np.random.default_rng(3).standard_normal((12, DIMENSION)).astype(np.float32)
"""So few that equal scores are common."""
MANY = np.random.default_rng(4).standard_normal((200, DIMENSION)).astype(np.float32)
"""So many that they are rare: which of equal rows a graph finds is not settled."""
TUNING = IndexOptions(flat_rows=24, least_delta_rows=6)

IDS = st.integers(0, 60).map(str)
LABELS = st.sampled_from(["a", "b", "c", "d"])
PRICES = st.integers(0, 5)
PUT = st.tuples(st.just("put"), st.dictionaries(IDS, st.tuples(st.integers(0, 199), LABELS, PRICES), max_size=25))
RELABEL = st.tuples(st.just("relabel"), st.dictionaries(IDS, st.tuples(LABELS, PRICES), max_size=6))
REMOVE = st.tuples(st.just("remove"), st.lists(IDS, max_size=12))
BUILD = st.tuples(st.sampled_from(["wish", "adopt", "abandon"]), st.none())
CHANGES = st.lists(st.one_of(PUT, PUT, RELABEL, REMOVE, BUILD, BUILD), max_size=25)
FILTERS = st.sampled_from(
    [
        None,
        Eq("label", "a"),
        Not(In("label", ("a", "b"))),
        Range("price", at_least=3),
        In("id", ("1", "3", "5", "7", "9", "unknown")),
        Or((Eq("price", 0.0), And((Eq("label", "c"), Range("price", above=1, below=5))))),
        Eq("label", "unknown"),
    ]
)


class Row(NamedTuple):
    row_id: int
    direction: int
    label: str
    price: int


Model = dict[str, Row]


def metadata(price: int) -> str:
    return json.dumps({"price": price})


def allows(where: Filter | None, name: str, row: Row) -> bool:
    match where:
        case None:
            return True
        case Not(operand):
            return not allows(operand, name, row)
        case And(operands):
            return all(allows(one, name, row) for one in operands)
        case Or(operands):
            return any(allows(one, name, row) for one in operands)
        case Range():
            bounds = (where.at_least, where.above, where.at_most, where.below)
            least, above, most, below = (bound if bound is not None else None for bound in bounds)
            return (
                (least is None or row.price >= least)
                and (above is None or row.price > above)
                and (most is None or row.price <= most)
                and (below is None or row.price < below)
            )
    values = where.values if isinstance(where, In) else (where.value,)
    return {"id": name, "label": row.label, "price": row.price}[where.field] in values


class Machine:
    """The index and what it should hold."""

    def __init__(self, kind: IndexKind, metric: Metric, vectors: np.ndarray, chunk_rows: int, least_dead: int) -> None:
        self.metric = metric
        normed = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = normed if metric is Metric.INNER_PRODUCT else vectors * np.float32(20)
        options = GalleryOptions(metric, kind, {"price": FieldType.NUMBER})
        self.index = GalleryIndex(
            DIMENSION, options, TUNING, chunk_rows=chunk_rows, least_dead=least_dead, prefer_indexed=True
        )
        self.model: Model = {}
        self.job: BuildJob | None = None
        self.row_count = 0

    def apply(self, action: str, what) -> None:
        getattr(self, f"_{action}")(*([] if what is None else [what]))

    def _put(self, items) -> None:
        rows = {}
        for name, (direction, label, price) in items.items():
            self.row_count += name not in self.model
            row_id = self.model[name].row_id if name in self.model else self.row_count  # replaced items keep their age
            rows[name] = Row(row_id, direction % len(self.vectors), label, price)
        directions = [row.direction for row in rows.values()]
        self.index.put([entry(name, row) for name, row in rows.items()], self.vectors[directions])
        self.model.update(rows)

    def _relabel(self, items) -> None:
        known = {
            name: self.model[name]._replace(label=v[0], price=v[1]) for name, v in items.items() if name in self.model
        }
        self.index.relabel([entry(name, row) for name, row in known.items()])
        self.model.update(known)

    def _remove(self, names) -> None:
        self.index.remove(names)
        self.model = {name: row for name, row in self.model.items() if name not in names}

    def _wish(self) -> None:
        job = self.index.wish()
        assert job is None or self.job is None
        self.job = self.job or job
        assert self.index.status.building == (self.job is not None)

    def _adopt(self) -> None:
        if self.job is not None:
            self.index.adopt(self.job.run())
            self.job = None
            assert not self.index.status.building

    def _abandon(self) -> None:
        if self.job is not None:
            self.index.abandon()
            self.job = None

    def expected(self, model: Model, query: np.ndarray, k: int, where: Filter | None, per_label: int):
        ranked = sorted(
            (-self.score(query, row), row.row_id, name) for name, row in model.items() if allows(where, name, row)
        )
        if not per_label:
            return ranked[:k]
        labels = list(dict.fromkeys(model[name].label for _, _, name in ranked))[:k]
        seen: Counter[str] = Counter()
        kept = []
        for one in ranked:
            label = model[one[2]].label
            if label in labels and seen[label] < per_label:
                kept.append(one)
            seen[label] += 1
        return kept

    def score(self, query: np.ndarray, row: Row) -> np.float32:
        vector = self.vectors[row.direction].astype(np.float64)
        if self.metric is Metric.INNER_PRODUCT:
            return np.float32(np.clip(np.einsum("i,i->", vector, query.astype(np.float64)), -1, 1))
        return np.float32(1 - np.square(vector - query).sum() / 2)

    def check(self, snapshot: IndexSnapshot, model: Model, k: int, where: Filter | None, per_label: int) -> None:
        assert snapshot.count == len(model)
        queries = self.vectors[:12]
        for query, found in zip(queries, snapshot.search(queries, k, where, per_label), strict=True):
            wanted = self.expected(model, query, k, where, per_label)
            assert [f.entry for f in found] == [entry(name, model[name]) for _, _, name in wanted]
            np.testing.assert_allclose(
                [f.score for f in found], [-score for score, _, _ in wanted], rtol=1e-6, atol=1e-6
            )


def entry(name: str, row: Row) -> Entry:
    return Entry(row.row_id, name, row.label, metadata(row.price))


@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("kind", IndexKind)
def test_search_equals_brute_force(kind: IndexKind, metric: Metric):
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(
        changes=CHANGES,
        chunk_rows=st.integers(1, 80),
        least_dead=st.integers(0, 60),
        k=st.integers(1, 40),
        where=FILTERS,
        per_label=st.integers(0, 3),
    )
    def check(changes, chunk_rows: int, least_dead: int, k: int, where, per_label: int) -> None:
        vectors = FEW if kind is IndexKind.FLAT else MANY
        machine = Machine(kind, metric, vectors, chunk_rows, least_dead)
        kept: list[tuple[IndexSnapshot, Model]] = []
        for action, what in changes:
            kept.append((machine.index.snapshot(), dict(machine.model)))
            machine.apply(action, what)
        machine.check(machine.index.snapshot(), machine.model, k, where, per_label)
        for snapshot, then in kept[-4:]:
            machine.check(snapshot, then, k, where, per_label)  # later changes reach no snapshot

    check()
