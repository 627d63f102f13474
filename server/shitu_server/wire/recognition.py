"""Messages of recognition.proto and the pipeline's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shitu.v1 import recognition_pb2, types_pb2
from shitu_models.boxes import Boxes
from shitu_server.recognitions import Detection, Embedding, Recognition, RecognizedObject, RecognizeOptions
from shitu_server.timings import StageTimings
from shitu_server.types import BoxSource
from shitu_server.wire.filters import filter_of
from shitu_server.wire.galleries import match_message, state_message, vector_message

_SOURCES: Final = {
    BoxSource.DETECTED: recognition_pb2.BOX_SOURCE_DETECTED,
    BoxSource.REQUESTED: recognition_pb2.BOX_SOURCE_REQUESTED,
    BoxSource.WHOLE_IMAGE: recognition_pb2.BOX_SOURCE_WHOLE_IMAGE,
}


def boxes_of(messages: Sequence[types_pb2.Box]) -> Boxes:
    """Return boxes as float32 [n, 4]."""
    rows = [(box.x1, box.y1, box.x2, box.y2) for box in messages]
    return np.asarray(rows, dtype=np.float32).reshape(-1, 4)


def options_of(message: recognition_pb2.RecognizeOptions) -> RecognizeOptions:
    """Return the options of a request; a field that is unset becomes None. Raises InvalidArgumentError (where)."""
    return RecognizeOptions(
        detection_threshold=message.detection_threshold if message.HasField("detection_threshold") else None,
        match_threshold=message.match_threshold if message.HasField("match_threshold") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        boxes=boxes_of(message.boxes),
        skip_detection=message.skip_detection,
        max_objects=message.max_objects if message.HasField("max_objects") else None,
        where=filter_of(message.where, "options.where") if message.HasField("where") else None,
        matches_per_label=message.matches_per_label,
    )


def recognize_response(recognition: Recognition) -> recognition_pb2.RecognizeResponse:
    """Return the reply of Recognize."""
    return recognition_pb2.RecognizeResponse(
        objects=[_object_message(found) for found in recognition.objects],
        image_width=recognition.width,
        image_height=recognition.height,
        encoder_fingerprint=recognition.encoder_fingerprint,
        gallery_state=state_message(recognition.state),
        timings=_timings_message(recognition.timings),
    )


def detect_response(detection: Detection) -> recognition_pb2.DetectResponse:
    """Return the reply of Detect."""
    found = detection.detections
    return recognition_pb2.DetectResponse(
        objects=[
            recognition_pb2.DetectedObject(box=_box_message(box), score=float(score))
            for box, score in zip(found.boxes, found.scores, strict=True)
        ],
        image_width=detection.width,
        image_height=detection.height,
        timings=_timings_message(detection.timings),
    )


def embed_response(embedding: Embedding) -> recognition_pb2.EmbedResponse:
    """Return the reply of Embed."""
    return recognition_pb2.EmbedResponse(
        vectors=[vector_message(vector) for vector in embedding.vectors],
        encoder_fingerprint=embedding.encoder_fingerprint,
        timings=_timings_message(embedding.timings),
    )


def _object_message(found: RecognizedObject) -> recognition_pb2.RecognizedObject:
    return recognition_pb2.RecognizedObject(
        box=_box_message(found.box),
        source=_SOURCES[found.source],
        detection_score=found.detection_score,
        matches=[match_message(hit) for hit in found.matches],
        decision=_decision_message(found),
    )


def _decision_message(found: RecognizedObject) -> recognition_pb2.Decision:
    if found.matches:
        return recognition_pb2.Decision(
            verdict=recognition_pb2.VERDICT_KNOWN,
            label=found.matches[0].label,
            best_candidate=match_message(found.matches[0]),
        )
    reason = (
        recognition_pb2.UNKNOWN_REASON_SCORE_BELOW_THRESHOLD
        if found.best
        else recognition_pb2.UNKNOWN_REASON_EMPTY_GALLERY
    )
    return recognition_pb2.Decision(
        verdict=recognition_pb2.VERDICT_UNKNOWN,
        reason=reason,
        best_candidate=match_message(found.best) if found.best else None,
    )


def _box_message(box: Sequence[float] | Boxes) -> types_pb2.Box:
    x1, y1, x2, y2 = (float(value) for value in box)
    return types_pb2.Box(x1=x1, y1=y1, x2=x2, y2=y2)


def _timings_message(timings: StageTimings) -> types_pb2.StageTimings:
    return types_pb2.StageTimings(**vars(timings))
