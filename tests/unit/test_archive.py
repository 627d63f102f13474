"""Tars of inference directories, good and hostile."""

from __future__ import annotations

import gzip
import io
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests.small_disk import SMALL_DISK_BYTES, small_disk

from shitu_models.downloads.archive import (
    ArchiveLimits,
    ArchiveStorageError,
    DamagedArchiveError,
    UnsafeArchiveError,
    extract,
)
from shitu_models.downloads.files import opened_alone

WEIGHTS = bytes(range(256)) * 40
GOOD = {"inference.json": b"{}", "inference.pdiparams": WEIGHTS, "inference.yml": b"a: 1\n"}


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def add_good(tar: tarfile.TarFile, top: str = "model_infer/") -> None:
    if top:
        tar.addfile(member(top, tarfile.DIRTYPE))
    for name, content in GOOD.items():
        add_file(tar, top + name, content)


def add_file(tar: tarfile.TarFile, name: str, content: bytes = b"x", **fields) -> None:
    tar.addfile(member(name, size=len(content), **fields), io.BytesIO(content))


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "archives" / "model_infer.tar"


@pytest.fixture
def write(archive):
    """Write an archive: what is good, then what the test adds."""
    archive.parent.mkdir()

    def write(*extras: tarfile.TarInfo, mode: str = "w", top: str = "model_infer/") -> Path:
        with tarfile.open(archive, mode) as tar:
            add_good(tar, top)
            for extra in extras:
                tar.addfile(extra, io.BytesIO(bytes(extra.size)))
        return archive

    return write


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models" / "out"


def assert_nothing_is_left(folder: Path) -> None:
    assert not folder.exists()
    assert not list(folder.parent.glob("*"))
    assert not list(folder.parent.glob(".*"))


def assert_unpacked(folder: Path) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == GOOD
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("top", ["model_infer/", "./model_infer/", "", "./"])
def test_good_archives(write, folder, mode, top):
    assert extract(write(mode=mode, top=top), folder) == folder
    assert_unpacked(folder)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_form(archive, folder, form):
    archive.parent.mkdir()
    top = "m" * 60 + "/" + "n" * 60 + "/"
    with tarfile.open(archive, "w", format=form) as tar:
        add_good(tar, "")
        add_file(tar, top + "café.txt")
    assert (extract(archive, folder) / top / "café.txt").read_bytes() == b"x"


@pytest.mark.parametrize(
    "names",
    [
        ["inference.pdiparams", "inference.pdmodel"],
        ["infer_cfg.yml", "model.pdiparams", "model.pdiparams.info", "model.pdmodel"],
        ["model.json", "model.pdiparams", "settings.json"],
    ],
    ids=["PaddleClas", "PaddleDetection", "another json"],
)
def test_graphs_of_every_name_and_format(archive, folder, names):
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        for name in names:
            add_file(tar, f"a/{name}")
    assert sorted(path.name for path in extract(archive, folder).iterdir()) == names


def test_modes_are_not_those_of_the_archive(archive, folder):
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.addfile(member("top", tarfile.DIRTYPE, mode=0o2777))
        add_file(tar, "top/inference.json", mode=0o4777)
        add_file(tar, "top/inference.pdiparams", mode=0)
        tar.addfile(member("top/sub", tarfile.DIRTYPE, mode=0))
    old = os.umask(0o077)
    try:
        extract(archive, folder)
    finally:
        os.umask(old)
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in [folder, *folder.iterdir()]}
    assert modes == {"out": "0o755", "sub": "0o755", "inference.json": "0o644", "inference.pdiparams": "0o644"}


