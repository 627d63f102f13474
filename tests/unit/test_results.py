"""What the client makes of messages."""

from __future__ import annotations

from shitu.v1 import recognition_pb2 as pb
from shitu_client.results import encoder_of, recognition_of


def test_values_that_a_newer_server_knows_are_numbers():
    encoder = encoder_of(pb.Encoder(name="a", precision=99, profile=pb.PROFILE_PADDLEX))
    assert (encoder.precision, encoder.profile) == ("99", "paddlex")
    assert encoder_of(pb.Encoder(precision=pb.PRECISION_BF16, profile=98)).profile == "98"
    found = pb.RecognizedObject(source=97, decision=pb.Decision(reason=96))
    (one,) = recognition_of(pb.RecognizeResponse(objects=[found])).objects
    assert (one.source, one.unknown_reason) == ("97", "96")
    found = pb.RecognizedObject(source=pb.BOX_SOURCE_WHOLE_IMAGE, decision=pb.Decision(label="a"))
    (one,) = recognition_of(pb.RecognizeResponse(objects=[found])).objects
    assert (one.source, one.unknown_reason) == ("whole_image", "")
