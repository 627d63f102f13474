"""The load generator and what is made of its measurements: theory, statistics, arithmetic, and a real gRPC server that misbehaves."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import grpc
import numpy as np
import onnxruntime
import psutil
import pytest
import typer
from click.testing import Result
from google.rpc import error_details_pb2, status_pb2
from typer.testing import CliRunner

from shitu.v1 import recognition_pb2
from shitu_bench.ceiling import slices
from shitu_bench.errors import BenchError
from shitu_bench.load.arrivals import poisson_arrivals
from shitu_bench.load.callers import Callers
from shitu_bench.load.command_options import Out
from shitu_bench.load.engine import _tasks, run_load
from shitu_bench.load.measurements import Measurement, answered, available_cores
from shitu_bench.load.pictures import shelves
from shitu_bench.load.plans import LoadPlan, LoadRequest, WorkloadKind
from shitu_bench.load.tallies import Tally, merged
from shitu_bench.overload import figures as overload_figures
from shitu_bench.overload.queueing import predicted, waiting_times
from shitu_bench.refusals import saying_what_is_missing
from shitu_bench.reports import plots
from shitu_bench.reports.serving_tables import soak_table
from shitu_bench.scaling.models import ZERO_DET, ZERO_REC, place_zero_models
from shitu_bench.serving.processes import PartUse, SharedMemoryUse, spent
from shitu_bench.serving.server import ServerOptions
from shitu_bench.soak.figures import Sample, fitted_growth_percent, growth_figures, kept_samples
from shitu_bench.summaries import quantiles
from shitu_bench.tuning import trials

RECOGNIZE = "/shitu.v1.RecognitionService/Recognize"
REQUEST = LoadRequest(RECOGNIZE, b"x" * 1000)
MIB = 1 << 20


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.8, 0.9])
def test_waiting_for_one_server_is_what_pollaczek_and_khinchine_say(utilisation):
    mean = waiting_times(utilisation / 0.02, 0.02, 1, 5).mean()
    assert mean == pytest.approx(utilisation * 0.02 / (2 * (1 - utilisation)), rel=0.02)


@pytest.mark.parametrize("servers", [2, 3, 8])
@pytest.mark.parametrize("utilisation", [0.5, 0.8, 0.9])
def test_waiting_for_several_servers_is_near_the_approximation_of_cosmetatos(servers, utilisation):
    load = servers * utilisation
    tail = load**servers / math.factorial(servers) / (1 - utilisation)
    waits = tail / (sum(load**k / math.factorial(k) for k in range(servers)) + tail)
    exponential_s = waits / (servers * (1 - utilisation))
    bracket = (1 - utilisation) * (servers - 1) * (math.sqrt(4 + 5 * servers) - 2) / (16 * servers * utilisation)
    assert waiting_times(load, 1.0, servers, 5).mean() == pytest.approx(exponential_s * (1 + bracket) / 2, rel=0.03)


def test_predictions_add_the_service_time_and_refuse_what_has_no_end():
    queue = predicted(40, 0.02, 1, 5)
    assert queue.utilisation == pytest.approx(0.8)
    assert queue.mean_s == pytest.approx(0.02 + 0.8 * 0.02 / 0.4, rel=0.02)
    assert 0.02 < queue.p50_s < queue.mean_s < queue.p99_s
    with pytest.raises(BenchError, match="utilisation"):
        predicted(50, 0.02, 1, 5)


def test_arrivals_are_a_poisson_process():
    times = poisson_arrivals(200, 100, (5, 0))
    assert abs(len(times) - 20_000) < 5 * math.sqrt(20_000)
    assert (np.diff(times) >= 0).all()
    assert times[-1] < 100
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 200, rel=0.05)  # as large as the mean: exponential
    counts = np.bincount((times * 2).astype(int), minlength=200)
    assert 0.7 < counts.var() / counts.mean() < 1.4
    assert np.array_equal(times, poisson_arrivals(200, 100, (5, 0)))
    assert not np.array_equal(times[:100], poisson_arrivals(200, 100, (5, 1))[:100])


def test_shares_of_processes_add_up():
    openly = [task.plan for task in _tasks("a", [REQUEST], LoadPlan(1, rate_per_s=90, processes=4))]
    assert sum(plan.rate_per_s for plan in openly) == pytest.approx(90)
    closed = [task.plan for task in _tasks("a", [REQUEST], LoadPlan(1, concurrency=10, processes=4))]
    assert [plan.concurrency for plan in closed] == [3, 3, 2, 2]
    assert len(_tasks("a", [REQUEST], LoadPlan(1, concurrency=2, processes=4))) == 2
    with pytest.raises(BenchError, match="at least one request"):
        _tasks("a", [], LoadPlan(1))
    with pytest.raises(BenchError, match="rate must be positive"):
        _tasks("a", [REQUEST], LoadPlan(1, rate_per_s=0))


def tally(latencies_s: list[float], refusals_s: list[float]) -> Tally:
    made = Tally(due_count=len(latencies_s) + len(refusals_s), cpu_s=0.5)
    made.codes.update({"OK": len(latencies_s), "RESOURCE_EXHAUSTED": len(refusals_s)})
    made.latencies_s.extend(latencies_s)
    made.refusal_latencies_s.extend(refusals_s)
    made.stages_us["decode"].extend(range(len(latencies_s)))
    return made


def test_processes_are_merged_value_by_value():
    fast, slow = tally([0.010] * 99, [0.001]), tally([1.0], [])
    outcome = merged([fast, slow], 10.0)
    assert outcome.rate_per_s == 10.0
    assert outcome.codes == {"OK": 100, "RESOURCE_EXHAUSTED": 1}
    assert (outcome.due_count, outcome.client_cpu_s) == (101, 1.0)
    every = [10.0] * 99 + [1000.0]
    assert quantiles(outcome.latencies_ms) == pytest.approx(quantiles(every))  # not the mean of 10 and 1000 ms
    assert list(outcome.refusal_latencies_ms) == [1.0]
    assert len(outcome.stages_us["decode"]) == 100
    assert "detect" not in outcome.stages_us


def refusal(retry_after_ms: int) -> bytes:
    status = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="busy")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(retry_after_ms)
    for detail in (error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="shitu.v1"), retry):
        status.details.add().Pack(detail)
    return status.SerializeToString()


class Misbehaving(grpc.GenericRpcHandler):
    """Answers Recognize; sleeps on one call, or refuses all. Remembers what came."""

    def __init__(self, *, stall_at: int = 0, stall_s: float = 0.0, refuses: bool = False) -> None:
        self.count = 0
        self.contents: list[bytes] = []
        self._lock = threading.Lock()
        self._stall = (stall_at, stall_s)
        self._refuses = refuses

    def service(self, details):
        assert details.method == RECOGNIZE
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        with self._lock:
            self.count += 1
            self.contents.append(request)
            if self.count == self._stall[0]:
                time.sleep(self._stall[1])  # with the lock: all wait
        if self._refuses:
            context.set_trailing_metadata([("grpc-status-details-bin", refusal(250))])
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        reply = recognition_pb2.RecognizeResponse(objects=[recognition_pb2.RecognizedObject()] * 3)
        reply.timings.decode_us = 1234
        return reply.SerializeToString()


@contextmanager
def serving(handler: Misbehaving):
    with ThreadPoolExecutor(32) as pool:
        server = grpc.server(pool, handlers=[handler])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


class Marks:
    """Notes when it was told."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def begin(self) -> None:
        self.times_s.append(time.monotonic())

    end = begin


