"""`shitu gallery ...` against a running server with two encoders, whose gallery process is killed in the middle of a build."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import typer
from tests.conftest import RunningServer, start_server
from tests.drawn import product_picture, scene_picture
from tests.e2e.test_cli import shitu
from tests.e2e.test_encoders import SECOND
from tests.e2e.test_serve import processes
from tests.peer.interpreter import peer_python, run_peer
from tests.placed_models import DEMO_WEIGHTS, demo_repository, place
from typer.testing import CliRunner

from shitu_client import AsyncClient, Client, NewItem, ReembedProgress, UnavailableError, commands
from shitu_client.paddlex_index import read_index, write_index
from shitu_client.patience import Patience
from shitu_client.reembeddings import reembed_gallery

FIELDS = {"brand": "string", "price": "number", "sold": "boolean"}
METADATA = ({"brand": "42", "price": 2}, {"brand": "cola", "price": 3.5}, {"sold": True})


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A server of the encoders `demo_rec` and `second`."""
    folder = tmp_path_factory.mktemp("gallery-cli")
    repository = demo_repository(folder / "models")
    place(repository, SECOND, DEMO_WEIGHTS.read_bytes())
    options = ("--model-repository", str(repository), "--encoder", "demo_rec", "--encoder", "second", "--threads", "1")
    running = start_server(folder / "run", *options)
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
def folder(tmp_path) -> Path:
    """Three views of each of three products: a folder for each label."""
    for index in range(3):
        (tmp_path / "pictures" / f"label {index}").mkdir(parents=True)
        for view in range(3):
            (tmp_path / "pictures" / f"label {index}" / f"{view}.jpg").write_bytes(product_picture(index, view))
    return tmp_path / "pictures"


@pytest.fixture
def drinks(client):
    """A gallery with declared fields, as a build of the folder makes it."""
    client.create_gallery("drinks", index="flat", fields=FIELDS)
    items = [
        NewItem(f"label {n}/{view}.jpg", f"label {n}", product_picture(n, view), metadata=METADATA[n])
        for n in range(3)
        for view in range(3)
    ]
    assert client.add_items("drinks", items).failures == ()
    yield "drinks"
    client.delete_gallery("drinks")


def quick(server: RunningServer, *arguments: str | Path, status: int = 0) -> str:
    """Run a command as `shitu` does, in this process: without a second of imports for each of many."""
    app = typer.Typer()
    commands.register(app)
    result = CliRunner().invoke(app, list(map(str, arguments)), env={"SHITU_SERVER": server.address, "COLUMNS": "200"})
    assert result.exit_code == status, result.output
    return result.output


def matches(output: str) -> list[str]:
    """Ids of the items in a table of matches."""
    return re.findall(r"label \d/\d\.jpg", output)


def test_create_build_and_show(both, client, folder, tmp_path):
    declared = [part for name, kind in FIELDS.items() for part in ("--field", f"{name}:{kind}")]
    metadata = tmp_path / "metadata.jsonl"
    lines = (
        json.dumps({"id": f"label {n}/{view}.jpg", "metadata": METADATA[n]}) for n in range(3) for view in range(3)
    )
    metadata.write_text("\n".join(lines))
    try:
        shitu(both, "gallery", "create", "made", "--index", "flat", *declared)
        assert "added 9 pictures" in shitu(both, "gallery", "build", "made", folder, "--metadata", metadata)
        check_shown(shitu(both, "gallery", "show", "made", "--limit", "4"))
        check_told(json.loads(shitu(both, "gallery", "show", "made", "--limit", "4", "--json")))
    finally:
        client.delete_gallery("made")
    wrong = quick(both, "gallery", "create", "another", "--field", "price:float", status=1)
    assert "expected name:type with the type string, number or boolean" in wrong


def check_shown(shown: str) -> None:
    for part in ("inner_product", "flat, now flat", "brand (string), price (number), sold (boolean)"):
        assert part in shown
    assert "the first 4 items" in shown
    assert '"brand": "42", "price": 2.0' in shown


def check_told(told: dict) -> None:
    assert told["gallery"]["item_count"] == 9
    assert told["gallery"]["fields"] == FIELDS
    assert [item["id"] for item in told["items"]] == [
        "label 0/0.jpg",
        "label 0/1.jpg",
        "label 0/2.jpg",
        "label 1/0.jpg",
    ]
    assert told["has_more_items"]
    assert re.fullmatch("[0-9a-f]{64}", told["items"][0]["image_digest"])


