"""How far a draft has come: which items of the live generation it still lacks, and up to which write it is known to hold all."""

from __future__ import annotations

from shitu_server.gallery.reader import StoreReader
from shitu_server.types import Item


class DraftProgress:
    """Of one draft. One thread uses it at a time.

    Each item of the live generation is looked at once, in the order of its row; those that failed on the way, and the writes that
    came meanwhile, are found by looking at all again. From then on only later writes are looked at.
    """

    def __init__(self, live: int, draft: int) -> None:
        self._live = live
        self._draft = draft
        self._after_row_id = 0
        self.complete_at = 0
        """Number of a write to the live generation up to which the draft holds all; 0 where it is not known to."""

    def changes(self, reader: StoreReader, most: int) -> tuple[Item, ...]:
        """Return items that the draft lacks, none where it has all. Raises StorageError."""
        while True:
            found = reader.draft_changes(self._live, self._draft, self.complete_at, self._after_row_id, most)
            if found.items:
                self._after_row_id = 0 if self.complete_at else found.last_row_id
                return found.items
            if self._after_row_id == 0:
                self.complete_at = found.sequence
                return ()
            self._after_row_id = 0
