"""AsyncClient: one method for each thing that a server can do."""

from __future__ import annotations

from shitu_client.connection import DEFAULT_SERVER, DEFAULT_STALL_TIMEOUT_S, DEFAULT_TIMEOUT_S
from shitu_client.gallery_calls import GalleryCalls
from shitu_client.images import ImageSource
from shitu_client.recognition_calls import RecognitionCalls

__all__ = ["DEFAULT_SERVER", "DEFAULT_STALL_TIMEOUT_S", "DEFAULT_TIMEOUT_S", "AsyncClient", "ImageSource"]


class AsyncClient(RecognitionCalls, GalleryCalls):
    """A connection to a server, for use in one event loop.

    Every method raises a ShituClientError (see `shitu_client.errors`). Each request waits `timeout_s` at most; `add_items`,
    `update_items` and `list_galleries` make as many as it takes. Snapshots, restores and re-embedding last as long as they go on,
    and fail when nothing moves for `stall_timeout_s`; a stream of pictures lasts as long as its pictures come. Reads and the writes
    that may be repeated, when they meet a server that is restarting, are tried again, a few times, within their time.
    """
