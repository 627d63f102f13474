"""What is official, and where."""

from __future__ import annotations

import pytest

from shitu_models.downloads.remote_file import RemoteFile
from shitu_models.downloads.sources import OFFICIAL, PADDLECLAS_BASE, PADDLEX_BASE, SourceKind
from shitu_models.specs import OFFICIAL_SPECS

ALL = [file for source in OFFICIAL.values() for file in source.files.values()]


def test_every_official_model_has_a_source_and_nothing_else_has():
    assert list(OFFICIAL) == [spec.name for spec in OFFICIAL_SPECS]


@pytest.mark.parametrize("name", OFFICIAL)
def test_addresses_are_those_of_paddlex(name):
    source = OFFICIAL[name]
    assert source.checkpoint.url() == f"{PADDLEX_BASE}official_pretrained_model/{name}_pretrained.pdparams"
    assert source.inference.url() == f"{PADDLEX_BASE}official_inference_model/paddle3.0.0/{name}_infer.tar"


def test_a_mirror_has_the_same_paths():
    checkpoint = OFFICIAL["PP-ShiTuV2_rec"].checkpoint
    assert checkpoint.url("http://mirror:8080/copies") == "http://mirror:8080/copies/" + checkpoint.path


def test_no_two_files_share_a_key_or_a_name():
    assert len({file.path for file in ALL}) == len(ALL)
    assert len({file.name for file in ALL}) == len(ALL)


def test_what_paddleclas_has():
    files = {name: source.files.get(SourceKind.PADDLECLAS) for name, source in OFFICIAL.items()}
    with_one = {name: file for name, file in files.items() if file}
    assert list(with_one) == ["PP-ShiTuV2_det", "PP-ShiTuV2_rec"]
    assert {file.base_url for file in with_one.values()} == {PADDLECLAS_BASE}
    assert with_one["PP-ShiTuV2_rec"].sha256.startswith("b55f63f2")


@pytest.mark.parametrize(
    ("name", "parameters"), [("PP-ShiTuV2_rec_CLIP_vit_base", 87e6), ("PP-ShiTuV2_rec_CLIP_vit_large", 305e6)]
)
def test_bounds_leave_room_for_what_the_files_must_have(name, parameters):
    least_bytes = parameters * 4
    assert OFFICIAL[name].inference.max_bytes > least_bytes
    assert OFFICIAL[name].checkpoint.max_bytes > least_bytes + 192_612 * 512 * 4  # the head of training
    assert OFFICIAL[name].checkpoint.max_bytes < 20 * least_bytes


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "/etc/passwd"},
        {"path": "a/../b"},
        {"path": "a//b"},
        {"path": ""},
        {"path": "a b"},
        {"path": "a?b"},
        {"base_url": "ftp://host/"},
        {"base_url": "host"},
        {"base_url": "http://host:99999/"},
        {"max_bytes": 0},
        {"sha256": "b55f63f2"},
        {"sha256": "B" * 64},
    ],
)
def test_what_is_no_remote_file(wrong):
    right = {"path": "a/b", "base_url": "https://host/", "max_bytes": 1, "sha256": "b" * 64}
    RemoteFile(**right)
    with pytest.raises(ValueError, match="expected"):
        RemoteFile(**(right | wrong))
