"""The pixels that a server's models see for requests: the same preprocessing, and the boxes that the server found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray

from shitu.v1 import recognition_pb2
from shitu_bench.errors import BenchError
from shitu_bench.load.plans import LoadRequest
from shitu_models.preprocessing import resize
from shitu_models.specs import ModelSpec
from shitu_server.images import ImageLimits, crops, decode

_CALL_TIMEOUT_S: Final = 120.0
_MOST_PICTURES: Final = 16
"""So many different ones are enough: what they show hardly changes how long a model takes."""


def write_pixels(
    address: str, requests: Sequence[LoadRequest], detector: ModelSpec, encoder: ModelSpec, folder: Path
) -> Mapping[str, Path]:
    """Write the inputs of detector and encoder for some of the requests, and return the files by the models' names.

    Raises:
        BenchError: the server refuses a request.
    """
    pictures: list[NDArray[np.uint8]] = []
    objects: list[NDArray[np.uint8]] = []
    with grpc.insecure_channel(address) as channel:
        for one in requests[:_MOST_PICTURES]:
            request = recognition_pb2.RecognizeRequest.FromString(one.content)
            picture = decode(request.image, ImageLimits())
            pictures.append(resize(picture, detector))
            objects.extend(crops(picture, _boxes(channel, one), encoder))
    files = {detector.name: np.stack(pictures), encoder.name: np.stack(objects)}
    for name, pixels in files.items():
        np.save(folder / f"{name}.npy", pixels)
    return {name: folder / f"{name}.npy" for name in files}


def _boxes(channel: grpc.Channel, request: LoadRequest) -> NDArray[np.float32]:
    recognize: Any = channel.unary_unary(request.method, None, None)
    try:
        content = recognize(request.content, timeout=_CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)  # noqa: PT017
        raise BenchError(f"the server refused a picture: {error.code().name} {error.details()}") from error
    found = recognition_pb2.RecognizeResponse.FromString(content).objects
    return np.array([(o.box.x1, o.box.y1, o.box.x2, o.box.y2) for o in found], dtype=np.float32).reshape(-1, 4)
