"""What `shitu bench latency` and `ceiling` compute: operations, fractions, projections, batches, sessions, and their refusals."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.placed_models import CHECKOUT_MODELS, DEMO_WEIGHTS

from shitu_bench.ceiling.triton_load import PerfAnalyzer
from shitu_bench.errors import BenchError
from shitu_bench.isolated import run_isolated
from shitu_bench.models import official_repository as official
from shitu_bench.models.devices import Device
from shitu_bench.models.flops import flops_of, flops_of_model
from shitu_bench.models.latency import completed, repositories_of
from shitu_bench.models.official_repository import official_repository
from shitu_bench.models.peak import SIDES, flops_of_product
from shitu_bench.models.published import PUBLISHED, T4_PEAK_FLOPS, t4_projection_ms
from shitu_bench.models.sessions import SessionPlan, check_device, opened, runner
from shitu_bench.serving.batches import Batch, Executions, Work, pictures_per_s, sequence, steady_rate
from shitu_models.specs import DEMO_REC, OFFICIAL_SPECS, PIXELS


def graph_of(nodes, weights, output="out", side=8) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, side, side])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def ones(*shape):
    return np.ones(shape, np.float32)


def test_a_convolution_counts_its_taps_for_each_number_it_makes():
    conv = helper.make_node("Conv", ["pixels", "w"], ["out"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    assert flops_of_model(graph_of([conv], {"w": ones(16, 3, 3, 3)})) == 2 * (16 * 4 * 4) * (3 * 3 * 3)


def test_a_depthwise_convolution_counts_one_channel():
    conv = helper.make_node("Conv", ["pixels", "w"], ["out"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=3)
    assert flops_of_model(graph_of([conv], {"w": ones(3, 1, 3, 3)})) == 2 * (3 * 8 * 8) * 9


def test_products_whose_batch_is_computed_are_counted():
    """The shape depends on a Shape of the input: inference of shapes alone gives up on such graphs."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["pixels", "target"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "v"], ["out"], transB=1),
    ]
    weights = {"zero": np.array([0]), "rest": np.array([192]), "w": ones(192, 10), "v": ones(5, 10)}
    assert flops_of_model(graph_of(nodes, weights)) == 2 * 192 * 10 + 2 * 10 * 5


def test_a_transposed_gemm_counts_its_rows():
    nodes = [
        helper.make_node("Reshape", ["pixels", "target"], ["columns"]),
        helper.make_node("Gemm", ["columns", "w"], ["out"], transA=1),
    ]
    assert flops_of_model(graph_of(nodes, {"target": np.array([192, 1]), "w": ones(192, 4)})) == 2 * 192 * 4


def test_an_attention_counts_both_of_its_products():
    nodes = [
        helper.make_node("Reshape", ["pixels", "target"], ["tokens"]),
        helper.make_node(
            "MultiHeadAttention", ["tokens", "tokens", "tokens"], ["out"], domain="com.microsoft", num_heads=2
        ),
    ]
    assert flops_of_model(graph_of(nodes, {"target": np.array([0, 12, 16])})) == 2 * 2 * (12 * 12 * 16)


def test_an_operator_that_cannot_be_counted_is_refused():
    node = helper.make_node("FusedMatMul", ["pixels", "w"], ["out"], domain="com.microsoft")
    with pytest.raises(BenchError, match="FusedMatMul"):
        flops_of_model(graph_of([node], {"w": ones(8, 8)}))


def test_the_demo_encoder_counts_as_its_architecture():
    """A ViT of width 192 with 65 tokens of 16 pixels: by the textbook, but for the projection of each token at its end."""
    depth, tokens, width = 6, 65, 192
    layer = tokens * width * (3 + 1 + 4 + 4) * width + 2 * tokens * tokens * width
    patches = (tokens - 1) * 3 * 16 * 16 * width
    assert flops_of(DEMO_WEIGHTS) == pytest.approx(2 * (depth * layer + patches), rel=0.02)


def test_published_figures_stand_for_each_official_model():
    assert set(PUBLISHED) == {spec.name for spec in OFFICIAL_SPECS}
    for one in PUBLISHED.values():
        for device in ("t4_ms", "cpu_ms"):
            times = [getattr(timing, device) for timing in (one.beta, one.normal, one.fastest)]
            assert times == sorted(times, reverse=True)
    base = PUBLISHED["PP-ShiTuV2_rec_CLIP_vit_base"]
    assert (base.normal.t4_ms, base.normal.cpu_ms) == (12.57, 67.09)
    # 35.1 GFLOPs in that time are the fraction of a T4's peak that the notes give.
    assert 35.1e9 / (base.normal.t4_ms / 1000) / T4_PEAK_FLOPS == pytest.approx(0.35, abs=0.01)


def test_a_projection_is_the_floor_over_the_fraction():
    assert t4_projection_ms(8.1e9, 1.0) == pytest.approx(1.0)
    assert t4_projection_ms(8.1e9, 0.5) == pytest.approx(2.0)
    for wrong in (0.0, float("nan")):
        with pytest.raises(ValueError, match="fraction"):
            t4_projection_ms(8.1e9, wrong)


def test_what_was_not_measured_is_named():
    row = {"fraction_of_peak": {"median": 0.5}}
    figures = {"device": "cpu", "models": {"PP-ShiTuV2_det": {"flops": 8.1e9, "batches": {"1": row}}}}
    results = completed(figures)
    assert results["models"]["PP-ShiTuV2_det"]["t4_projection_ms"] == pytest.approx(2.0)
    assert results["models"]["PP-ShiTuV2_det"]["published"]["normal"] == {"t4_ms": 11.81, "cpu_ms": 43.03}
    assert len(results["not_measured"]) == 4
    assert any("GPU" in missing for missing in results["not_measured"])


