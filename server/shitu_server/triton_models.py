"""What the embedded Triton is told to load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shitu_models.triton_config import Config, TritonConfigOptions, model_config
from shitu_server.errors import ConfigurationError
from shitu_server.served import Served, ServedModel


@dataclass(frozen=True)
class TritonModel:
    """A model, the versions of it that are loaded, and how they run: one configuration stands for all versions."""

    name: str
    digests: Mapping[int, str]
    """sha256 of the weights by version, 64 hex digits: no others are loaded."""
    config: Config

    @property
    def instances(self) -> int:
        """Instances of each version."""
        count: int = self.config["instance_group"][0]["count"]
        return count

    @property
    def load_config(self) -> dict[str, Any]:
        """What goes with a request to load: exactly these versions, whatever else lies in the repository."""
        return {**self.config, "version_policy": {"specific": {"versions": sorted(self.digests)}}}

    def and_versions_of(self, other: TritonModel) -> TritonModel:
        """Return the model with the versions of both."""
        return replace(self, digests={**other.digests, **self.digests})


def triton_models(served: Served, options: TritonConfigOptions) -> tuple[TritonModel, ...]:
    """Return what Triton has to load for what is served.

    Raises:
        ConfigurationError: a model's precision does not go with the accelerator, or its versions need different configurations.
    """
    versions: dict[str, list[ServedModel]] = {}
    for model in served.models:
        versions.setdefault(model.name, []).append(model)
    return tuple(_triton_model(name, models, options) for name, models in versions.items())


def _triton_model(name: str, models: list[ServedModel], options: TritonConfigOptions) -> TritonModel:
    configs = [_config(model, options) for model in models]
    if any(config != configs[0] for config in configs):
        numbers = " and ".join(str(model.version) for model in reversed(models))
        raise ConfigurationError(
            f"model {name}: versions {numbers} differ in their tensors, batch size or precision, and Triton has one "
            f"configuration for both; convert the new one under another name, or remove the folder of the old one"
        )
    return TritonModel(name, {model.version: model.sha256 for model in models}, configs[0])


def _config(model: ServedModel, options: TritonConfigOptions) -> Config:
    try:
        return model_config(model.spec, replace(options, precision=model.precision))
    except ValueError as error:
        raise ConfigurationError(f"model {model}: {error}") from error