def test_open_loop_sends_what_is_due_and_counts_a_stall_for_all_who_waited():
    marks, told = Marks(), []
    handler = Misbehaving(stall_at=150, stall_s=0.6)
    plan = LoadPlan(2.0, 0.5, rate_per_s=150, processes=2, connections=2)
    with serving(handler) as address:
        outcome = run_load(address, [REQUEST], plan, lambda *state: told.append(state), marks)
    assert abs(outcome.due_count - 300) < 5 * math.sqrt(300)
    assert outcome.codes == {"OK": outcome.due_count}
    assert outcome.rate_per_s == outcome.due_count / 2
    assert outcome.object_count == 3 * outcome.due_count
    assert set(outcome.stages_us["decode"]) == {1234}
    # The stall was 0.6 s, so most of the 90 requests due in it took over 0.1 s; a closed loop would have noted one.
    assert sum(latency > 100 for latency in outcome.latencies_ms) > 45
    assert marks.times_s[1] - marks.times_s[0] == pytest.approx(2.0, abs=0.3)
    assert told[-1][1] <= handler.count
    assert outcome.client_cpu_s > 0


def test_closed_loop_keeps_its_callers_busy_and_refusals_are_noted():
    with serving(Misbehaving(refuses=True)) as address:
        outcome = run_load(address, [REQUEST], LoadPlan(0.5, 0.1, concurrency=3, processes=2))
    refused = outcome.codes.pop("RESOURCE_EXHAUSTED")
    assert not outcome.codes
    assert refused == outcome.due_count == len(outcome.refusal_latencies_ms) > 20
    assert set(outcome.retry_after_ms) == {250.0}
    assert outcome.rate_per_s == 0
    assert not len(outcome.latencies_ms)


