"""What a repository has to serve, and what Triton is told of it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from tests.placed_models import DEMO_WEIGHTS, demo_repository, place

from shitu_models.fingerprint import fingerprint, weights_digest
from shitu_models.specs import DEMO_DET, DEMO_REC, CropRounding, Interpolation, Precision, Profile, with_profile
from shitu_models.triton_config import Accelerator, TritonConfigOptions
from shitu_server.errors import ConfigurationError
from shitu_server.served import (
    WeightsChangedError,
    between,
    check_successor,
    check_weights,
    find_served,
    served_by,
    write_served,
)
from shitu_server.settings import load_settings
from shitu_server.triton_models import triton_models

WEIGHTS = DEMO_WEIGHTS.read_bytes()


@pytest.fixture
def repository(tmp_path):
    return demo_repository(tmp_path / "models")


def found(repository, *encoders, profile=Profile.TRAINED):
    return find_served(repository, "demo_det", encoders or ("demo_rec",), profile)


def test_the_demo_models_are_served_as_the_registry_says(repository):
    served = found(repository)
    assert [(model.spec, model.version, model.precision) for model in served.models] == [
        (DEMO_DET, 1, Precision.FP32),
        (DEMO_REC, 1, Precision.FP32),
    ]
    assert served.encoders[0].fingerprint == fingerprint(DEMO_REC, DEMO_WEIGHTS)


def test_encoders_have_two_versions_the_newest_first_and_detectors_one(repository):
    spec = replace(DEMO_REC, name="other")
    for version in (1, 2, 10):
        place(repository, spec, WEIGHTS, version)
    place(repository, DEMO_DET, (repository / "demo_det" / "1" / "model.onnx").read_bytes(), version=2)
    served = found(repository, "other", "demo_rec")
    assert str(served) == "demo_det version 2, other version 10, other version 2, demo_rec version 1"


def test_the_former_version_may_be_left_out(repository):
    place(repository, DEMO_REC, WEIGHTS, version=2)
    settings = {"model_repository": repository, "encoder_versions": 1}
    assert str(served_by(load_settings(settings))) == "demo_det version 1, demo_rec version 2"
    assert str(served_by(load_settings({**settings, "encoder_versions": 2}))).endswith("version 2, demo_rec version 1")


def test_a_profile_is_that_of_the_encoders_alone(repository):
    trained, paddlex = found(repository), found(repository, profile=Profile.PADDLEX)
    assert paddlex.detector == trained.detector
    (encoder,) = paddlex.encoders
    assert encoder.spec == with_profile(DEMO_REC, Profile.PADDLEX)
    assert (encoder.spec.interpolation, encoder.spec.crop_rounding) == (Interpolation.BILINEAR, CropRounding.TRUNCATED)
    assert encoder.fingerprint != trained.encoders[0].fingerprint


def test_the_precision_of_the_card_is_part_of_the_fingerprint(repository):
    served = found(repository)
    half = replace(served.encoders[0], precision=Precision.FP16)
    assert half.fingerprint == fingerprint(DEMO_REC, DEMO_WEIGHTS, Precision.FP16) != served.encoders[0].fingerprint


def test_gateways_read_what_was_written(repository, tmp_path):
    place(repository, DEMO_REC, WEIGHTS, version=2)
    served = found(repository, profile=Profile.PADDLEX)
    path = tmp_path / "served.json"
    write_served(path, served)
    assert served_by(load_settings({"served_file": path})) == served
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"served_file: .*served\.json is not what `shitu serve` writes"):
        served_by(load_settings({"served_file": path}))


@pytest.mark.parametrize(
    ("encoder", "said"),
    [("nothing", "unknown encoder 'nothing'; known: "), ("PP-ShiTuV2_rec", "run `shitu models pull PP-ShiTuV2_rec`")],
)
def test_a_model_that_is_not_there_is_said(repository, encoder, said):
    with pytest.raises(ConfigurationError, match=said):
        found(repository, encoder)


def test_weights_that_are_not_their_cards_are_refused(repository):
    path = place(repository, DEMO_REC, WEIGHTS, version=2, sha256="1" * 64)
    with pytest.raises(
        ConfigurationError, match=rf"{path} is not the file that its card describes: expected sha256 111"
    ):
        found(repository)


def test_a_version_stays_what_it_was(repository):
    before = found(repository)
    place(repository, DEMO_REC, WEIGHTS, version=2)
    check_successor(before, found(repository))
    with pytest.raises(WeightsChangedError, match="demo_rec version 1 is not what it was"):
        check_successor(before, replace(before, encoders=(replace(before.encoders[0], sha256="2" * 64),)))


def test_new_versions_are_known_before_they_are_the_newest(repository):
    before = found(repository)
    for version in (2, 3):
        place(repository, DEMO_REC, WEIGHTS, version)
    after = found(repository)
    assert [model.version for model in between(before, after).encoders] == [1, 3, 2]
    assert between(after, after) == after


def test_weights_are_watched_by_version(repository):
    place(repository, DEMO_REC, WEIGHTS, version=2)
    digests = {model.version: model.sha256 for model in found(repository).encoders}
    check_weights(repository, "demo_rec", digests)
    (repository / "demo_rec" / "2" / "model.onnx").unlink()
    with pytest.raises(WeightsChangedError, match=r"demo_rec/2/model\.onnx was replaced or changed"):
        check_weights(repository, "demo_rec", digests)


def test_triton_loads_these_versions_and_no_others(repository):
    for version in (2, 3):
        place(repository, DEMO_REC, WEIGHTS, version)
    served = found(repository)
    detector, encoder = triton_models(served, TritonConfigOptions(instance_count=2))
    assert (detector.name, encoder.name, encoder.instances) == ("demo_det", "demo_rec", 2)
    assert encoder.load_config["version_policy"] == {"specific": {"versions": [2, 3]}}
    assert set(encoder.digests) == {2, 3}
    former = replace(encoder, digests={1: "a", 2: "b"})
    assert encoder.and_versions_of(former).digests == {1: "a", **encoder.digests}


def test_versions_that_cannot_share_a_configuration_are_refused(repository):
    place(repository, replace(DEMO_REC, max_batch=4), WEIGHTS, version=2)
    with pytest.raises(
        ConfigurationError, match=r"demo_rec: versions 1 and 2 differ .*convert the new one under another"
    ):
        triton_models(found(repository), TritonConfigOptions())


def test_a_precision_that_the_accelerator_cannot_run_names_the_model(repository):
    served = found(repository)
    half = replace(served, encoders=(replace(served.encoders[0], precision=Precision.FP16),))
    with pytest.raises(
        ConfigurationError, match="model demo_rec version 1: a fp16 model runs with accelerator none or cuda"
    ):
        triton_models(half, TritonConfigOptions(accelerator=Accelerator.OPENVINO))


def test_files_are_read_again_only_where_they_were_touched(repository, monkeypatch):
    path, read = repository / "demo_rec" / "1" / "model.onnx", []

    def digest(one):
        read.append(one)
        return weights_digest(one)

    monkeypatch.setattr("shitu_server.served.weights_digest", digest)
    digests = {1: found(repository).encoders[0].sha256}
    found(repository)
    check_weights(repository, "demo_rec", digests)
    assert read.count(path) == 1
    times, weights = path.stat(), path.read_bytes()
    path.write_bytes(weights[:-1] + b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(WeightsChangedError):
        check_weights(repository, "demo_rec", digests)
    path.write_bytes(weights)
    check_weights(repository, "demo_rec", digests)


def test_only_an_embedded_triton_is_asked_for_the_very_version_of_the_detector(repository):
    served = found(repository)
    assert served.detector_version is None, "another's newest version may come at any time"
    assert replace(served, embedded=True).detector_version == 1
