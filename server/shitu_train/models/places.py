"""Where models, downloads and digests are kept."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from shitu_models.repository import find_repository, user_data_dir, user_repository


def writable_repository(explicit: Path | None = None) -> Path:
    """Return the repository that models are placed in, made where it is missing.

    It is the explicit one, else the checkout's, else the user's: a wheel's own is left alone, and its demo models are copied to the
    user's, so that one repository holds all that `shitu serve` is asked for.

    Raises:
        OSError: it cannot be made.
    """
    if explicit is not None:
        explicit.mkdir(parents=True, exist_ok=True)
        return explicit.resolve()
    found = find_repository()
    wheel = Path(__file__).resolve().parents[2] / "shitu_models" / "model_repository"
    if found != wheel.resolve():
        return found
    return _seeded(user_repository(), found)


def downloads_folder() -> Path:
    """Return where downloads are kept; may be deleted at any time (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shitu" / "downloads"


def lock_file() -> Path:
    """Return where the digests are written that were seen first."""
    return user_data_dir() / "downloads.lock"


def _seeded(repository: Path, source: Path) -> Path:
    draft = repository.with_name(f".{repository.name}-{uuid.uuid4().hex}")
    try:
        shutil.copytree(source, draft)
        draft.rename(repository)
    except OSError:
        if not repository.is_dir():  # else another command was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return repository
