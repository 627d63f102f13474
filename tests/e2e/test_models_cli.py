"""`shitu models` as a user runs it: from official files on a real server to a model that is served, and every refusal on the way."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.file_server import Behaviour, FileServer, running
from tests.placed_models import CHECKOUT_MODELS

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from tests.official_models import write_checkpoint  # noqa: E402

from shitu_models.downloads.sources import OFFICIAL  # noqa: E402

NAME = "PP-ShiTuV2_rec"
CHECKPOINT, EXPORTED = OFFICIAL[NAME].checkpoint.path, OFFICIAL[NAME].inference.path


@dataclass(frozen=True)
class Machine:
    """One user's machine: a home of its own, and a mirror that it may reach."""

    home: Path
    server: FileServer

    @property
    def repository(self) -> Path:
        return self.home / "models"

    @property
    def lock(self) -> dict:
        return json.loads((self.home / "data" / "shitu" / "downloads.lock").read_text(encoding="utf-8"))

    def run(self, *arguments: str | Path, expect: int = 0) -> str:
        environment = {
            **os.environ,
            "XDG_DATA_HOME": str(self.home / "data"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "SHITU_MIRROR": self.server.base,
            "SHITU_MODEL_REPOSITORY": str(self.repository),
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "shitu_client", "models", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The files that the mirror holds, by path: made of random weights."""
    folder = tmp_path_factory.mktemp("official")
    checkpoint = write_checkpoint(NAME, folder)
    exported = folder / f"{NAME}_infer"
    command = [sys.executable, "-m", "shitu_client", "models", "export", str(checkpoint), str(exported)]
    subprocess.run(command, check=True, capture_output=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(exported, exported.name)
    return {CHECKPOINT: checkpoint.read_bytes(), EXPORTED: buffer.getvalue()}


@pytest.fixture
def machine(tmp_path, official):
    server = FileServer()
    server.files.update({f"/{path}": content for path, content in official.items()})
    with running(server):
        (tmp_path / "models").mkdir()
        yield Machine(tmp_path, server)


def weights_of(machine: Machine, version: int = 1) -> Path:
    return machine.repository / NAME / str(version) / "model.onnx"


def test_official_weights_to_a_model_in_one_command(machine):
    told = machine.run("pull", NAME)
    assert "serve it with: shitu serve --encoder PP-ShiTuV2_rec" in told
    assert set(machine.lock) == {CHECKPOINT}
    assert weights_of(machine).exists()
    assert "checkpoint: PP-ShiTuV2_rec_pretrained.pdparams" in machine.run("info", NAME)
    assert "ok" in machine.run("verify", NAME)
    machine.server.files.clear()
    again = machine.run("pull", NAME)  # what is here is checked, not asked for again
    assert "version 1" in again
    assert [asked.path for asked in machine.server.asked] == [f"/{CHECKPOINT}"]


def test_the_exported_directory_gives_the_same_model_to_the_last_bit(machine):
    machine.run("pull", NAME)
    told = machine.run("pull", NAME, "--exported")
    assert "inference: inference.json, inference.pdiparams, inference.yml" in told
    assert "version 1" in told
    assert not weights_of(machine, 2).exists()


def test_an_interrupted_pull_goes_on_where_it_was(machine, official):
    half = len(official[CHECKPOINT]) // 2
    machine.server.script.extend([Behaviour(cut_after=half), Behaviour(status=404)])
    told = machine.run("pull", NAME, expect=1)
    assert "HTTP 404" in told
    assert not (machine.repository / NAME).exists()
    machine.run("pull", NAME)
    assert machine.server.asked[-1].start == half
    assert weights_of(machine).exists()


def test_other_bytes_than_those_seen_first_are_refused(machine, official):
    machine.run("pull", NAME, "--download-only")
    first = machine.lock[CHECKPOINT]["sha256"]
    (machine.home / "cache" / "shitu" / "downloads" / Path(CHECKPOINT).name).unlink()
    machine.server.files[f"/{CHECKPOINT}"] = official[CHECKPOINT][:-1] + b"\0"
    told = machine.run("pull", NAME, expect=1)
    assert first in told
    assert not (machine.repository / NAME).exists()
    assert machine.lock[CHECKPOINT]["sha256"] == first


def test_a_tar_that_leads_out_is_refused(machine):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("../../evil")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    machine.server.files[f"/{EXPORTED}"] = buffer.getvalue()
    assert "evil" in machine.run("pull", NAME, "--exported", expect=1)
    assert not list(machine.home.parent.rglob("evil"))
    assert not (machine.repository / NAME).exists()


def test_a_local_file_is_enough_without_a_network(machine, official):
    file = machine.home / "from_a_colleague.pdparams"
    file.write_bytes(official[CHECKPOINT])
    machine.run("pull", NAME, "--from-file", file)
    assert machine.server.asked == []
    assert set(machine.lock) == {CHECKPOINT}
    assert "one model" in machine.run("pull", "all", "--from-file", file, expect=1)


def test_int8_says_what_it_changes(machine):
    demo = CHECKOUT_MODELS / "demo_rec" / "1" / "model.onnx"
    assert "no checkpoint of Paddle" in machine.run("convert", demo, "--precision", "int8", expect=1)
    assert "those of convolutions" in machine.run("pull", NAME, "--precision", "int8", expect=1)
    assert not (machine.repository / f"{NAME}_int8").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "PP-ShiTuV9"), "none of PaddleX's models (PP-ShiTuV2_det"),
        (("pull", "PP-ShiTuV2_det"), "HTTP 404"),
        (("pull", NAME, "--mirror", "ftp://example"), "mirror"),
        (("convert", "/nowhere"), "is not there; give a .pdparams file"),
        (("convert", CHECKOUT_MODELS), "expected one inference.json"),
        (("verify", NAME), "is missing; run `shitu models pull PP-ShiTuV2_rec`"),
        (("info", "mine"), "unknown model 'mine'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value[:2])),
)
def test_what_cannot_be_done_is_said_plainly(machine, arguments, message):
    assert message in machine.run(*arguments, expect=1)


def test_damage_is_found_by_verify(machine):
    machine.run("pull", NAME)
    source = machine.home / "cache" / "shitu" / "downloads" / Path(CHECKPOINT).name
    assert "in Paddle: difference" in machine.run("verify", NAME, "--source", source)
    model = onnx.load(weights_of(machine))
    (bias,) = [t for t in model.graph.initializer if numpy_helper.to_array(t).shape == (512,)][:1]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    onnx.save(model, weights_of(machine))
    assert "convert the model again" in machine.run("verify", NAME, expect=1)
    card = weights_of(machine).with_name("model.json")
    card.write_text(card.read_text(encoding="utf-8").replace('"precision"', '"precise"'), encoding="utf-8")
    assert "is no description of a model" in machine.run("verify", NAME, expect=1)
    card.unlink()
    assert "expected a difference under" in machine.run("verify", NAME, "--source", source, expect=1)


def test_without_paddle_the_extra_is_named(tmp_path):
    (tmp_path / "paddle.py").write_text("raise ModuleNotFoundError('no paddle', name='paddle')", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-m", "shitu_client", "models", "convert", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "pip install 'shitu[train]'" in done.stderr
    command[-2:] = ["info", NAME]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
