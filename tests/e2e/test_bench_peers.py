"""`shitu bench peers` with PaddleX itself: a short run, whole, and what is left of it after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from tests.peer.interpreter import peer_python

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(1800)]

ENCODER = "PP-ShiTuV2_rec"
AT_START = "paddlex, index at start"
MARK = "SHITU_BENCH_PEERS_TEST"
SHORT = ("--encoder", ENCODER, "--pairs", "2", "--slice", "2", "--trial", "1", "--clients", "4", "--budget", "60")


def started(tmp_path, *options):
    """Start the command in a session of its own, so that what it leaves behind is found by its environment."""
    command = [sys.executable, "-m", "shitu_client", "bench", "peers", *SHORT, *options]
    python = peer_python("paddlex", "paddle", "faiss", "fastapi", "uvicorn")
    with (tmp_path / "log").open("w") as log:
        return subprocess.Popen(
            [*command, "--peer-python", str(python)],
            stdout=log,
            stderr=log,
            env={**os.environ, MARK: str(tmp_path)},
            start_new_session=True,
        )


def left_over(tmp_path):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(tmp_path):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What one short run said and wrote."""
    folder = tmp_path_factory.mktemp("peers")
    process = started(folder, "--gallery-size", "100", "--gallery-size", "2000", "--out", str(folder / "peers.json"))
    try:
        code = process.wait(1500)
    finally:
        process.kill()
    told = (folder / "log").read_text()
    assert code == 0, told
    return folder, told, json.loads((folder / "peers.json").read_text())


def test_both_do_the_same_work(run):
    _, _, results = run
    counts = results["pictures"]["object_counts"]
    assert len(counts) == 16
    assert all(2 <= count <= 5 for count in counts)
    assert sum(counts) / len(counts) == pytest.approx(3, abs=0.25)
    galleries = results["encoders"][ENCODER]["galleries"]
    assert {size: set(gallery["agreement"]) for size, gallery in galleries.items()} == {
        "100": {"paddlex"},
        "2000": {"paddlex", AT_START},
    }
    for gallery in galleries.values():
        for agreement in gallery["agreement"].values():
            assert agreement["faults"] == []
            assert agreement["same_boxes"] == agreement["their_objects"] == agreement["our_objects"] == sum(counts)
            assert agreement["same_labels"] + agreement["equal_labels"] == sum(counts)
            assert agreement["max_match_difference"] < 1e-3


def test_both_are_measured_alike(run):
    _, told, results = run
    for gallery in results["encoders"][ENCODER]["galleries"].values():
        for name, rival in gallery["rivals"].items():
            assert set(rival["codes"]) <= {"0", "OK"}
            assert rival["rate_per_s"]["count"] == len(rival["slices"]) == 2
            assert rival["rate_per_s"]["median"] > 0
            assert 2 <= rival["objects_per_picture"] <= 4
            assert rival["cpu_s_per_picture"] > 0
            assert rival["client_cpu_share"] < 0.1, name
            assert rival["memory_bytes"] > 2**26
        assert set(gallery["factors"]) == set(gallery["rivals"]) - {"shitu"}
        assert all(factor["throughput"]["count"] == 2 for factor in gallery["factors"].values())
    assert "Detector and PP-ShiTuV2_rec" in told


def test_the_configuration_is_the_fastest_of_those_tried(run):
    _, _, results = run
    found = results["encoders"][ENCODER]["paddlex"]
    works = [trial for trial in found["tried"] if "rate_per_s" in trial]
    assert found["configuration"] == max(works, key=lambda trial: trial["rate_per_s"])["configuration"]
    assert {trial["is_onednn_on"] for trial in works} == {True, False}
    assert {trial["processes"] for trial in works} > {1}
    assert len({trial["threads"] for trial in works}) > 1
    assert results["paddlex"]["versions"]["paddlex"]
    assert results["versions"]["shitu"]


def test_nothing_is_left_running(run):
    folder, _, _ = run
    assert left_over(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("run")  # which made the models
def test_nothing_is_left_running_after_an_end_in_the_middle(tmp_path, number):
    process = started(tmp_path, "--gallery-size", "100")
    end_s = time.monotonic() + 300
    while not any("serving" in line or "--serve" in line for line in left_over(tmp_path)):
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end_s
        time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(60) != 0
    end_s = time.monotonic() + 30
    while left_over(tmp_path) and time.monotonic() < end_s:
        time.sleep(0.2)
    assert left_over(tmp_path) == []
