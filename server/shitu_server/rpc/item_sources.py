"""Where the vectors of items and queries come from: what a servicer needs of a process, and the process that takes vectors only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Union

import numpy as np

from shitu.v1 import gallery_pb2 as pb
from shitu_server.errors import EncoderMismatchError, InvalidArgumentError, ShituError, UnsupportedError
from shitu_server.reembedding import ReembedProgress
from shitu_server.types import GalleryInfo, NewItem, Vectors
from shitu_server.wire.galleries import metadata_of, vector_of

_VECTORS_ONLY: Final = "this process takes vectors only; send pictures to a gateway, which embeds them"

MaybeItem = Union[NewItem, ShituError]


@dataclass(frozen=True)
class EncoderIdentity:
    """Whose vectors a gallery holds."""

    fingerprint: str
    dimension: int


@dataclass(frozen=True)
class PreparedItems:
    """Items of a request with their vectors, in its order; an error where an item cannot be had."""

    items: Sequence[MaybeItem]
    encoder_fingerprint: str
    """Of the encoder that made the vectors."""


@dataclass(frozen=True)
class PreparedQueries:
    """float32 [n, dimension], in the order of the request, whose vectors these are, and where to search for them."""

    vectors: Vectors
    encoder_fingerprint: str
    gallery: str
    generation: int
    """That must answer; 0 for the live one."""


class ItemSource(Protocol):
    """Turns what a client sends, pictures or vectors, into vectors."""

    def encoder_named(self, name: str) -> EncoderIdentity:
        """Return the encoder for a new gallery, by its model's name, or the default where the client names none.

        Raises:
            InvalidArgumentError: there is none.
        """

    @property
    def all_or_nothing(self) -> bool:
        """Whether a bad item fails the whole call, and not itself alone."""

    async def new_items(
        self, messages: Sequence[pb.NewItem], encoder_fingerprint: str, gallery: GalleryInfo, deadline_s: float | None
    ) -> PreparedItems:
        """Return the items; raise ShituError only for what concerns all of them.

        Args:
            messages: of the request.
            encoder_fingerprint: that the request names, or empty.
            gallery: where the items will go.
            deadline_s: time of `time.monotonic()`.
        """

    async def query_vectors(self, request: pb.SearchRequest, deadline_s: float | None) -> PreparedQueries:
        """Return a vector for each query; raise ShituError where one cannot be had. No query names an item."""

    def reembedding(
        self, gallery: str, encoder: str, deadline_s: float | None
    ) -> AsyncGenerator[ReembedProgress, None]:
        """Embed the pictures of a gallery anew with the encoder of that name; yield progress.

        Raises:
            InvalidArgumentError: there is no such encoder.
            UnsupportedError: this process runs none.
        """


class VectorItems:
    """For the gallery process: vectors only, and all items or none, as `types.Gallery.add` promises."""

    def __init__(self, *, all_or_nothing: bool = True) -> None:
        self.all_or_nothing = all_or_nothing

    def encoder_named(self, name: str) -> EncoderIdentity:
        """See `ItemSource`."""
        field = "encoder" if name else "encoder_fingerprint"
        raise InvalidArgumentError(
            field, "this process runs no encoder; name one by its fingerprint, and the length of its vectors"
        )

    async def new_items(
        self,
        messages: Sequence[pb.NewItem],
        encoder_fingerprint: str,
        gallery: GalleryInfo,  # noqa: ARG002  # the servicer checks
        deadline_s: float | None,  # noqa: ARG002  # nothing waits
    ) -> PreparedItems:
        """See `ItemSource`. A picture beside a vector becomes the thumbnail as it is."""
        _check_fingerprint(encoder_fingerprint)
        return PreparedItems([vector_item(m, f"items[{i}]") for i, m in enumerate(messages)], encoder_fingerprint)

    async def query_vectors(
        self,
        request: pb.SearchRequest,
        deadline_s: float | None,  # noqa: ARG002  # nothing waits
    ) -> PreparedQueries:
        """See `ItemSource`."""
        _check_fingerprint(request.encoder_fingerprint)
        rows = []
        for i, query in enumerate(request.queries):
            if query.WhichOneof("source") != "vector":
                raise InvalidArgumentError(f"queries[{i}]", _VECTORS_ONLY)
            rows.append(vector_of(query.vector, f"queries[{i}].vector"))
            if len(rows[i]) != len(rows[0]):
                raise EncoderMismatchError(
                    f"queries[{i}].vector has {len(rows[i])} numbers, queries[0].vector {len(rows[0])}; "
                    "vectors of one call must be of one encoder"
                )
        return PreparedQueries(np.stack(rows), request.encoder_fingerprint, request.gallery, request.generation)

    def reembedding(
        self,
        gallery: str,  # noqa: ARG002  # none can be embedded
        encoder: str,  # noqa: ARG002
        deadline_s: float | None,  # noqa: ARG002
    ) -> AsyncGenerator[ReembedProgress, None]:
        """See `ItemSource`."""
        raise UnsupportedError("this process runs no encoder; call Reembed at a gateway")


def vector_item(message: pb.NewItem, field: str) -> MaybeItem:
    """Return the item of a message that brings its vector, or why there is none."""
    if not message.HasField("vector"):
        return InvalidArgumentError(f"{field}.vector", _VECTORS_ONLY)
    try:
        return NewItem(
            id=message.id,
            label=message.label,
            vector=vector_of(message.vector, f"{field}.vector"),
            metadata=metadata_of(message.metadata, f"{field}.metadata"),
            thumbnail=message.image,
            image_digest=message.image_digest,
        )
    except InvalidArgumentError as error:
        return error


def _check_fingerprint(encoder_fingerprint: str) -> None:
    if not encoder_fingerprint:
        raise InvalidArgumentError("encoder_fingerprint", "expected the encoder that made the vectors, came nothing")
