"""PaddleX's index files: a folder with `vector.index` (FAISS) and `id_map.yaml` (keys id_map, metric_type, index_type).

Of PaddleX 3.3; needs the extra `paddlex`. Its Hamming indexes hold other vectors than galleries do, and PaddleClas' `id_map.pkl` is a
pickle, which could run any program when it is read: both are refused.
"""

from __future__ import annotations

import importlib
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from shitu_client.errors import InputError

Metric = Literal["IP", "L2"]

VECTORS_FILE: Final = "vector.index"
LABELS_FILE: Final = "id_map.yaml"
_KEYS: Final = ("id_map", "metric_type", "index_type")
_METRICS: Final = ("IP", "L2")
_ITEMS_PER_LIST: Final = 8
"""Of an IVF index, as PaddleX makes it; with fewer items there is no list."""
_MOST_LISTS: Final = 65536


@dataclass(frozen=True)
class PaddlexIndex:
    """What PaddleX keeps of a gallery."""

    ids: tuple[int, ...]
    labels: tuple[str, ...]
    vectors: NDArray[np.float32]
    """[n, dimension], as PaddleX stores them: its encoders' are L2-normalised."""
    metric: Metric
    index_type: str


def read_index(folder: Path) -> PaddlexIndex:
    """Read a folder that PaddleX saved.

    Raises:
        InputError: it is not there, damaged, or of a kind that no gallery holds; or the extra is not installed.
    """
    faiss, info = _module("faiss"), _info(folder)
    labels = _labels(info["id_map"], folder / LABELS_FILE)
    try:
        index = faiss.read_index(str(folder / VECTORS_FILE))
    except RuntimeError as error:
        raise InputError(
            f"{folder / VECTORS_FILE}: expected an index of FAISS, got something else or a part of it"
        ) from error
    ids = _ids(faiss, index, folder)
    if set(ids) != set(labels) or len(set(ids)) != len(ids):
        raise InputError(
            f"{folder}: expected one label for each vector, got {len(labels)} in {LABELS_FILE} and {len(ids)} in {VECTORS_FILE}"
        )
    return PaddlexIndex(
        tuple(ids),
        tuple(labels[one] for one in ids),
        _vectors(faiss, index, folder),
        info["metric_type"],
        str(info["index_type"]),
    )


def write_index(
    folder: Path, labels: Sequence[str], vectors: NDArray[np.float32], metric: Metric, index_type: str
) -> None:
    """Write a folder that PaddleX reads; it is there when both files are whole. Ids run from 0.

    Args:
        folder: to be made; may be there if it is empty.
        labels: of the vectors.
        vectors: [n, dimension].
        metric: what PaddleX shall compare with.
        index_type: `Flat`, `IVF` or `HNSW32`.

    Raises:
        InputError: the folder holds something, there are too few vectors, or the extra is not installed.
    """
    faiss, yaml = _module("faiss"), _module("yaml")
    check_writable(folder)
    if not len(vectors):
        raise InputError("expected at least one item, the gallery has none")
    index = _built(faiss, vectors, metric, index_type)
    info = {"id_map": dict(enumerate(labels)), "metric_type": metric, "index_type": index_type}
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
        faiss.write_index(index, str(part / VECTORS_FILE))
        with (part / LABELS_FILE).open("w", encoding="utf-8") as file:
            yaml.safe_dump(info, file, default_flow_style=False, allow_unicode=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_writable(folder: Path) -> None:
    """Refuse a place where something is.

    Raises:
        InputError: there is something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a folder that is empty or not there yet")


def _info(folder: Path) -> dict[str, Any]:
    """Return what stands in id_map.yaml, checked."""
    if (folder / "id_map.pkl").is_file() and not (folder / LABELS_FILE).is_file():
        raise InputError(
            f"{folder}: expected {LABELS_FILE} as PaddleX writes it, found id_map.pkl of PaddleClas; it is a pickle, which could run "
            f"any program when read. Write its dictionary with PyYAML under id_map, with metric_type and index_type beside it"
        )
    for name in (VECTORS_FILE, LABELS_FILE):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: expected {VECTORS_FILE} and {LABELS_FILE}, {name} is missing")
    info = _yaml(folder / LABELS_FILE)
    if not isinstance(info, dict) or not set(_KEYS) <= info.keys() or not isinstance(info["id_map"], dict):
        raise InputError(f"{folder / LABELS_FILE}: expected a mapping with {', '.join(_KEYS)}; it has something else")
    if info["metric_type"] not in _METRICS:
        raise InputError(
            f"{folder}: expected the metric {' or '.join(_METRICS)}, got {info['metric_type']}; galleries hold vectors of numbers, and "
            f"binary codes cannot be turned back into them: build the gallery from the pictures"
        )
    return info


def _yaml(file: Path) -> Any:
    yaml = _module("yaml")
    # The same safe loader in C, ten times as fast, where PyYAML was built with it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: expected YAML with plain values only: {error}") from error


def _labels(id_map: dict[Any, Any], file: Path) -> dict[int, str]:
    # PaddleX reads keys and labels so, too.
    try:
        return {int(key): str(label) for key, label in id_map.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: expected whole numbers as keys of id_map: {error}") from error


def _ids(faiss: ModuleType, index: Any, folder: Path) -> list[int]:
    if isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        ids = faiss.vector_to_array(index.id_map)
    else:
        ids = np.arange(index.ntotal)
    if len(ids) != index.ntotal:
        raise InputError(f"{folder / VECTORS_FILE}: expected {index.ntotal} ids, got {len(ids)}")
    return [int(one) for one in ids]


def _vectors(faiss: ModuleType, index: Any, folder: Path) -> NDArray[np.float32]:
    inner = faiss.downcast_index(index.index) if isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)) else index
    try:
        if isinstance(inner, faiss.IndexIVF):
            inner.make_direct_map()
        vectors: NDArray[np.float32] = inner.reconstruct_n(0, inner.ntotal)
    except RuntimeError as error:
        # Items were removed from an IVF index: FAISS then answers with wrong ids, in PaddleX too.
        raise InputError(
            f"{folder / VECTORS_FILE}: expected an index whose vectors can be read in the order of its ids; removing from an index of "
            f"this type destroys that: build it anew in PaddleX"
        ) from error
    return vectors


def _built(faiss: ModuleType, vectors: NDArray[np.float32], metric: Metric, index_type: str) -> Any:
    """Return the index that PaddleX would make of the same vectors."""
    factory = index_type
    if index_type == "IVF":
        lists = min(len(vectors) // _ITEMS_PER_LIST, _MOST_LISTS)
        if not lists:
            raise InputError(f"expected at least {_ITEMS_PER_LIST} items for an IVF index, got {len(vectors)}")
        factory = f"IVF{lists},Flat"
    kind = faiss.METRIC_INNER_PRODUCT if metric == "IP" else faiss.METRIC_L2
    inner = faiss.index_factory(vectors.shape[1], factory, kind)
    index = faiss.IndexIDMap2(inner)
    index.train(vectors)
    index.add_with_ids(vectors, np.arange(len(vectors), dtype=np.int64))
    return index


def _module(name: str) -> Any:
    """Return a module of the extra, imported only where it is needed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"PaddleX's index files need {name}: pip install 'shitu[paddlex]'") from error