def test_search(both, drinks, folder):
    picture = folder / "label 1" / "0.jpg"
    assert matches(quick(both, "gallery", "search", drinks, picture))[0] == "label 1/0.jpg"
    like = matches(quick(both, "gallery", "search", drinks, "--item", "label 1/0.jpg", "--top-k", "3"))
    assert "label 1/0.jpg" not in like
    assert len(like) == 3
    grouped = matches(quick(both, "gallery", "search", drinks, picture, "--per-label", "1", "--top-k", "3"))
    assert sorted(one[:7] for one in grouped) == ["label 0", "label 1", "label 2"]
    assert "1.0000" in quick(both, "gallery", "search", drinks, picture, "--match-threshold", "0.9999")
    assert "expected a picture or --item, got neither" in quick(both, "gallery", "search", drinks, status=1)


@pytest.mark.parametrize(
    ("where", "labels"),
    [
        (["brand=42"], {"0"}),
        (["price>=2", "price<3"], {"0"}),
        (["price>=2"], {"0", "1"}),
        (["brand!=cola"], {"0", "2"}),
        (["brand in cola,42", "price>3"], {"1"}),
        (["sold=true"], {"2"}),
        (["label=label 2"], {"2"}),
        (['{"negation": {"range": {"field": "price", "atLeast": 3}}}'], {"0", "2"}),
    ],
)
def test_where(both, drinks, folder, where, labels):
    options = [part for text in where for part in ("--where", text)]
    output = quick(both, "gallery", "search", drinks, folder / "label 1" / "0.jpg", "--top-k", "9", *options)
    assert {one[6] for one in matches(output)} == labels
    recognised = shitu(
        both,
        "recognize",
        folder / "label 1" / "0.jpg",
        "-g",
        drinks,
        "--whole-image",
        "--match-threshold",
        "-1",
        *options,
    )
    assert re.findall(r"label (\d)", recognised)[0] in labels


def test_where_that_cannot_be_meant(both, drinks, folder):
    for text, said in {
        "colour=red": "has no field colour",
        "price=cheap": "price is a number, got 'cheap'",
        "brand>3": "> is for numbers, and brand is a string",
        "nonsense": "expected NAME=VALUE",
        '{"range": {"field": "colour", "below": 3}}': "colour",
    }.items():
        output = quick(both, "gallery", "search", drinks, folder / "label 1" / "0.jpg", "--where", text, status=1)
        assert said in output


def test_update(both, drinks, client):
    changed = ("--set", "price=7", "--set", "brand=7", "--set", "note=new")
    output = quick(both, "gallery", "update", drinks, "label 0/0.jpg", "nothing", "--label", "zero", *changed, status=1)
    assert "nothing: no such item" in output
    assert "updated 1 of 2" in output
    item = client.get_item(drinks, "label 0/0.jpg")
    assert (item.label, item.metadata) == ("zero", {"price": 7.0, "brand": "7", "note": "new"})
    quick(both, "gallery", "update", drinks, "label 0/0.jpg", "--unset", "note", "--set", "sold=true")
    assert client.get_item(drinks, "label 0/0.jpg").metadata == {"price": 7.0, "brand": "7", "sold": True}
    quick(both, "gallery", "update", drinks, "label 0/0.jpg", "--metadata", '{"price": 1}')
    assert client.get_item(drinks, "label 0/0.jpg").metadata == {"price": 1.0}
    for wrong, said in {
        ("--set", "price=dear"): "price is a number, got 'dear'",
        ("--set", "price"): "expected KEY=VALUE",
        ("--metadata", "[1]"): "expected a JSON object",
        (): "nothing to change",
    }.items():
        assert said in quick(both, "gallery", "update", drinks, "label 0/0.jpg", *wrong, status=1)


