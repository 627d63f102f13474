"""Loads and unloads models of a Triton server through its HTTP interface. Blocking: call it from a thread."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from shitu_server.triton_ports import LOOPBACK

_MAX_REPLY_BYTES: Final = 1 << 20


class TritonControlError(Exception):
    """Triton refused, or did not answer; the message is Triton's own."""


class TritonTimeoutError(TritonControlError):
    """It did not answer in time, and may go on with what it was told."""


class TritonSilentError(TritonControlError):
    """It does not answer, or broke off."""


class TritonControl:
    """Talks to one server on the loopback interface."""

    def __init__(self, http_port: int) -> None:
        self._port = http_port

    def identity(self, timeout_s: float) -> str | None:
        """Return the id that the server was started with; None while nothing answers."""
        try:
            status, body = self._call("GET", "/v2", timeout_s)
            name = json.loads(body)["name"]
        except (TritonControlError, ValueError, LookupError, TypeError):
            return None
        return str(name) if status == http.HTTPStatus.OK else ""

    def load(self, model: str, timeout_s: float, config: Mapping[str, Any] | None = None) -> None:
        """Load a model and wait for its warm-up; what is loaded and has not changed stays as it is.

        Of a model that is loaded, versions that came are added and versions that the configuration does not name any more are
        unloaded, which goes on after this returns; where one does not load, all stays as it was.

        Args:
            model: its name.
            timeout_s: how long to wait.
            config: a ModelConfig (model_config.proto) in JSON form; the model's config.pbtxt where None.

        Raises:
            TritonControlError: with the reason that the backend gave.
        """
        parameters = {} if config is None else {"parameters": {"config": json.dumps(config)}}
        self._repository_call(model, "load", timeout_s, parameters)

    def unload(self, model: str, timeout_s: float) -> None:
        """Ask for a model to be unloaded; returns before it is.

        Raises:
            TritonControlError: Triton refused or did not answer.
        """
        self._repository_call(model, "unload", timeout_s, {})

    def _repository_call(self, model: str, verb: str, timeout_s: float, content: Mapping[str, Any]) -> None:
        path = f"/v2/repository/models/{quote(model, safe='')}/{verb}"
        status, body = self._call("POST", path, timeout_s, json.dumps(content).encode())
        if status != http.HTTPStatus.OK:
            raise TritonControlError(_reason(body))

    def _call(self, method: str, path: str, timeout_s: float, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=max(timeout_s, 0.01))
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read(_MAX_REPLY_BYTES)
        except TimeoutError as error:
            raise TritonTimeoutError(f"no answer from Triton on port {self._port} within {timeout_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise TritonSilentError(f"no answer from Triton on port {self._port}: {error!r}") from error
        finally:
            connection.close()


def _reason(body: bytes) -> str:
    """Return the decisive line of a refusal, without the backend's stack."""
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, LookupError, TypeError):
        text = body.decode(errors="replace")
    return text.split("\n\nAt:", maxsplit=1)[0].strip()