def test_what_is_not_answered_by_the_deadline_is_no_success():
    with serving(Misbehaving(stall_at=1, stall_s=0.5)) as address:
        outcome = run_load(address, [REQUEST], LoadPlan(0.3, 0.0, rate_per_s=20, deadline_s=0.2))
    assert outcome.codes.get("DEADLINE_EXCEEDED", 0) >= 1


@contextlib.asynccontextmanager
async def calling(address: str, requests: list[LoadRequest], connections: int = 1) -> AsyncIterator[Callers]:
    callers = Callers(address, requests, connections, deadline_s=5.0)
    await callers.connect()
    try:
        yield callers
    finally:
        await callers.close()


async def test_what_left_so_late_that_its_answer_comes_after_the_deadline_is_no_success():
    """Its own call is in time, but whoever asked when it was due has gone."""
    with serving(Misbehaving()) as address:
        async with calling(address, [REQUEST]) as callers:
            callers.shuffle((5,))
            await callers.call(-5.5, lambda: 0.0, counts=True)
            await callers.call(-4.5, lambda: 0.0, counts=True)
            tally = callers.finished()
    assert tally.codes == {"DEADLINE_EXCEEDED": 1, "OK": 1}
    assert list(tally.latencies_s) == [4.5]


async def test_every_connection_sends_every_request_as_often_as_the_others():
    handler = Misbehaving()
    requests = [LoadRequest(REQUEST.method, bytes([10, 1, 97 + number])) for number in range(4)]
    with serving(handler) as address:
        async with calling(address, requests, connections=2) as callers:
            callers.shuffle((5,))
            for _ in range(16):
                await callers.call(0.0, lambda: 0.0, counts=True)
    by_connection = [Counter(handler.contents[lane::2]) for lane in range(2)]
    assert by_connection == [{request.content: 2 for request in requests}] * 2


def test_what_would_be_too_many_in_flight_is_not_sent():
    with serving(Misbehaving(stall_at=1, stall_s=0.6)) as address:
        outcome = run_load(address, [REQUEST], LoadPlan(0.5, 0.0, rate_per_s=100, most_in_flight=5))
    assert outcome.unsent_count > 10
    assert sum(outcome.codes.values()) == outcome.due_count - outcome.unsent_count


def generators() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # one that has just ended
            if "shitu_bench.load.generator" in process.cmdline():
                found.append(process)
    return found


def test_a_generator_that_dies_fails_the_run():
    def kill() -> None:
        while not (found := generators()):
            time.sleep(0.05)
        time.sleep(1.5)  # under load by then
        found[0].kill()

    with serving(Misbehaving()) as address:
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(BenchError, match="ended with status -9"):
            run_load(address, [REQUEST], LoadPlan(20, 0.0, rate_per_s=10, processes=2))
        killer.join()
    assert generators() == []


def measurement(
    ok: int, refused: int, *, gateway_s: float = 1.0, client_s: float = 0.1, duration_s: float = 10.0
) -> Measurement:
    made = tally([0.02 + number / 10_000 for number in range(ok)], [0.002] * refused)
    made.retry_after_s.extend(0.1 + number / 1000 for number in range(refused))
    made.cpu_s = client_s
    return Measurement(LoadPlan(duration_s), merged([made], duration_s), {"gateway 0": gateway_s, "triton": 3.0})


