"""Exported labels and pictures read back as they were, whatever ids and labels are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.small_gallery import SmallGallery, serving

from shitu.v1 import gallery_pb2 as g
from shitu_client.errors import InputError
from shitu_client.exports import ExportOutcome, export_labels
from shitu_client.metadata_files import read_metadata
from shitu_client.pictures import read_labels

QUIET = Console(quiet=True)


class Stored(SmallGallery):
    """Has items, with pictures."""

    def __init__(self, labels: dict[str, str]) -> None:
        super().__init__()
        self.exists = True
        self.items = {one: g.Item(id=one, label=label, thumbnail=one.encode()) for one, label in labels.items()}

    async def GetItem(self, request, context):  # noqa: ARG002, N802
        return g.GetItemResponse(item=self.items[request.id])


async def exported(labels: dict[str, str], file: Path, pictures: Path | None = None) -> ExportOutcome:
    async with serving(Stored(labels)) as client:
        return await export_labels(client, "a", file, pictures, QUIET)


async def test_labels(tmp_path):
    labels = {"a/1.jpg": "Coca Cola", "with space.jpg": "可乐", "b": "one", "c\u2028d": "x\x85y"}
    outcome = await exported(labels, tmp_path / "labels.txt")
    assert (outcome.item_count, outcome.failures) == (4, {})
    found = read_labels(tmp_path / "labels.txt")
    assert {one.id: one.label for one in found.pictures} == labels
    assert found.faults == {}


async def test_what_no_line_can_hold_is_a_failure(tmp_path):
    labels = {"good": "a", "line\nend": "a", "tab\tin": "a", "b": "line\rend", " c": "a", "d": "a ", "e": "tab\tin it"}
    outcome = await exported(labels, tmp_path / "labels.txt")
    assert (tmp_path / "labels.txt").read_text() == "good\ta\n"
    assert set(outcome.failures) == set(labels) - {"good"}


async def test_pictures_read_back_from_folders_and_from_the_file(tmp_path):
    labels = {
        "cola/1.jpg": "cola",
        "cola/2": "cola",
        "1.jpg": "cola",
        "elsewhere/1.jpg": "cola",
        "../../up.jpg": "cola",
        "cola/..": "cola",
        "x" * 256: "cola",
        "可" * 200: "可" * 60,
        "zero zero.PNG": "zero zero",
        "a": "of/two",
        "b": "..",
        "cola/.jpg": "cola",
    }
    outcome = await exported(labels, tmp_path / "labels.txt", tmp_path / "out" / "pictures")
    assert outcome.failures == {}
    assert outcome.renamed_labels == {"of/two", ".."}
    by_folder = {p.path.read_bytes().decode(): p for p in read_labels(tmp_path / "out" / "pictures").pictures}
    assert set(by_folder) == set(labels)
    right = {one for one, label in labels.items() if label not in outcome.renamed_labels}
    assert {one: by_folder[one].label for one in right} == {one: labels[one] for one in right}
    # What was built of such folders keeps its ids.
    assert by_folder["cola/1.jpg"].id == "cola/1.jpg"
    by_file = read_labels(tmp_path / "labels.txt", root=tmp_path / "out" / "pictures").pictures
    assert {p.path.read_bytes().decode(): p.label for p in by_file} == labels
    inside = (tmp_path / "out" / "pictures").resolve()
    assert all(p.path.resolve().is_relative_to(inside) for p in by_file)


async def test_an_item_without_a_picture_is_a_failure(tmp_path):
    gallery = Stored({"a": "x", "b": "x"})
    gallery.items["b"].thumbnail = b""
    async with serving(gallery) as client:
        outcome = await export_labels(client, "a", tmp_path / "labels.txt", tmp_path / "pictures", QUIET)
    assert outcome.failures == {"b": "has no picture: it came as a vector"}
    assert (tmp_path / "labels.txt").read_text() == "x/a.jpg\tx\n"


def test_metadata_of_many_items(tmp_path):
    file = tmp_path / "metadata.jsonl"
    file.write_text('{"id": "a", "metadata": {"price": 2}}\n\n{"id": "b", "metadata": {}, "more": 1}\n')
    assert read_metadata(file) == {"a": {"price": 2}, "b": {}}
    for line in (
        "a",
        "[]",
        '{"id": 1, "metadata": {}}',
        '{"id": "c"}',
        '{"id": "c", "metadata": {"a": NaN}}',
        "[" * 10**5,
    ):
        file.write_text(json.dumps({"id": "a", "metadata": {}}) + "\n" + line)
        with pytest.raises(InputError, match=f"{file}:2: expected"):
            read_metadata(file)
    file.write_text(2 * (json.dumps({"id": "a", "metadata": {}}) + "\n"))
    with pytest.raises(InputError, match=f"{file}:2: expected each id once, got 'a' again"):
        read_metadata(file)
