"""`shitu bench latency` and `shitu bench ceiling` with the demo models, for a few seconds each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(180)


def bench(*arguments: str) -> None:
    command = [sys.executable, "-m", "shitu_client", "bench", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr


def test_latency_of_the_demo_models(tmp_path):
    out = tmp_path / "latency.json"
    models = ["--model", "demo_det", "--model", "demo_rec"]
    bench("latency", *models, "--batch", "2", "--rounds", "2", "--budget-s", "1", "--threads", "1", "--out", str(out))
    results = json.loads(out.read_text())
    assert set(results["models"]) == {"demo_det", "demo_rec"}
    assert results["peak_flops"]["median"] >= max(one["median"] for one in results["peak_by"].values()) > 1e9
    for model in results["models"].values():
        assert set(model["batches"]) == {"1", "2"}
        single = model["batches"]["1"]
        assert 0.05 < single["fraction_of_peak"]["median"] < 1.2
        assert single["rate_per_s"]["median"] * single["latency_ms"]["median"] == pytest.approx(1000, rel=0.2)
    assert (results["threads"], results["tf32"], results["device"]) == (1, False, "cpu")
    assert any("GPU" in missing for missing in results["not_measured"])


def test_ceiling_of_the_demo_models(tmp_path):
    out = tmp_path / "ceiling.json"
    sizes = ["--pairs", "2", "--slice-s", "1.5", "--least-pictures", "8", "--pictures", "4", "--concurrency", "6"]
    bench("ceiling", "--pack", "demo", "--no-triton-alone", *sizes, "--out", str(out))
    results = json.loads(out.read_text())
    assert any("perf_analyzer" in missing for missing in results["not_measured"])
    figures = results["packs"]["demo"]
    assert figures["work_was_equal"]
    assert figures["objects_per_picture"] == 3
    assert len(figures["pairs"]) == 2
    for pair in figures["pairs"]:
        assert 0.2 < pair["ratio"] < 1.3
        assert pair["answers_per_s"] == pytest.approx(pair["rate_per_s"], rel=0.5)
        assert pair["ceiling_per_s"] == max(pair["ceiling_per_s_by_callers"].values())
        assert pair["ratio_without_generator"] > pair["ratio"]
        assert {"stub demo_det", "stub demo_rec", "gateway 0", "generator"} <= set(pair["cpu_s"])
        assert 1 <= pair["mean_batch"]["demo_det"] <= 6