def test_goodput_is_adjusted_for_the_cpu_of_refusals_and_of_more_load():
    peak = measurement(1000, 0)
    refusing = measurement(100, 900, gateway_s=1.0)
    unloaded = measurement(500, 0)  # 2 ms of a gateway's CPU each: nothing is merged, as where nearly all is refused
    refusal_s = overload_figures.gateway_cpu_per_refusal_s(unloaded, refusing)
    assert refusal_s == pytest.approx((1.0 - 100 * 0.002) / 900)
    level = overload_figures.Level(2.0, measurement(900, 1000, client_s=0.4))
    figures = overload_figures.level_figures(level, peak, refusal_s)
    taken = (0.3 + 1000 * refusal_s) / (available_cores() * 10)
    assert figures["goodput_of_peak"] == 0.9
    assert figures["adjusted_goodput_of_peak"] == pytest.approx(0.9 / (1 - taken), abs=1e-3)
    assert figures["refused_share"] == pytest.approx(1000 / 1900, abs=1e-4)
    hints = figures["retry_hints_ms"]
    assert (hints["min"], hints["different_count"]) == (100.0, 1000)
    assert hints["p10"] == pytest.approx(199.9)


def test_a_level_is_compared_with_as_many_servers_as_work_at_a_time():
    unloaded = measurement(500, 0)  # 50/s: 20 ms
    peak = measurement(1000, 0)  # 100/s, so two at a time
    servers = overload_figures.servers_of(unloaded, [peak])
    assert servers == 2
    level = overload_figures.Level(0.8, measurement(800, 0))
    figures = overload_figures.queue_figures(level, unloaded, peak, servers, 5)
    assert (figures["arrivals_per_s"], figures["unloaded_latency_ms"]) == (80.0, 20.0)
    # Each run took 4.1 s of CPU: at the level for fewer answers, so that each was dearer there.
    for name, service_s, is_bound in (("of_the_peak", 0.02, False), ("of_the_level", 0.025, True)):
        compared = figures[name]
        assert compared["service_ms"] == pytest.approx(1000 * service_s)
        expected_ms = 1000 * predicted(min(80, 0.99 * 2 / service_s), service_s, 2, 5).p99_s
        assert compared["predicted_ms"]["p99"] == pytest.approx(expected_ms, abs=0.01)
        assert compared["p99_by_predicted"] == pytest.approx(figures["measured_ms"]["p99"] / expected_ms, rel=1e-3)
        assert compared["is_of_fewer_arrivals"] is is_bound, "80/s by two servers that do 40/s each is all of it"


def test_rounds_are_summed_up():
    def round_of(ok: int, refused: int) -> overload_figures.Round:
        levels = [overload_figures.Level(factor, measurement(ok, refused)) for factor in (0.8, 1.0)]
        return overload_figures.Round(measurement(1000, 0), tuple(levels))

    rounds = [
        overload_figures.round_figures(one, measurement(500, 0), 0.0, 2, 5)
        for one in (round_of(800, 0), round_of(700, 100), round_of(600, 300))
    ]
    summary = overload_figures.summary_figures(rounds)
    assert summary["peak"]["goodput_per_s"] == {"median": 100, "low": 100, "high": 100, "count": 3}
    level = summary["levels"][1]
    assert level["factor"] == 1.0
    assert level["goodput_of_peak"] == {"median": 0.7, "low": 0.6, "high": 0.8, "count": 3}
    assert level["refusal_p50_ms"] == {"median": 2, "low": 2, "high": 2, "count": 2}, "of the rounds that have some"
    (queue,) = summary["queue"]
    assert queue["of_the_peak.service_ms"]["median"] == 20
    assert overload_figures.summary_figures([rounds[0]])["levels"][0]["hint_p10_ms"] is None


def test_what_models_ran_for_nothing_is_counted():
    run = measurement(100, 0)
    run.outcome.codes["DEADLINE_EXCEEDED"] = 50
    figures = overload_figures.expiry_figures(overload_figures.Expiry(run, 120, 300))
    assert (figures["expired_count"], figures["detector_items_without_answer"]) == (50, 20)
    assert figures["expired_that_were_detected_share"] == 0.4


def sample(
    number: int,
    memory_bytes: float,
    *,
    descriptors: int = 10,
    files: int = 2,
    threads: int = 5,
    shared_bytes: int = MIB,
) -> Sample:
    part = PartUse(int(memory_bytes), int(memory_bytes), int(memory_bytes), descriptors, threads)
    return Sample(10.0 * number, {"gateway 0": part}, SharedMemoryUse(files, shared_bytes), number, 0)


