"""Where the models are, and whether their files can be what they should be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Final

from shitu_models.specs import ModelSpec
from shitu_models.triton_config import CONFIG_FILE

WEIGHTS_FILE: Final = "1/model.onnx"
"""Path of a model's weights in its folder: version 1, under the name that Triton's onnxruntime backend looks for."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf (encoding specification)."""
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES: Final = 10
_GRAPH_FIELD: Final = 7
"""`ModelProto.graph` (onnx.proto)."""


class RepositoryError(Exception):
    """A model repository or a file in it is missing or damaged; the message names the path and what to do."""


def find_repository(explicit: Path | None = None) -> Path:
    """Return the model repository: the explicit path, else the checkout's, else the one that the wheel carries.

    Raises:
        RepositoryError: there is none.
    """
    package = Path(__file__).resolve().parent
    candidates = [explicit] if explicit else [package.parents[1] / "model_repository", package / "model_repository"]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate.resolve()
    tried = " and ".join(str(candidate) for candidate in candidates)
    raise RepositoryError(
        f"no model repository: {tried} is not a folder; give the folder that holds <model>/{CONFIG_FILE} and <model>/{WEIGHTS_FILE}"
    )


def weights_path(repository: Path, spec: ModelSpec) -> Path:
    """Return the path of a model's ONNX file, whether it exists or not."""
    return repository / spec.name / WEIGHTS_FILE


def check_models(repository: Path, specs: Iterable[ModelSpec]) -> None:
    """Check cheaply that the files of models are there and whole; does not load them.

    Raises:
        RepositoryError: a file is missing, empty, cut off or no ONNX model.
    """
    for spec in specs:
        config = repository / spec.name / CONFIG_FILE
        if not config.is_file():
            raise RepositoryError(
                f"model {spec.name}: {config} is missing; write it with `python -m shitu_models.triton_config {repository}`"
            )
        _check_weights(spec.name, weights_path(repository, spec))


def _check_weights(name: str, path: Path) -> None:
    if not path.is_file():
        raise RepositoryError(
            f"model {name}: {path} is missing; put the converted ONNX model there or choose another model"
        )
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
