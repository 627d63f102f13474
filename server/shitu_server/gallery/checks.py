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
from shitu_server.filters import BUILT_IN_FIELDS, Fields, type_of
from shitu_server.gallery.limits import GalleryLimits
from shitu_server.types import GalleryOptions, ItemUpdate, Metadata, Metric, NewItem, Vectors

FieldNames = Callable[[int], str]
"""The name of the field that row i came from."""

MOST_SHOWN: Final = 80
"""Characters."""

NAME_PATTERN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
FIELD_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

DIGEST_BYTES: Final = 32
"""SHA-256."""
LARGEST_NORM: Final = 1e6
"""Of a vector that is kept as it comes: the square of a greater distance has no exact float32 left to compare with."""


@dataclass(frozen=True)
class CheckedItem:
    """An item that can be stored as it is."""

    id: str
    label: str
    vector: NDArray[np.float32]
    """float32 [dimension], as the gallery keeps it."""
    metadata_json: str
    thumbnail: bytes
    image_digest: bytes = b""

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, about."""
        return self.vector.nbytes + len(self.thumbnail) + len(self.metadata_json) + len(self.id) + len(self.label)


@dataclass(frozen=True)
class CheckedUpdate:
    """A change of an item that can be stored; None leaves as it is."""

    id: str
    label: str | None
    metadata_json: str | None

    @property
    def size_bytes(self) -> int:
        """Memory that it takes, about."""
        return len(self.id) + len(self.label or "") + len(self.metadata_json or "")


def check_name(name: str, field: str = "name") -> None:
    """Raise InvalidArgumentError unless `name` may name a gallery."""
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidArgumentError(
            field,
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


def check_fields(fields: Fields, limits: GalleryLimits) -> None:
    """Raise InvalidArgumentError unless these may be the declared fields of a gallery."""
    if len(fields) > limits.fields:
        raise InvalidArgumentError("fields", f"expected at most {limits.fields} declared fields, came {len(fields)}")
    for name in fields:
        if not FIELD_PATTERN.fullmatch(name) or name in BUILT_IN_FIELDS:
            raise InvalidArgumentError(
                "fields",
                f"expected names of 1 to 64 letters, digits and '_', not beginning with a digit and none of "
                f"{', '.join(BUILT_IN_FIELDS)}; came {shown(name)}",
            )


def check_metadata(field: str, metadata: Metadata, declared: Fields) -> None:
    """Raise InvalidArgumentError unless every declared field that is there holds a value of its type."""
    for name, wanted in declared.items():
        if name in metadata and type_of(metadata[name]) is not wanted:
            raise InvalidArgumentError(
                f"{field}.{name}", f"expected a {wanted.value}, as the gallery declares, came {metadata[name]!r:.80}"
            )


def checked_items(
    items: Sequence[NewItem], dimension: int, options: GalleryOptions, limits: GalleryLimits
) -> tuple[CheckedItem, ...]:
    """Return what can be stored.

    Raises:
        InvalidArgumentError: with a field such as `items[3].vector`; also where two items have the same id.
        EncoderMismatchError: a vector is not `dimension` long.
    """
    check_range("items", len(items), limits.items_per_call, " items")
    checked = tuple(checked_item(item, f"items[{i}]", dimension, options, limits) for i, item in enumerate(items))
    first_places: dict[str, int] = {}
    for place, item in enumerate(checked):
        check_unique(item.id, place, first_places)
    return checked


def checked_updates(
    updates: Sequence[ItemUpdate], options: GalleryOptions, limits: GalleryLimits
) -> tuple[CheckedUpdate, ...]:
    """Return what can be stored. Raises InvalidArgumentError, with a field such as `updates[3].label`."""
    check_range("updates", len(updates), limits.items_per_call, " updates")
    first_places: dict[str, int] = {}
    for place, update in enumerate(updates):
        check_unique(update.id, place, first_places, "updates")
    return tuple(_checked_update(update, f"updates[{i}]", options, limits) for i, update in enumerate(updates))


def _checked_update(update: ItemUpdate, field: str, options: GalleryOptions, limits: GalleryLimits) -> CheckedUpdate:
    check_text(f"{field}.id", update.id, limits.id_characters)
    if update.label is None and update.metadata is None:
        raise InvalidArgumentError(field, "expected a label or metadata, came neither")
    if update.label is not None:
        check_text(f"{field}.label", update.label, limits.label_characters)
    metadata_json = None
    if update.metadata is not None:
        check_metadata(f"{field}.metadata", update.metadata, options.fields)
        metadata_json = _metadata_json(f"{field}.metadata", update.metadata, limits.metadata_bytes)
    return CheckedUpdate(update.id, update.label, metadata_json)


def check_unique(item_id: str, place: int, first_places: dict[str, int], field: str = "items") -> None:
    """Note where an id stands; raise InvalidArgumentError where it stood before in the same call.

    Which of two items of one id should win is a guess, so neither guess is made.
    """
    first = first_places.setdefault(item_id, place)
    if first != place:
        raise InvalidArgumentError(
            f"{field}[{place}].id", f"{shown(item_id)} is the id of {field}[{first}] too; ids of one call must differ"
        )


def checked_item(
    item: NewItem, field: str, dimension: int, options: GalleryOptions, limits: GalleryLimits
) -> CheckedItem:
    """Return the item as it can be stored. Raises as `checked_items`."""
    check_text(f"{field}.id", item.id, limits.id_characters)
    check_text(f"{field}.label", item.label, limits.label_characters)
    if len(item.thumbnail) > limits.thumbnail_bytes:
        raise InvalidArgumentError(
            f"{field}.image", f"expected at most {limits.thumbnail_bytes} bytes, came {len(item.thumbnail)}"
        )
    check_metadata(f"{field}.metadata", item.metadata, options.fields)
    metadata_json = _metadata_json(f"{field}.metadata", item.metadata, limits.metadata_bytes)
    if len(item.image_digest) not in (0, DIGEST_BYTES):
        raise InvalidArgumentError(
            f"{field}.image_digest", f"expected {DIGEST_BYTES} bytes, came {len(item.image_digest)}"
        )
    rows = np.asarray(item.vector)[np.newaxis]
    vectors = kept_vectors(rows, dimension, options.metric, lambda _: f"{field}.vector")
    return CheckedItem(item.id, item.label, vectors[0], metadata_json, item.thumbnail, item.image_digest)


def kept_vectors(vectors: Vectors, dimension: int, metric: Metric, field: FieldNames) -> Vectors:
    """Return vectors as a gallery of this metric keeps them and is asked with them: float32 [n, dimension], C order.

    Raises:
        InvalidArgumentError: NaN, infinite, not two-dimensional; all zero, or under L2 longer than `LARGEST_NORM`.
        EncoderMismatchError: not `dimension` long.
    """
    if metric is Metric.INNER_PRODUCT:
        return unit_vectors(vectors, dimension, field)
    _, lengths = _measured(vectors, dimension, field)
    usable = lengths <= LARGEST_NORM  # False for NaN too
    if not usable.all():
        row = int(np.argmin(usable))
        raise InvalidArgumentError(
            field(row), f"expected numbers, together of a length up to {LARGEST_NORM:g}, came {lengths[row]}"
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def unit_vectors(vectors: Vectors, dimension: int, field: FieldNames) -> Vectors:
    """Return float32 [n, dimension], C order, L2-normalised.

    Raises:
        InvalidArgumentError: NaN, infinite, all zero, or not two-dimensional.
        EncoderMismatchError: not `dimension` long.
    """
    wide, lengths = _measured(vectors, dimension, field)
    usable = np.isfinite(lengths) & (lengths > 0)
    if not usable.all():
        row = int(np.argmin(usable))
        problem = "all numbers are zero" if np.isfinite(vectors[row]).all() else "a number is NaN or infinite"
        raise InvalidArgumentError(field(row), f"{problem}; a vector must have a direction")
    units: Vectors = np.ascontiguousarray(wide / lengths[:, np.newaxis], dtype=np.float32)
    return units


def _measured(vectors: Vectors, dimension: int, field: FieldNames) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the vectors, float64 [n, dimension], and their lengths [n]. Raises as `kept_vectors`, for the shape."""
    if vectors.ndim != 2:  # noqa: PLR2004  # [n, dimension]
        raise InvalidArgumentError(field(0), f"expected numbers in one row, came {vectors.ndim - 1} dimensions")
    if vectors.shape[1] != dimension:
        raise EncoderMismatchError(
            f"{field(0)}: the gallery's vectors have {dimension} numbers, this one has {vectors.shape[1]}; "
            "it is of another encoder"
        )
    wide = vectors.astype(np.float64)  # the norm of large float32 numbers is over their range
    lengths: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    return wide, lengths


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
