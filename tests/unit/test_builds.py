"""Builds against a small gallery: what is sent, what is not, what a bad file or a server in trouble does to the rest."""

# ruff: noqa: ARG002  what SmallGallery calls has one signature

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc
import pytest
from rich.console import Console
from tests.small_gallery import SmallGallery, refuse, retry_status, serving

from shitu.v1 import gallery_pb2 as g
from shitu_client import AsyncClient
from shitu_client.builds import BuildOptions, BuildOutcome, build_gallery
from shitu_client.deliveries import reason_of
from shitu_client.errors import InvalidArgumentError, NotFoundError, UnreachableError
from shitu_client.items import ItemFailure
from shitu_client.pictures import LabelledPicture, read_labels
from shitu_client.runs import RunOptions, recognize_all

QUIET = Console(quiet=True)


class NewGallery(SmallGallery):
    """Of a server that is as new as the client."""

    async def GetCapabilities(self, request, context):  # noqa: N802
        return g.GetCapabilitiesResponse()


READ_AS_NOBODY = """
import os, sys
from pathlib import Path
from shitu_client.pictures import read_labels, read_picture

os.setgid(65534)
os.setuid(65534)
labels = read_labels(Path(sys.argv[1]))
print(labels.faults, [picture.id for picture in labels.pictures])
for picture in labels.pictures:
    try:
        print(read_picture(picture.path, 100))
    except Exception as error:
        print(error)
"""


def pictures_in(folder: Path, count: int) -> list[LabelledPicture]:
    for number in range(count):
        path = folder / f"label {number % 3}" / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(f"picture {number}".encode())
    return read_labels(folder).pictures


async def built(client: AsyncClient, pictures, concurrency: int = 2, **options) -> BuildOutcome:
    return await build_gallery(client, "a", pictures, concurrency, QUIET, options=BuildOptions(**options))


async def test_what_is_there_is_not_sent_again(tmp_path):
    pictures = pictures_in(tmp_path, 40)
    gallery = NewGallery()
    async with serving(gallery) as client:
        first = await built(client, pictures)
        assert (first.added_count, first.replaced_count, first.present_count) == (40, 0, 0)
        assert all(len(request.items) <= 16 for request in gallery.requests)

        gallery.requests.clear()
        second = await built(client, pictures)
        assert (second.added_count, second.present_count) == (0, 40)
        assert gallery.requests == []

        # Another content, another label, one that is new.
        (tmp_path / "label 0" / "000.jpg").write_bytes(b"changed")
        pictures_in(tmp_path, 41)
        changed = [LabelledPicture(p.id, p.path, "another") if p.id == "label 1/001.jpg" else p for p in pictures]
        changed = [*changed, LabelledPicture("new", tmp_path / "label 1" / "040.jpg", "label 1")]
        (tmp_path / "label 0" / "000.jpg").write_bytes(b"changed")
        third = await built(client, changed)
        assert {item.id for request in gallery.requests for item in request.items} == {
            "label 0/000.jpg",
            "label 1/001.jpg",
            "new",
        }
        assert (third.added_count, third.replaced_count, third.present_count) == (3, 2, 38)

        gallery.requests.clear()
        assert (await built(client, pictures, again=True)).added_count == 40
        assert (await built(client, pictures, detect=True)).added_count == 40
        assert (await built(client, pictures, detect=True)).present_count == 40


async def test_metadata_goes_with_the_pictures_and_is_compared(tmp_path):
    pictures = pictures_in(tmp_path, 3)
    gallery = SmallGallery()
    async with serving(gallery) as client:
        metadata = {"label 0/000.jpg": {"price": 2, "sold": True}}
        assert (await built(client, pictures, metadata=metadata)).added_count == 3
        assert dict(gallery.items["label 0/000.jpg"].metadata) == {"price": 2.0, "sold": True}
        assert (await built(client, pictures, metadata=metadata)).present_count == 3
        assert (await built(client, pictures, metadata={"label 0/000.jpg": {"price": 3}})).added_count == 1
        # Without metadata nothing is said of it.
        assert (await built(client, pictures)).present_count == 3


async def test_metadata_that_nobody_gives_stays(tmp_path):
    pictures = pictures_in(tmp_path, 3)
    gallery = SmallGallery()
    async with serving(gallery) as client:
        await built(client, pictures)
        gallery.items[pictures[0].id].metadata.update({"price": 2, "tags": ["a", {"b": None}]})
        there = dict(gallery.items[pictures[0].id].metadata)

        def kept() -> bool:
            return dict(gallery.items[pictures[0].id].metadata) == there

        assert (await built(client, pictures, again=True)).replaced_count == 3
        assert kept()
        edited = [LabelledPicture(p.id, p.path, "another") for p in pictures]
        assert (await built(client, edited, metadata={pictures[1].id: {"price": 1}})).replaced_count == 3
        assert kept()
        assert dict(gallery.items[pictures[1].id].metadata) == {"price": 1.0}
        await built(client, edited, metadata={pictures[0].id: {"sold": True}})
        assert dict(gallery.items[pictures[0].id].metadata) == {"sold": True}
        await built(client, edited, metadata={pictures[0].id: {}})
        assert dict(gallery.items[pictures[0].id].metadata) == {}


