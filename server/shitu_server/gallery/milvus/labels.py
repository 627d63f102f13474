"""The best labels of a query and some hits of each, by searches that only know hits.

Milvus 2.3 can group, but gives one hit of a label, and fewer labels than there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, NamedTuple

from shitu_server.gallery.milvus.expressions import among
from shitu_server.gallery.milvus.rows import LABEL

SPARE: Final = 4
"""So many times the hits that are wanted are asked for at first: labels are seldom spread evenly."""


class Found(NamedTuple):
    """A row that was found."""

    item_id: str
    label: str
    score: float
    row_id: int
    metadata: str


Find = Callable[[int, str], Awaitable[Sequence[Found]]]
"""Returns up to so many rows of those that an expression allows, best first."""


class LabelSearch:
    """Of one query."""

    def __init__(self, find: Find, top_k: int, per_label: int, min_score: float) -> None:
        """Begin with nothing found.

        Args:
            find: searches for the query.
            top_k: most labels.
            per_label: most hits of each.
            min_score: least score of a hit.
        """
        self._find = find
        self._top_k = top_k
        self._per_label = per_label
        self._min_score = min_score
        self._hits: dict[str, list[Found]] = {}
        """By label, the best first."""
        self._short: set[str] = set()
        """Labels of which there may be more hits."""

    async def found(self, first: Sequence[Found], asked: int) -> list[Found]:
        """Return the hits of the best labels, best first.

        Args:
            first: the best rows of the query.
            asked: how many were asked for.
        """
        goes_on = self._take(first, asked)
        while goes_on and len(self._hits) < self._top_k:
            goes_on = self._take(await self._find(asked, f"not ({among(LABEL, tuple(self._hits))})"), asked)
        while self._short:
            await self._fill()
        kept = [one for hits in self._hits.values() for one in hits[: self._per_label]]
        return sorted(kept, key=lambda one: (-one.score, one.row_id))

    def _take(self, found: Sequence[Found], asked: int) -> bool:
        """Take hits of labels that are new; return whether there may be more."""
        goes_on = self._may_go_on(found, asked)
        new: dict[str, list[Found]] = {}
        for one in found:
            if one.label in new or len(self._hits) + len(new) < self._top_k:
                new.setdefault(one.label, []).append(one)
        self._hits.update(new)
        if goes_on:
            self._short.update(self._unfilled(new))
        return goes_on

    async def _fill(self) -> None:
        """Look for more hits of the labels that have too few: of one at least all are found."""
        asked = self._per_label * len(self._short)
        found = await self._find(asked, among(LABEL, sorted(self._short)))
        for label in self._short:
            again = [one for one in found if one.label == label]
            self._hits[label] = max(self._hits[label], again, key=len)
        self._short = self._unfilled(self._short) if self._may_go_on(found, asked) else set()

    def _unfilled(self, labels: Collection[str]) -> set[str]:
        return {label for label in labels if len(self._hits[label]) < self._per_label}

    def _may_go_on(self, found: Sequence[Found], asked: int) -> bool:
        return len(found) >= asked and found[-1].score >= self._min_score
