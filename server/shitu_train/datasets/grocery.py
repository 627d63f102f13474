"""The Grocery Store photos: a list of `path, fine class, coarse class` lines, split in two halves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Photo:
    """One photo: its file and its fine class number."""

    path: Path
    label: int


def read_photos(folder: Path) -> list[Photo]:
    """The photos that `folder/train.txt` lists, in its order.

    Raises:
        FileNotFoundError: there is no `train.txt`.
        ValueError: a line is not `path, fine class, coarse class`; the message names the line.
    """
    photos = []
    for number, line in enumerate((folder / "train.txt").read_text(encoding="utf-8").splitlines(), 1):
        fields = [part.strip() for part in line.split(",")]
        if len(fields) != 3 or not fields[1].isdigit():
            raise ValueError(
                f"{folder / 'train.txt'}:{number}: expected 'path, fine class, coarse class', got {line!r}"
            )
        photos.append(Photo(folder / fields[0], int(fields[1])))
    return photos


def grocery_split(photos: list[Photo]) -> tuple[list[Photo], list[Photo]]:
    """The photos at even and at odd positions within their class.

    The even half is the only one that a shipped model is trained on; the odd half is for evaluation.
    """
    seen: dict[int, int] = defaultdict(int)
    halves: tuple[list[Photo], list[Photo]] = ([], [])
    for photo in photos:
        halves[seen[photo.label] % 2].append(photo)
        seen[photo.label] += 1
    return halves
