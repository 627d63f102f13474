"""The embedded Triton server, real, with models of a few kilobytes, and with the demo models where they are."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import textwrap
import time
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import pytest_asyncio
import tritonclient.grpc
import tritonclient.grpc.aio
from onnx import TensorProto, helper, numpy_helper

from shitu_models.repository import weights_path
from shitu_models.specs import DEMO_DET, DEMO_REC, DEMO_SPECS, ModelSpec, Precision, Profile, Task
from shitu_models.triton_config import TritonConfigOptions, model_config, write_configs
from shitu_server.children import RUN_ID_VARIABLE, Run
from shitu_server.errors import ConfigurationError, DeadlineExceededError, InternalError, UnavailableError
from shitu_server.served import Served, ServedModel
from shitu_server.shared_memory import SharedMemory
from shitu_server.supervisor import EmbeddedTriton, TritonOptions
from shitu_server.triton import CallLimits, TritonDetector, TritonEncoder, has_models
from shitu_server.triton_connection import ConnectionOptions, TritonConnection
from shitu_server.triton_control import TritonControl, TritonControlError
from shitu_server.triton_models import TritonModel
from shitu_server.turns import Turns

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHECKOUT_MODELS = Path(__file__).resolve().parents[2] / "model_repository"
TINY_REC = replace(DEMO_REC, name="tiny_rec", input_size=16, embedding_dimension=8, max_batch=8)
TINY_DET = replace(DEMO_DET, name="tiny_det", input_size=16, max_boxes=5, max_batch=8)
PICKY = replace(TINY_REC, name="picky", input_size=1, embedding_dimension=4)
"""Fails for a picture whose first value is over 9."""
TINY = (TINY_REC, TINY_DET, PICKY)
RECOVERY_LIMIT_S = 10.0
MEMORY_BYTES = 1024 * 1024


def one_call() -> CallLimits:
    """Return the limits of a model on its own."""
    return CallLimits(1, Turns(1))


def tensors(spec: ModelSpec):
    size = spec.input_size
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", size, size, 3])
    outputs = [
        helper.make_tensor_value_info(one.name, TensorProto.FLOAT, ["N", *map(str, one.shape)]) for one in spec.outputs
    ]
    return [pixels], outputs


def save(
    repository: Path, spec: ModelSpec, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], version: int = 1
) -> None:
    inputs, outputs = tensors(spec)
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, spec.name, inputs, outputs, weights)
    path = weights_path(repository, spec, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    write_configs(repository, [spec])


def save_encoder(repository: Path, spec: ModelSpec, version: int = 1) -> None:
    node = helper.make_node
    weights = np.random.default_rng(version).normal(size=(spec.input_size**2 * 3, spec.embedding_dimension))
    nodes = [
        node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        node("Flatten", ["floats"], ["flat"]),
        node("MatMul", ["flat", "weights"], ["product"]),
        node("LpNormalization", ["product"], ["embedding"], axis=1, p=2),
    ]
    save(repository, spec, nodes, {"weights": weights.astype(np.float32)}, version)


def save_detector(repository: Path, spec: ModelSpec) -> None:
    """Scores are 3, 2, 1, 0, 0 times the first value of the picture: two places of padding, like a real detector's."""
    node = helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        node("Flatten", ["floats"], ["flat"]),
        node("MatMul", ["flat", "score_weights"], ["det_scores"]),
        node("MatMul", ["flat", "box_weights"], ["flat_boxes"]),
        node("Reshape", ["flat_boxes", "box_shape"], ["det_boxes"]),
    ]
    score_weights = np.zeros((spec.input_size**2 * 3, spec.max_boxes), dtype=np.float32)
    score_weights[0] = [3, 2, 1, 0, 0]
    box_weights = np.repeat(score_weights, 4, axis=1)
    constants = {
        "score_weights": score_weights,
        "box_weights": box_weights,
        "box_shape": np.array([-1, spec.max_boxes, 4], dtype=np.int64),
    }
    save(repository, spec, nodes, constants)


def save_picky(repository: Path, spec: ModelSpec) -> None:
    node = helper.make_node
    nodes = [
        node("Cast", ["pixels"], ["indices"], to=TensorProto.INT64),
        node("Reshape", ["indices", "rows"], ["flat"]),
        node("Gather", ["flat", "first"], ["index"], axis=1),
        node("Gather", ["table", "index"], ["embedding"], axis=0),
    ]
    constants = {
        "rows": np.array([-1, 3], dtype=np.int64),
        "first": np.array(0, dtype=np.int64),
        "table": np.arange(40, dtype=np.float32).reshape(10, 4),
    }
    save(repository, spec, nodes, constants)


def save_tiny(repository: Path) -> None:
    save_encoder(repository, TINY_REC)
    save_detector(repository, TINY_DET)
    save_picky(repository, PICKY)


def triton_model(repository: Path, spec: ModelSpec, *versions: int, **options) -> TritonModel:
    digests = {version: digest(weights_path(repository, spec, version)) for version in versions or (1,)}
    return TritonModel(spec.name, digests, model_config(spec, TritonConfigOptions(**options)))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def embedded(repository: Path, folder: Path, specs: tuple[ModelSpec, ...], **changes) -> EmbeddedTriton:
    models = tuple(triton_model(repository, spec) for spec in specs)
    options = TritonOptions(repository, models, folder / "cache", folder / "logs" / "triton.log", stop_timeout_s=1.0)
    return EmbeddedTriton(replace(options, start_timeout_s=60.0, **changes))


def pixels_for(spec: ModelSpec, count: int, seed: int = 0):
    shape = (count, spec.input_size, spec.input_size, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def in_process(repository: Path, spec: ModelSpec, pixels):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(weights_path(repository, spec)), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in spec.outputs]
    return dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))


