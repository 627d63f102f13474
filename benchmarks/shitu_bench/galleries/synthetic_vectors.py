"""Synthetic vectors like those of products, queries beside them, and what is exactly nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_server.types import Vectors

DIMENSION: Final = 512
TOP_K: Final = 10
QUERIES: Final = 640
SEED: Final = 20
_CATEGORIES: Final = 500
_ROWS_PER_PRODUCT: Final = 50
_PRODUCT_SPREAD: Final = 1.0
"""Of products around their category, beside 1: two of one category have a cosine about .5."""
_VIEW_SPREAD: Final = 0.6
"""Of views around their product, beside 1: two of one product have a cosine about .7."""


@dataclass(frozen=True)
class Data:
    """Rows, and queries with what is exactly nearest to them."""

    rows: Vectors
    queries: Vectors
    nearest: NDArray[np.int64]
    """int64 [queries, TOP_K]."""


def synthetic_data(size: int) -> Data:
    """Return so many rows, the same ones for the same size: views around products around categories on the unit sphere."""
    rng = np.random.default_rng(SEED)
    categories = _units(rng.standard_normal((_CATEGORIES, DIMENSION), dtype=np.float32))
    product_count = max(1, size // _ROWS_PER_PRODUCT)
    products = _beside(categories[rng.integers(_CATEGORIES, size=product_count)], _PRODUCT_SPREAD, rng)
    rows = np.empty((size, DIMENSION), dtype=np.float32)
    for begin in range(0, size, 10_000):
        end = min(size, begin + 10_000)
        rows[begin:end] = _beside(products[rng.integers(product_count, size=end - begin)], _VIEW_SPREAD, rng)
    queries = _beside(products[rng.integers(product_count, size=QUERIES)], _VIEW_SPREAD, rng)
    return Data(rows, queries, exactly_nearest(rows, queries, TOP_K))


def _beside(vectors: Vectors, spread: float, rng: np.random.Generator) -> Vectors:
    noise = _units(rng.standard_normal(vectors.shape, dtype=np.float32))
    return _units(vectors + np.float32(spread) * noise)


def _units(vectors: Vectors) -> Vectors:
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def exactly_nearest(rows: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    """Return the k nearest rows of each query, int64 [queries, k], the nearest first."""
    scores = np.concatenate([queries @ rows[begin : begin + 50_000].T for begin in range(0, len(rows), 50_000)], axis=1)
    best = (
        np.argpartition(-scores, k, axis=1)[:, :k]
        if k < len(rows)
        else np.tile(np.arange(len(rows)), (len(queries), 1))
    )
    order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
    return np.take_along_axis(best, order, 1)


def recalls(found: list[list[int]], nearest: NDArray[np.int64]) -> dict[str, float]:
    """Return the shares of what is nearest that was found: of the first, and of all."""
    wanted = nearest.tolist()
    first = sum(bool(hits) and hits[0] == row[0] for hits, row in zip(found, wanted, strict=True))
    among = sum(len(set(hits) & set(row)) for hits, row in zip(found, wanted, strict=True))
    return {"at_1": first / len(wanted), "at_10": among / sum(map(len, wanted))}
