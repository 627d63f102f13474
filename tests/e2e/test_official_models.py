"""PaddleX's four models with random but spread weights, all the way: exported, converted, served by Triton, recognised with."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tests.conftest import start_server
from tests.drawn import product_picture, products, scene_picture

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from shitu_bench.models.official_layers import write_checkpoint  # noqa: E402
from shitu_client import Client, NewItem  # noqa: E402
from shitu_models.cards import CARD_FILE, read_card  # noqa: E402
from shitu_models.fingerprint import weights_digest  # noqa: E402
from shitu_models.repository import weights_path  # noqa: E402
from shitu_models.specs import DET_SCORES, EMBEDDING, PIXELS, SPECS  # noqa: E402
from shitu_models.triton_config import model_config  # noqa: E402
from shitu_server.supervisor import EmbeddedTriton, TritonOptions  # noqa: E402
from shitu_server.triton_connection import TritonConnection  # noqa: E402
from shitu_server.triton_models import TritonModel  # noqa: E402
from shitu_train.conversion.parity import fixed_pictures  # noqa: E402

DETECTOR = "PP-ShiTuV2_det"
SMALL = ("PP-ShiTuV2_det", "PP-ShiTuV2_rec")
LARGE = ("PP-ShiTuV2_rec_CLIP_vit_base", "PP-ShiTuV2_rec_CLIP_vit_large")
EVERY = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
ENCODERS = [param for param in EVERY if param != DETECTOR]
START_TIMEOUT_S = 300.0
MOST_GB = 16.0
"""Of one process: ViT-L/14 took 11.7."""


@dataclass(frozen=True)
class Official:
    """What was converted."""

    checkpoint: Path
    repository: Path
    """Of what came from the checkpoint."""
    other_repository: Path
    """Of what came from the exported directory."""


def shitu(*arguments: str | Path) -> None:
    """In a process of its own, as a user runs it; Paddle gives memory back only at its end."""
    done = subprocess.run(
        [sys.executable, "-m", "shitu_client", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """Makes a model once: from the checkpoint, and from the directory that was exported from it."""
    folder = tmp_path_factory.mktemp("official")
    made: dict[str, Official] = {}

    def make(name: str) -> Official:
        if name not in made:
            official = Official(write_checkpoint(name, folder), folder / "models", folder / "other")
            exported = folder / f"{name}_infer"
            shitu("models", "convert", official.checkpoint, "--model-repository", official.repository)
            shitu("models", "export", official.checkpoint, exported)
            shitu("models", "convert", exported, "--graph", "plain", "--model-repository", official.other_repository)
            made[name] = official
        return made[name]

    return make


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.timeout(1200)
def test_conversions_of_checkpoint_and_export_agree(converted, name, record_property):
    official = converted(name)
    for repository, kind in ((official.repository, "checkpoint"), (official.other_repository, "inference")):
        card = read_card(repository / name / "1" / CARD_FILE)
        assert (card.source.kind, card.source.note, card.architecture) == (kind, "", name)
        assert card.max_abs_difference < 1e-4
        assert card.min_cosine > 0.99999
    first, second = (outputs_of(repository, name) for repository in (official.repository, official.other_repository))
    for left, right in zip(first, second, strict=True):
        assert np.abs(left - right).max() < 1e-3
    assert_varied(name, first[-1])
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    record_property("peak_gb", round(peak_gb, 2))
    assert peak_gb < MOST_GB


def outputs_of(repository: Path, name: str) -> list[np.ndarray]:
    spec = SPECS[name]
    session = onnxruntime.InferenceSession(str(weights_path(repository, spec)), providers=["CPUExecutionProvider"])
    return session.run([tensor.name for tensor in spec.outputs], {PIXELS: fixed_pictures(spec)[:8]})


def assert_varied(name: str, values: np.ndarray) -> None:
    """Vectors, or scores, differ from picture to picture: else equal outputs would prove nothing."""
    if name == DETECTOR:
        assert len({tuple(row) for row in values.round(4)}) == len(values)
        assert ((values > 0.5).sum(axis=1) > 0).all()
    else:
        cosines = (values @ values.T)[np.triu_indices(len(values), 1)]
        assert cosines.max() < 0.999


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.timeout(1200)
async def test_triton_equals_onnx_runtime_at_batches_1_2_8(converted, tmp_path, name):
    official, spec = converted(name), SPECS[name]
    model = TritonModel(name, {1: weights_digest(weights_path(official.repository, spec))}, model_config(spec))
    options = TritonOptions(
        official.repository, (model,), tmp_path / "cache", tmp_path / "triton.log", start_timeout_s=START_TIMEOUT_S
    )
    triton = EmbeddedTriton(options)
    await triton.start()
    connection = TritonConnection(triton.grpc_address)
    try:
        session = onnxruntime.InferenceSession(
            str(weights_path(official.repository, spec)), providers=["CPUExecutionProvider"]
        )
        for batch in (1, 2, 8):
            pixels = fixed_pictures(spec)[:batch]
            served = await connection.infer(spec, [pixels], None)
            expected = session.run([tensor.name for tensor in spec.outputs], {PIXELS: pixels})
            for tensor, values in zip(spec.outputs, expected, strict=True):
                assert np.abs(served[tensor.name] - values).max() < 1e-5
            assert np.isfinite(served[EMBEDDING if spec.embedding_dimension else DET_SCORES]).all()
    finally:
        await connection.close()
        await asyncio.shield(triton.stop())


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.timeout(1200)
def test_recognition_end_to_end(converted, tmp_path, name):
    repository = converted(name).repository
    converted(DETECTOR)
    options = ("--detector", DETECTOR, "--encoder", name, "--model-repository", str(repository))
    running = start_server(tmp_path, *options, env={"SHITU_START_TIMEOUT_S": str(START_TIMEOUT_S)})
    try:
        running.wait_until_serving(START_TIMEOUT_S)
        with Client(running.address, timeout_s=120) as client:
            client.create_gallery("drawn")
            items = [NewItem(str(i), products()[i].label, product_picture(i)) for i in range(len(products()))]
            assert client.add_items("drawn", items).failures == ()
            # A ViT-L takes seconds for each crop on two cores, and one call to Triton may take 30 s.
            result = client.recognize(scene_picture(), "drawn", match_threshold=-1.0, max_objects=5)
            assert 1 <= len(result.objects) <= 5
            assert all(found.best_candidate is not None for found in result.objects)
            (whole,) = client.recognize(product_picture(3), "drawn", skip_detection=True).objects
            assert whole.label == products()[3].label
            assert whole.best_candidate.score == pytest.approx(1.0, abs=1e-4)
    finally:
        running.stop()
