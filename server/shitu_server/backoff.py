"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Final

_MAX_DOUBLINGS: Final = 32
"""More would overflow some day."""


@dataclass
class Backoff:
    """Delays that double with each failure, from `first_s` to `most_s` seconds."""

    first_s: float
    most_s: float
    failures: int = 0
    """In a row."""
    _due_s: float = field(default=0.0, repr=False)

    @property
    def due(self) -> bool:
        """Whether the delay after the last failure is over."""
        return time.monotonic() >= self._due_s

    def failed(self) -> float:
        """Count a failure, and return the seconds until the next try is due."""
        delay_s = min(math.ldexp(self.first_s, min(self.failures, _MAX_DOUBLINGS)), self.most_s)
        self.failures += 1
        self._due_s = time.monotonic() + delay_s
        return delay_s

    def worked(self) -> None:
        """Forget the failures."""
        self.failures, self._due_s = 0, 0.0
