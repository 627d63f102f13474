"""The weights that a server began with: what it serves later must be the same, or vectors of two encoders would mix."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shitu_models.fingerprint import weights_digest
from shitu_models.repository import WEIGHTS_FILE, version_folder
from shitu_server.errors import ConfigurationError


class WeightsChangedError(ConfigurationError):
    """A model's file is not the one that the server began with."""


class Weights:
    """Digests of the models' files, taken when this is made. Blocking: it reads the files."""

    def __init__(self, repository: Path, models: Iterable[str]) -> None:
        self._repository = repository
        self._digests = {model: _digest(version_folder(repository, model) / WEIGHTS_FILE) for model in models}

    def digest(self, model: str) -> str:
        """Return the sha256 of a model's file as it was, 64 hex digits; empty where there was none."""
        return self._digests[model]

    def check(self, model: str) -> None:
        """Make sure that a model's file is still what it was.

        Raises:
            WeightsChangedError: it is not, or cannot be read any more.
        """
        path = version_folder(self._repository, model) / WEIGHTS_FILE
        if _digest(path) != self._digests[model]:
            raise WeightsChangedError(
                f"{path} was replaced or changed while model {model} was served, and galleries hold vectors of the old one; "
                f"put the old file back, or restart `shitu serve` to serve the new one"
            )


def _digest(path: Path) -> str:
    try:
        return weights_digest(path)
    except OSError:  # Triton says better what is wrong with it
        return ""
