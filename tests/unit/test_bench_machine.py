"""What figures were measured on is told apart from what hosts call by the same name."""

from __future__ import annotations

import pytest

from shitu_bench import machine


def _cpuinfo(model: int, flags: str) -> str:
    lines = ("cpu family\t: 25", f"model\t\t: {model}", "model name\t: AMD EPYC", f"flags\t\t: fpu {flags}")
    one = "\n".join(lines)
    return f"processor\t: 0\n{one}\n\nprocessor\t: 1\n{one}\n\n"


@pytest.mark.parametrize(
    ("model", "flags", "name"),
    [
        (1, "avx avx2 fma", "AMD EPYC, family 25, model 1, AVX2"),
        (17, "avx avx2 fma avx512f avx512bw", "AMD EPYC, family 25, model 17, AVX-512"),
        (2, "sse2", "AMD EPYC, family 25, model 2"),
    ],
)
def test_processors_of_one_name_are_told_apart(model, flags, name):
    assert machine.processor_in(_cpuinfo(model, flags)) == name


def test_a_processor_without_a_name_is_left_to_python():
    assert machine.processor_in("processor\t: 0\nBogoMIPS\t: 50.00\n") == ""


def test_this_machine_has_a_name():
    assert machine.described()["processor"]
