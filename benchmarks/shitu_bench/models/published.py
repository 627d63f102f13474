"""What PaddleX publishes of its models, and what a Tesla T4 can do: figures of others, to stand beside ours.

All of one picture at a time in FP32, model time only. The source of each is the documentation of PaddleX, in the state that its name
says, as it was copied into the project's notes on PP-ShiTuV2 (section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from shitu_models.specs import (
    PP_SHITUV2_DET,
    PP_SHITUV2_REC,
    PP_SHITUV2_REC_CLIP_VIT_BASE,
    PP_SHITUV2_REC_CLIP_VIT_LARGE,
)

T4_PEAK_FLOPS: Final = 8.1e12
"""FP32, a second. Source: NVIDIA, Tesla T4 data sheet, single precision."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one picture."""

    t4_ms: float
    """On a Tesla T4."""
    cpu_ms: float
    """On a Xeon with 8 threads."""


@dataclass(frozen=True)
class Published:
    """Of one model."""

    beta: Timing
    """PaddleX 3.0 beta: T4, and a Xeon Gold 5117. The conditions that the article on PP-ShiTuV2 gives."""
    normal: Timing
    """PaddleX 3.1, normal mode: T4, and a Xeon Gold 6271C."""
    fastest: Timing
    """PaddleX 3.1, the fastest of its high-performance modes; of the CLIP models on the T4 that is likely FP16."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures as they stand in results."""
        return asdict(self)


PUBLISHED: Final[Mapping[str, Published]] = {
    PP_SHITUV2_DET.name: Published(Timing(33.7, 537.0), Timing(11.81, 43.03), Timing(4.51, 25.31)),
    PP_SHITUV2_REC.name: Published(Timing(5.23, 19.6), Timing(3.91, 6.82), Timing(0.55, 2.89)),
    PP_SHITUV2_REC_CLIP_VIT_BASE.name: Published(Timing(13.2, 285.5), Timing(12.57, 67.09), Timing(2.88, 58.4)),
    PP_SHITUV2_REC_CLIP_VIT_LARGE.name: Published(Timing(51.1, 1131.3), Timing(49.85, 229.14), Timing(11.18, 229.14)),
}
"""Nothing is published of the demo models."""


def t4_projection_ms(flops: float, fraction_of_peak: float) -> float:
    """Return how long a T4 would take if it reached the same fraction of its peak: a projection, not a measurement."""
    if not fraction_of_peak > 0:
        raise ValueError(f"expected a fraction of the peak over 0, got {fraction_of_peak}")
    return 1000 * flops / (T4_PEAK_FLOPS * fraction_of_peak)
