"""Several encoders at once, profiles, and options of the embedded Triton: `shitu serve` with placed models."""

from __future__ import annotations

import http.client
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import psutil
import pytest
from tests.conftest import RunningServer, start_server
from tests.drawn import product_picture, products, scene, scene_picture
from tests.e2e.test_cli import shitu
from tests.placed_models import DEMO_WEIGHTS, demo_repository, place

from shitu_client import AsyncClient, Box, Client, EncoderInfo, FailedPreconditionError, InvalidArgumentError, NewItem
from shitu_models.specs import DEMO_REC, Interpolation

SECOND = replace(DEMO_REC, name="second", interpolation=Interpolation.BILINEAR, default_threshold=-1.0)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    models = demo_repository(tmp_path_factory.mktemp("encoders") / "models")
    place(models, SECOND, DEMO_WEIGHTS.read_bytes())
    return models


@pytest.fixture(scope="module")
def both(tmp_path_factory, repository):
    options = ("--encoder", "demo_rec", "--encoder", "second", "--instances", "2", "--threads", "1")
    running = start_server(tmp_path_factory.mktemp("both"), "--model-repository", str(repository), *options)
    try:
        running.wait_until_serving()
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(both):
    with Client(both.address) as connected:
        yield connected


@pytest.fixture
def galleries(client):
    """One for each encoder, with the same pictures."""
    names = {encoder: f"of-{encoder.replace('_', '-')}" for encoder in ("demo_rec", "second")}
    items = [NewItem(str(index), products()[index].label, product_picture(index)) for index in range(4)]
    for encoder, name in names.items():
        client.create_gallery(name, encoder=encoder)
        assert client.add_items(name, items).failures == ()
    yield names
    for name in names.values():
        client.delete_gallery(name)


def by_name(client: Client) -> dict[str, EncoderInfo]:
    return {encoder.name: encoder for encoder in client.list_encoders()}


async def numbered(pictures: list[bytes]) -> AsyncIterator[tuple[str, bytes]]:
    for number, picture in enumerate(pictures):
        yield str(number), picture


def test_encoders_are_listed(client):
    listed = client.list_encoders()
    assert [(one.name, one.version, one.is_default) for one in listed] == [
        ("demo_rec", 1, True),
        ("second", 1, False),
    ]
    assert [(one.dimension, one.precision, one.profile) for one in listed] == [(128, "fp32", "trained")] * 2
    assert [one.default_match_threshold for one in listed] == [0.75, -1.0]
    assert listed[0].fingerprint != listed[1].fingerprint, "they resize differently"


def test_each_gallery_is_served_by_its_own_encoder(client, galleries):
    encoders = by_name(client)
    vectors = {}
    for encoder, name in galleries.items():
        assert client.get_gallery(name).encoder_fingerprint == encoders[encoder].fingerprint
        result = client.recognize(product_picture(2), name, skip_detection=True)
        assert result.encoder_fingerprint == encoders[encoder].fingerprint
        (found,) = result.objects
        assert found.matches[0].item_id == "2"
        assert found.matches[0].score == pytest.approx(1.0, abs=1e-4)
        assert client.search(name, product_picture(3), top_k=1)[0].item_id == "3"
        vectors[encoder] = client.get_item(name, "2").vector
        embedded = client.embed(product_picture(2), encoder=encoder)
        assert embedded.encoder_fingerprint == encoders[encoder].fingerprint
        assert np.allclose(embedded.vectors[0], vectors[encoder], atol=1e-6)
        again = client.embed(product_picture(2), encoder_fingerprint=encoders[encoder].fingerprint)
        assert again.encoder_fingerprint == encoders[encoder].fingerprint
        assert np.array_equal(again.vectors, embedded.vectors)
    assert not np.allclose(vectors["demo_rec"], vectors["second"], atol=1e-3)


def test_the_threshold_is_that_of_the_gallerys_encoder(client, galleries):
    counts = {}
    for encoder, threshold in (("demo_rec", 0.75), ("second", -1.0)):
        (found,) = client.recognize(product_picture(2), galleries[encoder], skip_detection=True, top_k=4).objects
        assert all(match.score >= threshold for match in found.matches)
        everything = client.search(galleries[encoder], product_picture(2), top_k=4)
        assert len(found.matches) == sum(match.score >= threshold for match in everything)
        counts[encoder] = len(found.matches)
    assert counts["second"] == 4 > counts["demo_rec"] > 0, "nothing is below -1"


async def test_a_stream_and_a_batch_take_the_gallerys_encoder(both, client, galleries):
    pictures = [scene_picture(0), scene_picture(1)]
    async with AsyncClient(both.address) as streaming:
        for encoder, name in galleries.items():
            fingerprint = by_name(client)[encoder].fingerprint
            streamed = [result async for _, result in streaming.recognize_stream(numbered(pictures), name)]
            for result in (*client.recognize_batch(pictures, name), *streamed):
                assert result.encoder_fingerprint == fingerprint
            assert len(streamed) == 2


def test_a_new_gallery_is_bound_to_the_default(client):
    info = client.create_gallery("default")
    assert info.encoder_fingerprint == by_name(client)["demo_rec"].fingerprint
    client.delete_gallery("default")


