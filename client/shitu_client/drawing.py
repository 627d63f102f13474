"""Results drawn into pictures."""

from __future__ import annotations

import colorsys
import hashlib
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont, ImageOps

from shitu_client.results import Recognition, RecognizedObject

_UNKNOWN_COLOUR: Final = (128, 128, 128)
_LINE_WIDTH_SHARE: Final = 1 / 250
_FONT_SHARE: Final = 0.018
"""Font size as a share of the width, and 2 px more: as PaddleX draws (pp_shituv2/result.py)."""
_MIN_FONT_PX: Final = 11


def annotated(picture: Path, recognition: Recognition) -> Image.Image:
    """Return the picture, upright, with a box and a label for each object; one colour for each label."""
    with Image.open(picture) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(int(image.width * _FONT_SHARE) + 2, _MIN_FONT_PX))
    line_px = max(2, round(max(image.size) * _LINE_WIDTH_SHARE))
    # The best object last, so that nothing hides it.
    for found in reversed(recognition.objects):
        _draw_object(draw, font, found, line_px)
    return image


def caption(found: RecognizedObject) -> str:
    """Return what stands at an object's box."""
    if found.label:
        return f"{found.label} {found.matches[0].score:.2f}"
    if found.best_candidate is None:
        return "unknown"
    return f"unknown ({found.best_candidate.label}? {found.best_candidate.score:.2f})"


def _draw_object(
    draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, found: RecognizedObject, line_px: int
) -> None:
    colour = _colour_of(found.label)
    draw.rectangle(found.box, outline=colour, width=line_px)
    text = caption(found)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    height = bottom - top + 4
    x = max(0.0, min(found.box.x1, draw.im.size[0] - (right - left) - 4))
    y = found.box.y1 - height if found.box.y1 >= height else found.box.y1
    draw.rectangle((x, y, x + right - left + 4, y + height), fill=colour)
    draw.text((x + 2, y + 2 - top), text, fill=(255, 255, 255), font=font)


def _colour_of(label: str) -> tuple[int, int, int]:
    if not label:
        return _UNKNOWN_COLOUR
    hue = hashlib.sha256(label.encode()).digest()[0] / 256
    red, green, blue = colorsys.hls_to_rgb(hue, 0.38, 0.75)
    return round(red * 255), round(green * 255), round(blue * 255)