async def test_duplicates_are_left_out(tmp_path):
    pictures = pictures_in(tmp_path, 4)
    gallery = NewGallery()
    async with serving(gallery) as client:
        await built(client, pictures[:2])
        copies = [LabelledPicture(f"copy of {p.id}", p.path, p.label) for p in pictures]
        gallery.requests.clear()
        outcome = await built(client, copies, skip_duplicates=True)
        assert (outcome.added_count, outcome.duplicate_count) == (2, 2)
        assert all(request.skip_duplicates for request in gallery.requests)
        assert (await built(client, copies)).duplicate_count == 0


async def test_pictures_are_taken_only_when_there_is_a_place_for_them(tmp_path):
    pictures, taken = pictures_in(tmp_path, 400), []
    free = asyncio.Event()

    class Slow(SmallGallery):
        async def before_add(self, request, context):
            await free.wait()

    def one_by_one():
        for picture in pictures:
            taken.append(picture)
            yield picture

    async with serving(Slow()) as client:
        building = asyncio.ensure_future(built(client, one_by_one(), concurrency=3))
        while len(taken) < 3 * 16:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(taken) == 3 * 16
        free.set()
        outcome = await building
    assert outcome.added_count == len(taken) == 400


async def test_large_pictures_make_small_requests(tmp_path):
    for number in range(6):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{number}.jpg").write_bytes(bytes([number]) * 9 * 1024 * 1024)
    gallery = SmallGallery()
    async with serving(gallery) as client:
        outcome = await built(client, read_labels(tmp_path).pictures, concurrency=1)
    assert outcome.added_count == 6
    assert [len(request.items) for request in gallery.requests] == [1] * 6


async def test_bad_files_never_stop_the_rest(tmp_path):
    good = pictures_in(tmp_path, 20)
    os.mkfifo(tmp_path / "label 0" / "pipe.jpg")
    (tmp_path / "label 0" / "link.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "label 0" / "folder.jpg").mkdir()
    with (tmp_path / "label 0" / "huge.jpg").open("wb") as file:
        file.truncate(10**9)
    strange = os.fsencode(tmp_path) + b"/label 0/\xff.jpg"
    Path(os.fsdecode(strange)).write_bytes(b"x")  # noqa: ASYNC240
    long = "x" * 200
    (tmp_path / long).mkdir()
    (tmp_path / long / f"{long}.jpg").write_bytes(b"x")
    listed = [
        *read_labels(tmp_path).pictures,
        LabelledPicture("gone.jpg", tmp_path / "gone.jpg", "a", line=7),
        LabelledPicture("zero", tmp_path / "\0", "a"),
    ]

    class Choosy(SmallGallery):
        def error_of(self, item):
            if item.id == good[3].id:
                return retry_status(grpc.StatusCode.INVALID_ARGUMENT, "expected a picture, got text", 0)
            return None

    async with serving(Choosy()) as client:
        outcome = await built(client, listed)
    assert outcome.added_count == len(good) - 1
    said = {Path(name).name: message for name, message in outcome.failures.items()}
    assert said.pop(Path(good[3].id).name) == "expected a picture, got text"
    assert "is something else" in said.pop("pipe.jpg")
    assert "is missing" in said.pop("link.jpg")
    assert "expected at most 62914560 bytes" in said.pop("huge.jpg")
    assert "expected a path in UTF-8" in said.pop(os.fsdecode(b"\xff.jpg"))
    assert "at most 256 characters" in said.pop(f"{long}.jpg")
    assert said.pop("gone.jpg") == f"line 7: picture {tmp_path / 'gone.jpg'} is missing"
    assert "null byte" in said.pop("zero")
    assert said == {}


@pytest.mark.parametrize(
    "trouble",
    [
        lambda context: refuse(context, grpc.StatusCode.UNAVAILABLE, "restarting", 0.01),
        lambda context: refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", 0.01),
        lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "no details"),
        lambda context: context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "slow"),
    ],
)
async def test_a_server_in_trouble_is_waited_for(tmp_path, trouble):
    class Troubled(SmallGallery):
        failures = 0

        async def before_add(self, request, context):
            if self.failures < 6:
                self.failures += 1
                await trouble(context)

    gallery = Troubled()
    async with serving(gallery) as client:
        outcome = await built(client, pictures_in(tmp_path, 20))
    assert (outcome.added_count, outcome.failures, outcome.stopped) == (20, {}, "")
    assert gallery.failures == 6