def test_a_leak_is_told_from_noise():
    rng = np.random.default_rng(5)
    noise = rng.uniform(-0.2, 0.2, 360)
    still = growth_figures([sample(number, (100 + noise[number]) * MIB) for number in range(360)], 0)
    assert still["passed"]
    assert abs(still["memory_growth_percent"]) < 0.2
    leaking = [sample(number, (100 + noise[number] + number / 100) * MIB) for number in range(360)]
    figures = growth_figures(leaking, 0)
    assert not figures["passed"]
    assert figures["memory_growth_percent"] == pytest.approx(2.7, abs=0.2)  # between the middles of two quarters
    assert fitted_growth_percent(leaking, lambda one: one.pss_bytes) == pytest.approx(
        3.6, abs=0.2
    )  # over all of the time


@pytest.mark.parametrize("leak", ["descriptors", "files", "shared_bytes"])
def test_a_leak_of_descriptors_or_shared_memory_fails(leak):
    samples = [sample(number, 100 * MIB, **{leak: 10 + number // 20}) for number in range(80)]
    assert not growth_figures(samples, 0)["passed"]


@pytest.mark.parametrize(("most", "passes"), [(9, True), (10, False)])
def test_pools_of_threads_may_grow_a_little_and_no_more(most, passes):
    samples = [sample(number, 100 * MIB, threads=5 if number < 40 else most) for number in range(80)]
    assert growth_figures(samples, 0)["passed"] is passes


def test_errors_fail_a_soak_and_few_samples_say_nothing():
    samples = [sample(number, 100 * MIB) for number in range(8)]
    assert growth_figures(samples, 0)["passed"]
    assert not growth_figures(samples, 1)["passed"]
    with pytest.raises(ValueError, match="at least 8"):
        growth_figures(samples[1:], 0)


def test_samples_are_thinned_evenly_and_the_last_is_kept():
    kept = kept_samples([sample(number, MIB) for number in range(1001)])
    assert 120 <= len(kept) <= 150
    assert kept[-1]["elapsed_s"] == 10_000
    assert len({round(b["elapsed_s"] - a["elapsed_s"]) for a, b in zip(kept, kept[1:])}) == 1  # noqa: B905, RUF007


def test_cpu_of_a_part_that_was_started_again_counts_from_its_start():
    assert spent({"gateway 0": 5.0, "triton": 1.0}, {"gateway 0": 2.0, "triton": 4.0, "gallery": 1.0}) == {
        "gateway 0": 2.0,
        "triton": 3.0,
        "gallery": 1.0,
    }


def test_mixed_pictures_are_the_same_for_a_seed_and_differ_in_size_and_objects():
    shown = list(shelves(WorkloadKind.MIXED, 3, 5))
    assert [one.most_objects for one in shown] == [1, 2, 3]
    sizes = {recognition_size(one.content) for one in shown}
    assert len(sizes) == 3
    assert shown[0].content == next(shelves(WorkloadKind.MIXED, 3, 5)).content


def recognition_size(content: bytes) -> tuple[int, int]:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(content)).size


def test_zero_models_answer_each_picture_of_a_batch(tmp_path):
    place_zero_models(tmp_path)
    for spec in (ZERO_DET, ZERO_REC):
        session = onnxruntime.InferenceSession(tmp_path / spec.name / "1" / "model.onnx")
        pixels = np.zeros((2, spec.input_size, spec.input_size, 3), np.uint8)
        outputs = dict(zip([one.name for one in spec.outputs], session.run(None, {"pixels": pixels}), strict=True))
        assert {name: value.shape[1:] for name, value in outputs.items()} == {
            one.name: one.shape for one in spec.outputs
        }
        assert all(len(value) == 2 for value in outputs.values())
        if spec is ZERO_DET:
            assert (outputs["det_scores"] > spec.default_threshold).sum() == 2 * 3
        else:
            assert np.linalg.norm(outputs["embedding"], axis=1) == pytest.approx([1, 1])


def results_for_plots() -> dict[str, dict]:
    run = measurement(1000, 10).described()
    runs = [{**run, "offered_rate_per_s": rate} for rate in (20.0, 10.0)]
    levels = tuple(overload_figures.Level(factor, measurement(900, 100)) for factor in (0.5, 5.0))
    overload = overload_figures.round_figures(
        overload_figures.Round(measurement(1000, 0), levels), measurement(500, 0), 0.001, 2, 5
    )
    samples = [sample(number, 100 * MIB) for number in range(10)]
    soak = {"samples": kept_samples(samples), "verdict": growth_figures(samples, 0), "load_of_peak": 0.8}
    return {
        "load": {"runs": runs},
        "overload": {"summary": overload_figures.summary_figures([overload])},
        "soak": soak,
    }


@pytest.mark.parametrize("name", list(plots.PLOTS))
def test_plots_are_the_same_bytes_for_the_same_results(tmp_path, name):
    results = results_for_plots()[plots.PLOTS[name][0]]
    for file in ("a.svg", "b.svg"):
        plots.rendered(name, results, tmp_path / file)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in first
    assert b"<dc:date>" not in first


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["1000", "2000"]),
        ({trials.ACCELERATOR: "cuda"}, ["0", "2000"]),
        ({trials.DELAY: "2000"}, ["0", "1000"]),
    ],
)
def test_delays_are_tried_that_the_server_has_not(environment, expected):
    tried = trials._delays(ServerOptions(environment=environment), None)
    assert [one.environment[trials.DELAY] for one in tried] == expected


