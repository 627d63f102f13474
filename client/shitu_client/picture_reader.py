"""Reading the pictures of a build: some at a time, only those that the gallery lacks."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final

from shitu_client.connection import MAX_MESSAGE_BYTES
from shitu_client.digests import image_digest
from shitu_client.errors import InputError
from shitu_client.items import MAX_BYTES_PER_REQUEST, NewItem
from shitu_client.patience import DEFAULT_PATIENCE_S
from shitu_client.pictures import LabelledPicture, read_picture

_PICTURES_PER_REQUEST: Final = 16
_PICTURES_PER_STEP: Final = 64
"""Looked at before the progress is told, where most are in the gallery already."""
_MOST_PICTURE_BYTES: Final = MAX_MESSAGE_BYTES - 4 * 1024 * 1024
"""What fits into a request with its label and metadata; the server may take less, and says so."""
_MOST_ID_CHARACTERS: Final = 256


@dataclass(frozen=True)
class BuildOptions:
    """How pictures become items."""

    detect: bool = False
    """Take what the detector is surest of instead of the whole picture."""
    again: bool = False
    """Send also what is in the gallery already."""
    skip_duplicates: bool = False
    """Leave out pictures of which there is an item already, under another id."""
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By the item's id; an item that is there and not named keeps what it has."""
    patience_s: float = DEFAULT_PATIENCE_S
    """How long a server that is away or busy is waited for."""


@dataclass(frozen=True)
class PresentItem:
    """An item that is in the gallery."""

    label: str
    digest: bytes
    metadata: Mapping[str, Any]


@dataclass
class PictureStep:
    """Some pictures that were looked at, and what of them is to be sent."""

    items: list[NewItem] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    present_count: int = 0
    duplicate_count: int = 0
    looked_at: int = 0
    size: int = 0

    @property
    def is_full(self) -> bool:
        """Whether it is enough for one request, or enough to tell the progress."""
        enough = len(self.items) >= _PICTURES_PER_REQUEST or self.size >= MAX_BYTES_PER_REQUEST
        return enough or self.looked_at >= _PICTURES_PER_STEP


class PictureReader:
    """Reads pictures, in several threads at a time, and knows which are in the gallery already."""

    def __init__(
        self, pictures: Iterable[LabelledPicture], present: Mapping[str, PresentItem], options: BuildOptions
    ) -> None:
        self._pictures = iter(pictures)
        self._taking = threading.Lock()
        self._returned: deque[deque[LabelledPicture]] = deque()
        self._present = present
        self._digests = {one.digest for one in present.values() if one.digest} if options.skip_duplicates else set()
        self._options = options

    def next_step(self) -> PictureStep:
        """Read the next pictures, as many as one request takes; none has been looked at after the last."""
        step = PictureStep()
        while not step.is_full and (taken := self._take()):
            while taken and not step.is_full:
                self._try(taken.popleft(), step)
            self._put_back(taken)
        return step

    def rest(self) -> Iterator[LabelledPicture]:
        """Yield the pictures that nobody looked at."""
        return chain(*self._returned, self._pictures)

    def _take(self) -> deque[LabelledPicture]:
        # Some at a time, so that neighbours come into one request, in their order.
        with self._taking:
            return self._returned.popleft() if self._returned else deque(islice(self._pictures, _PICTURES_PER_REQUEST))

    def _put_back(self, pictures: deque[LabelledPicture]) -> None:
        if pictures:
            with self._taking:
                self._returned.append(pictures)

    def _try(self, picture: LabelledPicture, step: PictureStep) -> None:
        step.looked_at += 1
        try:
            self._look_at(picture, step)
        except InputError as error:
            where = f"line {picture.line}: " if picture.line else ""
            step.failures[picture.id] = f"{where}{error}"

    def _look_at(self, picture: LabelledPicture, step: PictureStep) -> None:
        _check_id(picture.id)
        image = read_picture(picture.path, _MOST_PICTURE_BYTES)
        digest = image_digest(image, detect=self._options.detect)
        present = self._present.get(picture.id)
        # An item replaces all of the one before it: what nobody gave here is sent along, so that it stays.
        kept = present.metadata if present is not None else {}
        metadata = self._options.metadata.get(picture.id, kept)
        if present == PresentItem(picture.label, digest, metadata) and not self._options.again:
            step.present_count += 1
        elif present is None and digest in self._digests:
            step.duplicate_count += 1
        else:
            step.items.append(NewItem(picture.id, picture.label, image, metadata=metadata, detect=self._options.detect))
            step.size += len(image)


def _check_id(item_id: str) -> None:
    """Refuse what no request can hold."""
    try:
        item_id.encode()
    except UnicodeEncodeError as error:
        raise InputError("expected a path in UTF-8, for it names the item") from error
    if len(item_id) > _MOST_ID_CHARACTERS:
        raise InputError(
            f"expected a path of at most {_MOST_ID_CHARACTERS} characters, for it names the item; got {len(item_id)}"
        )
