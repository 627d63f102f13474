"""The parts of `shitu bench peers` that need no PaddleX."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from shitu_bench.commands import register
from shitu_bench.errors import BenchError
from shitu_bench.peers.agreement import Agreement, Finding
from shitu_bench.peers.environment import PeerConfiguration, PeerEnvironment, PeerModels
from shitu_bench.peers.galleries import GalleryItems
from shitu_bench.peers.http import HttpPlan, run_http_load
from shitu_bench.peers.paddlex import PeerServer
from shitu_bench.peers.pictures import _Candidate
from shitu_bench.peers.slices import Slice, SlicePlan, factors_of, measured_rounds, summary_of
from shitu_bench.peers.trials import Trial, tried

FINDING = Finding((10, 10, 110, 60), 0.7, {"tea": 0.9, "salt": 0.8})
MOVED = replace(FINDING, box=(11, 10, 111, 60))
ELSEWHERE = replace(FINDING, box=(300, 200, 360, 260))


def agreement_of(theirs, ours):
    agreement = Agreement()
    agreement.add("picture", theirs, ours)
    return agreement


def test_the_same_findings_in_any_order_agree():
    agreement = agreement_of([FINDING, ELSEWHERE], [ELSEWHERE, MOVED])
    assert agreement.faults == []
    assert (agreement.same_boxes, agreement.same_labels, agreement.their_objects) == (2, 2, 2)
    assert 0.9 < agreement.least_iou < 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ([FINDING, ELSEWHERE], [FINDING]),
        ([FINDING], [FINDING, MOVED]),
        ([FINDING], [replace(FINDING, box=(30, 10, 130, 60))]),
        ([], [FINDING]),
    ],
)
def test_other_boxes_are_a_fault(theirs, ours):
    assert len(agreement_of(theirs, ours).faults) == 1


def test_another_best_label_is_a_fault_unless_rounding_explains_it():
    other = replace(FINDING, matches={"salt": 0.95, "tea": 0.9})
    assert len(agreement_of([FINDING], [other]).faults) == 1
    alike = replace(FINDING, matches={"tea": 0.8999, "salt": 0.8998})
    swapped = replace(FINDING, matches={"salt": 0.8999, "tea": 0.8998})
    agreement = agreement_of([alike], [swapped])
    assert (agreement.faults, agreement.equal_labels, agreement.same_labels) == ([], 1, 0)


def test_an_empty_gallery_at_one_of_both_is_a_fault():
    nothing = replace(FINDING, matches={})
    assert len(agreement_of([FINDING], [nothing]).faults) == 1
    assert len(agreement_of([nothing], [FINDING]).faults) == 1
    assert agreement_of([nothing], [nothing]).faults == []


class Steady:
    """A rival that needs no server: answers at a rate, and notes what it was asked for."""

    def __init__(self, rate_per_s, log, name):
        self.rate_per_s, self.log, self.name, self.plans = rate_per_s, log, name, []

    def findings(self):
        return []

    def measured(self, plan, progress):
        progress(0.0, 0, 0)
        self.log.append(self.name)
        self.plans.append(plan)
        count = int(self.rate_per_s * plan.duration_s)
        latency_ms = 1000 * plan.concurrency / self.rate_per_s
        return Slice(plan.duration_s, {"OK": count}, [latency_ms] * count, 3 * count, 0.5 * count, 0.001 * count, 10)

    def cpu_s(self):
        return float(len(self.plans))


def rounds_of(count, end_s):
    log = []
    rivals = {"slow": Steady(4, log, "slow"), "fast": Steady(40, log, "fast")}
    plan = SlicePlan(6.0, concurrency=16)
    slices = measured_rounds(rivals, plan, count, end_s, lambda _name, _plan: lambda *_: None)
    return rivals, slices, log


def test_rivals_come_in_turns_and_the_slow_one_warms_up_until_all_callers_wait():
    rivals, slices, log = rounds_of(3, time.monotonic() + 60)
    assert log == ["slow", "fast", "slow", "fast", "fast", "slow", "slow", "fast"]
    assert [len(of) for of in slices.values()] == [3, 3]
    assert [plan.warm_up_s for plan in rivals["slow"].plans[1:]] == [pytest.approx(16 / 4 * 1.3)] * 3
    assert [plan.duration_s for plan in rivals["slow"].plans[1:]] == [pytest.approx(30 / 4)] * 3, "for 30 requests"
    assert [(plan.warm_up_s, plan.duration_s) for plan in rivals["fast"].plans[1:]] == [(2.0, 6.0)] * 3
    assert rivals["slow"].plans[0].warm_up_s == 0
    assert {one.idle_cpu_share for of in slices.values() for one in of} == {0}, "a rival's own clock is not another's"


def test_after_the_budget_two_rounds_are_measured_all_the_same():
    _, slices, _ = rounds_of(5, time.monotonic() - 1)
    assert [len(of) for of in slices.values()] == [2, 2]


def test_factors_are_ratios_of_pairs():
    _, slices, _ = rounds_of(4, time.monotonic() + 60)
    factors = factors_of(slices["fast"], slices["slow"])
    assert factors["throughput"] == {"median": 10, "low": 10, "high": 10, "count": 4}
    assert factors["p99"]["median"] == pytest.approx(10)
    summary = summary_of(slices["slow"])
    assert summary["rate_per_s"]["median"] == 4
    assert (summary["objects_per_picture"], summary["cpu_s_per_picture"]) == (3, 0.5)
    assert summary["codes"] == {"OK": 120}
    assert len(summary["slices"]) == 4


def test_a_rival_that_never_answers_has_no_factor():
    _, slices, _ = rounds_of(2, time.monotonic() + 60)
    silent = [replace(one, latencies_ms=[], codes={"TimeoutError": 3}) for one in slices["slow"]]
    assert factors_of(slices["fast"], silent) == {}
    assert summary_of(silent)["rate_per_s"]["median"] == 0


def rates(**by_field):
    """Rates of configurations: by the fields that differ from the default's, multiplied."""

    def try_one(configuration, _number):
        if configuration.is_plugin_used:
            return Trial(configuration, error="the plugin is missing")
        rate = 10.0
        for name, factors in by_field.items():
            rate *= factors.get(getattr(configuration, name), 1.0)
        return Trial(configuration, rate, (100.0, 200.0))

    return try_one


