"""Errors of training and conversion that a user can act on.

TrainError
├── ConversionError   a source cannot be read or converted, or a model cannot be placed
├── ParityError       the graph computes something else than the Paddle model
└── DriftError        a reduced precision moves vectors or boxes too far
"""

from __future__ import annotations


class TrainError(Exception):
    """The root of this package's own errors."""


class ConversionError(TrainError):
    """A source cannot be read or converted, or a model cannot be placed."""


class ParityError(TrainError):
    """The exported graph does not compute what the Paddle model computes."""


class DriftError(TrainError):
    """A reduced precision moves vectors or boxes too far from those of FP32."""
