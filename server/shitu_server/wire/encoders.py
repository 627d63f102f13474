"""Encoders as messages."""

from __future__ import annotations

from typing import Final

from shitu.v1 import recognition_pb2
from shitu_models.specs import Precision, Profile
from shitu_server.encoders import Encoders, ServedEncoder

PRECISIONS: Final = {
    Precision.FP32: recognition_pb2.PRECISION_FP32,
    Precision.FP16: recognition_pb2.PRECISION_FP16,
    Precision.BF16: recognition_pb2.PRECISION_BF16,
    Precision.INT8: recognition_pb2.PRECISION_INT8,
}
"""Total; a test proves it."""

PROFILES: Final = {
    Profile.TRAINED: recognition_pb2.PROFILE_TRAINED,
    Profile.PADDLEX: recognition_pb2.PROFILE_PADDLEX,
}
"""Total; a test proves it."""


def encoders_response(encoders: Encoders) -> recognition_pb2.ListEncodersResponse:
    """Return the reply of ListEncoders."""
    messages = [_message(entry, is_default=entry is encoders.default) for entry in encoders.entries]
    return recognition_pb2.ListEncodersResponse(encoders=messages)


def _message(entry: ServedEncoder, *, is_default: bool) -> recognition_pb2.Encoder:
    return recognition_pb2.Encoder(
        name=entry.spec.name,
        version=entry.version,
        fingerprint=entry.fingerprint,
        dimension=entry.encoder.dimension,
        precision=PRECISIONS[entry.precision],
        profile=PROFILES[entry.profile],
        default_match_threshold=entry.spec.default_threshold,
        is_default=is_default,
    )
