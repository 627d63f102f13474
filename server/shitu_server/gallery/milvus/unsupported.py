"""What galleries in Milvus cannot do."""

# ruff: noqa: ARG002  # refused, whatever the arguments are

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from shitu_server.errors import UnsupportedError
from shitu_server.types import Draft, DraftItem, GalleryInfo, Item


class Unsupported:
    """Methods of `types.Gallery` that raise UnsupportedError."""

    async def snapshot(self, name: str, *, deadline_s: float | None = None) -> AsyncGenerator[bytes, None]:
        """Not kept: back Milvus up with its own tools."""
        raise _unsupported("snapshots; back it up with milvus-backup")
        yield b""

    async def restore(
        self,
        name: str,
        content: AsyncIterator[bytes],
        *,
        deadline_s: float | None = None,
    ) -> GalleryInfo:
        """Not kept: see `snapshot`."""
        raise _unsupported("snapshots; restore it with milvus-backup, or add the items again")

    async def begin_draft(
        self,
        name: str,
        encoder_fingerprint: str,
        dimension: int,
        *,
        deadline_s: float | None = None,
    ) -> Draft:
        """Milvus keeps no pictures to embed again."""
        raise _no_drafts()

    async def draft_changes(
        self,
        name: str,
        draft: int,
        most: int,
        *,
        deadline_s: float | None = None,
    ) -> tuple[Item, ...]:
        """See `begin_draft`."""
        raise _no_drafts()

    async def add_to_draft(
        self,
        name: str,
        draft: int,
        items: Sequence[DraftItem],
        *,
        deadline_s: float | None = None,
    ) -> None:
        """See `begin_draft`."""
        raise _no_drafts()

    async def hold_writes(
        self,
        name: str,
        draft: int,
        seconds: float,
        *,
        deadline_s: float | None = None,
    ) -> None:
        """See `begin_draft`."""
        raise _no_drafts()

    async def publish(self, name: str, draft: int, *, deadline_s: float | None = None) -> GalleryInfo:
        """See `begin_draft`."""
        raise _no_drafts()

    async def discard_draft(self, name: str, draft: int, *, deadline_s: float | None = None) -> None:
        """See `begin_draft`."""
        raise _no_drafts()

    async def rollback(
        self,
        name: str,
        *,
        discard_writes: bool = False,
        deadline_s: float | None = None,
    ) -> GalleryInfo:
        """See `begin_draft`."""
        raise _no_drafts()


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(f"galleries in Milvus have no {what}")


def _no_drafts() -> UnsupportedError:
    return _unsupported("pictures, so that they cannot be embedded anew; make another gallery and move an alias to it")
