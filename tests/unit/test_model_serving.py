"""What gateways are told, and when, while models are reloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.placed_models import DEMO_WEIGHTS, demo_repository, place

from shitu_models.specs import DEMO_REC
from shitu_server import model_serving
from shitu_server.errors import ConfigurationError
from shitu_server.model_serving import ModelServing
from shitu_server.served import served_by
from shitu_server.settings import load_settings


class Triton:
    """Notes what it is told to serve."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.refuses = False

    async def start(self) -> None:
        self.events.append("start")

    async def change(self, models) -> None:
        if self.refuses:
            raise ConfigurationError("it does not load")
        self.events.append([sorted(model.digests) for model in models])


@pytest.fixture
def repository(tmp_path):
    return demo_repository(tmp_path / "models")


@pytest.fixture
async def serving(tmp_path, repository, monkeypatch):
    for pause in ("_TAKEN_UP_S", "_FAREWELL_S"):
        monkeypatch.setattr(model_serving, pause, 0.0)
    monkeypatch.setattr(model_serving, "EmbeddedTriton", lambda _: Triton())
    settings = load_settings({"model_repository": repository, "workers": 2, "cache_dir": tmp_path / "cache"})
    begun = ModelServing(settings, tmp_path / "served.json")
    await begun.start()
    return begun


def versions(file: Path) -> list[int]:
    return [model.version for model in served_by(load_settings({"served_file": file})).encoders]


async def test_gateways_know_a_version_before_any_binds_galleries_to_it(serving, repository):
    triton = serving._triton
    place(repository, DEMO_REC, DEMO_WEIGHTS.read_bytes(), version=2)
    place(repository, DEMO_REC, DEMO_WEIGHTS.read_bytes(), version=3)
    await serving.reload(lambda: triton.events.append(versions(serving.file)))
    assert triton.events == ["start", [[1], [1, 2, 3]], [1, 3, 2], [3, 2], [[1], [2, 3]]]


async def test_what_does_not_load_is_not_told(serving, repository):
    serving._triton.refuses = True
    place(repository, DEMO_REC, DEMO_WEIGHTS.read_bytes(), version=2)
    told: list[None] = []
    await serving.reload(lambda: told.append(None))
    assert told == []
    assert versions(serving.file) == [1]
