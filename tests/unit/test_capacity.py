"""How much a gateway does at a time."""

from __future__ import annotations

import pytest

from shitu_models.triton_config import Accelerator
from shitu_server.capacity import Capacity, capacity_of
from shitu_server.settings import load_settings


def capacity(*, embedded: bool = True, processors: int = 16, **settings: object) -> Capacity:
    return capacity_of(load_settings(settings), embedded=embedded, processor_count=processors)


def test_beside_the_models_half_of_the_processors_is_theirs():
    assert capacity() == Capacity(image_threads=8, pictures_at_work=96, model_calls=1, long_calls=1)
    assert (capacity(instances=4).model_calls, capacity(instances=4).long_calls) == (4, 4)


@pytest.mark.parametrize("elsewhere", [{"embedded": False}, {"accelerator": Accelerator.CUDA}])
def test_where_the_models_run_elsewhere_all_processors_and_pictures_are_used(elsewhere):
    found = capacity(**elsewhere)
    assert (found.image_threads, found.pictures_at_work) == (16, load_settings({}).max_pictures_in_flight)
    assert found.model_calls > load_settings({}).max_pictures_in_flight, "a GPU waits for no call"
    assert found.long_calls is None


def test_gateways_share_the_processors():
    assert capacity(workers=4) == Capacity(image_threads=2, pictures_at_work=24, model_calls=1, long_calls=1)
    assert capacity(workers=4, embedded=False).image_threads == 4


def test_one_processor_still_works():
    assert capacity(processors=1) == Capacity(image_threads=1, pictures_at_work=6, model_calls=1, long_calls=1)
    assert capacity(processors=1, workers=8) == Capacity(
        image_threads=1, pictures_at_work=2, model_calls=1, long_calls=1
    )


@pytest.mark.parametrize("embedded", [True, False])
def test_what_the_settings_say_holds(embedded):
    found = capacity(embedded=embedded, image_threads=3, max_pictures_at_work=5)
    assert (found.image_threads, found.pictures_at_work) == (3, 5)