def test_building_again_keeps_metadata_that_it_is_not_given(both, drinks, client, folder, tmp_path):
    quick(both, "gallery", "update", drinks, "label 0/0.jpg", "--set", "price=7")
    quick(both, "gallery", "build", drinks, folder, "--again")
    assert client.get_item(drinks, "label 0/0.jpg").metadata == {"brand": "42", "price": 7.0}
    assert client.get_item(drinks, "label 2/0.jpg").metadata == {"sold": True}
    metadata = tmp_path / "metadata.jsonl"
    metadata.write_text(json.dumps({"id": "label 0/0.jpg", "metadata": {"price": 1}}))
    quick(both, "gallery", "build", drinks, folder, "--metadata", metadata)
    assert client.get_item(drinks, "label 0/0.jpg").metadata == {"price": 1.0}
    metadata.write_text(json.dumps({"id": "label 0/0.jpg", "metadata": {"brand": 1}}))
    said = quick(both, "gallery", "build", drinks, folder, "--metadata", metadata, status=1)
    assert "failed label 0/0.jpg: metadata.brand: expected a string" in said


def test_a_gallery_that_is_not_there_is_said_once(both, folder):
    said = quick(both, "recognize", folder, "--gallery", "nobody", status=1)
    assert said.count("there is no gallery") == 1


def test_alias(both, drinks):
    assert "an alias will not do" in quick(both, "gallery", "delete", "--help")
    assert "today is drinks" in quick(both, "gallery", "alias", "set", "today", drinks)
    assert "today" in quick(both, "gallery", "list")
    shown = quick(both, "gallery", "show", "today")
    assert "aliases" in shown
    assert "drinks" in shown
    assert "deleted alias today" in quick(both, "gallery", "alias", "delete", "today")
    assert "no alias" in quick(both, "gallery", "alias", "delete", "today", status=1)


def test_snapshot_and_restore(both, drinks, client, tmp_path):
    file = tmp_path / "drinks.snap"
    assert f"{file}: " in quick(both, "gallery", "snapshot", drinks, file)
    full = quick(both, "gallery", "snapshot", drinks, "/dev/full", status=1)
    assert "/dev/full: expected a file or a new name, there is a device; nothing was written" in full
    assert Path("/dev/full").is_char_device()
    text = tmp_path / "text"
    text.write_text("no snapshot")
    assert f"error: {text}: expected" in quick(both, "gallery", "restore", "other", text, status=1)
    text.unlink()
    try:
        assert "restored" in quick(both, "gallery", "restore", "restored", file)
        assert client.get_gallery("restored").item_count == 9
        assert "exists already" in quick(both, "gallery", "restore", "restored", file, status=1)
        assert "there is none" in quick(both, "gallery", "restore", "other", tmp_path / "no", status=1)
    finally:
        quick(both, "gallery", "delete", "restored", "--yes")
    assert "there is no gallery" in quick(both, "gallery", "snapshot", "restored", tmp_path / "no", status=1)
    assert {path.name for path in tmp_path.iterdir()} == {"drinks.snap"}


def test_reembed_and_rollback(both, drinks, client, folder):
    before = client.get_gallery(drinks)
    assert "bound to" in quick(both, "gallery", "reembed", drinks, "--encoder", "demo_rec", status=1)
    assert "no former generation" in quick(both, "gallery", "rollback", drinks, "--yes", status=1)
    shown = quick(both, "gallery", "reembed", drinks, "--encoder", "second")
    assert f"before it {before.generation}" in shown
    after = client.get_gallery(drinks)
    assert after.encoder_fingerprint != before.encoder_fingerprint
    assert (after.previous_generation, after.item_count) == (before.generation, 9)
    assert matches(quick(both, "gallery", "search", drinks, folder / "label 1" / "0.jpg"))[0] == "label 1/0.jpg"

    quick(both, "gallery", "remove", drinks, "label 2/2.jpg")
    refused = quick(both, "gallery", "rollback", drinks, "--yes", status=1)
    assert refused.strip().endswith("does not hold them; --discard-writes leaves them behind")
    assert "discard_writes" not in refused
    assert client.get_gallery(drinks).generation == after.generation
    back = quick(both, "gallery", "rollback", drinks, "--yes", "--discard-writes")
    assert before.encoder_fingerprint in back
    assert client.get_gallery(drinks).item_count == 9
    quick(both, "gallery", "rollback", drinks, "--yes")
    assert client.get_gallery(drinks).item_count == 8


