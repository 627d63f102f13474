"""The commands under load against real servers with the demo models: short runs, whose figures must agree with one another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from shitu_bench.errors import BenchError
from shitu_bench.load.measurements import Target, measured
from shitu_bench.load.plans import LoadPlan, WorkloadKind
from shitu_bench.load.targets import foreign_target, target_of
from shitu_bench.serving.batch_sizes import run_every_batch_size
from shitu_bench.serving.batches import added
from shitu_bench.serving.processes import ServerProcesses
from shitu_bench.serving.server import BenchServer, ServerOptions
from shitu_bench.serving.workload import WorkloadOptions, prepared
from shitu_client import Client
from shitu_models.specs import DEMO_DET, DEMO_REC

SHORT = ("--pictures", "4", "--connections", "2")
OWN = (*SHORT, "--vectors", "100")
STOP_S = 30


@pytest.fixture(scope="module")
def bench_server() -> Iterator[BenchServer]:
    with BenchServer(ServerOptions(workers=2)) as running:
        yield running


@pytest.fixture(scope="module")
def target(bench_server: BenchServer) -> Target:
    return target_of(bench_server, WorkloadOptions(picture_count=4), Console())


def bench(*arguments: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shitu_client", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def results_of(path: Path, *arguments: str) -> dict[str, Any]:
    done = bench(*arguments, "--out", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    results = json.loads(path.read_text())
    assert {"machine", "versions", "commit", "seed"} <= set(results)
    return results


def test_batches_of_every_size_are_run(bench_server):
    address = bench_server.processes.triton_address()
    target = Target(bench_server.address, (), triton_address=address)
    before = target.executions()
    run_every_batch_size(address, [DEMO_DET.name, DEMO_REC.name])
    ran = added(before, target.executions())
    assert {name: model.counts for name, model in ran.items()} == {
        spec.name: dict.fromkeys(range(1, spec.max_batch + 1), 2) for spec in (DEMO_DET, DEMO_REC)
    }
    with pytest.raises(BenchError, match="nowhere"):
        run_every_batch_size(address, ["nowhere"])


def test_each_part_of_a_server_is_found(bench_server):
    processes = bench_server.processes
    parts = processes.parts()
    assert set(parts) == {
        "supervisor",
        "gallery",
        "triton",
        "stub demo_det",
        "stub demo_rec",
        "gateway 0",
        "gateway 1",
    }
    assert all(len(found) == 1 for found in parts.values())
    assert "demo_det" in Target(bench_server.address, (), triton_address=processes.triton_address()).executions()
    use = processes.use()
    assert all(part.rss_bytes >= part.pss_bytes >= part.uss_bytes > 1 << 20 for part in use.values())
    assert all(part.descriptor_count > 2 and part.thread_count > 0 for part in use.values())
    assert processes.shared_memory().file_count > 0
    found = ServerProcesses.listening_on(bench_server.port)
    assert found is not None
    assert found.parts() == parts


@pytest.mark.parametrize("plan", [LoadPlan(3.0, 0.0, rate_per_s=10), LoadPlan(3.0, 0.0, concurrency=3)])
def test_what_is_counted_is_what_triton_counts(target, plan):
    before = target.executions()
    run = measured(target, plan)
    models = added(before, target.executions())
    assert run.outcome.codes == {"OK": run.outcome.due_count}
    assert run.ok_count > 5
    assert models["demo_det"].item_count == run.ok_count
    assert models["demo_rec"].item_count == run.outcome.object_count == 3 * run.ok_count
    assert len(run.outcome.latencies_ms) == run.ok_count == len(run.outcome.stages_us["total"])
    # The server's own time is a part of what the client waited.
    slowest_us = max(run.outcome.stages_us["total"])
    assert slowest_us / 1000 < max(run.outcome.latencies_ms)
    assert run.cpu_s["stub demo_rec"] > run.cpu_s["supervisor"]
    assert run.gateway_cpu_s > 0
    assert run.described()["models"]["demo_det"]["mean_batch"] >= 1


def test_a_gallery_of_vectors_and_mixed_pictures(bench_server):
    options = WorkloadOptions(WorkloadKind.MIXED, picture_count=2, gallery="vectors", vector_count=300)
    requests = prepared(bench_server.address, options)
    assert len(requests) == 2
    with Client(bench_server.address) as client:
        assert client.get_gallery("vectors").item_count == 300
    run = measured(Target(bench_server.address, requests), LoadPlan(0.5, 0.0, concurrency=1))
    assert run.ok_count > 0
    assert not run.cpu_s
    with pytest.raises(BenchError, match="exists"):
        prepared(bench_server.address, options)


def test_a_server_that_runs_already_is_loaded_and_its_costs_are_seen(bench_server, target, tmp_path):
    assert target.requests
    found = foreign_target(bench_server.address, WorkloadOptions(picture_count=1), Console())
    assert found.processes is not None
    assert found.triton_address == target.triton_address
    results = results_of(
        tmp_path / "load.json",
        *("load", "--server", bench_server.address, "--gallery", "bench"),
        *("--rate", "5", "--rate", "10", "--duration", "1.5", "--warm-up", "0.2", *SHORT),
    )
    assert [run["offered_rate_per_s"] for run in results["runs"]] == [5, 10]
    for run in results["runs"]:
        assert run["codes"].get("OK", 0) > 0
        assert run["latency_ms"]["p50"] <= run["latency_ms"]["p99"]
        assert set(run["stages_us"]) == {"queue", "decode", "detect", "crop", "embed", "search", "total"}
        assert run["cpu_ms_per_answer"]["gateway 0"] >= 0
        assert run["late_ms"]["p50"] >= 0


def test_a_server_that_cannot_start_says_why():
    with pytest.raises(BenchError, match="nowhere"), BenchServer(ServerOptions(detector="nowhere")):
        pass


def test_a_server_that_cannot_be_run_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no_python"))
    with pytest.raises(FileNotFoundError, match="no_python"), BenchServer():
        pass


def test_variables_of_the_shell_do_not_reach_what_is_measured(monkeypatch):
    monkeypatch.setenv("SHITU_PORT", "none")
    monkeypatch.setenv("SHITU_MAX_PICTURES_AT_WORK", "0")
    with BenchServer() as running:
        variables = psutil.Process(running._process.pid).environ()
    assert {"SHITU_PORT", "SHITU_MAX_PICTURES_AT_WORK"}.isdisjoint(variables)


def test_a_setting_that_is_none_and_a_server_that_is_not_there_are_refused():
    wrong = bench("load", "--set", "OTHER=1")
    assert wrong.returncode == 2
    assert "SHITU_NAME=value" in wrong.stderr
    alone = bench("load", "--server", "127.0.0.1:1")
    assert alone.returncode == 2
    assert "--gallery" in alone.stderr
    useless = bench("load", "--server", "127.0.0.1:1", "--gallery", "g", "--set", "SHITU_PORT=1")
    assert useless.returncode == 2
    assert "runs already" in useless.stderr


def test_a_gallery_that_is_not_there_is_no_measurement(bench_server, tmp_path):
    out = tmp_path / "load.json"
    done = bench(
        *("load", "--server", bench_server.address, "--gallery", "nowhere", *SHORT),
        *("--duration", "0.5", "--warm-up", "0", "--out", str(out)),
    )
    assert done.returncode == 1
    assert "not a single request was answered: {'NOT_FOUND'" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_it_is_stopped(number):
    command = [sys.executable, "-m", "shitu_client", "bench", "load", "--rate", "5", "--duration", "100", *OWN]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            started = psutil.Process(process.pid)
            end_s = time.monotonic() + 60
            while not any("shitu_bench.load.generator" in cmdline(p) for p in started.children(recursive=True)):
                assert process.poll() is None
                assert time.monotonic() < end_s
                time.sleep(0.2)
            family = started.children(recursive=True)
            folders = [Path(word).parent for p in family for word in cmdline(p) if word.startswith("/tmp/shitu-bench-")]
            os.kill(process.pid, number)
            assert process.wait(STOP_S) != 0
            assert not alive(family)
            assert folders
            assert not any(folder.exists() for folder in folders)
        finally:
            process.kill()


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if cmdline(p)]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_overload_measures_every_level(tmp_path):
    results = results_of(
        tmp_path / "overload.json",
        *("overload", "--duration", "1.5", "--warm-up", "0", "--concurrency", "8", "--deadline", "5", *OWN),
        *("--rounds", "2"),
    )
    levels = [one["levels"] for one in results["rounds"]]
    assert [[level["factor"] for level in of_one] for of_one in levels] == [[0.5, 0.8, 1.0, 2.0, 5.0]] * 2
    most = levels[1][-1]
    assert most["refused_share"] > 0.2
    assert most["goodput_per_s"] > 0
    taken = max(0.0, most["refusals_cpu_share"] + most["generator_extra_cpu_share"])
    assert most["refusals_cpu_share"] > 0
    assert most["adjusted_goodput_of_peak"] == pytest.approx(most["goodput_of_peak"] / (1 - taken), rel=1e-2)
    assert most["retry_hints_ms"]["min"] > 0
    p99s_ms = [level["latency_ms"]["p99"] for level in levels[0]]
    assert levels[0][-1]["p99_by_that_at_1x"] == pytest.approx(p99s_ms[-1] / p99s_ms[2], rel=1e-2)
    assert results["summary"]["levels"][-1]["goodput_of_peak"]["count"] == 2
    assert 0 < results["gateway_cpu_ms_per_refusal"] < 20
    (queue,) = results["rounds"][0]["queue"]
    for compared in (queue["of_the_peak"], queue["of_the_level"]):
        expected = queue["measured_ms"]["p99"] / compared["predicted_ms"]["p99"]
        assert compared["p99_by_predicted"] == pytest.approx(expected, rel=1e-2)
    expiry = results["expiry"]
    assert expiry["detector_items"] >= expiry["codes"].get("OK", 0)
    assert sum(expiry["codes"].values()) == expiry["due_count"]


@pytest.mark.slow
def test_scaling_compares_workers_on_models_that_cost_nothing(tmp_path):
    results = results_of(
        tmp_path / "scaling.json", *("scaling", "--duration", "1", "--warm-up", "0.3", "--pairs", "2", "--pin", *OWN)
    )
    assert results["ratio"]["count"] == 2
    assert results["several"]["cpu_ms_per_answer"].keys() >= {"gateway 0", "gateway 1", "load generator", "triton"}
    assert results["one"]["rate_per_s"]["median"] > 20
    assert all(codes.get("OK", 0) > 0 for codes in results["several"]["codes"])


@pytest.mark.slow
def test_a_soak_samples_until_it_stops_by_itself(tmp_path):
    results = results_of(
        tmp_path / "soak.json",
        *("soak", "--duration", "20", "--warm-up", "2", "--interval", "1", "--peak-duration", "3", *OWN),
    )
    assert 15 <= len(results["samples"]) <= 21
    assert results["verdict"]["error_count"] == 0
    assert results["verdict"]["descriptor_growth"] == 0
    assert results["run"]["codes"]["OK"] > 100
    assert results["samples"][0]["parts"].keys() >= {"gateway 0", "stub demo_rec", "triton", "gallery", "supervisor"}
    short = bench("soak", "--duration", "20", "--interval", "10")
    assert short.returncode == 1
    assert "too short" in short.stderr
