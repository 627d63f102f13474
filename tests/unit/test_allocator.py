"""Memory of pictures goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

GROWN = """
import sys
import psutil
from shitu_server.allocator import give_back_pictures
if sys.argv[1] == "given back":
    give_back_pictures()
import numpy as np
np.ones(8 << 20, np.uint8)  # glibc learns that such blocks come and go, and keeps the next ones
before = psutil.Process().memory_info().rss
pictures, others = [], []
for _ in range(20):
    pictures.append(np.ones(4 << 20, np.uint8))
    others.append(np.ones(100_000, np.uint8))  # lies behind it
del pictures
print((psutil.Process().memory_info().rss - before) >> 20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_pictures_that_are_gone_take_no_memory():
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", GROWN, how], capture_output=True, check=True).stdout)
        for how in ("kept", "given back")
    )
    assert kept > 50, "else the test sees nothing"
    assert given_back < 10
