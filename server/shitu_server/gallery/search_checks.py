"""What one search may ask for."""

from __future__ import annotations

import math

from shitu_server.errors import InvalidArgumentError
from shitu_server.filters import check_filter
from shitu_server.gallery.checks import check_range, kept_vectors
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.types import GalleryOptions, Metric, SearchOptions, Vectors


def checked_queries(
    queries: Vectors, dimension: int, options: SearchOptions, gallery: GalleryOptions, limits: GalleryLimits
) -> Vectors:
    """Return queries as a gallery is asked with them, see `kept_vectors`.

    Raises:
        InvalidArgumentError: the options, the filter or a query make no sense, or there is no query.
        EncoderMismatchError: a query is not `dimension` long.
    """
    check_search(options, gallery.metric, limits)
    if options.where is not None:
        check_filter(options.where, gallery.fields)
    check_any(queries)
    return kept_vectors(queries, dimension, gallery.metric, lambda row: f"queries[{row}].vector")


def check_any(queries: Vectors) -> None:
    """Raise InvalidArgumentError where there is no query."""
    if not len(queries):
        raise InvalidArgumentError("queries", "expected at least 1 query, came none")


def check_search(options: SearchOptions, metric: Metric, limits: GalleryLimits) -> None:
    """Raise InvalidArgumentError unless one call may ask for so much."""
    check_range("top_k", options.top_k, limits.top_k)
    if not 0 <= options.per_label * options.top_k <= limits.hits_per_call:
        raise InvalidArgumentError(
            "matches_per_label",
            f"expected 0 or more, and at most {limits.hits_per_call} hits of a query, came {options.per_label} for each of "
            f"{options.top_k} labels",
        )
    score = options.min_score
    within_metric = metric is Metric.L2 or score >= -1 or score == -math.inf
    if not (score <= 1 and within_metric):  # NaN is neither
        least = "a number" if metric is Metric.L2 else "-1"
        raise InvalidArgumentError("match_threshold", f"expected {least} to 1, came {score}")
