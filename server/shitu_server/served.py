"""What is served: detector and encoders, each the very weights of one version with its preprocessing and precision.

It is found in the model repository at the start and at each reload. Where `shitu serve` looks after Triton, a file in its run
directory tells the gateways what Triton really runs, whatever the repository has become since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from shitu_models.fingerprint import fingerprint_of, weights_digest
from shitu_models.repository import (
    WEIGHTS_FILE,
    RepositoryError,
    check_models,
    find_repository,
    placed_model,
    versions_of,
    weights_path,
)
from shitu_models.specs import ModelSpec, Precision, Profile, Task, with_profile
from shitu_server.errors import ConfigurationError
from shitu_server.settings import Settings


class WeightsChangedError(ConfigurationError):
    """A model's file is not the one that it was."""


@dataclass(frozen=True)
class ServedModel:
    """One version of a model."""

    spec: ModelSpec
    """As it is served: the profile is applied."""
    version: int
    precision: Precision
    sha256: str
    """Of the weights, 64 hex digits."""

    @property
    def name(self) -> str:
        """Triton's name of the model."""
        return self.spec.name

    @property
    def fingerprint(self) -> str:
        """What identifies an encoder's vectors, 16 hex digits."""
        return fingerprint_of(self.spec, self.sha256, self.precision)

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class Served:
    """Everything that is served at one moment."""

    detector: ServedModel
    encoders: tuple[ServedModel, ...]
    """In the order of the settings, of each the newest version first; the first of all is the default."""
    profile: Profile
    embedded: bool = False
    """By a Triton of ours, which has all versions here for as long as they are served; another's versions come and go."""

    @property
    def detector_version(self) -> int | None:
        """What the detector is asked for; None leaves it to Triton, which serves the newest that it has."""
        return self.detector.version if self.embedded else None

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All of them."""
        return (self.detector, *self.encoders)

    def __str__(self) -> str:
        return ", ".join(map(str, self.models))


_SERVED: Final = TypeAdapter(Served)


def served_by(settings: Settings) -> Served:
    """Return what a server with these settings serves. Blocking: it may read the weights.

    Raises:
        ConfigurationError: as `find_served`, or there is no repository.
    """
    if settings.served_file is not None:
        return _read(settings.served_file)
    names = settings.detector, settings.encoders
    return find_served(repository_of(settings), *names, settings.profile, settings.encoder_versions)


def _read(path: Path) -> Served:
    try:
        return _SERVED.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"served_file: {path} is not what `shitu serve` writes ({error}); unset it") from error


def repository_of(settings: Settings) -> Path:
    """Return the folder of the models.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return find_repository(settings.model_repository)
    except RepositoryError as error:
        raise ConfigurationError(str(error)) from error


def find_served(
    repository: Path, detector: str, encoders: tuple[str, ...], profile: Profile, encoder_versions: int = 2
) -> Served:
    """Return what a repository has to serve: the newest versions of each model. Blocking: it reads the weights.

    Raises:
        ConfigurationError: a model is unknown, a file of a version is missing or damaged, or is not what its card says.
    """
    try:
        newest = _found(repository, detector, Task.DETECTOR, profile, 1)[0]
        found = [one for name in encoders for one in _found(repository, name, Task.ENCODER, profile, encoder_versions)]
    except (RepositoryError, OSError) as error:
        raise ConfigurationError(str(error)) from error
    return Served(newest, tuple(found), profile)


def _found(repository: Path, name: str, task: Task, profile: Profile, count: int) -> list[ServedModel]:
    """Return the versions of a model that are served, newest first."""
    versions = versions_of(repository, name)[-count:]
    return [_version(repository, name, task, profile, version) for version in reversed(versions or (None,))]


def _version(repository: Path, name: str, task: Task, profile: Profile, version: int | None) -> ServedModel:
    placed = placed_model(repository, name, task, version)
    check_models(repository, [placed.spec], placed.version)
    path = weights_path(repository, placed.spec, placed.version)
    digest = _digest(path)
    if placed.weights_sha256 not in {"", digest}:
        raise ConfigurationError(
            f"{path} is not the file that its card describes: expected sha256 {placed.weights_sha256}, it has {digest}; "
            f"put the converted file back, or convert the model again"
        )
    return ServedModel(with_profile(placed.spec, profile), placed.version, placed.precision, digest)


def check_successor(before: Served, after: Served) -> None:
    """Make sure that what is served may be replaced while it is: a version stays what it was.

    Raises:
        WeightsChangedError: one does not.
    """
    former = {(model.name, model.version): model for model in before.models}
    for model in after.models:
        if former.get((model.name, model.version), model) != model:
            raise WeightsChangedError(
                f"{model} is not what it was when it began to be served, and galleries hold its vectors; put the old "
                f"files back; new weights go into the folder of a new version"
            )


def between(before: Served, after: Served) -> Served:
    """Return what gateways that change at different moments serve in between: new versions are known, and not yet the newest.

    A gallery that one gateway binds to a new version is thus known to all others.
    """
    return replace(after, encoders=tuple(dict.fromkeys((*before.encoders, *after.encoders))))


def check_weights(repository: Path, name: str, digests: Mapping[int, str]) -> None:
    """Make sure that a model's files are still what they were. Blocking: it reads them.

    Args:
        repository: folder of the models.
        name: of the model.
        digests: sha256 by version, 64 hex digits.

    Raises:
        WeightsChangedError: one is not, or cannot be read any more.
    """
    unchanged = unchanged_versions(repository, name, digests)
    for version in digests:
        if version not in unchanged:
            path = repository / name / str(version) / WEIGHTS_FILE
            raise WeightsChangedError(
                f"{path} was replaced or changed while model {name} was served, and galleries hold vectors of the old one; "
                f"put the old file back; a new one goes into the folder of a new version"
            )


def unchanged_versions(repository: Path, name: str, digests: Mapping[int, str]) -> dict[int, str]:
    """Return those of the versions whose files are still what they were. Arguments as of `check_weights`; blocking as that."""
    files = {version: repository / name / str(version) / WEIGHTS_FILE for version in digests}
    return {version: digest for version, digest in digests.items() if _has_digest(files[version], digest)}


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return _digest(path) == digest
    except OSError:
        return False


def _digest(path: Path) -> str:
    """Return the sha256 of a file, which is read again only where it was touched since. Raises OSError."""
    found = path.stat()
    return _digest_of(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(maxsize=256)
def _digest_of(path: Path, _identity: tuple[int, ...]) -> str:
    return weights_digest(path)


def write_served(path: Path, served: Served) -> None:
    """Write what is served into a file, for `served_by`; it has the old content until it has the new one."""
    draft = path.with_suffix(".new")
    draft.write_bytes(_SERVED.dump_json(served))
    draft.replace(path)
