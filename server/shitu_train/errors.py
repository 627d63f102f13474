"""Errors of training and conversion that a user can act on."""

from __future__ import annotations


class TrainError(Exception):
    """The root of this package's own errors."""


class ConversionError(TrainError):
    """paddle2onnx failed, or what it wrote does not have the expected inputs and outputs."""


class ParityError(TrainError):
    """The exported graph does not compute what the Paddle model computes."""