def processes_of(run_id: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUN_ID_VARIABLE) == run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def run_id_of(triton: EmbeddedTriton) -> str:
    return triton._process.run_id


def assert_nothing_left(run_id: str) -> None:
    assert processes_of(run_id) == []
    assert [path for path in Path("/dev/shm").iterdir() if run_id in path.name] == []


async def seconds_until_served(encoder: TritonEncoder, spec: ModelSpec) -> tuple[float, list[Exception]]:
    """Call until an answer comes after at least one failure."""
    start_s, errors = time.monotonic(), []
    while time.monotonic() - start_s < 2 * RECOVERY_LIMIT_S:
        try:
            await encoder.embed(pixels_for(spec, 1))
        except (UnavailableError, InternalError) as error:
            errors.append(error)
        else:
            if errors:
                return time.monotonic() - start_s, errors
        await asyncio.sleep(0.05)
    pytest.fail(f"not served again: {errors[-1:]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("triton")


@pytest.fixture(scope="module")
def repository(folder):
    save_tiny(folder / "models")
    return folder / "models"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(folder, repository):
    server = embedded(repository, folder, TINY)
    await server.start()
    yield server
    run_id = run_id_of(server)
    await server.stop()
    assert_nothing_left(run_id)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["messages", "shared memory"])
async def connection(request, triton):
    memory = None
    if request.param == "shared memory":
        memory = SharedMemory(f"shitu-test-{uuid.uuid4().hex[:8]}", MEMORY_BYTES)
    opened = TritonConnection(triton.grpc_address, memory=memory)
    if memory is not None:
        await opened.infer(TINY_REC, [pixels_for(TINY_REC, 1)], None)  # the first calls go in messages
        await wait_for(lambda: regions(triton) == {memory.name})
    yield opened
    await opened.close()
    assert regions(triton) == set()


def regions(triton: EmbeddedTriton) -> set[str]:
    with tritonclient.grpc.InferenceServerClient(triton.grpc_address) as client:
        return set(client.get_system_shared_memory_status().regions)


def counts(triton: EmbeddedTriton) -> tuple[int, int]:
    """Return the items and the executions of tiny_rec so far."""
    with tritonclient.grpc.InferenceServerClient(triton.grpc_address) as client:
        stats = client.get_inference_statistics("tiny_rec").model_stats[0]
    return stats.inference_count, stats.execution_count


def name_of(memory: SharedMemory) -> Path:
    return Path("/dev/shm", memory.name)


def content_of(memory: SharedMemory) -> bytes:
    return name_of(memory).read_bytes()


@pytest.fixture
def encoder(connection):
    return TritonEncoder(connection, TINY_REC, "fingerprint", limits=one_call())


@pytest.fixture
def control(triton):
    return TritonControl(int(triton.http_address.rpartition(":")[2]))


