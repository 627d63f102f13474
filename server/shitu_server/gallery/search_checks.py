"""What one search may ask for."""

from __future__ import annotations

import math

from shitu_server.errors import InvalidArgumentError
from shitu_server.gallery.checks import check_range
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.types import Metric, SearchOptions


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