async def test_items_that_the_server_has_no_time_for_are_sent_again_alone(tmp_path):
    class Busy(SmallGallery):
        refused: set[str]

        def error_of(self, item):
            if item.id.endswith("3.jpg") and item.id not in self.refused:
                self.refused.add(item.id)
                return retry_status(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", 0.01)
            return None

    gallery = Busy()
    gallery.refused = set()
    async with serving(gallery) as client:
        outcome = await built(client, pictures_in(tmp_path, 16), concurrency=1)
    assert (outcome.added_count, outcome.replaced_count, outcome.failures) == (16, 0, {})
    assert [len(request.items) for request in gallery.requests] == [16, 2]


async def test_a_request_that_is_too_large_for_ever_is_not_sent_for_ever(tmp_path):
    class Small(SmallGallery):
        async def before_add(self, request, context):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")

    gallery = Small()
    async with serving(gallery) as client:
        outcome = await built(client, pictures_in(tmp_path, 20))
    assert len(outcome.failures) == 20
    assert len(gallery.requests) == 2


@pytest.mark.parametrize("code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND])
async def test_what_every_request_would_end_with_stops_the_build(tmp_path, code):
    class ReadOnly(SmallGallery):
        async def before_add(self, request, context):
            if len(self.items) >= 16:
                await context.abort(code, "no more of this")

    gallery = ReadOnly()
    async with serving(gallery) as client:
        outcome = await built(client, pictures_in(tmp_path, 200), concurrency=1)
    assert "no more of this" in outcome.stopped
    assert (outcome.added_count, outcome.failures, outcome.unsent_count) == (16, {}, 184)
    assert len(gallery.requests) == 2


async def test_nobody_is_not_waited_for(tmp_path):
    async with AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(UnreachableError) as caught:
            await asyncio.wait_for(built(client, pictures_in(tmp_path, 1)), 10)
    assert str(caught.value) == "no server answers at 127.0.0.1:1; is shitu serve running there?"


async def test_waiting_is_said_when_it_begins(tmp_path):
    class Restarting(SmallGallery):
        failures = 0

        async def before_add(self, request, context):
            self.failures += 1
            # gRPC itself calls four times.
            if self.failures <= 6:
                await refuse(context, grpc.StatusCode.UNAVAILABLE, "restarting", 0.01)

    said = io.StringIO()
    async with serving(Restarting()) as client:
        pictures = pictures_in(tmp_path, 32)
        await build_gallery(client, "a", pictures, 1, Console(file=said), options=BuildOptions())
    assert said.getvalue().count("the server does not answer, waiting up to 120 s\n") == 1


@pytest.mark.parametrize(
    ("message", "field", "told"),
    [
        ("items[3].metadata.brand: expected a string", "items[3].metadata.brand", "metadata.brand: expected a string"),
        ("items[12]: expected a picture", "items[12]", "expected a picture"),
        ("expected a picture", "", "expected a picture"),
    ],
)
def test_a_reason_has_no_place_in_a_request(message, field, told):
    assert reason_of(ItemFailure("a", InvalidArgumentError(message, field=field))) == told


async def test_recognition_that_every_picture_would_fail_stops(tmp_path):
    pictures = {picture.path: "" for picture in pictures_in(tmp_path, 30)}
    calls = []

    class Recognizing(AsyncClient):
        async def recognize(self, image, gallery, **options):
            calls.append(image)
            await asyncio.sleep(0.01)
            raise NotFoundError(f"there is no gallery {gallery}")

    async with Recognizing("127.0.0.1:1") as client:
        with pytest.raises(NotFoundError, match="there is no gallery a"):
            await recognize_all(client, pictures, RunOptions("a", concurrency=2), None, QUIET)
    assert len(calls) <= 4


async def test_a_server_that_stays_away_stops_the_build(tmp_path):
    class Gone(SmallGallery):
        async def before_add(self, request, context):
            if len(self.items) >= 16:
                await refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "busy for ever", 0.01)

    pictures = pictures_in(tmp_path, 200)
    gallery = Gone()
    async with serving(gallery) as client:
        outcome = await built(client, pictures, concurrency=1, patience_s=0.5)
        assert "nothing could be sent for 0.5 s: busy for ever" in outcome.stopped
        assert (outcome.added_count, len(outcome.failures), outcome.unsent_count) == (16, 16, 168)
        gallery.before_add = SmallGallery().before_add
        again = await built(client, pictures, patience_s=0.5)
    assert (again.added_count, again.present_count, again.failures) == (184, 16, {})


def test_what_nobody_can_read_is_said():
    """As another user than root, who may read everything: in a process of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        pictures_in(folder, 3)
        (folder / "label 0").chmod(0)
        (folder / "label 1" / "001.jpg").chmod(0)
        command = [sys.executable, "-c", READ_AS_NOBODY, name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "folder cannot be read: Permission denied" in said
    assert "['label 1/001.jpg', 'label 2/002.jpg']" in said
    assert "001.jpg cannot be read: Permission denied" in said
    assert "b'picture 2'" in said


async def test_the_list_of_what_is_there_is_read_page_by_page(tmp_path):
    gallery = SmallGallery()
    gallery.exists = True
    gallery.items = {str(number): g.Item(id=str(number), label="a") for number in range(2500)}
    async with serving(gallery) as client:
        outcome = await built(client, pictures_in(tmp_path, 3))
    assert outcome.added_count == 3
    assert len(gallery.items) == 2503
