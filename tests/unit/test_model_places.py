"""Where models are placed: beside the ones that `shitu serve` finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.placed_models import CHECKOUT_MODELS

from shitu_models import repository as repository_module
from shitu_models.repository import find_repository, placed_names
from shitu_train.models import places


def test_an_explicit_repository_is_made(tmp_path):
    assert places.writable_repository(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_a_checkout_has_its_own():
    assert places.writable_repository() == CHECKOUT_MODELS


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """As if installed from a wheel: the demo models lie in the package, and the user has no repository yet."""
    packages = tmp_path / "site-packages"
    for name in ("demo_det", "demo_rec"):
        (packages / "shitu_models" / "model_repository" / name / "1").mkdir(parents=True)
        (packages / "shitu_models" / "model_repository" / name / "1" / "model.onnx").write_bytes(b"weights")
    monkeypatch.setattr(repository_module, "__file__", str(packages / "shitu_models" / "repository.py"))
    monkeypatch.setattr(places, "__file__", str(packages / "shitu_train" / "models" / "places.py"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return packages / "shitu_models" / "model_repository"


def test_a_wheels_models_are_left_alone_and_found_beside_the_users(wheel, tmp_path):
    assert find_repository() == wheel
    made = places.writable_repository()
    assert made == tmp_path / "data" / "shitu" / "model_repository"
    assert placed_names(made) == ("demo_det", "demo_rec")
    assert find_repository() == made
    (made / "mine").mkdir()
    assert places.writable_repository() == made, "it is seeded once"
    assert (made / "mine").is_dir()
    assert [path.name for path in made.parent.iterdir()] == ["model_repository"]


def test_places_follow_the_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert places.downloads_folder() == tmp_path / "cache" / "shitu" / "downloads"
    assert places.lock_file() == tmp_path / "data" / "shitu" / "downloads.lock"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert places.downloads_folder() == Path.home() / ".cache" / "shitu" / "downloads"
