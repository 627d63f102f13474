"""Files that one process at a time has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shitu_models.downloads.files import opened_alone

COUNTER = """
import sys
from pathlib import Path
from shitu_models.downloads.files import opened_alone
guard, counter = Path(sys.argv[1]), Path(sys.argv[2])
counted = 0
while counted < 600:
    try:
        with opened_alone(guard):
            counter.write_text(str(int(counter.read_text()) + 1))
            counted += 1
            guard.unlink()
    except BlockingIOError:
        pass
"""


def test_one_at_a_time(tmp_path):
    path = tmp_path / "file"
    with opened_alone(path), pytest.raises(BlockingIOError):
        opened_alone(path)
    opened_alone(path).close()


def test_a_file_that_was_renamed_is_another_one(tmp_path):
    path = tmp_path / "file"
    with opened_alone(path):
        path.rename(tmp_path / "renamed")
        opened_alone(path).close()


def test_processes_that_remove_the_file_never_have_it_together(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "guard"), str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "1800"
