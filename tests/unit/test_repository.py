from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from shitu_models.repository import RepositoryError, check_models, find_repository, weights_path
from shitu_models.specs import DEMO_REC
from shitu_models.triton_config import CONFIG_FILE, write_configs


def onnx_bytes() -> bytes:
    value = helper.make_tensor_value_info
    node = helper.make_node("Identity", ["pixels"], ["embedding"])
    graph = helper.make_graph(
        [node], "graph", [value("pixels", TensorProto.UINT8, ["N"])], [value("embedding", TensorProto.UINT8, ["N"])]
    )
    return helper.make_model(graph).SerializeToString()


@pytest.fixture
def repository(tmp_path):
    write_configs(tmp_path, [DEMO_REC])
    path = weights_path(tmp_path, DEMO_REC)
    path.parent.mkdir()
    path.write_bytes(onnx_bytes())
    return tmp_path


def test_whole_files_pass(repository):
    onnx.load(weights_path(repository, DEMO_REC))
    check_models(repository, [DEMO_REC])


def test_finds_the_one_of_the_checkout():
    assert find_repository() == Path(__file__).resolve().parents[2] / "model_repository"


def test_explicit_path_wins_and_must_be_a_folder(tmp_path):
    assert find_repository(tmp_path) == tmp_path.resolve()
    with pytest.raises(RepositoryError, match=r"nowhere is not a folder; give the folder"):
        find_repository(tmp_path / "nowhere")


def test_missing_weights_are_named(repository):
    weights_path(repository, DEMO_REC).unlink()
    with pytest.raises(RepositoryError, match=r"demo_rec: .*demo_rec/1/model\.onnx is missing; put"):
        check_models(repository, [DEMO_REC])


def test_a_configuration_is_tritons_container_alone_to_miss(repository):
    (repository / "demo_rec" / CONFIG_FILE).unlink()
    check_models(repository, [DEMO_REC])


def test_every_truncation_is_found(repository):
    path, whole = weights_path(repository, DEMO_REC), onnx_bytes()
    graph_end = whole.index(b"graph")  # a cut after the last field of the graph would still be a whole model
    for size in range(graph_end):
        path.write_bytes(whole[:size])
        with pytest.raises(RepositoryError, match=r"model\.onnx is no usable ONNX model: .*; convert or copy it again"):
            check_models(repository, [DEMO_REC])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "cut off|no protobuf field"),
        (b"\x00" * 100, "no protobuf field at byte 0 of 100"),
        (b"\xff" * 100, "no protobuf field at byte 0 of 100"),
        (b"\x08\x08", "it holds no graph"),
        (onnx_bytes()[:-1], "cut off"),
    ],
    ids=["empty", "lfs", "zeros", "ones", "no graph", "last byte"],
)
def test_damage_is_described(repository, content, fault):
    weights_path(repository, DEMO_REC).write_bytes(content)
    with pytest.raises(RepositoryError, match=fault):
        check_models(repository, [DEMO_REC])
