"""Who waits until a write is seen by every search."""

from __future__ import annotations

from enum import Enum


class Consistency(str, Enum):
    """Both promise the same, see `moments`."""

    STRONG = "strong"
    """Searches, about 0.2 s each."""
    BOUNDED = "bounded"
    """Writes, 0.5 s each."""