def test_the_fastest_configuration_is_found_step_by_step():
    fastest, trials = tried(rates(threads={2: 1.5, 1: 0.8}, encoder_batch={4: 1.2}, is_onednn_on={False: 0.3}), cores=2)
    assert fastest.configuration == PeerConfiguration(threads=2, encoder_batch=4)
    assert fastest.rate_per_s == pytest.approx(18)
    configurations = [trial.configuration for trial in trials]
    assert configurations[0] == PeerConfiguration(), "its own defaults are among what is tried"
    assert len(set(configurations)) == len(configurations)
    assert trials[-1].described()["error"] == "the plugin is missing"
    assert trials[0].described()["rate_per_s"] == 10


def test_several_processes_are_taken_where_they_are_faster():
    fastest, _ = tried(rates(processes={2: 1.5}, threads={2: 1.1}), cores=2)
    assert fastest.configuration == PeerConfiguration(threads=2, processes=2)


def test_no_configuration_that_works_is_an_error():
    with pytest.raises(BenchError, match="no configuration that was tried; the last one: it broke"):
        tried(lambda configuration, _: Trial(configuration, error="it broke"), cores=2)


class _PaddlexLike(http.server.BaseHTTPRequestHandler):
    """Answers as PaddleX does: bodies tell which way."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]]

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen[f"{self.path} {message['image']} {self.client_address[1]}"] += 1
        time.sleep(0.02)
        code = 500 if message["image"] == "bad" else 0
        result = {"result": {"detectedObjects": [{}, {}]}} if code == 0 else {}
        content = json.dumps({"errorCode": code, "errorMsg": "", **result}).encode()
        self.send_response(code or 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def paddlex_like():
    handler = type("Handler", (_PaddlexLike,), {"seen": Counter()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1], handler.seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Marks:
    """Notes when what counts begins and ends."""

    def __init__(self):
        self.times_s = []

    def begin(self):
        self.times_s.append(time.monotonic())

    end = begin


def test_http_load_keeps_connections_and_counts_what_was_sent_in_its_time():
    marks = Marks()
    with paddlex_like() as (port, seen):
        plan = HttpPlan("/shitu-infer", [b'{"image": "a"}', b'{"image": "b"}'], [port], 0.5, 0.2, concurrency=3)
        outcome = run_http_load(plan, None, marks)
    assert len({key.rpartition(" ")[2] for key in seen}) == 3, "one connection of each caller"
    assert {key.split(" ")[1] for key in seen} == {"a", "b"}
    assert outcome.codes == {"0": len(outcome.latencies_ms)}
    assert 5 < len(outcome.latencies_ms) < sum(seen.values()), "the warm-up does not count"
    assert outcome.object_count == 2 * len(outcome.latencies_ms)
    assert min(outcome.latencies_ms) >= 20
    assert marks.times_s[1] - marks.times_s[0] == pytest.approx(outcome.duration_s, abs=0.1)
    assert 0 < outcome.client_cpu_s < outcome.duration_s


def test_http_load_shares_callers_among_ports():
    with paddlex_like() as (first, seen_first), paddlex_like() as (second, seen_second):
        plan = HttpPlan("/x", [b'{"image": "a"}'], [first, second], 0.3, 0.0, concurrency=4)
        outcome = run_http_load(plan)
    assert seen_first
    assert seen_second
    assert len(outcome.latencies_ms) == sum(seen_first.values()) + sum(seen_second.values())


def test_http_errors_are_counted_by_what_they_are():
    with paddlex_like() as (port, _):
        outcome = run_http_load(HttpPlan("/x", [b'{"image": "bad"}'], [port], 0.3, 0.0, concurrency=2))
    assert list(outcome.codes) == ["500"]
    assert len(outcome.latencies_ms) == 0
    gone = run_http_load(HttpPlan("/x", [b"{}"], [port], 0.3, 0.0, concurrency=2))
    assert list(gone.codes) == ["ConnectionRefusedError"]
    assert gone.codes["ConnectionRefusedError"] < 20, "a server that is gone is not asked all the time"


def candidate(scores, boxes=None):
    places = [[60.0 * i, 0, 60.0 * i + 50, 50] for i in range(len(scores))]
    return _Candidate(b"", np.array(boxes or places, np.float32), np.array(scores, np.float32))


def test_pictures_are_chosen_by_clear_scores_and_separate_boxes():
    assert candidate([0.9, 0.8, 0.4]).fits(0.6)
    assert not candidate([0.9, 0.5, 0.4]).fits(0.6), "one object only"
    assert not candidate([0.9, 0.8, 0.601]).fits(0.6), "rounding could drop the third"
    assert not candidate([0.9] * 6).fits(0.6), "too many"
    close = [[0, 0, 100, 100], [0, 20, 100, 120], [300, 0, 350, 50]]
    assert not candidate([0.9, 0.8, 0.4], close).fits(0.6), "we drop one of two boxes of one thing"
    flat = [[0, 0, 100, 100], [200, 0, 300, 2], [300, 0, 350, 50]]
    assert not candidate([0.9, 0.8, 0.4], flat).fits(0.6), "PaddleX fails with crops of nothing"


def test_galleries_are_of_pictures_until_there_are_no_more():
    products = [("tea", b"1"), ("salt", b"2"), ("soap", b"3")]
    small, large = GalleryItems(products, 2, 5), GalleryItems(products, 5, 5)
    assert (small.are_pictures, small.labels) == (True, ["tea", "salt"])
    assert large.are_pictures is False
    assert large.labels == ["tea", "salt", "soap", "other-000003", "other-000004"]


def test_threads_that_are_not_its_own_need_the_script(tmp_path):
    python = tmp_path / "python"
    python.write_text("")
    environment = PeerEnvironment(python)
    assert environment.command(tmp_path, 1, PeerConfiguration())[1:4] == ["-m", "paddlex", "--serve"]
    assert environment.command(tmp_path, 1, PeerConfiguration(is_plugin_used=True))[-1] == "--use_hpip"
    assert environment.command(tmp_path, 1, PeerConfiguration(threads=2))[1].endswith("serving.py")
    assert environment.variables(is_onednn_on=False)["PADDLE_PDX_ENABLE_MKLDNN_BYDEFAULT"] == "0"


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no paddle here\nexit 3\n")
    python.chmod(0o755)
    models = PeerModels("rec", {"rec": tmp_path, "PP-ShiTuV2_det": tmp_path}, 0.5)
    server = PeerServer(PeerEnvironment(python), models, PeerConfiguration(), tmp_path / "server", tmp_path / "indexes")
    with pytest.raises(BenchError, match=r"did not start with 10 threads.*\nno paddle here"), server:
        pytest.fail("it must not be entered")


def test_a_missing_environment_says_how_to_make_it(tmp_path):
    app = typer.Typer()
    register(app)
    ended = CliRunner().invoke(app, ["bench", "peers", "--peer-python", str(tmp_path / "python")])
    assert ended.exit_code == 1
    assert "make peer" in ended.output
    assert not ended.stdout


def test_an_incomplete_environment_says_what_is_missing(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho No module named faiss >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(BenchError, match=r"run `make peer`. facts.py said:\nNo module named faiss"):
        PeerEnvironment(python).facts()


@pytest.mark.train
@pytest.mark.filterwarnings("ignore")
def test_maps_are_doubled_as_the_operator_does_it():
    paddle = pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
    from shitu_bench.peers.models import _doubled

    features = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32))
    wanted = paddle.nn.functional.interpolate(features, size=[8, 10], mode="nearest").numpy()
    np.testing.assert_array_equal(_doubled(features, size=[8, 10], mode="nearest").numpy(), wanted)
    with pytest.raises(ValueError, match="expected features 4 x 5 to be doubled"):
        _doubled(features, size=[9, 10], mode="nearest")