def test_the_peak_is_of_a_cube():
    assert flops_of_product(Device.CPU) == 2 * SIDES[Device.CPU] ** 3


def test_a_session_runs_what_it_is_given():
    session = opened(DEMO_WEIGHTS, SessionPlan(1))
    pixels = np.zeros((2, *DEMO_REC.inputs[0].shape), np.uint8)
    (vectors,) = runner(session, {PIXELS: pixels}, Device.CPU)()
    assert vectors.shape == (2, DEMO_REC.embedding_dimension)


def test_a_device_that_is_not_there_is_refused():
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BenchError, match="onnxruntime-gpu"):
        check_device(Device.CUDA)


def test_executions_count_items():
    before, after = Executions({1: 2, 8: 1}), Executions({1: 2, 4: 3, 8: 2})
    assert after.since(before).counts == {4: 3, 8: 1}
    assert (after.since(before).item_count, after.since(before).batch_count) == (20, 4)
    assert after.since(before).mean_size == 5.0
    assert Executions({}).mean_size == 0.0


def test_a_sequence_keeps_the_shares_of_what_was_run():
    executed = {"det": Executions({2: 30, 4: 10}), "rec": Executions({12: 20})}
    batches = sequence(executed, 1)
    assert len(batches) == 60
    assert batches.count(Batch("det", 2)) == 30
    assert batches.count(Batch("rec", 12)) == 20
    assert batches == sequence(executed, 1)
    assert batches != sequence(executed, 2)


def test_a_long_sequence_is_shortened_and_forgets_no_size():
    batches = sequence({"det": Executions({1: 100_000, 7: 1}), "rec": Executions({3: 100_000})}, 1)
    assert len(batches) <= 260
    assert batches.count(Batch("det", 1)) == batches.count(Batch("rec", 3)) == 128
    assert Batch("det", 7) in batches


def test_a_sequence_needs_batches_of_each_model():
    with pytest.raises(ValueError, match="each model"):
        sequence({"det": Executions({1: 3}), "rec": Executions({})}, 1)


def test_the_rate_of_models_alone_counts_each_as_often_as_a_picture_needs_it():
    done = {"det": Work(10, 1.0), "rec": Work(15, 3.0)}  # 0.1 s a picture, 0.2 s a crop
    assert pictures_per_s(done, {"det": 1.0, "rec": 3.0}, 1) == pytest.approx(1 / 0.7)
    assert pictures_per_s(done, {"det": 1.0, "rec": 3.0}, 2) == pytest.approx(2 / 0.7)


def test_a_steady_rate_is_that_between_the_ends_of_batches():
    # 24 crops every 10 s; somebody looks from 3 s after an end until 8 s after another
    samples = [(float(second), 24 * ((second + 3) // 10)) for second in range(36)]
    assert steady_rate(samples) == pytest.approx(2.4)
    with pytest.raises(ValueError, match="two batches"):
        steady_rate(samples[:15])


def test_an_unknown_model_is_refused(tmp_path, quiet):
    with pytest.raises(BenchError, match="official model"):
        official_repository(["resnet"], quiet, cache=tmp_path)
    assert repositories_of(["demo_rec"], CHECKOUT_MODELS, quiet) == {"demo_rec": str(CHECKOUT_MODELS)}


def test_a_model_that_was_made_is_kept(tmp_path, quiet, monkeypatch):
    made = []

    def convert(name, seed, repository):
        made.append((name, seed))
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(DEMO_WEIGHTS.read_bytes())

    monkeypatch.setattr(official, "_convert", convert)
    first = official_repository(["PP-ShiTuV2_rec"], quiet, cache=tmp_path)
    assert official_repository(["PP-ShiTuV2_rec"], quiet, cache=tmp_path) == first
    assert official_repository(["PP-ShiTuV2_rec"], quiet, seed=2, cache=tmp_path) != first
    assert made == [("PP-ShiTuV2_rec", 1), ("PP-ShiTuV2_rec", 2)]


def test_a_measurement_that_fails_is_an_error():
    with pytest.raises(BenchError, match="ended with code"):
        run_isolated("shitu_bench.nothing", {}, {}, 30.0)


def test_a_measurement_that_hangs_is_ended(tmp_path):
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(BenchError, match="was ended"):
        run_isolated("sleeper", {}, {"PYTHONPATH": str(tmp_path)}, 1.0)


def test_a_measurement_returns_what_it_wrote(tmp_path):
    code = "import pathlib, sys\npathlib.Path(sys.argv[2]).write_text(sys.argv[1])\n"
    (tmp_path / "echo_plan.py").write_text(code)
    assert run_isolated("echo_plan", {"rounds": 3}, {"PYTHONPATH": str(tmp_path)}, 30.0) == {"rounds": 3}


def test_a_missing_perf_analyzer_is_named(tmp_path):
    with pytest.raises(BenchError, match="make perf-analyzer"):
        PerfAnalyzer.found(tmp_path / "perf_analyzer")


@pytest.fixture
def quiet():
    from rich.console import Console

    return Console(quiet=True)


def test_results_of_models_that_are_committed_are_of_all_of_them():
    from shitu_bench.records import RESULTS_DIR

    results = json.loads((RESULTS_DIR / "latency.json").read_text(encoding="utf-8"))
    assert {spec.name for spec in OFFICIAL_SPECS} <= set(results["models"])
