"""GalleryDraftService over `types.Gallery`, in the gallery process."""

from __future__ import annotations

from shitu.v1 import drafts_pb2 as pb
from shitu.v1 import drafts_pb2_grpc
from shitu_server.gallery.parts import built
from shitu_server.rpc.handlers import Context
from shitu_server.rpc.interceptors import deadline_of
from shitu_server.types import DraftItem, Gallery
from shitu_server.wire.galleries import gallery_message, item_message, vector_of


class GalleryDraftServicer(drafts_pb2_grpc.GalleryDraftServiceServicer):
    """Each method converts, calls the gallery and converts back; errors are the interceptor's."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery

    async def BeginDraft(self, request: pb.BeginDraftRequest, context: Context) -> pb.BeginDraftResponse:  # noqa: N802
        """Begin a draft, or go on with one."""
        draft = await self._gallery.begin_draft(
            request.gallery, request.encoder_fingerprint, request.dimension, deadline_s=deadline_of(context)
        )
        return pb.BeginDraftResponse(
            draft=draft.generation, item_count=draft.item_count, wanted_count=draft.wanted_count
        )

    async def ListDraftChanges(  # noqa: N802
        self, request: pb.ListDraftChangesRequest, context: Context
    ) -> pb.ListDraftChangesResponse:
        """List items that the draft lacks."""
        items = await self._gallery.draft_changes(
            request.gallery, request.draft, request.most, deadline_s=deadline_of(context)
        )
        return pb.ListDraftChangesResponse(
            items=await built(lambda: [item_message(item) for item in items], large=bool(items))
        )

    async def AddToDraft(self, request: pb.AddToDraftRequest, context: Context) -> pb.AddToDraftResponse:  # noqa: N802
        """Put new vectors into the draft."""
        items = [
            DraftItem(item.id, item.sequence, vector_of(item.vector, f"items[{i}].vector"))
            for i, item in enumerate(request.items)
        ]
        await self._gallery.add_to_draft(request.gallery, request.draft, items, deadline_s=deadline_of(context))
        return pb.AddToDraftResponse()

    async def HoldWrites(self, request: pb.HoldWritesRequest, context: Context) -> pb.HoldWritesResponse:  # noqa: N802
        """Hold writes back for a while."""
        await self._gallery.hold_writes(
            request.gallery, request.draft, request.seconds, deadline_s=deadline_of(context)
        )
        return pb.HoldWritesResponse()

    async def PublishDraft(self, request: pb.PublishDraftRequest, context: Context) -> pb.PublishDraftResponse:  # noqa: N802
        """Make the draft the live generation."""
        info = await self._gallery.publish(request.gallery, request.draft, deadline_s=deadline_of(context))
        return pb.PublishDraftResponse(gallery=gallery_message(info))

    async def DiscardDraft(self, request: pb.DiscardDraftRequest, context: Context) -> pb.DiscardDraftResponse:  # noqa: N802
        """Delete the draft."""
        await self._gallery.discard_draft(request.gallery, request.draft, deadline_s=deadline_of(context))
        return pb.DiscardDraftResponse()