def test_reembedding_that_was_left_goes_on(both, client, tmp_path):
    source = many_pictures(tmp_path / "many", 160)
    quick(both, "gallery", "build", "long", source)
    try:
        before = client.get_gallery("long")
        for step in client.reembed("long", encoder="second"):
            left_at = step.embedded_count
            if left_at >= 64:
                break
        assert client.get_gallery("long").generation == before.generation
        steps = list(client.reembed("long", encoder="second"))
        assert left_at <= steps[0].embedded_count < 160
        assert steps[-1].published == client.get_gallery("long")
        assert steps[-1].published.previous_generation == before.generation
    finally:
        client.delete_gallery("long")


@pytest.mark.parametrize(
    ("answers", "asked", "goes_back"),
    [("n\n", "Go back?", False), ("y\nn\n", "without these writes?", False), ("y\ny\n", "without these writes?", True)],
)
def test_rollback_asks(both, drinks, client, answers, asked, goes_back):
    first = client.get_gallery(drinks).generation
    *_, last = client.reembed(drinks, encoder="second")
    assert last.published is not None
    client.remove_items(drinks, ["label 2/2.jpg"])
    done = command(both, "gallery", "rollback", drinks, answers=answers)
    assert asked in done.stdout
    assert f"to generation {first}" in done.stdout
    assert (done.returncode == 0) == goes_back
    assert (client.get_gallery(drinks).generation != last.published.generation) == goes_back


