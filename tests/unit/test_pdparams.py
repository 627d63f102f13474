"""Checkpoints are read without running what they hold."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

paddle = pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from shitu_train.conversion.pdparams import read_pdparams  # noqa: E402
from shitu_train.errors import ConversionError  # noqa: E402


class Hostile:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_what_paddle_saves_is_read(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    paddle.save(layer.state_dict(), str(tmp_path / "a.pdparams"))
    state = read_pdparams(tmp_path / "a.pdparams")
    assert set(state) == {"weight", "bias"}
    np.testing.assert_array_equal(state["weight"], layer.weight.numpy())


def test_arrays_of_numpy_of_any_protocol_are_read(tmp_path):
    wanted = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([1, 2])[::-1]}
    for protocol in range(2, 6):
        path = tmp_path / f"{protocol}.pdparams"
        path.write_bytes(pickle.dumps(wanted, protocol))
        for name, value in read_pdparams(path).items():
            np.testing.assert_array_equal(value, wanted[name])


def test_a_run_of_shitu_train_gives_its_model(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    state = {"model": layer.state_dict(), "spent_steps": 3, "description": {"seed": 1}}
    paddle.save(state, str(tmp_path / "run"))
    assert set(read_pdparams(tmp_path / "run")) == {"weight", "bias"}


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path = tmp_path / "evil.pdparams"
    path.write_bytes(pickle.dumps({"weight": np.zeros(2), "bias": Hostile(tmp_path / "made")}))
    with pytest.raises(ConversionError, match=r"asks for (posix|nt|os)\.mkdir"):
        read_pdparams(path)
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "made").exists(), "the file would have run code, so the refusal means something"


class FromBytes:
    """Unpickled by numpy itself, it is an array whose one object lies where these bytes say."""

    def __reduce__(self):
        return np.ndarray, ((1,), "O", b"A" * 8)


class WithDtype:
    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return np.dtype, (self.code, False, True)


@pytest.mark.parametrize("value", [FromBytes(), np.array([object], object), WithDtype("O8"), np.array(["text"])])
def test_arrays_of_anything_but_numbers_are_never_made(tmp_path, value):
    path = tmp_path / "evil.pdparams"
    path.write_bytes(pickle.dumps({"weight": value}))
    with pytest.raises(ConversionError, match="no checkpoint of Paddle, or damaged"):
        read_pdparams(path)


def test_an_array_that_is_larger_than_its_bytes_is_refused(tmp_path):
    content = pickle.dumps({"weight": np.arange(4, dtype=np.float32).reshape(2, 2)}, 2)
    assert content.count(b"K\x02K\x02\x86") == 1, "the shape (2, 2), as protocol 2 writes it"
    path = tmp_path / "evil.pdparams"
    path.write_bytes(content.replace(b"K\x02K\x02\x86", b"K\x02K\x7f\x86"))
    with pytest.raises(ConversionError, match="array of shape"):
        read_pdparams(path)


def test_reduced_precisions_are_widened_and_counters_refused(tmp_path):
    layer = paddle.nn.Linear(3, 2)
    wanted = layer.weight.numpy()
    for dtype, tolerance in (("bfloat16", 1e-2), ("float16", 1e-3), ("float64", 1e-7)):
        path = tmp_path / f"{dtype}.pdparams"
        paddle.save({"weight": layer.weight.astype(dtype)}, str(path))
        (found,) = read_pdparams(path).values()
        assert found.dtype == np.float32
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    paddle.save({"steps": paddle.to_tensor([3])}, str(tmp_path / "int.pdparams"))
    with pytest.raises(ConversionError, match=r"expected arrays of floats by name.*'steps'"):
        read_pdparams(tmp_path / "int.pdparams")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no checkpoint of Paddle, or damaged"),
        (b"PK\x03\x04 a zip of another framework", "no checkpoint of Paddle, or damaged"),
        (pickle.dumps([1, 2]), "expected a dictionary of whole arrays"),
        (pickle.dumps({"weight": np.zeros(2), "UnpackBigParamInfor@@": {}}), "expected a dictionary of whole arrays"),
        (pickle.dumps({"weight": np.zeros(2), "step": 3}), r"got something else for \['step'\]"),
        (pickle.dumps({}), "got something else for all"),
        (pickle.dumps({"weight": np.zeros(1000)})[:-500], "no checkpoint of Paddle, or damaged"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, message):
    path = tmp_path / "x.pdparams"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=message):
        read_pdparams(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConversionError, match=r"none\.pdparams cannot be read: No such file"):
        read_pdparams(tmp_path / "none.pdparams")
