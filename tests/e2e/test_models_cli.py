"""`shitu models` as a user runs it: from official files on a real server to a model that is served, and every refusal on the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper
from tests.file_server import Behaviour, FileServer, running
from tests.placed_models import CHECKOUT_MODELS
from typer.testing import CliRunner

paddle = pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from shitu_bench.models.official_layers import write_checkpoint  # noqa: E402
from shitu_models.downloads.sources import OFFICIAL  # noqa: E402
from shitu_train.models import pulls  # noqa: E402
from shitu_train.models.commands import commands  # noqa: E402

NAME = "PP-ShiTuV2_rec"
CHECKPOINT, EXPORTED = OFFICIAL[NAME].checkpoint.path, OFFICIAL[NAME].inference.path
PADDLECLAS = OFFICIAL[NAME].paddleclas


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

    @property
    def environment(self) -> dict[str, str]:
        return {
            "XDG_DATA_HOME": str(self.home / "data"),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "TMPDIR": str(self.home / "tmp"),
            "SHITU_MIRROR": self.server.base,
            "SHITU_MODEL_REPOSITORY": str(self.repository),
            "COLUMNS": "200",
        }

    def run(self, *arguments: str | Path, expect: int = 0) -> str:
        """What a process of its own says."""
        command = [sys.executable, "-m", "shitu_client", "models", *map(str, arguments)]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def call(self, *arguments: str | Path, expect: int = 0) -> str:
        """What the same command says in this process, which has imported Paddle already: seconds less."""
        done = CliRunner().invoke(commands, [*map(str, arguments)], env=self.environment)
        assert done.exit_code == expect, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The files that the mirror holds, by path: made of random weights."""
    folder = tmp_path_factory.mktemp("official")
    checkpoint = write_checkpoint(NAME, folder)
    exported = folder / f"{NAME}_infer"
    command = [sys.executable, "-m", "shitu_client", "models", "export", str(checkpoint), str(exported)]
    subprocess.run(command, check=True, capture_output=True)
    return {CHECKPOINT: checkpoint.read_bytes(), EXPORTED: tar_of(exported)}


def tar_of(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, folder.name)
    return buffer.getvalue()


@pytest.fixture
def machine(tmp_path, official):
    server = FileServer()
    server.files.update({f"/{path}": content for path, content in official.items()})
    with running(server):
        for name in ("models", "tmp"):
            (tmp_path / name).mkdir()
        yield Machine(tmp_path, server)


def weights_of(machine: Machine, version: int = 1) -> Path:
    return machine.repository / NAME / str(version) / "model.onnx"


def test_checkpoint_and_exported_directory_give_the_same_model_in_one_command(machine):
    told = machine.run("pull", NAME)
    assert "serve it with: shitu serve --encoder PP-ShiTuV2_rec" in told
    assert set(machine.lock) == {CHECKPOINT}
    assert "checkpoint: PP-ShiTuV2_rec_pretrained.pdparams" in machine.call("info", NAME)
    steps = machine.run("verify", NAME)
    assert f"ok sha256 {hashlib.sha256(weights_of(machine).read_bytes()).hexdigest()}, as its card says" in steps
    for batch in (1, 2, 8):
        assert f"ok batch {batch}: ({batch}, 512), all finite" in steps
    told = machine.run("pull", NAME, "--source", "exported")
    assert "inference: inference.json, inference.pdiparams, inference.yml" in told
    assert "version 1" in told  # the same to the last bit
    assert not weights_of(machine, 2).exists()
    machine.server.files.clear()
    again = machine.call("pull", NAME, "--download-only")  # what is here is checked, not asked for again
    assert again.strip().endswith(Path(CHECKPOINT).name)
    assert [asked.path for asked in machine.server.asked] == [f"/{CHECKPOINT}", f"/{EXPORTED}"]


