"""Re-embedding to the end, also over a server that restarts meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from shitu_client.client import AsyncClient
from shitu_client.errors import ServerError, ShituClientError
from shitu_client.gallery_results import GalleryInfo, ReembedProgress
from shitu_client.patience import Attempts, Patience, is_transient


async def reembed_gallery(
    client: AsyncClient, name: str, encoder: str, patience: Patience, report: Callable[[ReembedProgress], None]
) -> GalleryInfo:
    """Return the gallery as it was published; after a failure that may pass the call is made again, and goes on.

    Args:
        client: of the server.
        name: of the gallery.
        encoder: name of a served encoder; the default one where empty.
        patience: how long the server may fail without one more item embedded.
        report: told of each step.

    Raises:
        ShituClientError: it failed for another reason, or for too long; called again, it goes on.
    """
    attempts, best = Attempts(), 0
    while True:
        try:
            async for step in client.reembed(name, encoder=encoder):
                patience.succeeded()
                report(step)
                if step.published is not None:
                    return step.published
                if step.embedded_count > best:
                    attempts, best = Attempts(), step.embedded_count
        except ShituClientError as error:
            if not is_transient(error) or not await patience.wait(error, attempts):
                raise
        else:
            raise ServerError("expected the published gallery at the end, the server said nothing of it")