class TestInference:
    @pytest.mark.parametrize("count", [1, 3, 8])
    @pytest.mark.parametrize("spec", [TINY_REC, TINY_DET], ids=lambda spec: spec.name)
    async def test_equals_onnx_runtime_in_process(self, connection, repository, spec, count):
        pixels = pixels_for(spec, count)
        served = await connection.infer(spec, [pixels], None)
        expected = in_process(repository, spec, pixels)
        assert {name: array.shape for name, array in served.items()} == {n: a.shape for n, a in expected.items()}
        assert all(np.abs(served[name] - expected[name]).max() == 0.0 for name in expected)
        assert all(np.abs(array).max() > 0 for array in served.values())

    async def test_official_client_infers_with_plain_names(self, triton, repository):
        pixels = pixels_for(TINY_REC, 2)
        with tritonclient.grpc.InferenceServerClient(triton.grpc_address) as client:
            tensor = tritonclient.grpc.InferInput("pixels", list(pixels.shape), "UINT8")
            tensor.set_data_from_numpy(pixels)
            answer = await asyncio.to_thread(client.infer, "tiny_rec", [tensor], client_timeout=10)
            assert client.get_server_metadata().name == run_id_of(triton)
        assert np.array_equal(answer.as_numpy("embedding"), in_process(repository, TINY_REC, pixels)["embedding"])

    async def test_more_than_a_batch_keeps_its_order(self, encoder, repository):
        pixels = pixels_for(TINY_REC, 21)
        vectors = await encoder.embed(pixels)
        chunks = [in_process(repository, TINY_REC, pixels[start : start + 8])["embedding"] for start in (0, 8, 16)]
        assert vectors.dtype == np.float32
        assert np.allclose(vectors, np.concatenate(chunks), atol=1e-6)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    async def test_no_crops_give_no_vectors(self, encoder):
        assert (await encoder.embed(pixels_for(TINY_REC, 0))).shape == (0, 8)

    async def test_detector_drops_the_padding(self, connection):
        pixels = pixels_for(TINY_DET, 1)
        pixels[0, 0, 0, 0] = 2
        found = await TritonDetector(connection, TINY_DET, limits=one_call()).detect(pixels)
        assert found.scores.tolist() == [6, 4, 2]
        assert found.boxes.tolist() == [[6] * 4, [4] * 4, [2] * 4]
        pixels[0, 0, 0, 0] = 0
        none = await TritonDetector(connection, TINY_DET, limits=one_call()).detect(pixels)
        assert (none.scores.shape, none.boxes.shape) == ((0,), (0, 4))

    async def test_a_model_of_the_other_task_is_refused(self, connection):
        with pytest.raises(ValueError, match="expected a detector, got tiny_rec"):
            TritonDetector(connection, TINY_REC, limits=one_call())
        with pytest.raises(ValueError, match="expected an encoder, got tiny_det"):
            TritonEncoder(connection, TINY_DET, "", limits=one_call())

    async def test_wrong_pixels_are_refused(self, encoder):
        with pytest.raises(ValueError, match=r"takes uint8 \[n"):
            await encoder.embed(pixels_for(TINY_DET, 1)[:, :8])

    async def test_triton_merges_requests_that_come_together(self, triton, connection):
        inferences, executions = counts(triton)
        for _ in range(4):
            requests = (connection.infer(TINY_REC, [pixels_for(TINY_REC, 1, seed)], None) for seed in range(32))
            await asyncio.gather(*requests)
        new_inferences, new_executions = counts(triton)
        assert new_inferences - inferences == 128
        assert new_executions - executions <= 64

    async def test_what_is_asked_while_a_call_is_answered_shares_the_next(self, triton, connection):
        encoder = TritonEncoder(connection, TINY_REC, "", limits=one_call())
        pixels = [pixels_for(TINY_REC, size, size) for size in (1, 3, 2, 2)]
        alone = [await encoder.embed(one) for one in pixels]
        inferences, executions = counts(triton)
        together = []
        for one in pixels:
            together.append(asyncio.create_task(encoder.embed(one)))
            for _ in range(2):  # so that the first is called before the second is asked
                await asyncio.sleep(0)
        found = await asyncio.gather(*together)
        assert counts(triton) == (inferences + 8, executions + 2)
        for one, other in zip(alone, found, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    async def test_what_takes_long_is_not_merged(self, triton, connection, monkeypatch):
        encoder = TritonEncoder(connection, TINY_REC, "", limits=one_call())
        await encoder.embed(pixels_for(TINY_REC, 1))  # tells how long it takes
        monkeypatch.setattr("shitu_server.triton._MERGED_S", 1e-9)
        inferences, executions = counts(triton)
        await asyncio.gather(*(encoder.embed(pixels_for(TINY_REC, 2, seed)) for seed in range(4)))
        assert counts(triton) == (inferences + 8, executions + 4)

    @pytest.mark.parametrize(("long_item_s", "most_at_once"), [(1e-9, 1), (60, 2)])
    async def test_models_whose_items_take_long_take_turns(self, connection, monkeypatch, long_item_s, most_at_once):
        monkeypatch.setattr("shitu_server.triton._LONG_ITEM_S", long_item_s)
        limits, infer, running, seen = one_call(), connection.infer, 0, []

        async def watched(*args: object) -> dict[str, np.ndarray]:
            nonlocal running
            running += 1
            seen.append(running)
            try:
                return await infer(*args)
            finally:
                running -= 1

        monkeypatch.setattr(connection, "infer", watched)
        detector = TritonDetector(connection, TINY_DET, limits=limits)
        encoder = TritonEncoder(connection, TINY_REC, "", limits=limits)
        await detector.detect(pixels_for(TINY_DET, 1))  # each tells how long it takes
        await encoder.embed(pixels_for(TINY_REC, 1))
        for _ in range(5):
            embedding = asyncio.create_task(encoder.embed(pixels_for(TINY_REC, 2)))
            await asyncio.gather(detector.detect(pixels_for(TINY_DET, 1)), embedding)
        assert max(seen) == most_at_once

    async def test_who_waits_for_a_turn_in_vain_does_not_make_the_model_slower(self, connection, monkeypatch):
        monkeypatch.setattr("shitu_server.triton._LONG_ITEM_S", 0)
        limits = one_call()
        encoder = TritonEncoder(connection, TINY_REC, "", limits=limits)
        await encoder.embed(pixels_for(TINY_REC, 1))
        leaves = []
        limits.turns.ask(is_long=True, begin=leaves.append)
        pace_s = encoder._calls._item_pace.mean_s
        with pytest.raises(DeadlineExceededError):
            await encoder.embed(pixels_for(TINY_REC, 1), deadline_s=time.monotonic() + 0.05)
        leaves[0]()
        assert encoder._calls._item_pace.mean_s == pace_s
        assert (await encoder.embed(pixels_for(TINY_REC, 1))).shape == (1, 8)

    async def test_a_request_that_would_take_long_is_several_calls(self, triton, connection, monkeypatch):
        encoder, pixels = TritonEncoder(connection, TINY_REC, "", limits=one_call()), pixels_for(TINY_REC, 7)
        together = await encoder.embed(pixels)  # tells how long an item takes
        monkeypatch.setattr("shitu_server.triton._REQUEST_S", 2.5 * encoder._calls._item_pace.mean_s)
        monkeypatch.setattr("shitu_server.triton._MERGED_S", 1e-9)
        monkeypatch.setattr(encoder._calls._item_pace, "note", lambda _: None)
        inferences, executions = counts(triton)
        found = await encoder.embed(pixels)
        assert counts(triton) == (inferences + 7, executions + 4)
        np.testing.assert_allclose(found, together, atol=1e-5)

    async def test_a_request_is_one_call_where_nobody_waits_for_its_end(self, triton, connection):
        encoder = TritonEncoder(connection, TINY_REC, "", limits=CallLimits(64, Turns(None)))
        encoder._calls._item_pace.note(60.0)
        inferences, executions = counts(triton)
        await encoder.embed(pixels_for(TINY_REC, 8))
        assert counts(triton) == (inferences + 8, executions + 1)

    @pytest.mark.parametrize("merged_by", ["Triton", "gateway"])
    async def test_a_request_that_fails_leaves_the_others_of_its_batch_alone(self, connection, caplog, merged_by):
        picky = TritonEncoder(connection, PICKY, "", limits=one_call())

        async def embedded(value: int) -> np.ndarray:
            pixels = np.full((1, 1, 1, 3), value, dtype=np.uint8)
            if merged_by == "gateway":
                return await picky.embed(pixels)
            return (await connection.infer(PICKY, [pixels], None))["embedding"]

        values = [0, 1, 2, 200, 4, 5, 6, 7]
        with caplog.at_level(logging.ERROR):
            answers = await asyncio.gather(*map(embedded, values), return_exceptions=True)
        assert isinstance(answers[3], InternalError)
        assert "indices element out of data bounds" in caplog.text
        assert "bounds" not in str(answers[3])
        for value, answer in zip(values, answers, strict=True):
            if value < 10:
                assert answer.tolist() == [[4 * value, 4 * value + 1, 4 * value + 2, 4 * value + 3]]


class TestLimits:
    async def test_a_deadline_that_passed_sends_nothing(self, encoder):
        with pytest.raises(DeadlineExceededError, match="before tiny_rec answered"):
            await encoder.embed(pixels_for(TINY_REC, 1), deadline_s=time.monotonic() - 1)

    async def test_a_server_that_does_not_answer_is_given_up(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            connection = TritonConnection(address, ConnectionOptions(call_timeout_s=0.4))
            encoder = TritonEncoder(connection, TINY_REC, "", limits=one_call())
            with pytest.raises(DeadlineExceededError, match="before tiny_rec answered"):
                await encoder.embed(pixels_for(TINY_REC, 1), deadline_s=time.monotonic() + 0.2)
            with pytest.raises(UnavailableError, match=r"no answer within 0\.4 s") as caught:
                await encoder.embed(pixels_for(TINY_REC, 1), deadline_s=time.monotonic() + 10)
            assert encoder._calls._item_pace.mean_s > 0.1, "so that less is put into one call"
            assert await connection.missing([("tiny_rec", 1)], timeout_s=0.1) == [("tiny_rec", 1)]
            await connection.close()
        assert caught.value.retry_after_s > 0

    async def test_cancelling_leaves_no_call_behind(self, encoder):
        before = asyncio.all_tasks()
        task = asyncio.create_task(encoder.embed(pixels_for(TINY_REC, 400)))
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() - before == set()
        assert (await encoder.embed(pixels_for(TINY_REC, 1))).shape == (1, 8)

    async def test_says_which_models_are_missing(self, triton, connection):
        assert triton.ready
        assert await connection.missing([("tiny_rec", 1), ("tiny_det", 1)]) == []
        wanted = [("tiny_rec", 1), ("tiny_rec", 2), ("tiny_rec", None), ("nowhere", None)]
        assert await connection.missing(wanted) == [("tiny_rec", 2), ("nowhere", None)]

    async def test_what_nobody_waits_for_any_more_is_not_run(self, demo_connection):
        async def runs() -> int:
            async with tritonclient.grpc.aio.InferenceServerClient(demo_connection.address) as client:
                stats = await client.get_inference_statistics(DEMO_REC.name)
            return sum(model.inference_stats.success.count for model in stats.model_stats)

        pixels = pixels_for(DEMO_REC, DEMO_REC.max_batch)
        begin_s = time.monotonic()
        await demo_connection.infer(DEMO_REC, [pixels], None)
        run_s = time.monotonic() - begin_s
        before = await runs()
        first = [asyncio.create_task(demo_connection.infer(DEMO_REC, [pixels], None)) for _ in range(4)]
        await asyncio.sleep(run_s / 5)
        soon_s = time.monotonic() + run_s / 2  # the line before them takes several times as long
        expired = [demo_connection.infer(DEMO_REC, [pixels[:size]], soon_s) for size in (1, 5, 32) for _ in range(20)]
        outcomes = await asyncio.gather(*expired, return_exceptions=True)
        assert all(isinstance(outcome, DeadlineExceededError) for outcome in outcomes)
        await asyncio.gather(*first)
        await demo_connection.infer(DEMO_REC, [pixels[:1]], None)
        assert await runs() - before == 5

    async def test_an_unknown_model_is_unavailable(self, connection):
        other = replace(TINY_REC, name="nowhere")
        with pytest.raises(UnavailableError, match="nowhere is not ready"):
            await TritonEncoder(connection, other, "", limits=one_call()).embed(pixels_for(other, 1))


class TestBackend:
    """What config.pbtxt may say beyond what we render, as in the C++ backend."""

    @pytest.mark.parametrize(
        ("addition", "fault"),
        [
            ('parameters { key: "execution_mode" value { string_value: "2" } }', "execution_mode must be 0 or 1"),
            (
                'parameters { key: "enable_mem_arena" value { string_value: "maybe" } }',
                "enable_mem_arena must be one of",
            ),
            (
                'optimization { execution_accelerators { cpu_execution_accelerator { name: "abacus" } } }',
                "unknown Execution Accelerator 'abacus'",
            ),
            ('model_operations { op_library_filename: "/none.so" }', "/none.so"),
            ('default_model_filename: "other.onnx"', "unable to find .*other.onnx"),
        ],
        ids=["execution mode", "boolean", "accelerator", "op library", "filename"],
    )
    async def test_faults_fail_the_load_with_their_reason(self, repository, control, addition, fault):
        spec = replace(TINY_REC, name="faulty")
        save_encoder(repository, spec)
        with (repository / spec.name / "config.pbtxt").open("a") as config:
            config.write(addition)
        with pytest.raises(TritonControlError, match=fault):
            await asyncio.to_thread(control.load, spec.name, 30)

    async def test_options_of_the_cpp_backend_are_taken(self, repository, control, connection):
        spec = replace(TINY_REC, name="options")
        save_encoder(repository, spec)
        (repository / spec.name / "1" / "folder").mkdir(exist_ok=True)  # it is run with both ways for pixels
        weights_path(repository, spec).rename(repository / spec.name / "1" / "folder" / "model.onnx")
        parameters = {
            "execution_mode": "1",
            "inter_op_thread_count": "2",
            "enable_mem_arena": "on",
            "enable_mem_pattern": "false",
            "memory.enable_memory_arena_shrinkage": "cpu:0",
            "session.use_device_allocator_for_initializers": "1",
            "unknown": "ignored",
        }
        with (repository / spec.name / "config.pbtxt").open("a") as config:
            config.write('default_model_filename: "folder"\noptimization { graph { level: -1 } }\n')
            config.writelines(
                f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}\n'
                for key, value in parameters.items()
            )
        await asyncio.to_thread(control.load, spec.name, 30)
        pixels = pixels_for(spec, 2)
        served = await connection.infer(spec, [pixels], None)
        expected = in_process(repository, TINY_REC, pixels)
        assert np.allclose(served["embedding"], expected["embedding"], atol=1e-6)
        await asyncio.to_thread(control.unload, spec.name, 5)

    async def test_nothing_is_written_to_the_packages(self, triton, folder):
        assert (folder / "cache" / "triton").is_dir()
        commands = [" ".join(process.cmdline()) for process in processes_of(run_id_of(triton))]
        stubs = [command for command in commands if "stub" in command.split()[0]]
        assert len(stubs) >= 3
        assert all(command.startswith(str(folder / "cache")) for command in stubs)


class TestSharedMemory:
    @pytest_asyncio.fixture(loop_scope="module")
    async def memory(self):
        memory = SharedMemory(f"shitu-test-{uuid.uuid4().hex[:8]}", 8192)
        yield memory
        memory.close()

    @pytest_asyncio.fixture(loop_scope="module")
    async def through_memory(self, triton, memory):
        connection = TritonConnection(triton.grpc_address, memory=memory)
        await connection.infer(TINY_REC, [pixels_for(TINY_REC, 1)], None)
        await wait_for(lambda: memory.name in regions(triton))
        yield connection
        await connection.close()

    async def test_pixels_go_there_and_all_room_comes_back(self, through_memory, memory):
        pixels = pixels_for(TINY_REC, 8)
        assert pixels.nbytes > 6000
        free = list(memory._free)
        await through_memory.infer(TINY_REC, [pixels], None)
        assert pixels.tobytes() in content_of(memory)
        with pytest.raises(DeadlineExceededError):
            await through_memory.infer(TINY_REC, [pixels], time.monotonic() - 1)
        assert memory._free == free

    async def test_parts_are_one_batch_however_they_travel(self, through_memory, connection):
        parts = [pixels_for(TINY_REC, count, count) for count in (1, 3, 2)]
        whole = (await connection.infer(TINY_REC, [np.concatenate(parts)], None))["embedding"]
        for through in (through_memory, connection):
            assert np.array_equal((await through.infer(TINY_REC, parts, None))["embedding"], whole)

    async def test_what_does_not_fit_goes_in_messages(self, through_memory, repository):
        pixels = [pixels_for(TINY_REC, 8, seed) for seed in range(6)]
        answers = await asyncio.gather(*(through_memory.infer(TINY_REC, [one], None) for one in pixels))
        for one, answer in zip(pixels, answers, strict=True):
            assert np.array_equal(answer["embedding"], in_process(repository, TINY_REC, one)["embedding"])

    async def test_what_is_given_up_in_the_queue_leaves_those_alone_that_get_its_place(
        self, through_memory, repository
    ):
        for seed in range(20):
            given_up = [
                asyncio.create_task(through_memory.infer(TINY_REC, [pixels_for(TINY_REC, 4, seed)], None))
                for _ in range(2)
            ]
            await asyncio.sleep(0.0002 * seed)
            for task in given_up:
                task.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            live = pixels_for(TINY_REC, 8, 100 + seed)
            answer = await through_memory.infer(TINY_REC, [live], None)
            assert np.array_equal(answer["embedding"], in_process(repository, TINY_REC, live)["embedding"])

    async def test_a_server_that_has_lost_it_is_told_again(self, through_memory, memory, triton):
        with tritonclient.grpc.InferenceServerClient(triton.grpc_address) as client:
            client.unregister_system_shared_memory(memory.name)
        answers = [await through_memory.infer(TINY_REC, [pixels_for(TINY_REC, 1)], None) for _ in range(2)]
        assert np.array_equal(answers[0]["embedding"], answers[1]["embedding"])
        await wait_for(lambda: memory.name in regions(triton))

    async def test_a_server_that_cannot_see_it_gets_messages(self, triton, memory, caplog):
        name_of(memory).unlink()  # as on another host
        connection = TritonConnection(triton.grpc_address, memory=memory)
        for _ in range(3):
            assert (await connection.infer(TINY_REC, [pixels_for(TINY_REC, 2)], None))["embedding"].shape == (2, 8)
            await asyncio.sleep(0.05)
        assert caplog.text.count("does not take shared memory") == 1
        await connection.close()


class TestRecovery:
    async def test_killed_stub(self, triton, encoder):
        victim = triton._stubs["tiny_rec", 1][0]
        other = triton._stubs["tiny_det", 1][0]
        victim.kill()
        seconds, errors = await seconds_until_served(encoder, TINY_REC)
        assert seconds < RECOVERY_LIMIT_S
        assert all(isinstance(error, UnavailableError) and error.retry_after_s > 0 for error in errors)
        assert triton._stubs["tiny_rec", 1][0].pid != victim.pid
        assert other.is_running(), "the other model goes on"

    async def test_killed_server(self, triton, encoder, connection):
        address, victim = triton.grpc_address, triton._process.pid
        os.kill(victim, signal.SIGKILL)
        seconds, errors = await seconds_until_served(encoder, TINY_REC)
        assert seconds < RECOVERY_LIMIT_S
        assert all(isinstance(error, UnavailableError) for error in errors)
        assert triton.grpc_address == address
        while not triton.ready:
            await asyncio.sleep(0.05)
        assert await connection.missing([(spec.name, 1) for spec in TINY]) == []
        servers = [process for process in processes_of(run_id_of(triton)) if process.name() == "tritonserver"]
        assert len(servers) == 1
        assert servers[0].pid != victim


@pytest_asyncio.fixture(loop_scope="module")
async def fragile_triton(tmp_path):
    """A server with models of its own, which the test breaks."""
    save_tiny(tmp_path / "models")
    server = embedded(tmp_path / "models", tmp_path, (TINY_REC, TINY_DET))
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def fragile_connection(fragile_triton):
    opened = TritonConnection(fragile_triton.grpc_address)
    yield opened
    await opened.close()


@pytest.fixture
def fragile(fragile_triton, fragile_connection):
    return (
        fragile_triton,
        TritonEncoder(fragile_connection, TINY_REC, "", limits=one_call()),
        TritonDetector(fragile_connection, TINY_DET, limits=one_call()),
    )


async def wait_for(condition) -> None:
    end_s = time.monotonic() + 2 * RECOVERY_LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)


