from __future__ import annotations

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from shitu_server.errors import ConfigurationError
from shitu_server.triton_assembly import assemble, check_libraries, child_environment
from shitu_server.triton_ports import PortInUseError, Ports

pytest.importorskip("pytriton", reason="nvidia-pytriton is not installed")


def test_makes_the_folders_that_triton_wants(tmp_path):
    backends = assemble(tmp_path).backends
    files = {str(path.relative_to(backends)) for path in backends.rglob("*") if path.is_file()}
    assert files == {
        "onnxruntime/model.py",
        "python/libtriton_python.so",
        "python/triton_python_backend_stub",
        "python/triton_python_backend_utils.py",
    }
    assert not any(path.is_symlink() for path in backends.rglob("*")), "Triton refuses links that leave the folder"


def test_many_at_once_make_one(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: assemble(tmp_path), range(16)))
    assert len(found) == 1
    assert [path.name for path in (tmp_path / "triton").iterdir()] == [found.pop().backends.name]


def test_a_cache_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "triton").write_text("a file where the folder should be")
    with pytest.raises(ConfigurationError, match=r"cannot write the embedded Triton's files to .*choose another cache"):
        assemble(tmp_path)


def test_libraries_are_found_in_the_environment_of_the_server(tmp_path):
    assembly = assemble(tmp_path)
    check_libraries(assembly, child_environment(assembly))


def test_missing_libraries_are_named(tmp_path):
    assembly = assemble(tmp_path)
    bare = {**os.environ, "LD_LIBRARY_PATH": ""}
    with pytest.raises(
        ConfigurationError, match=r"triton_python_backend_stub cannot start: libcudart.*not found.*libpython"
    ):
        check_libraries(replace(assembly, server=Path(sys.executable)), bare)


def test_free_ports_differ_and_fixed_ones_stay():
    chosen = Ports().chosen()
    assert len({chosen.grpc, chosen.http, chosen.metrics}) == 3
    assert Ports(grpc=chosen.grpc).chosen().grpc == chosen.grpc


def test_a_taken_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} is in use") as caught:
            Ports(http=port).chosen()
    assert Ports(http=port).fixes(caught.value.port)
    assert not Ports().fixes(0)
