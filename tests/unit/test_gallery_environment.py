from __future__ import annotations

import pytest

from shitu_server.gallery.environment import search_environment

FLAGS = "flags : fpu avx2 avx512f avx512dq avx512bw avx512vl"


@pytest.mark.parametrize(
    ("cpu", "kernels"),
    [
        (f"vendor_id : AuthenticAMD\n{FLAGS}", "SkylakeX"),
        (f"vendor_id : GenuineIntel\n{FLAGS}", None),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2", None),
        ("", None),
    ],
)
def test_kernels_are_named_only_where_the_processor_has_them(cpu: str, kernels: str | None):
    assert search_environment(1, cpu).get("OPENBLAS_CORETYPE") == kernels


def test_threads_sleep_while_they_wait():
    environment = search_environment(3)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    assert environment["OMP_NUM_THREADS"] == environment["OPENBLAS_NUM_THREADS"] == "3"
