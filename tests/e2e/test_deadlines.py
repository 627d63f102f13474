"""Deadlines reach the models, and expired work never does: a Triton that takes connections and says nothing."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from tests.drawn import scene_picture

from shitu_models.specs import DEMO_DET, DEMO_REC, Precision, Profile
from shitu_server.admission import Admission
from shitu_server.encoders import Encoders, ServedEncoder
from shitu_server.errors import DeadlineExceededError, OverloadedError, UnavailableError
from shitu_server.gallery.client import GalleryClient
from shitu_server.images import ImageLimits, ImageWorkers
from shitu_server.line import Line
from shitu_server.pictures import Pictures
from shitu_server.pipeline import Models, Pipeline, ServedDetector
from shitu_server.recognitions import PipelineLimits, RecognizeOptions
from shitu_server.triton import CallLimits, TritonDetector, TritonEncoder
from shitu_server.triton_connection import TritonConnection
from shitu_server.turns import Turns


class SilentServer:
    """Takes what comes, and says nothing."""

    def __init__(self) -> None:
        self.received = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
            await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        while block := await reader.read(65_536):
            self.received += len(block)


@pytest.fixture
async def silent():
    server = SilentServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def pipeline(silent, tmp_path):
    triton = TritonConnection(silent.address)
    gallery = GalleryClient(f"unix:{tmp_path}/none.sock")
    workers = ImageWorkers(1)
    crops = Admission("crops", 8)
    one = TritonEncoder(triton, DEMO_REC, "f", 1, limits=CallLimits(1, Turns(1)))
    encoder = ServedEncoder(one, DEMO_REC, 1, Precision.FP32, Profile.TRAINED, crops)
    yield Pipeline(
        Models(
            ServedDetector(TritonDetector(triton, DEMO_DET, limits=CallLimits(1, Turns(1))), DEMO_DET),
            Encoders((encoder,)),
        ),
        gallery,
        Pictures(workers, Admission("pixels", 10**9), ImageLimits()),
        Line(4, 2),
        PipelineLimits(),
    )
    await triton.close()
    await gallery.close()
    workers.close()


async def test_the_deadline_ends_a_call_that_a_model_does_not_answer(pipeline):
    start_s = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        await pipeline.recognize(scene_picture(), "g", RecognizeOptions(), deadline_s=start_s + 0.5)
    assert 0.4 < time.monotonic() - start_s < 2


async def test_expired_work_never_reaches_a_model(pipeline, silent):
    no_boxes = np.empty((0, 4), dtype=np.float32)
    for call in (
        pipeline.recognize(scene_picture(), "g", RecognizeOptions(), deadline_s=time.monotonic() - 0.1),
        pipeline.embed(scene_picture(), no_boxes, pipeline.encoders.default, deadline_s=time.monotonic() - 0.1),
        pipeline.detect(scene_picture(), None, None, deadline_s=time.monotonic() - 0.1),
    ):
        with pytest.raises(DeadlineExceededError):
            await call
    assert silent.received == 0


async def test_a_cancelled_request_gives_its_places_back(pipeline):
    calls = [
        asyncio.create_task(pipeline.recognize(scene_picture(), "g", RecognizeOptions(), deadline_s=None))
        for _ in range(4)
    ]
    await asyncio.sleep(0.3)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    with pytest.raises(DeadlineExceededError):  # and not OverloadedError: the limit is 4
        await pipeline.recognize(scene_picture(), "g", RecognizeOptions(), deadline_s=time.monotonic() + 0.3)


async def test_a_full_gateway_refuses_before_it_asks_the_gallery(pipeline):
    models = pipeline._models
    two = tuple(replace(entry, version=number) for entry in models.encoders.entries for number in (2, 1))
    pipeline.serve(replace(models, encoders=Encoders(two)))
    with pytest.raises(UnavailableError):  # the gallery process is not there, and of two encoders it must say which
        await pipeline.recognize(scene_picture(), "g", RecognizeOptions(), deadline_s=time.monotonic() + 5)
    with ExitStack() as full:
        for _ in range(4):
            full.enter_context(pipeline._line.admit(None))
        with pytest.raises(OverloadedError):
            await pipeline.recognize(scene_picture(), "g", RecognizeOptions(), deadline_s=time.monotonic() + 5)


async def test_a_gallery_that_is_away_does_not_keep_the_models_from_others(pipeline):
    """It is asked before and after the turn: with all turns taken by requests that wait for it, nothing else would be worked on."""
    models = pipeline._models
    two = tuple(replace(entry, version=number) for entry in models.encoders.entries for number in (2, 1))
    pipeline.serve(replace(models, encoders=Encoders(two)))
    entered = asyncio.Event()

    class Hanging:
        async def get(self, *_, **__):
            entered.set()
            await asyncio.Event().wait()

    pipeline._gallery = Hanging()
    waiting = [
        asyncio.create_task(pipeline.recognize(scene_picture(), "g", RecognizeOptions(), deadline_s=None))
        for _ in range(3)
    ]
    await entered.wait()
    async with pipeline._line.turn(time.monotonic() + 0.1), pipeline._line.turn(time.monotonic() + 0.1):
        pass
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
