from __future__ import annotations

from pathlib import Path

import pytest

from shitu_client.pictures import Half, LabelFileError, labelled_pictures, picture_paths, read_labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("cola/1.jpg", "cola/2.jpg", "cola/3.jpg", "fanta zero/1.png", "fanta zero/2.JPG"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_label_file_with_tabs_spaces_and_labels_of_several_words(folder: Path):
    file = folder / "gallery.txt"
    file.write_text("cola/1.jpg cola\n\nfanta zero/1.png\tFanta Zero\ncola/2.jpg Coca Cola\n")
    found = labelled_pictures(file)
    assert [(p.id, p.label) for p in found] == [
        ("cola/1.jpg", "cola"),
        ("fanta zero/1.png", "Fanta Zero"),
        ("cola/2.jpg", "Coca Cola"),
    ]


def test_faults_of_a_label_file_are_named_with_their_lines_and_the_rest_is_read(folder: Path):
    file = folder / "gallery.txt"
    file.write_text("cola/1.jpg cola\nonlyapath\ncola/1.jpg\tpepsi\ncola/1.jpg\tcola\ncola/2.jpg\t\ncola/9.jpg cola\n")
    labels = read_labels(file)
    assert [(p.id, p.label, p.line) for p in labels.pictures] == [("cola/1.jpg", "cola", 1), ("cola/9.jpg", "cola", 6)]
    assert labels.faults == {
        f"{file}:2": "expected `path<tab>label` or `path label`, got 'onlyapath'",
        f"{file}:3": "expected one label for cola/1.jpg, which line 1 calls 'cola'; got 'pepsi'",
        f"{file}:5": "expected `path<tab>label` or `path label`, got 'cola/2.jpg\\t'",
    }
    # Where all must be usable, they are not.
    with pytest.raises(LabelFileError) as caught:
        labelled_pictures(file)
    assert f"{file}:2: expected `path<tab>label`" in str(caught.value)
    assert f"{file}:5: expected" in str(caught.value)


def test_a_line_with_two_tabs_or_of_another_encoding_fails_alone(folder: Path):
    file = folder / "gallery.txt"
    lines = ("cola/1.jpg\tcola\t9.99", "cola/2.jpg\tCaf\xe9", "cola/3.jpg\tcola", "fanta zero/1.png\tfanta\t")
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode("latin-1"))
    labels = read_labels(file)
    assert [(p.id, p.label) for p in labels.pictures] == [("cola/3.jpg", "cola"), ("fanta zero/1.png", "fanta")]
    assert labels.faults == {f"{file}:1": "expected one tab, got 2", f"{file}:2": "expected UTF-8 text"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_of_another_encoding_fails_at_once(folder: Path, encoding: str):
    file = folder / "gallery.txt"
    file.write_bytes("cola/1.jpg\tcola\ncola/2.jpg\tcola\n".encode(encoding))
    with pytest.raises(LabelFileError) as caught:
        read_labels(file)
    assert str(caught.value) == f"{file}: expected UTF-8 text, got what looks like UTF-16"


def test_a_wrong_root_is_said_once_and_a_picture_is_no_label_file(folder: Path):
    file = folder / "gallery.txt"
    file.write_text("1.jpg cola\n2.jpg cola\n9.jpg cola\n")
    with pytest.raises(LabelFileError, match="none of the pictures is there, such as"):
        read_labels(file, root=folder / "fanta zero")
    with pytest.raises(LabelFileError, match="there is no such folder"):
        read_labels(file, root=folder / "nowhere")
    assert len(read_labels(file, root=folder / "cola").pictures) == 3
    with pytest.raises(LabelFileError, match="`shitu gallery add` adds one picture"):
        read_labels(folder / "cola" / "1.jpg")


def test_a_label_file_with_nothing_usable_is_refused(folder: Path):
    file = folder / "gallery.txt"
    file.write_text("onlyapath\n")
    with pytest.raises(LabelFileError, match=f"{file}:1: expected"):
        read_labels(file)


def test_paths_are_relative_to_the_root_that_is_given(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("lists") / "gallery.txt"
    file.write_text("1.jpg\tcola\n")
    assert labelled_pictures(file, root=folder / "cola")[0].path == folder / "cola" / "1.jpg"


def test_a_folder_for_each_label(folder: Path):
    found = labelled_pictures(folder)
    assert [(p.id, p.label) for p in found] == [
        ("cola/1.jpg", "cola"),
        ("cola/2.jpg", "cola"),
        ("cola/3.jpg", "cola"),
        ("fanta zero/1.png", "fanta zero"),
        ("fanta zero/2.JPG", "fanta zero"),
    ]


def test_halves_share_nothing_and_miss_nothing(folder: Path):
    first = {p.id for p in labelled_pictures(folder, half=Half.FIRST)}
    second = {p.id for p in labelled_pictures(folder, half=Half.SECOND)}
    assert first == {"cola/1.jpg", "cola/3.jpg", "fanta zero/1.png"}
    assert second == {"cola/2.jpg", "fanta zero/2.JPG"}


@pytest.mark.parametrize("content", [b"\xff\xfe\x00broken", b"\n\n"])
def test_files_that_are_no_label_files_are_refused(tmp_path: Path, content: bytes):
    file = tmp_path / "gallery.txt"
    file.write_bytes(content)
    with pytest.raises(LabelFileError, match=str(file)):
        labelled_pictures(file)


def test_a_picture_beside_the_label_folders_is_a_fault(folder: Path):
    (folder / "stray.jpg").write_bytes(b"x")
    labels = read_labels(folder)
    assert len(labels.pictures) == 5
    assert labels.faults == {
        "stray.jpg": f"expected a folder for each label inside {folder}, found a picture beside them"
    }
    with pytest.raises(LabelFileError, match=r"stray\.jpg: expected a folder for each label"):
        labelled_pictures(folder)


def test_picture_paths_of_files_and_folders(folder: Path):
    assert picture_paths([folder / "cola/1.jpg", folder / "fanta zero"]) == [
        folder / "cola/1.jpg",
        folder / "fanta zero/1.png",
        folder / "fanta zero/2.JPG",
    ]
    with pytest.raises(LabelFileError, match="no such file or folder"):
        picture_paths([folder / "nowhere"])
