"""Which encoder a request means, and when a gallery is asked for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shitu.v1 import recognition_pb2
from shitu_models.specs import DEMO_REC, Precision, Profile
from shitu_server.admission import Admission
from shitu_server.encoders import Encoders, ServedEncoder
from shitu_server.errors import EncoderMismatchError, InvalidArgumentError
from shitu_server.wire.encoders import PRECISIONS, PROFILES, encoders_response


class Named:
    """An encoder that nobody lets embed."""

    dimension = 128

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint


def entry(name: str, version: int, fingerprint: str) -> ServedEncoder:
    spec = replace(DEMO_REC, name=name)
    return ServedEncoder(Named(fingerprint), spec, version, Precision.BF16, Profile.PADDLEX, Admission("crops", 1))


ENCODERS = Encoders((entry("a", 2, "a2"), entry("a", 1, "a1"), entry("b", 1, "b1")))


@pytest.mark.parametrize(("name", "fingerprint"), [("", "a2"), ("a", "a2"), ("b", "b1")])
def test_a_name_means_its_newest_version(name, fingerprint):
    assert ENCODERS.named(name).fingerprint == fingerprint


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InvalidArgumentError, match=r'served here \(a, b\), got "c"') as caught:
        ENCODERS.named("c")
    assert caught.value.field == "encoder"
    with pytest.raises(InvalidArgumentError) as caught:
        ENCODERS.named("x" * 10_000)
    assert len(caught.value.message) < 300


def test_a_gallery_has_the_encoder_of_its_fingerprint():
    assert ENCODERS.bound("g", "a1").version == 1
    with pytest.raises(
        EncoderMismatchError, match=r'^items\[0\]: gallery "g" is bound to encoder "z", .* a version 2 \(a2\)'
    ):
        ENCODERS.bound("g", "z", "items[0]: ")


def test_the_list_says_everything():
    assert set(PRECISIONS) == set(Precision)
    assert set(PROFILES) == set(Profile)
    messages = encoders_response(ENCODERS).encoders
    assert [(one.name, one.version, one.is_default) for one in messages] == [
        ("a", 2, True),
        ("a", 1, False),
        ("b", 1, False),
    ]
    assert messages[0].precision == recognition_pb2.PRECISION_BF16
    assert messages[0].profile == recognition_pb2.PROFILE_PADDLEX
    assert messages[0].dimension == 128
