"""What there is to be searched at one moment: readers take one of these and are not reached by later writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shitu_server.gallery.gallery_rows import GalleryRow
from shitu_server.gallery.index import GalleryIndex, IndexSnapshot
from shitu_server.types import GalleryInfo, GalleryState


@dataclass(frozen=True, eq=False)
class LiveGallery:
    """A gallery after some write. It does not change: the next write makes another."""

    info: GalleryInfo
    snapshot: IndexSnapshot | None
    """Exactly the items of `info.state`; None where the index could not follow and is being rebuilt, or the items are damaged."""
    damage: str = ""
    """What is wrong with the items; empty where nothing is."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All galleries."""

    galleries: Mapping[str, LiveGallery] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    retired: Mapping[int, LiveGallery] = field(default_factory=dict)
    """By generation: those that were live a moment ago, for calls that began then."""

    def find(self, name: str) -> LiveGallery | None:
        """Return the gallery of a name or an alias."""
        return self.galleries.get(self.aliases.get(name, name))

    def at(self, name: str, generation: int) -> LiveGallery | None:
        """Return a generation of a gallery: the live one, or one that was live a moment ago."""
        live = self.find(name)
        if live is None or live.info.state.generation == generation:
            return live
        retired = self.retired.get(generation)
        return retired if retired is not None and retired.info.name == live.info.name else None


def info_of(row: GalleryRow, index: GalleryIndex, aliases: Mapping[str, str], previous_generation: int) -> GalleryInfo:
    """Return a stored gallery as it is listed."""
    return GalleryInfo(
        name=row.name,
        encoder_fingerprint=row.encoder_fingerprint,
        dimension=row.dimension,
        item_count=row.item_count,
        state=GalleryState(row.generation, row.sequence),
        create_time_s=row.create_time_s,
        options=row.options,
        aliases=tuple(alias for alias, name in aliases.items() if name == row.name),
        index=index.status,
        previous_generation=previous_generation,
    )
