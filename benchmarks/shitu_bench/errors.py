"""What keeps a measurement from being made."""

from __future__ import annotations


class BenchError(Exception):
    """Nothing was measured, or what was measured is not valid; the message says why and what to do."""
