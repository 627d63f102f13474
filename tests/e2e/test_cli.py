"""The command line against a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.conftest import RunningServer
from tests.drawn import product_picture

from shitu_train.demo import compared
from shitu_train.render import DemoSizes, write_demo_dataset

SIZES = DemoSizes(products=4, gallery_pictures_per_product=3, scenes=2)


def shitu(server: RunningServer | str, *arguments: str | Path, status: int = 0) -> str:
    """Run `shitu`, which must end with `status`; returns what it printed."""
    address = server if isinstance(server, str) else server.address
    result = subprocess.run(
        [sys.executable, "-m", "shitu_client", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"SHITU_SERVER": address, "COLUMNS": "200", "PATH": "/usr/bin:/bin"},
    )
    output = result.stdout + result.stderr
    assert result.returncode == status, output
    assert "Traceback" not in output
    return output


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_demo_dataset(folder, seed=3, sizes=SIZES)
    return folder


@pytest.fixture
def gallery(server, pictures):
    shitu(server, "gallery", "build", "cli", pictures / "gallery.txt")
    yield "cli"
    shitu(server, "gallery", "delete", "cli", "--yes")


def test_build_recognise_and_save(server, pictures, gallery, tmp_path):
    output = shitu(
        server,
        "recognize",
        pictures / "test_images",
        "-g",
        gallery,
        "--out",
        tmp_path / "out",
        "--detection-threshold",
        "0.3",
    )
    assert "2 pictures in" in output
    assert "0 failed" in output
    for number in range(SIZES.scenes):
        result = json.loads((tmp_path / "out" / f"{number:04d}_res.json").read_text())
        assert (result["width"], result["height"]) == (640, 480)
        assert result["objects"]
        with Image.open(tmp_path / "out" / f"{number:04d}_res.jpg") as drawn:
            assert drawn.size == (640, 480)


def test_halves_print_recall(server, pictures):
    source = ["gallery", "build", "half", pictures / "gallery.txt", "--half", "first"]
    assert "added 8 pictures" in shitu(server, *source)
    try:
        output = shitu(
            server,
            *("recognize", pictures / "gallery.txt", "-g", "half", "--labelled", "--half", "second", "--whole-image"),
        )
        assert "recall@1" in output
        assert "on 4 pictures" in output
        same = shitu(
            server,
            *("recognize", pictures / "gallery.txt", "-g", "half", "--labelled", "--half", "first", "--whole-image"),
        )
        assert "recall@1 1.0000 on 8 pictures" in same
    finally:
        shitu(server, "gallery", "delete", "half", "--yes")


def test_building_again_sends_nothing_and_doubles_nothing(server, pictures, gallery):
    output = shitu(server, "gallery", "build", gallery, pictures / "gallery.txt")
    assert "added 0 pictures" in output
    assert "12 were there already" in output
    assert "it holds 12 items" in output
    again = shitu(server, "gallery", "build", gallery, pictures / "gallery.txt", "--again")
    assert "added 12 pictures" in again
    assert "it holds 12 items" in again


def test_add_show_remove(server, gallery, tmp_path):
    picture = tmp_path / "new.jpg"
    picture.write_bytes(product_picture(0))
    assert "added 1 of 1" in shitu(server, "gallery", "add", gallery, "Brand New", picture)
    shown = shitu(server, "gallery", "show", gallery, "--label", "Brand New")
    assert str(picture) in shown
    assert "13" in shown
    assert "removed 1 of 1" in shitu(server, "gallery", "remove", gallery, picture)
    assert "no such item" in shitu(server, "gallery", "remove", gallery, picture, status=1)
    assert gallery in shitu(server, "gallery", "list")


def test_a_bad_picture_never_stops_a_build(server, tmp_path):
    for name, content in {"a/good.jpg": product_picture(0), "a/bad.jpg": b"no picture", "b/empty.jpg": b""}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    try:
        output = shitu(server, "gallery", "build", "mixed", tmp_path, status=1)
        assert "added 1 pictures" in output
        assert "2 failed" in output
        assert "a/bad.jpg: " in output
        assert "b/empty.jpg: " in output
    finally:
        shitu(server, "gallery", "delete", "mixed", "--yes")


def test_faults_are_said_without_tracebacks(server, gallery, tmp_path):
    assert "there is no gallery" in shitu(server, "gallery", "show", "nowhere", status=1)
    assert "exists already" in shitu(server, "gallery", "create", gallery, status=1)
    assert "no such file" in shitu(server, "recognize", tmp_path / "nothing.jpg", "-g", gallery, status=1)
    labels = tmp_path / "labels.txt"
    labels.write_text("onlyapath\n")
    assert f"{labels}:1: expected `path<tab>label`" in shitu(server, "gallery", "build", "faulty", labels, status=1)
    assert "127.0.0.1:9" in shitu("127.0.0.1:9", "gallery", "list", status=1)


def test_the_demos_comparison_counts_what_is_right(pictures):
    truth = json.loads((pictures / "test_truth.json").read_text())
    objects = sum(len(scene["boxes"]) for scene in truth.values())
    figures = compared(truth, {}, images_per_s=1.0)
    assert (figures.scene_count, figures.object_count) == (2, objects)
    assert (figures.detection_recall, figures.top1_of_found) == (0, 0)


def test_the_demo_deletes_nothing_that_it_did_not_make(server, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.jpg").write_bytes(b"mine")
    assert "which no demo made" in shitu(server, "demo", "--out", tmp_path, status=1)
    assert (tmp_path / "pictures" / "holiday.jpg").read_bytes() == b"mine"


def test_a_result_that_cannot_be_saved_is_noted(server, pictures, gallery, tmp_path):
    taken = tmp_path / "file"
    taken.write_bytes(b"no folder")
    output = shitu(server, "recognize", pictures / "test_images", "-g", gallery, "--out", taken, status=1)
    assert "2 failed" in output
