"""What a gateway asks for galleries: the gallery process, or Milvus."""

from __future__ import annotations

from typing import Protocol

from shitu_server.settings import MilvusConsistency, Settings
from shitu_server.types import Gallery


class ConnectedGallery(Gallery, Protocol):
    """Galleries elsewhere."""

    async def check(self) -> None:
        """Raise UnavailableError unless they can be asked."""

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""


def connected(settings: Settings) -> ConnectedGallery:
    """Return the galleries that the settings name; a connection is made at the first call, in the event loop that then runs.

    Imports stand inside: pymilvus takes a second, and is not installed everywhere.
    """
    if settings.milvus_address:
        from shitu_server.gallery.milvus.gallery import MilvusGallery  # noqa: PLC0415

        return MilvusGallery(
            settings.milvus_address,
            token=settings.milvus_token,
            searches_wait=settings.milvus_consistency is MilvusConsistency.STRONG,
        )
    from shitu_server.gallery.client import GalleryClient  # noqa: PLC0415

    return GalleryClient(settings.gallery_address, max_message_bytes=settings.max_message_bytes)