async def until(condition) -> None:
    end_s = time.monotonic() + 2 * RECOVERY_LIMIT_S
    while not await condition():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.02)


async def there(connection: TritonConnection, name: str, version: int) -> bool:
    return not await connection.missing([(name, version)])


async def wait_for_model(detector: TritonDetector) -> None:
    end_s = time.monotonic() + RECOVERY_LIMIT_S
    while True:
        try:
            await detector.detect(pixels_for(TINY_DET, 1))
        except UnavailableError:
            assert time.monotonic() < end_s
            await asyncio.sleep(0.05)
        else:
            return


class TestBrokenParts:
    async def test_a_model_that_no_longer_loads_does_not_take_the_others_down(self, fragile):
        triton, encoder, detector = fragile
        good = triton._models["tiny_rec"]
        parameters = {**good.config["parameters"], "execution_mode": {"string_value": "2"}}
        triton._models["tiny_rec"] = replace(good, config={**good.config, "parameters": parameters})
        triton._stubs["tiny_rec", 1][0].kill()
        failures = triton._reloads["tiny_rec"]
        await wait_for(lambda: failures.failures == 4)  # three, and one by the server that was started anew
        server, delayed_s = triton._process.pid, time.monotonic()
        while failures.failures < 5:
            await detector.detect(pixels_for(TINY_DET, 1))
            await asyncio.sleep(0.1)
        assert time.monotonic() - delayed_s > 1.5, "it is tried less and less often"
        assert triton._process.pid == server
        assert not triton.ready
        triton._models["tiny_rec"] = good
        await wait_for(lambda: triton.ready)
        await encoder.embed(pixels_for(TINY_REC, 1))
        assert triton._process.pid == server

    async def test_weights_that_were_replaced_are_not_loaded(self, fragile, tmp_path, caplog):
        triton, encoder, detector = fragile
        pixels = pixels_for(TINY_REC, 2)
        before = await encoder.embed(pixels)
        path = weights_path(tmp_path / "models", TINY_REC)
        good, other = path.read_bytes(), tmp_path / "other.onnx"
        content = bytearray(good)
        content[-200:-100] = bytes(100)  # another encoder, of the same shape
        other.write_bytes(content)
        other.replace(path)
        triton._stubs["tiny_rec", 1][0].kill()
        await wait_for(lambda: triton._reloads["tiny_rec"].failures)
        victim = triton._process.pid
        os.kill(victim, signal.SIGKILL)
        await wait_for(lambda: triton._process.pid not in (None, victim) and triton._is_up("tiny_det"))
        await wait_for_model(detector)
        with pytest.raises(UnavailableError):
            await encoder.embed(pixels)
        assert not triton.ready
        assert f"{path} was replaced or changed" in caplog.text
        assert "put the old file back" in caplog.text
        path.write_bytes(good)
        await wait_for(lambda: triton.ready)
        assert np.array_equal(await encoder.embed(pixels), before)

    async def test_a_server_that_cannot_start_again_is_tried_less_and_less_often(self, fragile):
        triton, _, detector = fragile
        port = int(triton.http_address.rpartition(":")[2])
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            os.kill(triton._process.pid, signal.SIGKILL)
            while True:
                try:
                    thief.bind(("127.0.0.1", port))
                    thief.listen()
                    break
                except OSError:
                    await asyncio.sleep(0)
            await wait_for(lambda: triton._restarts.failures == 1)
            start_s = time.monotonic()
            assert triton._process.pid is None, "nothing is left of the attempt"
            await wait_for(lambda: triton._restarts.failures == 3)
            assert time.monotonic() - start_s > 1 + 2
        await wait_for(lambda: triton.ready)
        await wait_for_model(detector)