def command(server: RunningServer, *arguments: str | Path, answers: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shitu_client", *map(str, arguments)],
        input=answers,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"SHITU_SERVER": server.address, "COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    )


def test_a_build_says_all_that_failed_and_goes_on_where_it_was(both, folder, tmp_path):
    (folder / "label 0" / "broken.jpg").write_bytes(product_picture(0)[:300])
    (folder / "label 0" / "text.jpg").write_text("no picture")
    (folder / "stray.jpg").write_bytes(product_picture(0))
    errors = tmp_path / "errors.txt"
    try:
        output = quick(both, "gallery", "build", "partly", folder, "--errors", errors, status=1)
        assert "added 9 pictures" in output
        assert "3 failed" in output
        lines = dict(line.split("\t") for line in errors.read_text().splitlines())
        assert set(lines) == {"stray.jpg", "label 0/broken.jpg", "label 0/text.jpg"}
        (folder / "label 0" / "broken.jpg").write_bytes(product_picture(0, 7))
        for name in ("label 0/text.jpg", "stray.jpg"):
            (folder / name).unlink()
        output = quick(both, "gallery", "build", "partly", folder)
        assert "added 1 pictures" in output
        assert "9 were there already" in output
        assert "0 failed" in output
    finally:
        quick(both, "gallery", "delete", "partly", "--yes")


def test_a_label_file_with_faults_builds_the_rest(both, folder):
    labels = folder / "labels.txt"
    labels.write_text("label 0/0.jpg\tzero\nonlyapath\ngone.jpg\tzero\nlabel 1/0.jpg\tone\n")
    try:
        output = quick(both, "gallery", "build", "listed", labels, status=1)
        assert "added 2 pictures" in output
        assert f"{labels}:2: expected `path<tab>label`" in output
        assert f"gone.jpg: line 3: picture {folder / 'gone.jpg'} is missing" in output
    finally:
        quick(both, "gallery", "delete", "listed", "--yes")


def test_more_failures_than_are_shown(both, folder, tmp_path):
    for number in range(30):
        (folder / "label 0" / f"text {number}.jpg").write_text("no picture")
    errors = tmp_path / "errors.txt"
    try:
        output = quick(both, "gallery", "build", "many", folder, "--errors", errors, status=1)
        assert f"... and 10 more; all of them are in {errors}" in output
        assert output.count("[red]") == 0
        assert len(errors.read_text().splitlines()) == 30
    finally:
        quick(both, "gallery", "delete", "many", "--yes")


def test_failures_that_cannot_be_saved_are_said_before_the_build(both, client, folder, tmp_path):
    said = quick(both, "gallery", "build", "unsaved", folder, "--errors", tmp_path / "nowhere" / "errors.txt", status=1)
    assert "there is no such folder" in said
    assert "unsaved" not in {info.name for info in client.list_galleries()}


def test_detected_parts_and_duplicates(both, client, tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "0.jpg").write_bytes(scene_picture())
    (tmp_path / "shelf" / "1.jpg").write_bytes(scene_picture())
    try:
        output = quick(both, "gallery", "build", "parts", tmp_path, "--detect", "--skip-duplicates")
        assert "added 1 pictures" in output
        assert "1 left out as duplicates" in output
        again = quick(both, "gallery", "build", "parts", tmp_path, "--detect", "--skip-duplicates")
        assert "added 0 pictures" in again
        # Whole, it is another picture.
        assert "added 2 pictures" in quick(both, "gallery", "build", "parts", tmp_path)
        left = quick(both, "gallery", "add", "parts", "shelf", tmp_path / "shelf" / "0.jpg", "--skip-duplicates")
        assert "the picture is that of" in left
        assert "added 0 of 1" in left
    finally:
        client.delete_gallery("parts")


def test_a_killed_gallery_process_does_not_fail_a_build(both, client, tmp_path):
    source = many_pictures(tmp_path / "many", 160)
    with started(both, "gallery", "build", "killed", source, "--concurrency", "2") as building:
        for count in (10, 60):
            wait_for_items(client, "killed", count)
            (gallery,) = processes(both, "shitu_server", "gallery")
            gallery.kill()
            psutil.wait_procs([gallery], timeout=5)
        output, _ = building.communicate(timeout=120)
    assert building.returncode == 0, output
    assert "0 failed; it holds 160 items" in output
    client.delete_gallery("killed")


async def test_a_killed_gallery_process_does_not_fail_a_reembedding(both, client, tmp_path):
    await asyncio.to_thread(quick, both, "gallery", "build", "lasting", many_pictures(tmp_path / "many", 160))
    told = []

    def report(step: ReembedProgress) -> None:
        if step.embedded_count >= 64 and not any(count >= 64 for count in told):
            (gallery,) = processes(both, "shitu_server", "gallery")
            gallery.kill()
        told.append(step.embedded_count)

    try:
        async with AsyncClient(both.address) as connected:
            published = await reembed_gallery(connected, "lasting", "second", Patience(), report)
        assert (published.item_count, published.previous_generation > 0) == (160, True)
        # It went on: what was embedded before was not embedded again.
        assert [count for count in told if count < 64] == [0, 32]
    finally:
        await asyncio.to_thread(client.delete_gallery, "lasting")


def test_an_interrupted_build_goes_on(both, client, tmp_path):
    source = many_pictures(tmp_path / "many", 480)
    try:
        with started(both, "gallery", "build", "stopped", source, "--concurrency", "1") as building:
            wait_for_items(client, "stopped", 20)
            building.send_signal(signal.SIGINT)
            output, _ = building.communicate(timeout=60)
        assert building.returncode == 130
        assert "interrupted; the same command again goes on" in output
        assert "Traceback" not in output
        there = client.get_gallery("stopped").item_count
        assert 20 <= there < 480
        output = quick(both, "gallery", "build", "stopped", source)
        assert f"added {480 - there} pictures" in output
        assert f"{there} were there already" in output
    finally:
        client.delete_gallery("stopped")


def many_pictures(folder: Path, count: int) -> Path:
    for number in range(count):
        (folder / f"label {number % 5}").mkdir(parents=True, exist_ok=True)
        path = folder / f"label {number % 5}" / f"{number}.jpg"
        # What follows a JPEG's end is no part of the picture: so many different files.
        path.write_bytes(product_picture(number % 6, number % 4) + str(number).encode())
    return folder


def started(server: RunningServer, *arguments: str | Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "SHITU_SERVER": server.address, "COLUMNS": "200"}
    command = [sys.executable, "-m", "shitu_client", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def wait_for_items(client: Client, name: str, count: int) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        with contextlib.suppress(UnavailableError):
            if any(info.name == name and info.item_count >= count for info in client.list_galleries()):
                return
        time.sleep(0.02)
    pytest.fail(f"gallery {name} does not come to {count} items")


def test_export_and_build_again(both, drinks, client, tmp_path):
    labels, pictures = tmp_path / "labels.txt", tmp_path / "saved"
    assert "wrote 9 items" in quick(both, "gallery", "export", drinks, labels)
    assert labels.read_text().splitlines()[0] == "label 0/0.jpg\tlabel 0"
    assert "wrote 9 items" in quick(both, "gallery", "export", drinks, labels, "--pictures", pictures)
    try:
        assert "added 9 pictures" in quick(both, "gallery", "build", "copy", pictures)
        assert [(item.id, item.label) for item in client.iterate_items("copy")] == [
            (item.id, item.label) for item in client.iterate_items(drinks)
        ]
        quick(both, "gallery", "build", "copy2", labels, "--root", pictures)
        assert client.get_gallery("copy2").item_count == 9
    finally:
        for name in ("copy", "copy2"):
            client.delete_gallery(name)


@pytest.mark.parametrize("kind", ["Flat", "HNSW32", "IVF"])
def test_to_paddlex_and_back(both, drinks, client, tmp_path, kind):
    target = tmp_path / "index"
    assert "wrote 9 items" in quick(both, "gallery", "export-paddlex", drinks, target, "--index-type", kind)
    assert "expected a folder that is empty" in quick(both, "gallery", "export-paddlex", drinks, target, status=1)
    encoder = ("--encoder", "demo_rec")
    try:
        output = quick(both, "gallery", "import-paddlex", "back", target, *encoder)
        assert "9 items of PaddleX, 0 failed" in output
        assert "shitu serve --profile paddlex" in output
        for number, item in enumerate(client.iterate_items(drinks)):
            copied = client.get_item("back", f"paddlex-{number}")
            assert copied.label == item.label
            np.testing.assert_allclose(copied.vector, client.get_item(drinks, item.id).vector, atol=1e-6)
        # The gallery is bound to the served encoder, so that pictures are searched for.
        assert client.search("back", product_picture(1), top_k=1)[0].label == "label 1"
        assert "9 items of PaddleX" in quick(both, "gallery", "import-paddlex", "back", target)
        assert client.get_gallery("back").item_count == 9
    finally:
        client.delete_gallery("back")


def test_imports_that_do_not_go_together(both, drinks, tmp_path):
    vectors = np.eye(4, dtype=np.float32)
    write_index(tmp_path / "index", list("abcd"), vectors, "L2", "Flat")
    for options, said in {
        ("other",): "expected --encoder",
        ("other", "--encoder", "demo_rec"): "encoder demo_rec has vectors of length",
        ("other", "--encoder", "nobody"): "expected an encoder that is served: demo_rec, second; got nobody",
        (drinks,): "gallery drinks has vectors of length",
        (drinks, "--encoder-fingerprint", "mine"): "bound to another encoder",
        ("other", "--encoder", "a", "--encoder-fingerprint", "b"): "got both",
    }.items():
        name, *rest = options
        assert said in quick(both, "gallery", "import-paddlex", name, tmp_path / "index", *rest, status=1)
    with Client(both.address) as client:
        mine = ("--encoder-fingerprint", "mine")
        assert "4 items of PaddleX" in quick(both, "gallery", "import-paddlex", "mine", tmp_path / "index", *mine)
        try:
            assert client.get_gallery("mine").metric == "l2"
            (found,) = client.search("mine", vectors[2], encoder_fingerprint="mine", top_k=1)
            assert (found.label, found.score) == ("c", 1.0)
        finally:
            client.delete_gallery("mine")


@pytest.mark.peer
def test_paddlex_searches_an_exported_gallery_as_we_do(both, drinks, client, tmp_path):
    python = peer_python("paddlex", "faiss")
    quick(both, "gallery", "export-paddlex", drinks, tmp_path / "index")
    queries = np.stack([client.embed(product_picture(index, 5)).vectors[0] for index in range(3)])
    np.save(tmp_path / "queries.npy", queries)
    arguments = (tmp_path / "index", tmp_path / "queries.npy", "-1", "5", tmp_path / "out.json")
    run_peer(python, "paddlex_index.py", "search", *arguments)
    fingerprint = client.get_gallery(drinks).encoder_fingerprint
    for query, theirs in zip(queries, json.loads((tmp_path / "out.json").read_text()), strict=True):
        ours = client.search(drinks, query, encoder_fingerprint=fingerprint, top_k=5)
        assert [match.label for match in ours] == theirs["label"]
        np.testing.assert_allclose([match.score for match in ours], theirs["score"], atol=1e-5)
    assert read_index(tmp_path / "index").metric == "IP"
