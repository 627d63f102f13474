"""The embedded Triton server's files, environment and command line.

`nvidia-pytriton` brings the server and its Python backend; a folder in the cache gets them in the shape that Triton wants, with
our `onnxruntime` backend beside. Nothing is written to site-packages.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shitu_server.errors import ConfigurationError
from shitu_server.triton_ports import LOOPBACK, Ports

_DISTRIBUTION: Final = "nvidia-pytriton"
_BACKEND_SOURCE: Final = Path(__file__).with_name("triton_backend")
_STUB: Final = "triton_python_backend_stub"
_PYTHON_BACKEND_FILES: Final = ("triton_python_backend_utils.py", "libtriton_python.so")
_EXIT_TIMEOUT_S: Final = 5
"""How long Triton waits for requests in flight when it stops."""
_MIN_PING_INTERVAL_MS: Final = 5000
"""Clients may ping as often as this; Triton's own limit answers a ping every 10 s with GOAWAY too_many_pings."""


@dataclass(frozen=True)
class Assembly:
    """Where the parts of the embedded server are."""

    server: Path
    stub: Path
    backends: Path
    libraries: Path


def assemble(cache_dir: Path) -> Assembly:
    """Return the assembled server; makes its folder in the cache once for each set of versions.

    Raises:
        ConfigurationError: nvidia-pytriton is not installed, or has no stub for this Python.
    """
    root = _pytriton_root()
    source = root / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = source / "python_backend_stubs" / version / _STUB
    if not stub.is_file():
        raise ConfigurationError(
            f"embedded Triton has no stub for Python {version} ({stub} is missing); use Python 3.10 to 3.12"
        )
    target = cache_dir / "triton" / _key(stub)
    if not target.is_dir():
        _fill(target, source, stub)
    return Assembly(
        server=source / "bin" / "tritonserver",
        stub=target / "python" / _STUB,
        backends=target,
        libraries=root / "nvidia_pytriton.libs",
    )


def child_environment(assembly: Assembly) -> dict[str, str]:
    """Return the environment of the server: this process's own, with the libraries and the Python of the stub in front."""
    libraries = [
        sysconfig.get_config_var("LIBDIR") or "",
        str(assembly.libraries),
        os.environ.get("LD_LIBRARY_PATH", ""),
    ]
    # The stub takes its packages from the first python3 on the PATH; PYTHONPATH and PYTHONHOME mean nothing to it.
    path = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PATH": os.pathsep.join(path),
    }


def check_libraries(assembly: Assembly, environment: Mapping[str, str]) -> None:
    """Check that the dynamic linker finds every library: without libpython the server would hang at its first model.

    Raises:
        ConfigurationError: names the missing libraries.
    """
    if not (Path(sys.executable).parent / "python3").exists():
        raise ConfigurationError(
            f"embedded Triton needs `python3` beside {sys.executable}; run shitu from a virtual environment"
        )
    for program in (assembly.server, assembly.stub):
        try:
            shown = subprocess.run(["ldd", str(program)], env=environment, capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no ldd here: the start timeout is left
            return
        missing = [line.strip() for line in (shown.stdout + shown.stderr).splitlines() if "not found" in line]
        if missing:
            raise ConfigurationError(
                f"{program.name} cannot start: {'; '.join(missing)}. It needs glibc 2.35 and a Python with a shared libpython "
                f"(Debian: libpython3-dev; pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared)"
            )


def arguments(assembly: Assembly, repository: Path, identity: str, ports: Ports, memory_prefix: str) -> list[str]:
    """Return the command line of the server. It loads no model by itself: loads are asked for, so that each fault has its reply."""
    return [
        str(assembly.server),
        f"--id={identity}",
        f"--model-repository={repository}",
        f"--backend-directory={assembly.backends}",
        f"--backend-config=python,shm-region-prefix-name={memory_prefix}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={LOOPBACK}",
        f"--http-port={ports.http}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={ports.metrics}",
        f"--allow-gpu-metrics={str(has_gpu()).lower()}",
        "--grpc-keepalive-permit-without-calls=1",
        f"--grpc-http2-min-recv-ping-interval-without-data={_MIN_PING_INTERVAL_MS}",
    ]


def has_gpu() -> bool:
    """Return whether there is an NVIDIA GPU."""
    return Path("/dev/nvidiactl").exists()


def _pytriton_root() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"embedded Triton needs {_DISTRIBUTION} (Linux on x86_64): install shitu[server], or give the address of a running Triton"
        )
    return Path(spec.origin).resolve().parents[1]


def _key(stub: Path) -> str:
    parts = [importlib.metadata.version(_DISTRIBUTION), str(stub)]
    digest = hashlib.sha256("\n".join(parts).encode())
    for path in sorted(_BACKEND_SOURCE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _fill(target: Path, source: Path, stub: Path) -> None:
    # Made beside and renamed, so that nobody sees half of it.
    draft = target.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        # Copies, because Triton refuses a library that a symbolic link leads out of the folder.
        shutil.copytree(_BACKEND_SOURCE, draft, ignore=shutil.ignore_patterns("__pycache__"))
        python = draft / "python"
        python.mkdir()
        shutil.copy2(stub, python / _STUB)
        for name in _PYTHON_BACKEND_FILES:
            shutil.copy2(source / "backends" / "python" / name, python / name)
        draft.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another server was quicker
            raise ConfigurationError(
                f"cannot write the embedded Triton's files to {target} ({error}); free the disk or choose another cache"
            ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
