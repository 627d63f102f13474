"""Downloads from a real server that misbehaves."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from tests.file_server import Behaviour, FileServer, Proxy, running
from tests.small_disk import SMALL_DISK_BYTES, small_disk

from shitu_models.downloads.downloader import (
    AddressError,
    BusyError,
    DigestMismatchError,
    DiskFullError,
    Downloader,
    DownloadLimits,
    GaveUpError,
    LockFileError,
    NotFoundError,
    RefusedError,
    RemoteFile,
    StorageError,
    TooLargeError,
    WrongContentError,
    adopt,
)
from shitu_models.downloads.files import opened_alone

PATH = "models/weights.pdparams"
BODY = bytes(range(256)) * 2048  # 512 KiB
CONTENT = b"\x80\x04" + BODY + b"."  # as a pickle begins and ends
OTHER = b"\x80\x04" + BODY[::-1] + b"."
PAGE = b"\n<!DOCTYPE html>\n<html><body>Accept our terms to go online.</body></html>\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CUT = 200_000
LIMITS = DownloadLimits(read_timeout_s=5, attempts=3, first_wait_s=0.01, progress_bytes=1 << 16)

CHILD = """
import sys
from pathlib import Path
from shitu_models.downloads.downloader import Downloader, DownloadError, RemoteFile
base, folder, lock = sys.argv[1:]
try:
    Downloader(Path(folder), Path(lock)).fetch(RemoteFile("models/weights.pdparams", base, 1 << 20))
except DownloadError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def files():
    server = FileServer()
    server.files["/" + PATH] = CONTENT
    with running(server):
        yield server


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "digests.json"


@pytest.fixture
def downloader(folder, lock):
    return Downloader(folder, lock, limits=LIMITS)


def remote(server: FileServer, **other) -> RemoteFile:
    return RemoteFile(**{"path": PATH, "base_url": server.base, "max_bytes": 1 << 20, **other})


def assert_whole(path: Path, content: bytes = CONTENT) -> None:
    """The file is there, and nothing beside it."""
    assert path.read_bytes() == content
    assert left_in(path.parent) == [path.name]


