"""The committed code is what the protos generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import google.rpc
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMON = Path(next(iter(google.rpc.__path__))).parents[1]


def test_generated_code_is_up_to_date(tmp_path: Path):
    protos = sorted(str(path) for path in (ROOT / "protos" / "shitu").rglob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", f"-I{COMMON}", *outputs, *protos]
    subprocess.run(command, check=True)
    generated = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.py*")}
    committed_root = ROOT / "protos" / "gen"
    committed = {
        path.relative_to(committed_root): path.read_bytes()
        for path in committed_root.rglob("*_pb2*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    if set(generated) != set(committed):
        pytest.fail(f"files differ: {set(generated) ^ set(committed)}; run `make proto`")
    stale = [str(path) for path in generated if generated[path] != committed[path]]
    assert not stale, f"run `make proto`: {stale}"
