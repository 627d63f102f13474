"""PaddleX's basic serving: its servers, and the calls that prepare them."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
import yaml

from shitu_bench.errors import BenchError
from shitu_bench.peers.environment import LAST_CHARACTERS, PeerConfiguration, PeerEnvironment, PeerModels
from shitu_bench.peers.http import HOST, exchange
from shitu_models.specs import PP_SHITUV2_DET
from shitu_server.addresses import reserved_port

INFER_PATH: Final = "/shitu-infer"
_BUILD_PATH: Final = "/shitu-index-build"
_START_TIMEOUT_S: Final = 180.0
_STOP_TIMEOUT_S: Final = 20.0
_CALL_TIMEOUT_S: Final = 300.0
_POLL_S: Final = 0.2
_EVERY_MATCH: Final = -1.0


@dataclass
class PeerServer:
    """Servers of one configuration on ports of their own, with one index storage."""

    environment: PeerEnvironment
    models: PeerModels
    configuration: PeerConfiguration
    folder: Path
    """Of configuration and logs; made where it is missing."""
    storage: Path
    """Folder whose files are the indexes, by their keys; made where it is missing."""
    ports: list[int] = field(default_factory=list)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def cpu_s(self) -> float:
        """Return the CPU time of all servers since they started, user and system."""
        times = [psutil.Process(process.pid).cpu_times() for process in self._processes]
        return float(sum(one.user + one.system for one in times))

    def memory_bytes(self) -> int:
        """Return the memory of all servers now (PSS: what they share counts once)."""
        return sum(psutil.Process(process.pid).memory_full_info().pss for process in self._processes)

    def __enter__(self) -> PeerServer:
        for folder in (self.folder, self.storage):
            folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "pipeline.yaml"
        config.write_text(yaml.safe_dump(self._pipeline()), encoding="utf-8")
        try:
            self._start(config)
            for number, port in enumerate(self.ports):
                self._wait(number, port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def build_index(self, items: Sequence[tuple[str, bytes]]) -> str:
        """Let PaddleX make an index of pictures with labels, and return its key."""
        pairs = [{"image": base64.b64encode(picture).decode(), "label": label} for label, picture in items]
        return str(self.call(_BUILD_PATH, {"imageLabelPairs": pairs})["indexKey"])

    def infer(self, picture: bytes, index_key: str | None) -> list[dict[str, Any]]:
        """Return the objects that it finds."""
        objects: list[dict[str, Any]] = self.call(INFER_PATH, self.message(picture, index_key))["detectedObjects"]
        return objects

    def body(self, picture: bytes, index_key: str | None) -> bytes:
        """Return the request for a picture as it is sent."""
        return json.dumps(self.message(picture, index_key)).encode()

    @staticmethod
    def message(picture: bytes, index_key: str | None) -> dict[str, Any]:
        """Return the request for a picture; thresholds stand in the pipeline's yaml."""
        key = {} if index_key is None else {"indexKey": index_key}
        return {"image": base64.b64encode(picture).decode(), **key}

    def call(self, path: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a call.

        Raises:
            BenchError: it failed.
        """
        connection = http.client.HTTPConnection(HOST, self.ports[0], timeout=_CALL_TIMEOUT_S)
        try:
            reply = exchange(connection, path, json.dumps(message).encode())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchError(f"PaddleX did not answer {path}: {error!r}\n{self.told()}") from error
        finally:
            connection.close()
        if reply.get("errorCode") != 0:
            raise BenchError(f"PaddleX refused {path}: {reply.get('errorMsg')}\n{self.told()}")
        result: dict[str, Any] = reply["result"]
        return result

    def told(self, number: int = 0) -> str:
        """Return the end of a server's log."""
        return self._log(number).read_text(encoding="utf-8", errors="replace")[-LAST_CHARACTERS:]

    def _log(self, number: int) -> Path:
        return self.folder / f"server-{number}.log"

    def _start(self, config: Path) -> None:
        with ExitStack() as stack:  # all at once, so that no two are the same
            self.ports = [stack.enter_context(reserved_port(HOST, 0)) for _ in range(self.configuration.processes)]
        for number, port in enumerate(self.ports):
            self._processes.append(self.environment.start(config, port, self.configuration, self._log(number)))

    def _wait(self, number: int, port: int) -> None:
        end_s = time.monotonic() + _START_TIMEOUT_S
        while not _is_healthy(port):
            if self._processes[number].poll() is not None or time.monotonic() > end_s:
                raise BenchError(f"PaddleX did not start with {self.configuration}:\n{self.told(number)}")
            time.sleep(_POLL_S)

    def _pipeline(self) -> dict[str, Any]:
        index = {} if self.models.index is None else {"index": str(self.models.index)}
        return {
            "pipeline_name": "PP-ShiTuV2",
            **index,
            "det_threshold": self.models.threshold,
            "rec_threshold": _EVERY_MATCH,
            "rec_topk": 5,
            "SubModules": {
                "Detection": self._submodule("text_detection", PP_SHITUV2_DET.name, 1),
                "Recognition": self._submodule(
                    "text_recognition", self.models.encoder, self.configuration.encoder_batch
                ),
            },
            "Serving": {
                "visualize": False,  # by default each answer has a picture with the boxes drawn into it
                "extra": {"index_storage": {"type": "file_system", "directory": str(self.storage)}},
            },
        }

    def _submodule(self, kind: str, name: str, batch_size: int) -> dict[str, Any]:
        folder = str(self.models.directories[name])
        return {"module_name": kind, "model_name": name, "model_dir": folder, "batch_size": batch_size}


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=1.0)
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    return False
