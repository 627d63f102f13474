"""Pictures on their way to the server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Union

ImageSource = Union[bytes, str, "os.PathLike[str]"]
"""Bytes of a picture file, or its path."""


async def content_of(image: ImageSource) -> bytes:
    """Return the bytes of a picture file."""
    if isinstance(image, bytes):
        return image
    return await asyncio.to_thread(Path(image).read_bytes)