HOSTILE = {
    "absolute": [member("/tmp/evil", size=1)],
    "upwards": [member("../evil", size=1)],
    "upwards inside": [member("model_infer/../../evil", size=1)],
    "backslash": [member("..\\evil", size=1)],
    "symlink": [member("model_infer/link", tarfile.SYMTYPE, linkname="/etc")],
    "symlink and through it": [member("l", tarfile.SYMTYPE, linkname=".."), member("l/evil", size=1)],
    "hard link": [member("model_infer/link", tarfile.LNKTYPE, linkname="model_infer/inference.yml")],
    "character device": [member("model_infer/null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [member("model_infer/disk", tarfile.BLKTYPE, devmajor=8)],
    "fifo": [member("model_infer/pipe", tarfile.FIFOTYPE)],
    "duplicate": [member("model_infer/inference.yml", size=1)],
    "duplicate by another name": [member("./model_infer//inference.yml", size=1)],
    "duplicate folder": [member("model_infer", tarfile.DIRTYPE)],
    "folder that is a file": [member("model_infer/inference.yml/x", size=1)],
    "file that is a folder": [member("model_infer", size=1)],
    "sparse by pax": [
        member("model_infer/s", size=512, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9999"})
    ],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives(write, folder, kind):
    said = "a link" if "link" in kind else ""
    with pytest.raises(
        UnsafeArchiveError, match=rf"model_infer\.tar: expected the plain files.*{said}.*nothing was unpacked"
    ):
        extract(write(*HOSTILE[kind]), folder)
    assert_nothing_is_left(folder)
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ArchiveLimits(members=4), "more than 4 files"),
        (ArchiveLimits(member_bytes=len(WEIGHTS) - 1), f"a member of {len(WEIGHTS)} bytes"),
        (ArchiveLimits(total_bytes=len(WEIGHTS)), f"more than {len(WEIGHTS)}"),
    ],
)
def test_limits(write, folder, limits, said):
    with pytest.raises(UnsafeArchiveError, match=said):
        extract(write(), folder, limits)
    assert_nothing_is_left(folder)
    total_bytes = sum(map(len, GOOD.values()))
    assert extract(write(), folder, ArchiveLimits(5, len(WEIGHTS), total_bytes)) == folder  # exactly what there is


def test_deep_folders_count(write, folder):
    with pytest.raises(UnsafeArchiveError, match="more than 64 files"):
        extract(write(member("d/" * 1500 + "x", size=1)), folder)
    assert_nothing_is_left(folder)


def test_a_member_that_claims_more_than_is_there(archive, folder):
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        add_good(tar)
        tar.addfile(member("model_infer/large", size=100_000))
        tar.fileobj.write(bytes(2000))
    with pytest.raises(DamagedArchiveError):
        extract(archive, folder)
    assert_nothing_is_left(folder)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_gigabytes_is_never_read(archive, folder, kind):
    archive.parent.mkdir()
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write(member("long", kind, size=1 << 32).tobuf(tarfile.GNU_FORMAT))
        for _ in range(8):
            file.write(bytes(1 << 20))
    with pytest.raises(DamagedArchiveError, match="more beside its members"):
        extract(archive, folder)
    assert_nothing_is_left(folder)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_cut_off_anywhere(write, folder, mode):
    whole = write(mode=mode).read_bytes()
    archive = write()
    end_bytes = len(whole.rstrip(b"\0")) if mode == "w" else len(whole)
    for size in {*range(0, end_bytes, 331), *range(512, end_bytes, 512), end_bytes - 1}:
        archive.write_bytes(whole[:size])
        with pytest.raises(DamagedArchiveError):
            extract(archive, folder)
        assert_nothing_is_left(folder)


def test_flipped_bits_in_gzip(write, folder):
    archive = write(mode="w:gz")
    content = bytearray(archive.read_bytes())
    content[-6] ^= 1  # of the checksum at its end
    archive.write_bytes(content)
    with pytest.raises(DamagedArchiveError, match="CRC"):
        extract(archive, folder)
    assert_nothing_is_left(folder)


def test_a_broken_header_is_not_the_end(write, folder):
    archive = write(member("model_infer/last", size=1))
    content = archive.read_bytes()
    archive.write_bytes(content.replace(b"model_infer/last", b"model_infer/lost"))  # the checksum no longer fits
    with pytest.raises(DamagedArchiveError, match="after 4 members"):
        extract(archive, folder)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\3\4" + bytes(600), bytes(10240), b"\x1f\x8b" + bytes(600)]
)
def test_no_tar_at_all(archive, folder, content):
    archive.parent.mkdir()
    archive.write_bytes(content)
    with pytest.raises(DamagedArchiveError, match="get it again"):
        extract(archive, folder)
    assert_nothing_is_left(folder)


@pytest.mark.parametrize(
    "names",
    [
        ["inference.json", "readme.txt"],
        ["inference.pdiparams", "model.pdmodel"],
        ["a.json", "a.pdiparams", "b.pdiparams", "b.pdmodel"],
    ],
    ids=["no weights", "weights of another graph", "two models"],
)
def test_an_archive_of_something_else(archive, folder, names):
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        for name in names:
            add_file(tar, f"a/{name}")
    with pytest.raises(DamagedArchiveError, match=rf"one NAME\.json or .* it holds {', '.join(names)}"):
        extract(archive, folder)
    assert_nothing_is_left(folder)


def test_a_folder_that_is_there(write, folder):
    folder.mkdir(parents=True)
    extract(write(), folder)  # an empty one is as good as none
    with pytest.raises(ArchiveStorageError, match="is there already"):
        extract(write(), folder)
    assert_unpacked(folder)


def test_no_archive(archive, folder):
    with pytest.raises(ArchiveStorageError, match="cannot be read"):
        extract(archive, folder)
    assert_nothing_is_left(folder)


def test_one_process_at_a_time_and_a_killed_one_leaves_no_hindrance(write, folder):
    archive = write()
    folder.parent.mkdir()
    (folder.parent / ".out.draft").mkdir()
    (folder.parent / ".out.draft" / "half").write_bytes(b"x")
    guard = opened_alone(folder.parent / ".out.guard")
    with guard, pytest.raises(ArchiveStorageError, match="another process"):
        extract(archive, folder)
    assert (folder.parent / ".out.draft" / "half").exists()
    extract(archive, folder)
    assert_unpacked(folder)


def test_a_full_disk_is_free_again(write, tmp_path):
    archive = write(member("model_infer/large", size=2 * SMALL_DISK_BYTES))
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(ArchiveStorageError, match=r"No space left.*make room"):
            extract(archive, disk / "out")
        assert_nothing_is_left(disk / "out")


def test_a_limit_on_files_is_a_full_disk(write, folder):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    child = "import sys; from pathlib import Path; from shitu_models.downloads.archive import *\n"
    child += "try: extract(Path(sys.argv[1]), Path(sys.argv[2]))\nexcept ArchiveStorageError as error: print(error)"
    command = [sys.executable, "-c", child, str(write()), str(folder)]
    result = subprocess.run(command, check=True, text=True, capture_output=True, preexec_fn=limit, timeout=60)
    assert "File too large" in result.stdout
    assert_nothing_is_left(folder)
