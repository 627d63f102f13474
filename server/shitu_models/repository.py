"""Where the models are, and whether their files can be what they should be."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from shitu_models.cards import CARD_FILE, CardError, read_card
from shitu_models.specs import OFFICIAL_SPECS, SPECS, ModelSpec, Precision, Task

CONFIG_FILE: Final = "config.pbtxt"
"""Name of a model's configuration in its folder; Triton's container reads it, the embedded server is told."""

WEIGHTS_FILE: Final = "model.onnx"
"""Name of a model's weights in the folder of a version, the one that Triton's onnxruntime backend looks for."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf (encoding specification)."""
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10
_GRAPH_FIELD: Final = 7
"""`ModelProto.graph` (onnx.proto)."""


class RepositoryError(Exception):
    """A model repository or a file in it is missing or damaged; the message names the path and what to do."""


@dataclass(frozen=True)
class PlacedModel:
    """One version of a model in a repository, as its files say."""

    spec: ModelSpec
    version: int
    precision: Precision
    weights_sha256: str = ""
    """That the card says, 64 hex digits; empty where there is no card."""


def user_repository() -> Path:
    """Return where models are placed outside a checkout, whether it is there or not."""
    return user_data_dir() / "model_repository"


def user_data_dir() -> Path:
    """Return where this user's data is kept (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "shitu"


def find_repository(explicit: Path | None = None) -> Path:
    """Return the model repository: the explicit path, else the checkout's, else the user's, else the one that the wheel carries.

    Raises:
        RepositoryError: there is none.
    """
    package = Path(__file__).resolve().parent
    default = [package.parents[1] / "model_repository", user_repository(), package / "model_repository"]
    candidates = [explicit] if explicit else default
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    tried = " and ".join(str(candidate) for candidate in candidates)
    raise RepositoryError(
        f"no model repository: {tried} is not a folder; give the folder that holds <model>/{CONFIG_FILE} and <model>/1/{WEIGHTS_FILE}"
    )


def versions_of(repository: Path, name: str) -> tuple[int, ...]:
    """Return the versions of a model that have weights, oldest first; none where there is no such model."""
    folder = repository / name
    if not folder.is_dir():
        return ()
    numbered = (int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.name[0] != "0")
    return tuple(sorted(number for number in numbered if (folder / str(number) / WEIGHTS_FILE).exists()))


def version_folder(repository: Path, name: str, version: int | None = None) -> Path:
    """Return the folder of a version, whether it exists or not; None means the newest, or the first where there is none."""
    return repository / name / str(version or max(versions_of(repository, name), default=1))


def weights_path(repository: Path, spec: ModelSpec, version: int | None = None) -> Path:
    """Return the path of a model's ONNX file, whether it exists or not; None means the newest version."""
    return version_folder(repository, spec.name, version) / WEIGHTS_FILE


def placed_model(repository: Path, name: str, task: Task, version: int | None = None) -> PlacedModel:
    """Return what a model is, by its card; a model without one must be one of the registry.

    Args:
        repository: folder of the models.
        name: of the model's folder.
        task: what the model is wanted for.
        version: None means the newest.

    Raises:
        RepositoryError: there is no such model, it does something else, or its card is damaged.
    """
    folder = version_folder(repository, name, version)
    number = int(folder.name)
    if (folder / CARD_FILE).exists():
        try:
            card = read_card(folder / CARD_FILE)
        except CardError as error:
            raise RepositoryError(f"model {name}: {error}") from error
        if card.spec.task is not task or card.spec.name != name:
            raise RepositoryError(
                f"model {name}: expected a {task.value} of this name, {folder / CARD_FILE} describes the "
                f"{card.spec.task.value} {card.spec.name}"
            )
        return PlacedModel(card.spec, number, card.precision, card.weights_sha256)
    spec = SPECS.get(name)
    if spec is None or spec.task is not task:
        raise RepositoryError(_unknown(repository, name, task))
    return PlacedModel(spec, number, Precision.FP32)


