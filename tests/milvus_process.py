"""Becomes a Milvus server; run with an interpreter of `make milvus`, which has no other packages.

The package `milvus` starts the server as a child, unpacks 250 MB into each data directory, and moves to other ports where the former
ones were used a moment ago. Here this process becomes the server, so that a kill reaches it, unpacks once, and keeps its ports.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path

import milvus

PR_SET_PDEATHSIG = 1


class Config(milvus.MilvusServerConfig):
    """With a look at ports as the server itself takes them: those that were used a moment ago are free."""

    def try_bind_port(self, port: int) -> socket.socket | None:
        probe = socket.socket()
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            probe.close()
            return None
        return probe


def main(folder: Path, options: dict[str, str]) -> None:
    """Run Milvus on the data in `folder`; `options` are ports (`proxy_port`) and values of milvus.yaml (`common.session.ttl`)."""
    unpacked = Path(sys.prefix) / f"milvus-{milvus.__version__}"
    milvus._initialize_data_files(str(unpacked))
    metrics_port = options.pop("metrics_port")
    config = Config(data_dir=str(folder))
    config.extra_configs.update({name: value for name, value in options.items() if "." in name})
    config.update(**{name: value for name, value in options.items() if "." not in name})
    config.resolve()
    # The embedded etcd takes its ports and its directory from a file of its own.
    etcd = folder / "configs" / "etcd.json"
    urls = [f"http://127.0.0.1:{options[name]}" for name in ("etcd_port", "etcd_peer_port")]
    etcd.write_text(
        json.dumps({**_urls(*urls), "name": "default", "data-dir": str(folder / "etcd"), "log-level": "warn"})
    )
    environment = {
        **os.environ,
        "ETCD_CONFIG_PATH": str(etcd),
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": metrics_port,
        "MILVUS_RUN_DIR": str(folder / "run"),
        "LD_LIBRARY_PATH": str(unpacked / "bin"),
    }
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it ends with the tests, however they end
    os.chdir(folder)
    os.execve(unpacked / "bin" / "milvus", ["milvus", "run", "standalone"], environment)


def _urls(clients: str, peers: str) -> dict[str, str]:
    return {
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"default={peers}",
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), json.loads(sys.argv[2]))
