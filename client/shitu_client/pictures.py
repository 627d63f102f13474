"""Labelled pictures on disk: a label file, or a folder for each label."""

from __future__ import annotations

import codecs
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from shitu_client.errors import InputError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})

_MAX_LABEL_FILE_BYTES: Final = 256 * 1024 * 1024
_MAX_FAULTS_SHOWN: Final = 10
_ENCODING_SAMPLE_BYTES: Final = 1024


class LabelFileError(InputError):
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
    line: int = 0
    """Of the label file; 0 where the picture was found in a folder."""


@dataclass
class Labels:
    """What was found, and what cannot be used: where it stands, and what is wrong with it."""

    pictures: list[LabelledPicture] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)


def read_labels(source: Path, root: Path | None = None, half: Half | None = None) -> Labels:
    """Read labelled pictures; whether they are there and whole is found out when they are read.

    Args:
        source: a text file with lines `path<tab>label` (or one space instead of the tab: then the path has none), or a
            folder in which the folder that holds a picture is its label.
        root: what the paths of a label file are relative to; the label file's folder where None.
        half: take only every other picture of each label.

    Raises:
        LabelFileError: there is nothing, or nothing that can be used.
    """
    if source.suffix.lower() in SUFFIXES and source.is_file():
        raise LabelFileError(
            f"{source}: expected a label file or a folder, got a picture; `shitu gallery add` adds one picture"
        )
    if source.is_dir():
        labels = _from_folder(source)
    elif source.is_file():
        labels = _from_label_file(source, root or source.parent)
        _check_root(root, labels.pictures)
    else:
        raise LabelFileError(f"{source}: expected a label file or a folder, there is neither")
    if not labels.pictures and labels.faults:
        raise LabelFileError(_listed(labels.faults))
    if not labels.pictures:
        raise LabelFileError(f"{source}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
    if half is not None:
        labels.pictures = list(_half_of(labels.pictures, half))
    return labels


def labelled_pictures(source: Path, root: Path | None = None, half: Half | None = None) -> list[LabelledPicture]:
    """Read labelled pictures, all of which must be usable: for figures that a part of them would make wrong.

    Raises:
        LabelFileError: as `read_labels`, or there is a fault; all are named, not just the first.
    """
    labels = read_labels(source, root, half)
    if labels.faults:
        raise LabelFileError(_listed(labels.faults))
    return labels.pictures


def picture_paths(sources: Iterable[Path]) -> list[Path]:
    """Return the picture files among paths; a folder stands for the pictures in it, and below it.

    Raises:
        LabelFileError: a path does not exist, or a folder holds no picture.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = [path for path in _files_of(source, {}) if path.is_file()]
            if not inside:
                raise LabelFileError(f"{source}: expected pictures ({', '.join(sorted(SUFFIXES))}), found none")
            found.extend(inside)
        elif source.is_file():
            found.append(source)
        else:
            raise LabelFileError(f"{source}: no such file or folder")
    return found


def read_picture(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a picture file.

    Raises:
        InputError: it is missing, cannot be read, is no file (reading a pipe would wait for ever), or is too large.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"expected a picture file, {path} is something else")
        if status.st_size > most_bytes:
            raise InputError(f"expected at most {most_bytes} bytes, {path} has {status.st_size}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"picture {path} is missing") from error
    except (OSError, ValueError) as error:
        # A path with a zero byte is a ValueError.
        raise InputError(f"picture {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _files_of(folder: Path, faults: dict[str, str]) -> list[Path]:
    """Return what is called like a picture, at any depth; a folder that cannot be read is a fault."""

    def note(error: OSError) -> None:
        faults[str(error.filename)] = f"folder cannot be read: {error.strerror}"

    found = (Path(parent) / name for parent, _, names in os.walk(folder, onerror=note) for name in names)
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)


def _from_folder(folder: Path) -> Labels:
    labels = Labels()
    for path in _files_of(folder, labels.faults):
        name = path.relative_to(folder).as_posix()
        if path.parent == folder:
            labels.faults[name] = f"expected a folder for each label inside {folder}, found a picture beside them"
        else:
            labels.pictures.append(LabelledPicture(name, path, path.parent.name))
    return labels


def _from_label_file(file: Path, root: Path) -> Labels:
    if file.stat().st_size > _MAX_LABEL_FILE_BYTES:
        raise LabelFileError(f"{file}: expected at most {_MAX_LABEL_FILE_BYTES} bytes; is this a label file?")
    content = file.read_bytes()
    if _is_utf_16(content):
        raise LabelFileError(f"{file}: expected UTF-8 text, got what looks like UTF-16")
    labels = Labels()
    seen: dict[str, LabelledPicture] = {}
    # Not splitlines(), which takes some characters that labels may hold for ends of lines.
    lines = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            picture = _from_line(_decoded(line), root, number)
            first = seen.setdefault(picture.id, picture)
            _check_same_label(first, picture)
        except LabelFileError as error:
            labels.faults[f"{file}:{number}"] = str(error)
    labels.pictures = list(seen.values())
    return labels


def _check_root(root: Path | None, pictures: Iterable[LabelledPicture]) -> None:
    """Say once that a root is wrong, and not for each picture."""
    if root is None:
        return
    if not root.is_dir():
        raise LabelFileError(f"--root {root}: there is no such folder")
    first = next(iter(pictures), None)
    if first is not None and not any(_is_there(picture.path) for picture in pictures):
        raise LabelFileError(f"--root {root}: none of the pictures is there, such as {first.path}")


def _is_there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:
        # A path with a zero byte.
        return False


def _is_utf_16(content: bytes) -> bool:
    """Return whether a file begins as UTF-16 does: with its mark, or with text of which every other byte is 0."""
    begin = content[:_ENCODING_SAMPLE_BYTES]
    return begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or begin.count(0) * 4 > len(begin)


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise LabelFileError("expected UTF-8 text") from error


def _from_line(line: str, root: Path, number: int) -> LabelledPicture:
    tab_count = line.strip().count("\t")
    if tab_count > 1:
        raise LabelFileError(f"expected one tab, got {tab_count}")
    separator = "\t" if "\t" in line else " "
    path, _, label = line.strip().partition(separator)
    if not path or not label.strip():
        raise LabelFileError(f"expected `path<tab>label` or `path label`, got {line!r}")
    return LabelledPicture(path, root / path, label.strip(), number)


def _check_same_label(first: LabelledPicture, again: LabelledPicture) -> None:
    if first.label != again.label:
        raise LabelFileError(
            f"expected one label for {first.id}, which line {first.line} calls {first.label!r}; got {again.label!r}"
        )


def _listed(faults: dict[str, str]) -> str:
    lines = [f"{where}: {what}" for where, what in faults.items()]
    rest = [f"... and {len(lines) - _MAX_FAULTS_SHOWN} more"] if len(lines) > _MAX_FAULTS_SHOWN else []
    return "\n".join(lines[:_MAX_FAULTS_SHOWN] + rest)


def _half_of(pictures: list[LabelledPicture], half: Half) -> Iterator[LabelledPicture]:
    seen: dict[str, int] = defaultdict(int)
    wanted = 0 if half is Half.FIRST else 1
    for picture in pictures:
        if seen[picture.label] % 2 == wanted:
            yield picture
        seen[picture.label] += 1
