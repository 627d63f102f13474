"""Labelled pictures on disk: a label file, or a folder for each label."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})

_MAX_LABEL_FILE_BYTES: Final = 256 * 1024 * 1024


class LabelFileError(Exception):
    """A label file or folder cannot be used; the message names the file and, where there is one, the line."""


class Half(str, Enum):
    """Every other picture of each label, in the order given: one half to build a gallery, the other to try it."""

    FIRST = "first"
    SECOND = "second"


@dataclass(frozen=True)
class LabelledPicture:
    """A picture file; `id` is its path as written, so building again replaces and never doubles."""

    id: str
    path: Path
    label: str


def labelled_pictures(source: Path, root: Path | None = None, half: Half | None = None) -> list[LabelledPicture]:
    """Read labelled pictures.

    Args:
        source: a text file with lines `path<tab>label` (or one space instead of the tab: then the path has none), or a
            folder in which the folder that holds a picture is its label.
        root: what the paths of a label file are relative to; the label file's folder where None.
        half: take only every other picture of each label.

    Raises:
        LabelFileError: nothing there, a broken line, or a picture that is missing; all faults are named, not just the first.
    """
    if source.is_dir():
        pictures = list(_from_folder(source))
    elif source.is_file():
        pictures = _from_label_file(source, root or source.parent)
    else:
        raise LabelFileError(f"{source}: expected a label file or a folder, there is neither")
    if not pictures:
        raise LabelFileError(f"{source}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
    return pictures if half is None else list(_half_of(pictures, half))


def picture_paths(sources: Iterable[Path]) -> list[Path]:
    """Return the picture files among paths; a folder stands for the pictures in it, and below it.

    Raises:
        LabelFileError: a path does not exist, or a folder holds no picture.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = _files_of(source)
            if not inside:
                raise LabelFileError(f"{source}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
            found.extend(inside)
        elif source.is_file():
            found.append(source)
        else:
            raise LabelFileError(f"{source}: no such file or folder")
    return found


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _from_folder(folder: Path) -> Iterator[LabelledPicture]:
    for path in _files_of(folder):
        if path.parent == folder:
            raise LabelFileError(
                f"{path}: expected a folder for each label inside {folder}, found a picture beside them"
            )
        yield LabelledPicture(path.relative_to(folder).as_posix(), path, path.parent.name)


def _from_label_file(file: Path, root: Path) -> list[LabelledPicture]:
    if file.stat().st_size > _MAX_LABEL_FILE_BYTES:
        raise LabelFileError(f"{file}: expected at most {_MAX_LABEL_FILE_BYTES} bytes; is this a label file?")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LabelFileError(f"{file}: expected UTF-8 text, got something else at byte {error.start}") from error
    pictures: list[LabelledPicture] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pictures.append(_from_line(line, root))
        except LabelFileError as error:
            faults.append(f"{file}:{number}: {error}")
    if faults:
        raise LabelFileError(_listed(faults))
    return pictures


def _from_line(line: str, root: Path) -> LabelledPicture:
    separator = "\t" if "\t" in line else " "
    path, _, label = line.strip().partition(separator)
    if not path or not label.strip():
        raise LabelFileError(f"expected `path<tab>label` or `path label`, got {line!r}")
    full = root / path
    if not full.is_file():
        raise LabelFileError(f"picture {full} is missing")
    return LabelledPicture(path, full, label.strip())


def _listed(faults: list[str], most: int = 10) -> str:
    shown = faults[:most]
    rest = [f"... and {len(faults) - most} more"] if len(faults) > most else []
    return "\n".join(shown + rest)


def _half_of(pictures: list[LabelledPicture], half: Half) -> Iterator[LabelledPicture]:
    seen: dict[str, int] = defaultdict(int)
    wanted = 0 if half is Half.FIRST else 1
    for picture in pictures:
        if seen[picture.label] % 2 == wanted:
            yield picture
        seen[picture.label] += 1
