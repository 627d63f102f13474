"""What a gallery takes: names, items and queries are checked here, for both ends of the socket alike."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_server.errors import EncoderMismatchError, InvalidArgumentError
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.types import Metadata, NewItem, Vectors

FieldNames = Callable[[int], str]
"""The name of the field that row i came from."""

MOST_SHOWN: Final = 80
"""Characters."""

NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class CheckedItem:
    """An item that can be stored as it is."""

    id: str
    label: str
    vector: NDArray[np.float32]
    """float32 [dimension], L2-normalised."""
    metadata_json: str
    thumbnail: bytes

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, about."""
        return self.vector.nbytes + len(self.thumbnail) + len(self.metadata_json) + len(self.id) + len(self.label)


def check_name(name: str) -> None:
    """Raise InvalidArgumentError unless `name` may name a gallery."""
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidArgumentError(
            "name",
            f"expected 1 to 64 of a-z, 0-9, '-' and '_', beginning with a letter or a digit; came {shown(name)}",
        )


def check_text(field: str, text: str, most_characters: int) -> None:
    """Raise InvalidArgumentError unless `text` is Unicode of 1 to `most_characters` characters."""
    if not 1 <= len(text) <= most_characters:
        raise InvalidArgumentError(field, f"expected 1 to {most_characters} characters, came {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(field, f"cannot be written as UTF-8: {shown(text)}") from error


def check_range(field: str, value: int, most: int, unit: str = "") -> None:
    """Raise InvalidArgumentError unless 1 <= value <= most."""
    if not 1 <= value <= most:
        raise InvalidArgumentError(field, f"expected 1 to {most}{unit}, came {value}")


def check_encoder(gallery: str, bound_to: str, came: str) -> None:
    """Raise EncoderMismatchError unless the vectors are of the encoder that the gallery is bound to."""
    if came != bound_to:
        raise EncoderMismatchError(
            f'gallery "{gallery}" is bound to encoder {shown(bound_to)}, the vectors are of {shown(came)}; '
            "use that encoder, or make a gallery for this one"
        )


def checked_items(items: Sequence[NewItem], dimension: int, limits: GalleryLimits) -> tuple[CheckedItem, ...]:
    """Return what can be stored.

    Raises:
        InvalidArgumentError: with a field such as `items[3].vector`; also where two items have the same id.
        EncoderMismatchError: a vector is not `dimension` long.
    """
    check_range("items", len(items), limits.items_per_call, " items")
    checked = tuple(checked_item(item, f"items[{i}]", dimension, limits) for i, item in enumerate(items))
    first_places: dict[str, int] = {}
    for place, item in enumerate(checked):
        check_unique(item.id, place, first_places)
    return checked


def check_unique(item_id: str, place: int, first_places: dict[str, int]) -> None:
    """Note where an id stands; raise InvalidArgumentError where it stood before in the same call.

    Which of two items of one id should win is a guess, so neither guess is made.
    """
    first = first_places.setdefault(item_id, place)
    if first != place:
        raise InvalidArgumentError(
            f"items[{place}].id", f"{shown(item_id)} is the id of items[{first}] too; ids of one call must differ"
        )


def checked_item(item: NewItem, field: str, dimension: int, limits: GalleryLimits) -> CheckedItem:
    """Return the item as it can be stored. Raises as `checked_items`."""
    check_text(f"{field}.id", item.id, limits.id_characters)
    check_text(f"{field}.label", item.label, limits.label_characters)
    if len(item.thumbnail) > limits.thumbnail_bytes:
        raise InvalidArgumentError(
            f"{field}.image", f"expected at most {limits.thumbnail_bytes} bytes, came {len(item.thumbnail)}"
        )
    metadata_json = _metadata_json(f"{field}.metadata", item.metadata, limits.metadata_bytes)
    vectors = unit_vectors(np.asarray(item.vector)[np.newaxis], dimension, lambda _: f"{field}.vector")
    return CheckedItem(item.id, item.label, vectors[0], metadata_json, item.thumbnail)


def unit_vectors(vectors: Vectors, dimension: int, field: FieldNames) -> Vectors:
    """Return float32 [n, dimension], C order, L2-normalised.

    Raises:
        InvalidArgumentError: NaN, infinite, all zero, or not two-dimensional.
        EncoderMismatchError: not `dimension` long.
    """
    if vectors.ndim != 2:  # noqa: PLR2004  # [n, dimension]
        raise InvalidArgumentError(field(0), f"expected numbers in one row, came {vectors.ndim - 1} dimensions")
    if vectors.shape[1] != dimension:
        raise EncoderMismatchError(
            f"{field(0)}: the gallery's vectors have {dimension} numbers, this one has {vectors.shape[1]}; "
            "it is of another encoder"
        )
    wide = vectors.astype(np.float64)  # the norm of large float32 numbers is over their range
    lengths = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        row = int(np.argmin(usable))
        problem = "all numbers are zero" if np.isfinite(wide[row]).all() else "a number is NaN or infinite"
        raise InvalidArgumentError(field(row), f"{problem}; a vector must have a direction")
    units: Vectors = np.ascontiguousarray(wide / lengths[:, np.newaxis], dtype=np.float32)
    return units


def _metadata_json(field: str, metadata: Metadata, most_bytes: int) -> str:
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size_bytes = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(field, f"cannot be written as JSON: {error}") from error
    if size_bytes > most_bytes:
        raise InvalidArgumentError(field, f"expected at most {most_bytes} bytes as JSON, came {size_bytes}")
    return text


def shown(text: str) -> str:
    """Return a text of a client as it stands in a message: quoted, printable, and short, since gRPC limits trailers to 8 KiB."""
    short = text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
    return f'"{short}"' if short.isprintable() else ascii(short)
