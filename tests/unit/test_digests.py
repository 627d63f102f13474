"""The lock file of digests."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest

from shitu_models.downloads.digests import DamagedLockError, DifferentDigestError, DigestLock

ONE, OTHER = "1" * 64, "2" * 64
FILE = Path("/cache/a.tar")

WRITER = """
import sys
from pathlib import Path
from shitu_models.downloads.digests import DigestLock
lock = DigestLock(Path(sys.argv[1]))
for index in range(25):
    lock.check(f"{sys.argv[2]}/{index}", "1" * 64, index, Path("x"))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / "digests.json"


def test_the_first_use_is_recorded(path):
    before = datetime.now(timezone.utc).replace(microsecond=0)
    assert DigestLock(path).seen("a.tar") is None
    DigestLock(path).check("a.tar", ONE, 5, FILE)
    seen = DigestLock(path).seen("a.tar")
    assert (seen.sha256, seen.size_bytes) == (ONE, 5)
    assert before <= seen.first_seen <= datetime.now(timezone.utc)
    assert list(path.parent.iterdir()) == [path]


def test_the_same_again_changes_nothing(path):
    first = DigestLock(path).check("a.tar", ONE, 5, FILE)
    written = path.stat().st_mtime_ns
    assert DigestLock(path).check("a.tar", ONE, 5, FILE) == first
    assert path.stat().st_mtime_ns == written


def test_another_digest_is_refused(path):
    DigestLock(path).check("a.tar", ONE, 5, FILE)
    before = path.read_bytes()
    with pytest.raises(DifferentDigestError) as caught:
        DigestLock(path).check("a.tar", OTHER, 5, FILE)
    for said in (ONE, OTHER, str(FILE), str(path), "'a.tar'", "delete", "remove the entry"):
        assert said in str(caught.value)
    assert path.read_bytes() == before


def test_a_person_can_read_it(path):
    for key in ("b.tar", "a.tar"):
        DigestLock(path).check(key, ONE, 5, FILE)
    lines = path.read_text().splitlines()
    assert [line.split('"')[1] for line in lines[1:-1]] == ["a.tar", "b.tar"]
    assert json.loads(path.read_text())["a.tar"]["first_seen"].endswith("Z")


def test_a_removed_entry_is_recorded_anew(path):
    for key in ("a.tar", "b.tar"):
        DigestLock(path).check(key, ONE, 5, FILE)
    entries = json.loads(path.read_text())
    del entries["a.tar"]
    path.write_text(json.dumps(entries))
    assert DigestLock(path).check("a.tar", OTHER, 6, FILE).sha256 == OTHER
    assert DigestLock(path).seen("b.tar").sha256 == ONE


GOOD = {"sha256": ONE, "size_bytes": 1, "first_seen": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "\x00" * 100,
        '{"a.tar": 1}',
        json.dumps({"a.tar": GOOD})[:-5],
        json.dumps({"a.tar": GOOD | {"sha256": "123"}}),
        json.dumps({"a.tar": GOOD | {"sha256": ONE + "\n"}}),
        json.dumps({"a.tar": GOOD | {"size_bytes": -1}}),
        json.dumps({"a.tar": GOOD | {"first_seen": "yesterday"}}),
        json.dumps({"a.tar": GOOD | {"first_seen": "2026-01-01T00:00:00"}}),
        json.dumps({"a.tar": GOOD | {"sha265": ONE}}),
        json.dumps({"a.tar": GOOD}) + " " * (1 << 20),
    ],
)
def test_a_damaged_lock_file_is_refused_and_kept(path, content):
    path.parent.mkdir()
    path.write_text(json.dumps({"a.tar": GOOD}))
    assert DigestLock(path).seen("a.tar").sha256 == ONE  # so what is refused below is the damage
    path.write_text(content)
    with pytest.raises(DamagedLockError, match="no lock file of downloads"):
        DigestLock(path).seen("b.tar")
    with pytest.raises(DamagedLockError, match="no lock file of downloads"):
        DigestLock(path).check("b.tar", ONE, 1, FILE)
    assert path.read_text() == content


def test_processes_that_write_at_once_lose_nothing(path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)]) for number in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert len(json.loads(path.read_text())) == 75
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_no_hindrance(path):
    path.parent.mkdir()
    (path.parent / ".digests.json.guard").write_bytes(b"")
    (path.parent / ".digests.json.draft").write_bytes(b"half")
    DigestLock(path).check("a.tar", ONE, 5, FILE)
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_in_its_place(path):
    path.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        DigestLock(path).check("a.tar", ONE, 5, FILE)