def test_a_gallery_of_an_encoder_that_is_not_served_is_refused(client):
    client.create_gallery("foreign", encoder_fingerprint="mine", dimension=4)
    try:
        for call in (
            lambda: client.recognize(product_picture(0), "foreign"),
            lambda: client.search("foreign", product_picture(0)),
            lambda: client.add_items("foreign", [NewItem("x", "a", product_picture(0))]),
        ):
            with pytest.raises(FailedPreconditionError) as caught:
                call()
            assert caught.value.reason == "ENCODER_MISMATCH"
            for part in ('bound to encoder "mine"', "demo_rec version 1 (", "second version 1 (", "--encoder"):
                assert part in caught.value.message
        vectors = [NewItem("v", "a", vector=[1.0, 2.0, 3.0, 4.0]), NewItem("p", "a", product_picture(0))]
        (failure,) = client.add_items("foreign", vectors, encoder_fingerprint="mine").failures
        assert failure.id == "p"
        assert isinstance(failure.error, FailedPreconditionError)
    finally:
        client.delete_gallery("foreign")


def test_pictures_and_a_name_of_another_encoder_do_not_mix(client, galleries):
    other = by_name(client)["second"].fingerprint
    with pytest.raises(FailedPreconditionError):
        client.search(galleries["demo_rec"], product_picture(0), encoder_fingerprint=other)
    with pytest.raises(FailedPreconditionError, match='the request names encoder "none"'):
        client.search(galleries["demo_rec"], product_picture(0), encoder_fingerprint="none")
    with pytest.raises(FailedPreconditionError):
        client.add_items(galleries["demo_rec"], [NewItem("x", "a", product_picture(0))], encoder_fingerprint=other)


def test_an_encoder_that_is_not_served_embeds_nothing(client):
    with pytest.raises(FailedPreconditionError, match='the request names encoder "none"; name one of these') as caught:
        client.embed(product_picture(0), encoder_fingerprint="none")
    assert caught.value.reason == "ENCODER_MISMATCH"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda client: client.create_gallery("g", encoder="nothing"),
            r"served here \(demo_rec, second\), got \"nothing",
        ),
        (lambda client: client.embed(product_picture(0), encoder="nothing"), r"served here \(demo_rec, second\)"),
        (
            lambda client: client.create_gallery("g", encoder="second", encoder_fingerprint="e", dimension=4),
            "encoder_fingerprint and dimension; got both",
        ),
        (
            lambda client: client.embed(product_picture(0), encoder="second", encoder_fingerprint="e"),
            "a served encoder or encoder_fingerprint; got both",
        ),
    ],
    ids=["gallery", "embed", "both ways", "both ways to embed"],
)
def test_a_wrong_encoder_is_named(client, call, said):
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        call(client)
    assert caught.value.field == "encoder"


def test_the_command_line_chooses_encoders(both, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(product_picture(0))
    listed = shitu(both, "encoders")
    assert "second" in listed
    assert "default" in listed
    with Client(both.address) as client:
        second = by_name(client)["second"].fingerprint
        for command in (("create", "cli-second"), ("build", "cli-second-built", tmp_path)):
            shitu(both, "gallery", *command, "--encoder", "second")
            assert client.get_gallery(command[1]).encoder_fingerprint == second
        rebuild = ("gallery", "build", "cli-second-built", tmp_path)
        refused = shitu(both, *rebuild, "--encoder", "demo_rec", status=1)
        assert "bound to another encoder, second version 1; leave --encoder demo_rec out" in " ".join(refused.split())
        for options in ((), ("--encoder", "second")):
            shitu(both, *rebuild, *options)
        for name in ("cli-second", "cli-second-built"):
            client.delete_gallery(name)
    assert "expected an encoder that is served" in shitu(both, "gallery", "create", "x", "--encoder", "y", status=1)


def triton_config(server: RunningServer, model: str) -> dict:
    """What Triton itself says of a model."""
    descendants = psutil.Process(server.process.pid).children(recursive=True)
    (triton,) = (process for process in descendants if process.name() == "tritonserver")
    (port,) = (word.split("=")[1] for word in triton.cmdline() if word.startswith("--http-port="))
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
    try:
        connection.request("GET", f"/v2/models/{model}/config")
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_options_reach_triton_and_leave_the_repository_alone(both, repository):
    for model in ("demo_det", "second"):
        config = triton_config(both, model)
        assert config["instance_group"][0]["count"] == 2
        assert config["parameters"]["intra_op_thread_count"] == {"string_value": "1"}
        assert config["version_policy"] == {"specific": {"versions": [1]}}
        assert "count: 1" in (repository / model / "config.pbtxt").read_text()


def test_a_profile_changes_fingerprints_and_crops(both, repository, tmp_path):
    options = ("--model-repository", str(repository), "--profile", "paddlex", "--encoder", "second")
    server = start_server(tmp_path, *options)
    # Corners between pixels: PaddleX cuts them off, the trained way takes the pixels that hold the box.
    boxes = [Box(x1 + 0.5, y1 + 0.5, x2 - 0.5, y2 - 0.5) for x1, y1, x2, y2 in scene().boxes]
    try:
        server.wait_until_serving()
        with Client(server.address) as paddlex, Client(both.address) as trained:
            (info,) = paddlex.list_encoders()
            assert info.profile == "paddlex"
            assert info.fingerprint != by_name(trained)["second"].fingerprint
            theirs = paddlex.embed(scene_picture(), boxes).vectors
            ours = trained.embed(scene_picture(), boxes, encoder="second").vectors
            cut = [Box(*map(int, box)) for box in boxes]
            assert np.allclose(theirs, trained.embed(scene_picture(), cut, encoder="second").vectors, atol=1e-5)
            assert not np.allclose(theirs, ours, atol=1e-3)
    finally:
        server.stop()