class TestVersions:
    async def test_one_is_added_and_another_let_go(self, fragile, fragile_connection, tmp_path):
        triton, encoder, _ = fragile
        repository = tmp_path / "models"
        pixels = pixels_for(TINY_REC, 2)
        before, stub = await encoder.embed(pixels), triton._stubs["tiny_rec", 1][0]
        save_encoder(repository, TINY_REC, version=2)
        await triton.change([triton_model(repository, TINY_REC, 1, 2)])
        one, two = (TritonEncoder(fragile_connection, TINY_REC, "", version, limits=one_call()) for version in (1, 2))
        assert np.array_equal(await one.embed(pixels), before)
        assert not np.allclose(await two.embed(pixels), before, atol=0.1)
        assert np.array_equal(await two.embed(pixels), await encoder.embed(pixels)), "the newest where none is named"
        assert triton._stubs["tiny_rec", 1] == [stub]
        await triton.change([triton_model(repository, TINY_REC, 2)])
        await wait_for(lambda: not stub.is_running())
        await asyncio.sleep(2 * triton._options.watch_interval_s)
        assert triton.ready, "what was let go is not missed"
        assert triton._reloads["tiny_rec"].failures == 0
        with pytest.raises(UnavailableError):
            await one.embed(pixels)
        await two.embed(pixels)

    async def test_a_version_whose_process_dies_does_not_take_the_other_down(
        self, fragile_triton, fragile_connection, tmp_path
    ):
        save_encoder(tmp_path / "models", TINY_REC, version=2)
        await fragile_triton.change([triton_model(tmp_path / "models", TINY_REC, 1, 2)])
        one, two = (TritonEncoder(fragile_connection, TINY_REC, "", version, limits=one_call()) for version in (1, 2))
        pixels = pixels_for(TINY_REC, 2)
        before = await two.embed(pixels)
        for number in range(3):
            fragile_triton._stubs["tiny_rec", 2][0].kill()
            await wait_for(lambda: not fragile_triton.ready)
            while not fragile_triton.ready:
                await one.embed(pixels)
                await asyncio.sleep(0)
            assert np.array_equal(await two.embed(pixels), before), number

    async def test_where_one_model_fails_all_stay_as_they_were(self, fragile, fragile_connection, tmp_path):
        triton, encoder, detector = fragile
        repository = tmp_path / "models"
        save_encoder(repository, TINY_REC, version=2)
        save_encoder(repository, replace(TINY_DET, max_boxes=0, embedding_dimension=8, task=Task.ENCODER), version=2)
        wanted = [triton_model(repository, TINY_REC, 1, 2), triton_model(repository, TINY_DET, 1, 2)]
        with pytest.raises(ConfigurationError, match=r"cannot load model tiny_det .*config\.pbtxt names output"):
            await triton.change(wanted)
        await detector.detect(pixels_for(TINY_DET, 1))
        await encoder.embed(pixels_for(TINY_REC, 1))
        assert set(triton._models["tiny_rec"].digests) == {1}
        assert triton.ready
        end_s = time.monotonic() + RECOVERY_LIMIT_S
        while not await fragile_connection.missing([("tiny_rec", 2)]):
            assert time.monotonic() < end_s
            await asyncio.sleep(0.05)

    async def test_what_a_load_that_took_too_long_leaves_is_let_go(self, fragile_triton, fragile_connection, tmp_path):
        repository, pixels = tmp_path / "models", pixels_for(TINY_DET, 1)
        stub = fragile_triton._stubs["tiny_det", 1][0]
        pixels[0, 0, 0, 0] = 2
        shutil.copytree(repository / "tiny_det" / "1", repository / "tiny_det" / "2")
        fragile_triton._watcher.cancel()  # until the version is seen that it lets go at once
        options = fragile_triton._loader._options
        fragile_triton._loader._options = replace(options, start_timeout_s=0.05)
        with pytest.raises(ConfigurationError, match=r"not load model tiny_det within 0\.05 s.* SHITU_START_TIMEOUT_S"):
            await fragile_triton.change([triton_model(repository, TINY_DET, 1, 2)])
        await until(lambda: there(fragile_connection, "tiny_det", 2))
        fragile_triton._loader._options = options
        fragile_triton._watcher = asyncio.create_task(fragile_triton._watch())
        pinned = TritonDetector(fragile_connection, TINY_DET, 1, limits=one_call())

        async def gone() -> bool:
            assert (await pinned.detect(pixels)).scores.tolist() == [6, 4, 2], "the version that is served answers on"
            return not await there(fragile_connection, "tiny_det", 2)

        await until(gone)
        assert stub.is_running()
        await wait_for(lambda: fragile_triton.ready and not fragile_triton._unsettled)

    async def test_a_version_whose_files_are_gone_does_not_keep_the_other_down(
        self, fragile_triton, fragile_connection, tmp_path, caplog
    ):
        repository = tmp_path / "models"
        save_encoder(repository, TINY_REC, version=2)
        await fragile_triton.change([triton_model(repository, TINY_REC, 1, 2)])
        two, pixels = TritonEncoder(fragile_connection, TINY_REC, "", 2, limits=one_call()), pixels_for(TINY_REC, 2)
        before = await two.embed(pixels)
        kept = shutil.move(repository / "tiny_rec" / "1", tmp_path / "kept")
        for pid in (fragile_triton._stubs["tiny_rec", 2][0].pid, fragile_triton._process.pid):
            os.kill(pid, signal.SIGKILL)
            await seconds_until_served(two, TINY_REC)
            assert np.array_equal(await two.embed(pixels), before)
        assert "tiny_rec/1/model.onnx was replaced or changed" in caplog.text
        assert not await there(fragile_connection, "tiny_rec", 1)
        shutil.move(kept, repository / "tiny_rec" / "1")
        await wait_for(lambda: fragile_triton.ready)
        assert await there(fragile_connection, "tiny_rec", 1)

    async def test_a_former_version_is_not_needed_to_serve(self, fragile_connection):
        entries = [ServedModel(TINY_REC, version, Precision.FP32, "") for version in (2, 1)]
        served = Served(ServedModel(TINY_DET, 1, Precision.FP32, ""), tuple(entries), Profile.TRAINED, embedded=True)
        assert await has_models(fragile_connection, served), "one version of each model is there"
        newer = replace(served.detector, version=2)
        assert not await has_models(fragile_connection, replace(served, detector=newer))
        assert await has_models(fragile_connection, replace(served, detector=newer, embedded=False)), "any will do"
        absent = replace(entries[0], spec=replace(TINY_REC, name="nowhere"))
        assert not await has_models(fragile_connection, replace(served, encoders=(*entries, absent)))

    async def test_a_change_meets_a_triton_that_crashed(self, fragile_triton, tmp_path):
        save_encoder(tmp_path / "models", TINY_REC, version=2)
        os.kill(fragile_triton._process.pid, signal.SIGKILL)
        with pytest.raises(ConfigurationError, match=r"stopped answering .*tiny_rec.* send SIGHUP once more"):
            await fragile_triton.change([triton_model(tmp_path / "models", TINY_REC, 1, 2)])
        await wait_for(lambda: fragile_triton.ready)

    async def test_another_configuration_needs_another_start(self, fragile_triton, tmp_path):
        with pytest.raises(ConfigurationError, match=r"tiny_rec: the new version differs .*restart `shitu serve`"):
            await fragile_triton.change([triton_model(tmp_path / "models", TINY_REC, 1, instance_count=2)])

    async def test_one_of_several_instances_is_brought_back(self, tmp_path, repository):
        twice = (triton_model(repository, TINY_REC, instance_count=2),)
        server = embedded(repository, tmp_path, (), models=twice)
        await server.start()
        try:
            first, _ = server._stubs["tiny_rec", 1]
            first.kill()
            await wait_for(lambda: not server.ready)
            await wait_for(lambda: server.ready)
            alive = server._stubs["tiny_rec", 1]
            assert len([one for one in alive if one.is_running()]) >= 2
            assert first not in alive
        finally:
            await server.stop()


