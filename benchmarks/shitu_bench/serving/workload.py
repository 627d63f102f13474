"""What is sent: drawn shelves as requests, and a gallery to find their products in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

import numpy as np

from shitu.v1 import recognition_pb2
from shitu_bench.errors import BenchError
from shitu_bench.load.pictures import FIXED_OBJECTS, Shelf, product_pictures, shelves
from shitu_bench.load.plans import LoadRequest, WorkloadKind
from shitu_client import Client, NewItem, ShituClientError

T = TypeVar("T")

RECOGNIZE: Final = "/shitu.v1.RecognitionService/Recognize"
GALLERY: Final = "bench"
_PICTURES_PER_CALL: Final = 8
_VECTORS_PER_CALL: Final = 4096
_LABEL_SIZE: Final = 10
"""Random vectors of one label."""
_CALL_TIMEOUT_S: Final = 120.0

Advance = Callable[[], None]


@dataclass(frozen=True)
class WorkloadOptions:
    """What is drawn and searched."""

    kind: WorkloadKind = WorkloadKind.FIXED
    picture_count: int = 32
    """Different pictures; they are sent again and again."""
    gallery: str = GALLERY
    vector_count: int = 0
    """Random vectors in the gallery; where 0, it holds drawn products (120 pictures)."""
    seed: int = 5

    def described(self) -> dict[str, object]:
        """Return what of it belongs to results."""
        return {"kind": self.kind.value, "picture_count": self.picture_count, "vector_count": self.vector_count}


def prepared(address: str, options: WorkloadOptions, advance: Advance | None = None) -> list[LoadRequest]:
    """Fill a new gallery of a server, and return requests that search it.

    Of a fixed workload those pictures are kept in which the server finds three objects; where they are too few among twice as many,
    those with the most.

    Args:
        address: host:port.
        options: what is drawn.
        advance: called once for each picture that is drawn.

    Raises:
        BenchError: the server refuses it.
    """
    with Client(address, timeout_s=_CALL_TIMEOUT_S) as client:
        try:
            client.create_gallery(options.gallery)
            _add(client, options)
            if options.kind is WorkloadKind.MIXED:
                return drawn_requests(options, advance)
            return [_request(shelf, options.gallery) for shelf in _richest(client, options, advance)]
        except ShituClientError as error:
            raise BenchError(f"{address} refused what load needs: {error}") from error


def drawn_requests(options: WorkloadOptions, advance: Advance | None = None) -> list[LoadRequest]:
    """Return requests for drawn shelves, whatever a server finds on them; `advance` is called once for each."""
    drawn = shelves(options.kind, options.picture_count, options.seed)
    return [_request(shelf, options.gallery) for shelf in _told(drawn, advance)]


def _richest(client: Client, options: WorkloadOptions, advance: Advance | None) -> list[Shelf]:
    counted: list[tuple[int, Shelf]] = []
    enough = 0
    for shelf in _told(shelves(options.kind, 2 * options.picture_count, options.seed), advance):
        found = len(client.recognize(shelf.content, options.gallery, max_objects=FIXED_OBJECTS).objects)
        counted.append((found, shelf))
        enough += found == FIXED_OBJECTS
        if enough == options.picture_count:
            break
    counted.sort(key=lambda one: -one[0])
    return [shelf for _, shelf in counted[: options.picture_count]]


def _request(shelf: Shelf, gallery: str) -> LoadRequest:
    message = recognition_pb2.RecognizeRequest(image=shelf.content, gallery=gallery)
    message.options.max_objects = shelf.most_objects
    return LoadRequest(RECOGNIZE, message.SerializeToString())


def _add(client: Client, options: WorkloadOptions) -> None:
    fingerprint = ""
    items: Iterable[NewItem] = (
        NewItem(picture.item_id, picture.label, picture.content) for picture in product_pictures(options.seed)
    )
    size = _PICTURES_PER_CALL
    if options.vector_count:
        encoder = next(one for one in client.list_encoders() if one.is_default)
        fingerprint, size = encoder.fingerprint, _VECTORS_PER_CALL
        items = _random_items(options.vector_count, encoder.dimension, options.seed)
    for chunk in _chunks(items, size):
        outcome = client.add_items(options.gallery, chunk, encoder_fingerprint=fingerprint)
        if outcome.failures:
            raise BenchError(f"item {outcome.failures[0].id} was not added: {outcome.failures[0].error}")


def _random_items(count: int, dimension: int, seed: int) -> Iterator[NewItem]:
    rng = np.random.default_rng([seed, 3])
    for number in range(count):
        vector = rng.standard_normal(dimension, dtype=np.float32)
        yield NewItem(f"item-{number}", f"label-{number // _LABEL_SIZE}", vector=vector)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _told(values: Iterable[T], advance: Advance | None) -> Iterator[T]:
    for value in values:
        yield value
        if advance is not None:
            advance()
