from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from shitu_models.fingerprint import fingerprint, fingerprint_of, weights_digest
from shitu_models.specs import DEMO_REC, CropRounding, Interpolation, Precision


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights" * 300_000)  # more than one block
    return path


def test_digest_is_the_sha256_of_the_file(weights):
    assert weights_digest(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_is_sixteen_hex_digits_and_stable(weights):
    assert fingerprint(DEMO_REC, weights) == fingerprint(DEMO_REC, weights)
    assert len(bytes.fromhex(fingerprint(DEMO_REC, weights))) == 8
    assert fingerprint_of(DEMO_REC, weights_digest(weights)) == fingerprint(DEMO_REC, weights)


@pytest.mark.parametrize(
    "change",
    [
        {"interpolation": Interpolation.BILINEAR},
        {"mean": (0.5, 0.5, 0.5)},
        {"std": (0.2, 0.2, 0.2)},
        {"input_size": 64},
        {"crop_rounding": CropRounding.TRUNCATED},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changes_with_what_moves_a_vector(weights, change):
    assert fingerprint(replace(DEMO_REC, **change), weights) != fingerprint(DEMO_REC, weights)


def test_changes_with_weights_and_precision(weights, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(weights.read_bytes() + b".")
    assert fingerprint(DEMO_REC, other) != fingerprint(DEMO_REC, weights)
    assert fingerprint(DEMO_REC, weights, Precision.FP16) != fingerprint(DEMO_REC, weights)


def test_does_not_change_with_what_does_not(weights):
    renamed = replace(DEMO_REC, name="other", max_batch=4, default_threshold=0.1)
    assert fingerprint(renamed, weights) == fingerprint(DEMO_REC, weights)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        fingerprint(DEMO_REC, tmp_path / "none.onnx")