def placed_any(repository: Path, name: str) -> PlacedModel:
    """Return what a model is, whatever it does. Raises as `placed_model`."""
    card = version_folder(repository, name) / CARD_FILE
    try:
        task = read_card(card).spec.task if card.exists() else _task_of(repository, name)
    except CardError as error:
        raise RepositoryError(f"model {name}: {error}") from error
    if task is None:
        raise RepositoryError(f"unknown model {name!r}; {repository} holds {', '.join(placed_names(repository))}")
    return placed_model(repository, name, task)


def placed_names(repository: Path) -> tuple[str, ...]:
    """Return the names of the models that have weights in a repository, in order."""
    if not repository.is_dir():
        return ()
    return tuple(sorted(path.name for path in repository.iterdir() if versions_of(repository, path.name)))


def _unknown(repository: Path, name: str, task: Task) -> str:
    official = [spec.name for spec in SPECS.values() if spec.task is task]
    placed = [other for other in placed_names(repository) if _task_of(repository, other) is task]
    return f"unknown {task.value} {name!r}; known: {', '.join(sorted({*official, *placed}))}"


def _task_of(repository: Path, name: str) -> Task | None:
    try:
        return read_card(version_folder(repository, name) / CARD_FILE).spec.task
    except CardError:
        return SPECS[name].task if name in SPECS else None


def check_models(repository: Path, specs: Iterable[ModelSpec], version: int | None = None) -> None:
    """Check cheaply that the weights of models are there and whole; does not load them.

    Args:
        repository: folder of the models.
        specs: the models.
        version: None means the newest of each.

    Raises:
        RepositoryError: a file is missing, empty, cut off or no ONNX model.
    """
    for spec in specs:
        _check_weights(spec.name, weights_path(repository, spec, version))


def _check_weights(name: str, path: Path) -> None:
    if not path.is_file():
        official = name in {spec.name for spec in OFFICIAL_SPECS}
        remedy = f"run `shitu models pull {name}`" if official else "put the converted ONNX model there"
        raise RepositoryError(f"model {name}: {path} is missing; {remedy} or choose another model")
    try:
        with path.open("rb") as file:
            fault = _fault(file, path.stat().st_size)
    except OSError as error:
        raise RepositoryError(f"model {name}: {path} cannot be read ({error}); check its permissions") from error
    if fault:
        raise RepositoryError(f"model {name}: {path} is no usable ONNX model: {fault}; convert or copy it again")


def _fault(file: BinaryIO, size_bytes: int) -> str:
    """Return what is wrong with a serialised ModelProto, or an empty string.

    Only the fields at the top are walked, by seeking: that finds a file that was cut off, at the cost of a few reads.
    """
    if size_bytes == 0:
        return "the file is empty"
    fields = set()
    while (position := file.tell()) < size_bytes:
        key = _read_varint(file)
        if key is None or key >> 3 == 0:
            return f"no protobuf field at byte {position} of {size_bytes}"
        length = _field_size(file, key & 7)
        if length is None:
            return f"no protobuf field at byte {position} of {size_bytes}"
        if file.tell() + length > size_bytes:
            return f"cut off: a part of {length} bytes starts at byte {file.tell()}, the file ends at {size_bytes}"
        file.seek(length, 1)
        fields.add(key >> 3)
    return "" if _GRAPH_FIELD in fields else "it holds no graph"


def _field_size(file: BinaryIO, wire_type: int) -> int | None:
    """Return how many bytes of the field's value follow, None where the field is broken."""
    if wire_type == _VARINT:
        return None if _read_varint(file) is None else 0
    if wire_type == _BYTES:
        return _read_varint(file)
    return _FIXED_SIZES.get(wire_type)


def _read_varint(file: BinaryIO) -> int | None:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << (7 * index)
        if byte[0] < 0x80:  # noqa: PLR2004 - the top bit says that more follow
            return value
    return None
