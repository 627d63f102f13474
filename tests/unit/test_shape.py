"""The shape of the code: layers hold, functions stay short."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "server/shitu_models",
    "server/shitu_server",
    "server/shitu_train",
    "client/shitu_client",
    "benchmarks/shitu_bench",
)
MAX_P95_LINES = 30


def function_lengths() -> Iterator[tuple[int, str]]:
    """Lines of each function's body, docstring excluded."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield _code_lines(node), f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    lengths = sorted(function_lengths())
    p95, where = lengths[int(len(lengths) * 0.95)]
    assert p95 <= MAX_P95_LINES, f"95 % of the functions should have at most {MAX_P95_LINES} lines, {where} has {p95}"


def test_layers_hold():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