def tar_of(content: bytes, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        member = tarfile.TarInfo("model_infer/inference.pdiparams")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What goes well


def test_a_file_comes_and_is_recorded(files, downloader, folder, lock):
    seen = []
    path = downloader.fetch(remote(files), lambda done, total: seen.append((done, total)))
    assert path == folder / "weights.pdparams"
    assert_whole(path)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    entry = json.loads(lock.read_text())[PATH]
    assert (entry["sha256"], entry["size_bytes"]) == (SHA256, len(CONTENT))


def test_a_file_that_is_there_is_checked_and_not_downloaded(files, downloader):
    path = downloader.fetch(remote(files))
    with opened_alone(path.with_name("weights.pdparams.part")):  # even when another process is at work
        assert downloader.fetch(remote(files)) == path
    assert len(files.asked) == 1


def test_a_file_that_is_there_and_was_changed_is_refused(files, downloader):
    downloader.fetch(remote(files)).write_bytes(OTHER)
    with pytest.raises(DigestMismatchError, match=f"expected sha256 {SHA256}.*delete"):
        downloader.fetch(remote(files))


def test_an_empty_file(files, downloader):
    files.files["/models/empty.txt"] = b""
    assert downloader.fetch(remote(files, path="models/empty.txt")).read_bytes() == b""


def test_chunks_without_a_length(files, downloader):
    files.script = [Behaviour(chunked=True)]
    totals = set()
    assert_whole(downloader.fetch(remote(files), lambda _, total: totals.add(total)))
    assert totals == {None}


def test_mirror(files, folder, lock):
    files.files["/copies/here/" + PATH] = CONTENT
    original = remote(files, base_url="http://127.0.0.1:9/")
    assert_whole(Downloader(folder, lock, mirror=files.base + "copies/here", limits=LIMITS).fetch(original))
    assert [asked.path for asked in files.asked] == ["/copies/here/" + PATH]
    assert list(json.loads(lock.read_text())) == [PATH]


def test_redirect_keeps_the_range(files, downloader):
    files.files["/elsewhere"] = CONTENT
    away = Behaviour(redirect=files.base + "elsewhere")
    files.script = [away, Behaviour(cut_after=CUT), away]
    assert_whole(downloader.fetch(remote(files)))
    assert [(asked.path, asked.start) for asked in files.asked][2:] == [("/" + PATH, CUT), ("/elsewhere", CUT)]


# Proxies


@pytest.fixture
def proxy():
    server = Proxy()
    with running(server):
        yield server


def test_explicit_proxy_with_credentials(files, proxy, folder, lock, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # for the environment's proxy, not for this one
    way = Downloader(folder, lock, proxy=f"http://user:p%40ss@{proxy.address}", limits=LIMITS)
    assert_whole(way.fetch(remote(files)))
    assert [asked.path for asked in proxy.asked] == [files.base + PATH]
    assert proxy.asked[0].headers["Proxy-Authorization"] == "Basic dXNlcjpwQHNz"  # user:p@ss
    assert "Proxy-Authorization" not in files.asked[0].headers


def test_proxy_of_the_environment(files, proxy, folder, lock, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
    assert_whole(Downloader(folder, lock, limits=LIMITS).fetch(remote(files)))
    assert [asked.path for asked in proxy.asked] == [files.base + PATH]


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "127.0.0.1:3128", "http://", "http://host:port"])
def test_what_is_no_proxy(proxy, folder, lock):
    with pytest.raises(AddressError, match="proxy: expected http://"):
        Downloader(folder, lock, proxy=proxy)


@pytest.mark.parametrize("mirror", ["", "ftp://host/", "host/folder", "http://user:secret@host/", "http://host/?q=1"])
def test_what_is_no_mirror(mirror, folder, lock):
    with pytest.raises(AddressError, match="mirror: expected http"):
        Downloader(folder, lock, mirror=mirror)


# Connections that break


def test_a_reset_connection_is_taken_up(files, downloader):
    files.script = [Behaviour(cut_after=CUT, resets=True)]
    assert_whole(downloader.fetch(remote(files)))
    assert files.asked[1].sent == len(CONTENT) - (files.asked[1].start or 0)


def test_a_connection_that_ends_is_taken_up(files, downloader):
    files.script = [Behaviour(cut_after=CUT)]
    assert_whole(downloader.fetch(remote(files)))
    assert [asked.start for asked in files.asked] == [None, CUT]
    assert files.asked[1].if_range.startswith('"')
    assert files.asked[1].sent == len(CONTENT) - CUT


def test_many_cuts_that_each_bring_something_never_give_up(files, downloader):
    files.script = [Behaviour(cut_after=1 << 16)] * 7  # more than LIMITS.attempts
    assert_whole(downloader.fetch(remote(files)))
    assert sum(asked.sent for asked in files.asked) == len(CONTENT)


def test_chunks_that_break_off_are_taken_up(files, downloader):
    files.script = [Behaviour(chunked=True, cut_after=CUT)]
    assert_whole(downloader.fetch(remote(files)))
    assert files.asked[1].start == CUT


def test_gives_up_and_the_next_run_goes_on(files, downloader, folder):
    files.script = [Behaviour(cut_after=CUT), Behaviour(status=503), Behaviour(status=503), Behaviour(status=503)]
    with pytest.raises(GaveUpError, match=f"3 attempts.*HTTP 503.*{CUT} bytes are kept"):
        downloader.fetch(remote(files))
    assert left_in(folder) == ["weights.pdparams.part", "weights.pdparams.part.json"]
    files.script = []
    assert_whole(downloader.fetch(remote(files)))
    assert files.asked[-1].start == CUT


def test_a_silent_server_is_left_in_time(files, folder, lock):
    files.script = [Behaviour(pause_s=2.0)]
    limits = DownloadLimits(read_timeout_s=0.3, attempts=1)
    begin_s = time.monotonic()
    with pytest.raises(GaveUpError, match="timed out"):
        Downloader(folder, lock, limits=limits).fetch(remote(files))
    assert time.monotonic() - begin_s < 1.5


def test_a_server_that_trickles_is_left_in_time(files, folder, lock):
    files.script = [Behaviour(pause_s=0.05, piece_bytes=1)]
    limits = DownloadLimits(read_timeout_s=0.3, attempts=1)
    with pytest.raises(GaveUpError, match=r"bytes in 0\.3 s"):
        Downloader(folder, lock, limits=limits).fetch(remote(files))


def test_nobody_listens(files, downloader, folder):
    with pytest.raises(GaveUpError, match=r"no connection.*--mirror"):
        downloader.fetch(remote(files, base_url="http://127.0.0.1:9/"))
    assert left_in(folder) == []


def test_a_killed_process_is_taken_up(files, folder, lock):
    files.script = [Behaviour(pause_s=0.02)]
    command = [sys.executable, "-c", CHILD, files.base, str(folder), str(lock)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    part = folder / "weights.pdparams.part"
    end_s = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > CUT):
        assert process.poll() is None
        assert time.monotonic() < end_s
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    kept_bytes = part.stat().st_size
    assert CUT < kept_bytes < len(CONTENT)
    assert not lock.exists()
    subprocess.run(command, check=True, timeout=60)
    assert_whole(folder / "weights.pdparams")
    assert [asked.start for asked in files.asked] == [None, kept_bytes]
    assert files.asked[1].sent == len(CONTENT) - kept_bytes


def test_killed_after_the_last_byte_nothing_comes_again(files, downloader, folder):
    files.script = [Behaviour(cut_after=CUT), Behaviour(status=503), Behaviour(status=503), Behaviour(status=503)]
    with pytest.raises(GaveUpError):
        downloader.fetch(remote(files))
    (folder / "weights.pdparams.part").write_bytes(CONTENT)
    requests = len(files.asked)
    assert_whole(downloader.fetch(remote(files)))
    assert len(files.asked) == requests


# Servers that say something else than they did


def test_a_server_without_ranges_sends_all_again(files, downloader):
    files.script = [Behaviour(cut_after=CUT), Behaviour(knows_ranges=False)]
    assert_whole(downloader.fetch(remote(files)))
    assert [asked.status for asked in files.asked] == [200, 200]


def test_a_file_that_changed_in_between_is_never_mixed(files, downloader):
    files.script = [Behaviour(cut_after=CUT), Behaviour(content=OTHER)]
    assert_whole(downloader.fetch(remote(files)), OTHER)
    assert [asked.status for asked in files.asked] == [200, 200]  # If-Range did it


@pytest.mark.parametrize(("content", "etag"), [(OTHER, ""), (CONTENT + b"more.", None)])
def test_nor_by_a_server_that_does_not_mind_if_range(files, downloader, content, etag):
    files.script = [Behaviour(cut_after=CUT), *[Behaviour(content=content, minds_if_range=False, etag=etag)] * 2]
    assert_whole(downloader.fetch(remote(files)), content)
    assert [asked.status for asked in files.asked] == [200, 206, 200]


def test_a_range_that_begins_elsewhere_is_never_appended(files, downloader):
    files.script = [Behaviour(cut_after=CUT), Behaviour(range_shift=1, cut_after=len(CONTENT) - CUT)]
    assert_whole(downloader.fetch(remote(files)))
    assert [asked.start for asked in files.asked] == [None, CUT, None]


def test_a_part_of_another_file_is_thrown_away(files, downloader):
    files.files["/other/weights.pdparams"] = CONTENT
    files.script = [Behaviour(cut_after=CUT), *[Behaviour(status=503)] * 3]
    with pytest.raises(GaveUpError):
        downloader.fetch(remote(files, path="other/weights.pdparams"))
    assert_whole(downloader.fetch(remote(files)))
    assert files.asked[-1].start is None


def test_without_a_validator_nothing_is_resumed_on_trust(files, downloader):
    files.script = [Behaviour(cut_after=CUT, etag=None), *[Behaviour(status=503)] * 3]
    with pytest.raises(GaveUpError):
        downloader.fetch(remote(files))
    assert_whole(downloader.fetch(remote(files)))
    assert files.asked[-1].start is None


def test_without_a_validator_a_known_digest_is_enough(files, downloader):
    files.script = [Behaviour(cut_after=CUT, etag=None), *[Behaviour(status=503)] * 3]
    known = remote(files, sha256=SHA256)
    with pytest.raises(GaveUpError):
        downloader.fetch(known)
    assert_whole(downloader.fetch(known))
    assert files.asked[-1].start == CUT


def test_a_weak_etag_is_no_validator(files, downloader):
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    files.script = [Behaviour(cut_after=CUT, etag='W/"1"', last_modified=date), Behaviour(last_modified=date)]
    assert_whole(downloader.fetch(remote(files)))
    assert files.asked[1].if_range == date


def test_a_length_that_is_too_large(files, downloader, folder, lock):
    files.script = [Behaviour(extra_length=1000)] * 9
    with pytest.raises(GaveUpError):
        downloader.fetch(remote(files))
    assert "weights.pdparams" not in left_in(folder)
    assert not lock.exists()
    assert {asked.status for asked in files.asked} == {200, 416}


def test_a_length_that_is_too_small_cuts_the_file_and_the_digest_tells(files, downloader, folder):
    cut_at_a_dot = CONTENT.rindex(b".", 0, -1) + 1
    files.script = [Behaviour(extra_length=cut_at_a_dot - len(CONTENT))]
    with pytest.raises(DigestMismatchError, match=f"expected sha256 {SHA256}"):
        downloader.fetch(remote(files, sha256=SHA256))
    assert left_in(folder) == []


def test_no_length_is_refused_where_no_digest_would_tell_a_cut(files, downloader, folder):
    files.script = [Behaviour(closes=True)]
    with pytest.raises(RefusedError, match="Content-Length"):
        downloader.fetch(remote(files))
    assert left_in(folder) == []


def test_no_length_and_a_cut_with_a_known_digest(files, downloader):
    files.script = [Behaviour(closes=True)]
    assert_whole(downloader.fetch(remote(files, sha256=SHA256)))


def test_encoded_bytes_are_refused(files, downloader):
    files.script = [Behaviour(encoding="gzip")]
    with pytest.raises(RefusedError, match="encodes"):
        downloader.fetch(remote(files))


# Refusals


def test_not_found(files, downloader, folder):
    with pytest.raises(NotFoundError, match=rf"{files.base}models/gone.*404.*--from-file.*--mirror"):
        downloader.fetch(remote(files, path="models/gone"))
    assert len(files.asked) == 1  # no second attempt
    assert left_in(folder) == []


def test_forbidden(files, downloader):
    files.script = [Behaviour(status=403)]
    with pytest.raises(RefusedError, match="HTTP 403"):
        downloader.fetch(remote(files))
    assert len(files.asked) == 1


def test_redirects_in_a_circle(files, downloader):
    files.script = [Behaviour(redirect=files.base + PATH)] * 20
    with pytest.raises(RefusedError, match="HTTP 302"):
        downloader.fetch(remote(files))


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://[x/"])
def test_redirects_elsewhere(files, downloader, address):
    files.script = [Behaviour(redirect=address)]
    with pytest.raises(RefusedError):
        downloader.fetch(remote(files))


@pytest.mark.parametrize("announced", [True, False])
def test_too_large(files, downloader, folder, announced):
    files.script = [Behaviour(chunked=not announced)]
    had = str(len(CONTENT)) if announced else "3"  # at once, or when the limit is reached
    with pytest.raises(TooLargeError, match=f"at most 300000 bytes, it has {had}"):
        downloader.fetch(remote(files, max_bytes=300_000))
    assert left_in(folder) == []


def test_another_digest_than_at_first(files, downloader, folder, lock):
    downloader.fetch(remote(files)).unlink()
    files.files["/" + PATH] = OTHER
    before = lock.read_text()
    with pytest.raises(DigestMismatchError) as caught:
        downloader.fetch(remote(files))
    for said in (SHA256, hashlib.sha256(OTHER).hexdigest(), PATH, str(lock)):
        assert said in str(caught.value)
    assert left_in(folder) == []
    assert lock.read_text() == before


@pytest.mark.parametrize("path", [PATH, "models/model_infer.tar"])
def test_a_page_of_the_network_is_neither_kept_nor_recorded(files, downloader, folder, lock, path):
    genuine = CONTENT if path == PATH else tar_of(CONTENT)
    files.files["/" + path] = genuine
    files.script = [Behaviour(content=PAGE)]
    with pytest.raises(WrongContentError, match=rf"{files.base}{path}: expected a .*, it is an HTML page.*--from-file"):
        downloader.fetch(remote(files, path=path))
    assert left_in(folder) == []
    assert not lock.exists()
    assert_whole(downloader.fetch(remote(files, path=path)), genuine)


def test_a_damaged_lock_file_is_said_before_anything_is_asked(files, downloader, lock):
    lock.write_text("{")
    with pytest.raises(LockFileError, match="no lock file"):
        downloader.fetch(remote(files))
    assert files.asked == []
    assert lock.read_text() == "{"


def test_two_at_once(files, downloader, folder, lock):
    files.script = [Behaviour(pause_s=0.02)]
    other = subprocess.Popen([sys.executable, "-c", CHILD, files.base, str(folder), str(lock)])
    while not (folder / "weights.pdparams.part.json").exists():
        assert other.poll() is None
        time.sleep(0.005)
    with pytest.raises(BusyError, match="another process"):
        downloader.fetch(remote(files))
    assert other.wait(timeout=60) == 0
    assert_whole(downloader.fetch(remote(files)))
    assert len(files.asked) == 1


# TLS


@pytest.fixture
def secure(tmp_path):
    """Speaks TLS with a certificate of its own; yields server and certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    pem = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(pem.read_text() + (tmp_path / "key.pem").read_text())
    server = FileServer()
    server.files["/" + PATH] = CONTENT
    server.speak_tls(both)
    with running(server):
        yield server, pem


def test_tls_is_never_left_for_plain_http(files, secure, folder, lock, monkeypatch):
    server, certificate = secure
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.script = [Behaviour(cut_after=CUT)]
    assert_whole(Downloader(folder, lock, limits=LIMITS).fetch(remote(server)))
    assert server.asked[1].start == CUT
    server.script = [Behaviour(redirect=files.base + PATH)]
    with pytest.raises(RefusedError, match=r"redirects to http://.*less safe"):
        Downloader(folder / "again", lock, limits=LIMITS).fetch(remote(server))
    assert files.asked == []


def test_a_certificate_that_nobody_knows(secure, downloader):
    server, _ = secure
    with pytest.raises(RefusedError, match="SSL_CERT_FILE"):
        downloader.fetch(remote(server))
    assert server.asked == []


# Disks


def test_a_disk_that_fills_up_is_free_again(files, tmp_path, lock):
    large = remote(files, max_bytes=8 << 20)
    files.files["/" + PATH] = bytes(2 * SMALL_DISK_BYTES)
    files.script = [Behaviour(chunked=True)]  # a length would tell beforehand
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(DiskFullError, match="no room"):
            Downloader(disk / "cache", lock, limits=LIMITS).fetch(large)
        assert left_in(disk / "cache") == []
        assert shutil.disk_usage(disk).used <= 8192
    assert files.asked[0].sent > 0


def test_a_disk_without_room_is_said_beforehand(files, tmp_path, lock):
    files.files["/" + PATH] = bytes(2 * SMALL_DISK_BYTES)
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(DiskFullError, match=f"{2 * SMALL_DISK_BYTES} bytes are to come"):
            Downloader(disk, lock, limits=LIMITS).fetch(remote(files, max_bytes=8 << 20))
        assert left_in(disk) == []


def test_a_limit_on_files_is_a_full_disk(files, folder, lock):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (CUT, CUT))

    command = [sys.executable, "-c", CHILD, files.base, str(folder), str(lock)]
    result = subprocess.run(command, check=True, text=True, capture_output=True, preexec_fn=limit, timeout=60)
    assert result.stdout.startswith("DiskFullError"), result
    assert left_in(folder) == []


def test_a_folder_that_is_a_file(files, tmp_path, lock):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be read or written"):
        Downloader(tmp_path / "file", lock, limits=LIMITS).fetch(remote(files))


# Files that the user has


def test_adopted_files_are_recorded_and_stay_where_they_are(files, downloader, tmp_path, lock):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(CONTENT)
    assert adopt(mine, remote(files), lock) == mine
    assert mine.read_bytes() == CONTENT
    assert files.asked == []
    files.files["/" + PATH] = OTHER
    with pytest.raises(DigestMismatchError):
        downloader.fetch(remote(files))


def test_adopted_files_that_are_something_else(files, downloader, tmp_path, lock):
    downloader.fetch(remote(files))
    mine = tmp_path / "mine.bin"
    mine.write_bytes(OTHER)
    with pytest.raises(DigestMismatchError, match=SHA256):
        adopt(mine, remote(files), lock)
    with pytest.raises(DigestMismatchError, match="is known to have"):
        adopt(mine, remote(files, path="a/b.pdparams", sha256=SHA256), lock)
    with pytest.raises(TooLargeError):
        adopt(mine, remote(files, max_bytes=9), lock)
    with pytest.raises(StorageError, match=r"gone\.bin cannot be read"):
        adopt(tmp_path / "gone.bin", remote(files), lock)


@pytest.mark.parametrize(
    ("path", "content", "said"),
    [
        (PATH, PAGE, "an HTML page"),
        (PATH, b"", "empty"),
        (PATH, b"garbage.", "something that begins with b'garbage.'"),
        (PATH, b"\x80", r"something that begins with b'\\x80'"),
        (PATH, b"\x80\xffgarbage.", r"something that begins with b'\\x80\\xff"),
        (PATH, CONTENT[:-1], "a pickle that was cut off"),
        (PATH, b"PK\3\4.", "a zip archive"),
        (PATH, b'{"code": "NoSuchKey"}', "what looks like JSON"),
        (PATH, None, "a tar"),
        ("a/b.tar", CONTENT, "a pickle"),
        ("a/b.tar", b"garbage" * 999, "something that begins with b'garbageg'"),
        ("a/b.tar", b"\x1f\x8b" + bytes(600), "a gzip archive"),
        ("a/b.tar", bytes(10240), "something that begins with"),
    ],
)
def test_what_is_nothing_of_the_kind_is_never_recorded_and_stays_the_users(files, tmp_path, lock, path, content, said):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(tar_of(b"") if content is None else content)
    with pytest.raises(WrongContentError, match=rf"mine\.bin: expected a .*, it is {said}.*{files.base}{path}"):
        adopt(mine, remote(files, path=path), lock)
    assert mine.exists()
    assert not lock.exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tars_are_taken_for_tars(files, tmp_path, lock, mode):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(tar_of(CONTENT, mode))
    assert adopt(mine, remote(files, path="a/b.tar"), lock) == mine
    assert list(json.loads(lock.read_text())) == ["a/b.tar"]