class TestStart:
    @pytest.mark.parametrize(
        ("damage", "fault"),
        [
            (lambda path: path.write_bytes(b"\x08\x08\x3a\x04junk"), "INVALID_PROTOBUF|Protobuf parsing failed"),
            (Path.unlink, "unable to find .*model.onnx"),
        ],
        ids=["corrupt", "missing"],
    )
    async def test_a_bad_model_file_is_said_and_nothing_is_left(self, tmp_path, damage, fault):
        save_encoder(tmp_path / "models", TINY_REC)
        damage(weights_path(tmp_path / "models", TINY_REC))
        triton = embedded(tmp_path / "models", tmp_path, (TINY_REC,))
        with pytest.raises(ConfigurationError, match=rf"cannot load model tiny_rec from .*{fault}.*repair or replace"):
            await triton.start()
        assert not list((tmp_path / "cache" / "runs").iterdir())
        assert [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])] == []

    async def test_a_port_in_use_is_said(self, tmp_path, repository):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            triton = embedded(repository, tmp_path, (TINY_REC,), grpc_port=port, http_port=0, metrics_port=0)
            with pytest.raises(ConfigurationError, match=rf"{port}.* in use.*choose another port"):
                await triton.start()
        assert not list((tmp_path / "cache" / "runs").iterdir())

    async def test_two_servers_do_not_disturb_each_other(self, triton, encoder, folder, repository):
        second = embedded(repository, folder, (TINY_REC,))
        await second.start()
        run_id = run_id_of(second)
        try:
            assert second.grpc_address != triton.grpc_address
            connection = TritonConnection(second.grpc_address)
            pixels = pixels_for(TINY_REC, 3)
            answers = await asyncio.gather(
                TritonEncoder(connection, TINY_REC, "", limits=one_call()).embed(pixels), encoder.embed(pixels)
            )
            assert np.array_equal(*answers)
            await connection.close()
        finally:
            await second.stop()
        assert_nothing_left(run_id)
        assert (await encoder.embed(pixels_for(TINY_REC, 1))).shape == (1, 8)
        assert triton.ready

    async def test_what_a_crashed_run_left_is_swept_by_the_next(self, tmp_path, triton, repository):
        script = textwrap.dedent("""
            import asyncio, sys
            from pathlib import Path
            from tests.e2e.test_triton import TINY_REC, embedded

            async def main():
                repository, folder = map(Path, sys.argv[1:])
                triton = embedded(repository, folder, (TINY_REC,))
                await triton.start()
                print(triton._process.run_id, flush=True)
                await asyncio.sleep(600)

            asyncio.run(main())
        """)
        command = [sys.executable, "-c", script, str(repository), str(tmp_path)]
        crashing = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        run_id = (await crashing.stdout.readline()).decode().strip()
        assert len(processes_of(run_id)) >= 2
        crashing.kill()
        await crashing.wait()
        await asyncio.sleep(0.2)
        assert not any(process.name() == "tritonserver" for process in processes_of(run_id)), "it dies with its parent"
        (await asyncio.to_thread(Run.begin, tmp_path / "cache" / "runs")).close()
        assert_nothing_left(run_id)
        assert triton.ready, "a living run is not swept"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo_connection(folder):
    absent = [spec.name for spec in DEMO_SPECS if not weights_path(CHECKOUT_MODELS, spec).is_file()]
    if absent:
        pytest.skip(f"no weights of {', '.join(absent)} in {CHECKOUT_MODELS}")
    server = embedded(CHECKOUT_MODELS, folder, DEMO_SPECS)
    await server.start()
    opened = TritonConnection(server.grpc_address)
    yield opened
    await opened.close()
    await server.stop()


class TestDemoModels:
    @pytest.mark.parametrize("count", [1, 3, 8])
    @pytest.mark.parametrize("spec", DEMO_SPECS, ids=lambda spec: spec.name)
    async def test_equal_onnx_runtime_in_process(self, demo_connection, spec, count):
        pixels = pixels_for(spec, count)
        served = await demo_connection.infer(spec, [pixels], None)
        expected = in_process(CHECKOUT_MODELS, spec, pixels)
        assert served.keys() == expected.keys()
        for name, array in expected.items():
            assert np.abs(served[name] - array).max() == 0.0
        if spec.task is Task.ENCODER:
            assert np.allclose(np.linalg.norm(served["embedding"], axis=1), 1, atol=1e-5)
