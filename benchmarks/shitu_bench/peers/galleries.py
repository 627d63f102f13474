"""A gallery of the same items at both: small ones of pictures, which each embeds, large ones of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shitu_bench.errors import BenchError
from shitu_bench.peers.environment import PeerEnvironment
from shitu_client import Client, NewItem, ShituClientError

STORED_KEY: Final = "vectors"
"""Of an index that was not built by a server, in the index storage."""
_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class GalleryItems:
    """Products with pictures; where the gallery is larger, random vectors besides."""

    products: Sequence[tuple[str, bytes]]
    """Label and picture."""
    size: int
    seed: int

    @property
    def are_pictures(self) -> bool:
        """Whether all items are products."""
        return self.size <= len(self.products)

    @property
    def pictures(self) -> Sequence[tuple[str, bytes]]:
        """The products that are in the gallery."""
        return self.products[: self.size]

    @property
    def labels(self) -> list[str]:
        """Of all items."""
        return [label for label, _ in self.pictures] + [f"other-{i:06}" for i in range(len(self.products), self.size)]

    @property
    def name(self) -> str:
        """Of the gallery at our server."""
        return f"items-{self.size}"


def vectors_of(address: str, items: GalleryItems) -> NDArray[np.float32]:
    """Return vectors float32 [size, dimension], L2-normalised: those of the products as our server embeds them, and random ones."""
    with Client(address, timeout_s=_TIMEOUT_S) as client:
        real = np.concatenate([client.embed(picture).vectors for _, picture in items.pictures])
    rng = np.random.default_rng([items.seed, 2])
    others = rng.standard_normal((items.size - len(real), real.shape[1]), dtype=np.float32)
    return np.concatenate([real, others / np.linalg.norm(others, axis=1, keepdims=True)])


def fill_ours(address: str, items: GalleryItems, vectors: NDArray[np.float32] | None) -> str:
    """Make the gallery at our server, and return its name.

    Raises:
        BenchError: it refuses items.
    """
    if vectors is None:
        new = [NewItem(label, label, picture) for label, picture in items.pictures]
    else:
        new = [NewItem(label, label, vector=row) for label, row in zip(items.labels, vectors, strict=True)]
    with Client(address, timeout_s=_TIMEOUT_S) as client:
        try:
            encoder = next(one for one in client.list_encoders() if one.is_default)
            client.create_gallery(items.name, encoder=encoder.name)
            outcome = client.add_items(
                items.name, new, encoder_fingerprint="" if vectors is None else encoder.fingerprint
            )
        except ShituClientError as error:
            raise BenchError(f"our server refused the gallery {items.name}: {error}") from error
        if outcome.failures:
            raise BenchError(
                f"our server refused {len(outcome.failures)} items, the first: {outcome.failures[0].error}"
            )
    return items.name


def write_theirs(
    environment: PeerEnvironment, items: GalleryItems, vectors: NDArray[np.float32], storage: Path
) -> Path:
    """Put the gallery into PaddleX's index storage under `STORED_KEY`, and into a folder beside it, which is returned."""
    folder = storage.with_name(f"{storage.name}-at-start")
    environment.write_index(vectors, items.labels, storage / STORED_KEY, folder)
    return folder