def test_a_part_that_ended_stands_in_the_table_of_a_soak():
    samples = [sample(number, 100 * MIB) for number in range(10)]
    ended = replace(samples[0], parts={**samples[0].parts, "gateway 7": next(iter(samples[0].parts.values()))})
    samples = [ended, ended, *samples[2:]]
    results = {
        "machine": {"processor": "abacus", "cores": 2},
        "workload": {"kind": "mixed"},
        "load_of_peak": 0.8,
        "peak_per_s": 50.0,
        "commit": "0123456789",
        "seed": 5,
        "run": measurement(1000, 10).described(),
        "samples": kept_samples(samples),
        "verdict": growth_figures(samples, 10),
    }
    table = soak_table(results)
    assert "of 10 samples" in table
    assert "Not passed: memory" in table
    assert "1,000 answered, 10 not" in table
    assert "| gateway 7 | 100.0 | 0.0 | -100.00% |" in table


class Deaf:
    """A server whose Triton answers a few times."""

    def __init__(self, answers: int) -> None:
        self._left = answers

    def executions(self):
        return {}

    def cpu_s(self):
        return {}

    def embedded_count(self) -> int:
        self._left -= 1
        if self._left < 0:
            raise BenchError("Triton does not answer")
        return 10 - self._left


def test_a_slice_in_which_triton_fell_silent_has_no_rate():
    watch = slices._Watch(Deaf(5), 0.001)
    watch.begin()
    watch._sampler.join(10)
    watch.end()
    with pytest.raises(BenchError, match="Triton does not answer"):
        watch.items_per_s()


def test_what_is_held_against_nothing_is_refused():
    with pytest.raises(BenchError, match=r"no request was answered at the peak: .*'RESOURCE_EXHAUSTED': 3"):
        answered(measurement(0, 3), "at the peak")
    some = measurement(1, 3)
    assert answered(some, "at the peak") is some


def run_command(command: Callable[..., None], *arguments: str) -> Result:
    app = typer.Typer()
    app.command()(saying_what_is_missing(command))
    return CliRunner().invoke(app, arguments)


def kept(*, out: Out = None) -> None:
    assert out is None or out.parent.is_dir()


@pytest.mark.parametrize(("path", "told"), [(".", "a file that can be written"), ("file/r.json", "cannot be made")])
def test_what_results_cannot_be_written_to_is_refused_before_anything_is_measured(tmp_path, path, told):
    (tmp_path / "file").touch()
    result = run_command(kept, "--out", str(tmp_path / path))
    assert result.exit_code == 2
    assert told in " ".join(result.output.replace("│", "").split())


def test_the_folder_of_results_is_made(tmp_path):
    assert run_command(kept, "--out", str(tmp_path / "new" / "r.json")).exit_code == 0


def test_a_package_that_is_missing_is_named_with_what_installs_it():
    def measure() -> None:
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

    result = run_command(measure)
    assert result.exit_code == 1
    assert "this needs yaml: pip install 'shitu[server,train,bench]'" in result.output


def test_a_module_of_ours_that_is_missing_is_a_fault():
    def measure() -> None:
        raise ModuleNotFoundError("No module named 'shitu_bench.gone'", name="shitu_bench.gone")

    assert isinstance(run_command(measure).exception, ModuleNotFoundError)