def test_a_tar_of_paddleclas_is_pulled_by_its_known_digest(machine, official, monkeypatch):
    """One whose files have PaddleDetection's names, and whose yml does not say which model it is."""
    with tarfile.open(fileobj=io.BytesIO(official[EXPORTED])) as archive:
        archive.extractall(machine.home, filter="data")
    folder = machine.home / f"{NAME}_infer"
    for ending in (".json", ".pdiparams"):
        (folder / f"inference{ending}").rename(folder / f"model{ending}")
    config = yaml.safe_load((folder / "inference.yml").read_text(encoding="utf-8"))
    del config["Global"]
    (folder / "inference.yml").rename(folder / "infer_cfg.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tar = tar_of(folder)
    known = replace(PADDLECLAS, sha256=hashlib.sha256(tar).hexdigest())
    monkeypatch.setattr(pulls, "OFFICIAL", {NAME: replace(OFFICIAL[NAME], paddleclas=known)})
    machine.server.files[f"/{PADDLECLAS.path}"] = tar
    told = machine.call("pull", NAME, "--source", "paddleclas")
    assert "inference: model.json, model.pdiparams, infer_cfg.yml" in told
    assert set(machine.lock) == {PADDLECLAS.path}


def test_an_interrupted_pull_goes_on_where_it_was(machine, official):
    half = len(official[CHECKPOINT]) // 2
    machine.server.script.extend([Behaviour(cut_after=half), Behaviour(status=404)])
    told = machine.call("pull", NAME, expect=1)
    assert "HTTP 404" in told
    assert not (machine.repository / NAME).exists()
    machine.run("pull", NAME)
    assert machine.server.asked[-1].start == half
    assert weights_of(machine).exists()


def test_other_bytes_than_those_seen_first_are_refused(machine, official):
    machine.call("pull", NAME, "--download-only")
    first = machine.lock[CHECKPOINT]["sha256"]
    (machine.home / "cache" / "shitu" / "downloads" / Path(CHECKPOINT).name).unlink()
    machine.server.files[f"/{CHECKPOINT}"] = official[CHECKPOINT][:-2] + b"\0."
    told = machine.call("pull", NAME, expect=1)
    assert first in told
    assert not (machine.repository / NAME).exists()
    assert machine.lock[CHECKPOINT]["sha256"] == first


def test_garbage_does_not_lock_out_the_genuine_file(machine, official):
    file = machine.home / Path(CHECKPOINT).name
    file.write_bytes(b"garbage")
    assert "expected a checkpoint of Paddle" in machine.call("pull", NAME, "--from-file", file, expect=1)
    machine.server.script.append(Behaviour(content=b"<html>Log in first</html>"))
    assert "it is an HTML page" in machine.call("pull", NAME, expect=1)
    machine.call("pull", NAME, "--download-only")
    assert machine.lock[CHECKPOINT]["sha256"] == hashlib.sha256(official[CHECKPOINT]).hexdigest()


def test_a_tar_that_leads_out_is_refused(machine):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("../../evil", "../evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
    machine.server.files[f"/{EXPORTED}"] = buffer.getvalue()
    told = machine.run("pull", NAME, "--source", "exported", expect=1)
    assert not list(machine.home.rglob("evil"))  # it is unpacked in TMPDIR, which is in this home
    assert "evil" in told
    assert not (machine.repository / NAME).exists()


def test_a_local_file_is_enough_without_a_network(machine, official):
    file = machine.home / Path(CHECKPOINT).name
    file.write_bytes(official[CHECKPOINT])
    machine.run("pull", NAME, "--from-file", file)  # SHITU_MIRROR is set, and says nothing to it
    assert machine.server.asked == []
    assert set(machine.lock) == {CHECKPOINT}
    assert weights_of(machine).exists()
    assert "one model" in machine.call("pull", "all", "--from-file", file, expect=1)


@pytest.mark.parametrize(
    "option",
    [("--mirror", "http://mirror/"), ("--proxy", "http://p:1"), ("--source", "exported"), ("--downloads", ".")],
)
def test_what_a_local_file_would_ignore_is_refused(machine, official, option):
    file = machine.home / Path(CHECKPOINT).name
    file.write_bytes(official[CHECKPOINT])
    told = machine.call("pull", NAME, "--download-only", "--from-file", file, *option, expect=1)
    assert f"expected no {option[0]} beside it" in told


def test_the_name_of_a_local_file_says_which_one_it_is(machine, official):
    tar = official[EXPORTED]
    for key in (CHECKPOINT, EXPORTED, PADDLECLAS.path):
        (machine.home / Path(key).name).write_bytes(official.get(key, tar))
    machine.call("pull", NAME, "--download-only", "--from-file", machine.home / Path(EXPORTED).name)
    told = machine.call("pull", NAME, "--download-only", "--from-file", machine.home / PADDLECLAS.name, expect=1)
    assert PADDLECLAS.sha256 in told
    assert hashlib.sha256(tar).hexdigest() in told
    assert set(machine.lock) == {EXPORTED}
    mine = (machine.home / PADDLECLAS.name).rename(machine.home / "mine.tar")
    told = machine.call("pull", NAME, "--download-only", "--from-file", mine, expect=1)
    for named in (Path(CHECKPOINT).name, Path(EXPORTED).name, PADDLECLAS.name, "mine.tar"):
        assert named in told
    assert set(machine.lock) == {EXPORTED}


def test_weights_that_do_not_fit_leave_no_digest_behind(machine, official):
    file = machine.home / Path(CHECKPOINT).name
    paddle.save({"weight": paddle.ones([2, 2])}, str(file))
    told = machine.call("pull", NAME, "--from-file", file, expect=1)
    assert f"{file} does not hold the weights of {NAME}" in told
    file.write_bytes(official[CHECKPOINT])
    machine.call(
        "pull", NAME, "--from-file", file, "--precision", "int8", expect=1
    )  # genuine, and refused for another reason
    machine.run("pull", NAME, "--from-file", file)
    assert "is the name of another model" in machine.call("convert", file, "--name", "PP-ShiTuV2_det", expect=1)


def test_int8_says_what_it_changes(machine):
    demo = CHECKOUT_MODELS / "demo_rec" / "1" / "model.onnx"
    assert "no checkpoint of Paddle" in machine.call("convert", demo, "--precision", "int8", expect=1)
    assert "those of convolutions" in machine.call("pull", NAME, "--precision", "int8", expect=1)
    assert not (machine.repository / f"{NAME}_int8").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "PP-ShiTuV9"), "none of PaddleX's models (PP-ShiTuV2_det"),
        (("pull", "PP-ShiTuV2_det"), "HTTP 404"),
        (("pull", NAME, "--mirror", "ftp://example"), "mirror"),
        (("pull", NAME, "PP-ShiTuV2_rec_CLIP_vit_base", "--source", "paddleclas"), "none; it has checkpoint, exported"),
        (("convert", "/nowhere"), "is not there; give a .pdparams file"),
        (("convert", CHECKOUT_MODELS), "expected one inference.json"),
        (("verify", NAME), "is missing; run `shitu models pull PP-ShiTuV2_rec`"),
        (("info", "mine"), "unknown model 'mine'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value[:2])),
)
def test_what_cannot_be_done_is_said_plainly(machine, arguments, message):
    assert message in machine.call(*arguments, expect=1)


def test_damage_is_found_by_verify(machine):
    machine.call("pull", NAME)
    source = machine.home / "cache" / "shitu" / "downloads" / Path(CHECKPOINT).name
    assert "in Paddle: difference" in machine.call("verify", NAME, "--source", source)
    model = onnx.load(weights_of(machine))
    (bias,) = [t for t in model.graph.initializer if numpy_helper.to_array(t).shape == (512,)][:1]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.5), bias.name))
    onnx.save(model, weights_of(machine))
    assert "convert the model again" in machine.call("verify", NAME, expect=1)
    card = weights_of(machine).with_name("model.json")
    card.write_text(card.read_text(encoding="utf-8").replace('"precision"', '"precise"'), encoding="utf-8")
    assert "is no description of a model" in machine.call("verify", NAME, expect=1)
    card.unlink()
    assert "expected a difference under" in machine.call("verify", NAME, "--source", source, expect=1)


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
