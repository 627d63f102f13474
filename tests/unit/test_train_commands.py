"""`shitu train`: what runs without Paddle, and errors in plain words."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from shitu_train.commands import commands
from shitu_train.cpu import configure_cpu


def run(*arguments):
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def test_render_writes_the_asked_amounts(tmp_path):
    result = run("render", tmp_path / "demo", "--products", 3, "--pictures", 2, "--scenes", 1, "--seed", 9)
    assert result.exit_code == 0, result.output
    assert len((tmp_path / "demo" / "gallery.txt").read_text(encoding="utf-8").splitlines()) == 6
    assert list(json.loads((tmp_path / "demo" / "test_truth.json").read_text(encoding="utf-8"))) == [
        "test_images/0000.jpg"
    ]


def test_evaluate_names_what_is_missing(tmp_path):
    (tmp_path / "scenes").mkdir()
    result = run("evaluate", "--scenes", tmp_path / "scenes")
    assert result.exit_code == 1
    assert "gallery.txt" in result.output
    assert "Traceback" not in result.output


@pytest.mark.train
def test_export_names_a_missing_checkpoint(tmp_path):
    pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
    command = [sys.executable, "-m", "shitu_train", "export", "demo_rec", "--checkpoint", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "train first" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_paddle_the_extra_is_named(tmp_path):
    (tmp_path / "paddle.py").write_text("raise ModuleNotFoundError('no paddle', name='paddle')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "shitu_train", "export", "demo_rec", "--checkpoint", "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "pip install 'shitu[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_threads_are_set_before_paddle_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddle", sys)
    with pytest.raises(RuntimeError, match="before paddle"):
        configure_cpu(2)
    with pytest.raises(ValueError, match="at least 1"):
        configure_cpu(0)
