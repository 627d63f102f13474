from __future__ import annotations

import subprocess
import sys
import uuid
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shitu_server.shared_memory import SharedMemory

SIZE = 64 * 1024


def segments(name: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{name}-*"))


@pytest.fixture
def name():
    name = f"shitu-test-{uuid.uuid4().hex[:8]}"
    yield name
    for path in segments(name):
        path.unlink()


@pytest.fixture
def memory(name):
    memory = SharedMemory(name, SIZE)
    yield memory
    memory.close()


def content_of(memory: SharedMemory) -> np.ndarray:
    return np.fromfile(Path("/dev/shm", memory.name), dtype=np.uint8)


def test_another_process_sees_what_is_placed(memory):
    data = np.arange(300, dtype=np.uint8).reshape(3, 10, 10)
    first, second = memory.place([data]), memory.place([data[:1]])
    seen = content_of(memory)
    np.testing.assert_array_equal(seen[first.offset :][:300], data.reshape(-1))
    np.testing.assert_array_equal(seen[second.offset :][:100], data[0].reshape(-1))
    assert second.offset >= first.offset + 300


def test_there_is_no_block_where_there_is_no_room(memory):
    half = np.zeros(SIZE // 2, dtype=np.uint8)
    first, second = memory.place([half]), memory.place([half])
    assert memory.place([half[:1]]) is None
    memory.release(first)
    memory.release(second)
    assert memory.place([np.zeros(SIZE, dtype=np.uint8)]) is not None


@given(st.lists(st.tuples(st.booleans(), st.integers(1, SIZE // 4)), max_size=60))
def test_blocks_never_overlap_and_all_of_them_come_back(steps):
    name = f"shitu-test-{uuid.uuid4().hex[:8]}"
    memory, taken = SharedMemory(name, SIZE), []
    try:
        for give_back, size in steps:
            if give_back and taken:
                memory.release(taken.pop(size % len(taken)))
            elif (block := memory.place([np.zeros(size, dtype=np.uint8)])) is not None:
                taken.append(block)
            places = sorted((block.offset, block.offset + block.size) for block in taken)
            assert all(end <= begin for (_, end), (begin, _) in pairwise(places))
            assert not places or places[-1][1] <= SIZE
        for block in taken:
            memory.release(block)
        assert memory.place([np.zeros(SIZE, dtype=np.uint8)]) is not None
    finally:
        memory.close()


CRASHING = "import os, sys; from shitu_server.shared_memory import SharedMemory as S; print(S(sys.argv[1], int(sys.argv[2])).name, flush=True); os._exit(1)"


def left_by_a_crash(name: str, size: int = SIZE) -> str:
    return subprocess.run(
        [sys.executable, "-c", CRASHING, name, str(size)], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()


def test_who_starts_again_goes_on_with_the_same_segment(name):
    left = left_by_a_crash(name)
    assert [path.name for path in segments(name)] == [left]
    memory = SharedMemory(name, SIZE)
    memory.close()
    assert memory.name == left


def test_a_segment_of_another_size_gives_way_to_one_of_another_name(name):
    left = left_by_a_crash(name)
    memory = SharedMemory(name, 2 * SIZE)
    assert [path.name for path in segments(name)] == [memory.name]
    memory.close()
    assert memory.name != left


def test_two_of_the_same_wish_have_each_their_own(memory, name):
    other = SharedMemory(name, SIZE)
    assert other.name != memory.name
    other.close()
    assert Path("/dev/shm", memory.name).exists()


def test_a_name_that_begins_like_another_leaves_that_alone(name):
    left = left_by_a_crash(f"{name}-b")
    memory = SharedMemory(name, 2 * SIZE)
    memory.close()
    assert [path.name for path in segments(name)] == [left]


def test_what_does_not_fit_is_refused_at_once_and_leaves_nothing(name):
    with pytest.raises(OSError, match="less than twice"):
        SharedMemory(name, 1 << 50)
    assert segments(name) == []


def test_closing_removes_it(memory, name):
    memory.close()
    assert segments(name) == []


def test_parts_lie_one_after_the_other(memory):
    parts = [np.full((count, 5), count, np.uint8) for count in (1, 3, 2)]
    block = memory.place(parts)
    content = content_of(memory)[block.offset : block.offset + 30]
    assert content.tolist() == [1] * 5 + [3] * 15 + [2] * 10
