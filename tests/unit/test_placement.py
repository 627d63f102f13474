"""Placing a converted model: whole or not at all, a new version each time."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time

import pytest

pytest.importorskip("paddle", reason="needs the train extra: pip install 'shitu[train]'")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

from shitu_models.cards import ModelCard, Source, read_card  # noqa: E402
from shitu_models.repository import versions_of  # noqa: E402
from shitu_models.specs import DEMO_REC, Precision  # noqa: E402
from shitu_train.conversion.placement import check_fits, place  # noqa: E402
from shitu_train.errors import ConversionError  # noqa: E402

SPEC = dataclasses.replace(DEMO_REC, name="mine")


def card_of(content, spec=SPEC):
    digest = hashlib.sha256(content).hexdigest()
    return ModelCard(spec, DEMO_REC.name, Precision.FP32, digest, Source("layer", {}), 0.0, 1.0)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_each_conversion_becomes_a_version_with_its_card(tmp_path):
    for number, content in ((1, b"one"), (2, b"two")):
        folder = place(tmp_path, content, card_of(content))
        assert folder == tmp_path / "mine" / str(number)
        assert (folder / "model.onnx").read_bytes() == content
        assert read_card(folder / "model.json") == card_of(content)
    assert files(tmp_path) == [
        ".placing",
        "mine/1/model.json", "mine/1/model.onnx", "mine/2/model.json", "mine/2/model.onnx", "mine/config.pbtxt",
    ]  # fmt: skip


def test_the_same_weights_again_are_no_new_version(tmp_path):
    place(tmp_path, b"one", card_of(b"one"))
    assert place(tmp_path, b"one", card_of(b"one")) == tmp_path / "mine" / "1"
    place(tmp_path, b"two", card_of(b"two"))
    assert place(tmp_path, b"one", card_of(b"one")) == tmp_path / "mine" / "3", "going back is a version too"


def test_other_tensors_under_the_same_name_are_refused(tmp_path):
    place(tmp_path, b"one", card_of(b"one"))
    wider = dataclasses.replace(SPEC, embedding_dimension=64)
    with pytest.raises(ConversionError, match="give this one another --name"):
        place(tmp_path, b"two", card_of(b"two", wider))
    with pytest.raises(ConversionError, match=r"128 px to .* fp32, and this one is of .* bf16; give"):
        place(tmp_path, b"two", dataclasses.replace(card_of(b"two"), precision=Precision.BF16))
    assert versions_of(tmp_path, "mine") == (1,)
    check_fits(tmp_path, dataclasses.replace(SPEC, default_threshold=0.1), Precision.FP32)


def test_damaged_weights_are_placed_anew(tmp_path):
    folder = place(tmp_path, b"one", card_of(b"one"))
    (folder / "model.onnx").write_bytes(b"damaged")
    assert place(tmp_path, b"one", card_of(b"one")) == tmp_path / "mine" / "2"
    assert (tmp_path / "mine" / "2" / "model.onnx").read_bytes() == b"one"


def test_a_folder_that_lost_its_weights_is_passed_over(tmp_path):
    (tmp_path / "mine" / "4").mkdir(parents=True)
    assert place(tmp_path, b"one", card_of(b"one")) == tmp_path / "mine" / "5"


def test_what_a_killed_conversion_left_is_swept(tmp_path):
    for name, age_s in (("old", 7200), ("new", 60)):
        draft = tmp_path / f".draft-{name}"
        draft.mkdir()
        os.utime(draft, (time.time() - age_s,) * 2)
    place(tmp_path, b"one", card_of(b"one"))
    assert [path.name for path in tmp_path.glob(".draft-*")] == [".draft-new"]


@pytest.mark.parametrize("name", ["../outside", "a/b", "", ".hidden", "a" * 129])
def test_a_name_that_leads_out_of_the_repository_is_none(name):
    with pytest.raises(ValueError, match="the name of a model"):
        dataclasses.replace(SPEC, name=name)


def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shitu_train.conversion.placement.write_card", full)
    with pytest.raises(ConversionError, match="No space left on device; free the disk"):
        place(tmp_path, b"one", card_of(b"one"))
    assert files(tmp_path) == []


def test_a_configuration_that_somebody_tuned_is_kept(tmp_path):
    place(tmp_path, b"one", card_of(b"one"))
    (tmp_path / "mine" / "config.pbtxt").write_text("tuned", encoding="utf-8")
    place(tmp_path, b"two", card_of(b"two"))
    assert (tmp_path / "mine" / "config.pbtxt").read_text(encoding="utf-8") == "tuned"


def test_conversions_side_by_side_take_numbers_of_their_own(tmp_path):
    contents = [bytes([number]) * 1000 for number in range(8)]
    threads = [threading.Thread(target=place, args=(tmp_path, content, card_of(content))) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions_of(tmp_path, "mine") == tuple(range(1, 9))
    assert {(tmp_path / "mine" / str(n) / "model.onnx").read_bytes() for n in range(1, 9)} == set(contents)
