from __future__ import annotations

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from shitu_models.specs import DEMO_REC
from shitu_server import jpeg
from shitu_server.errors import InvalidImageError
from shitu_server.images import ImageLimits, crops, decode, thumbnail

LIMITS = ImageLimits()


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Left half red, right half blue."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, : width // 2] = (250, 10, 10)
    pixels[:, width // 2 :] = (10, 10, 250)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_formats_decode_to_rgb(file_format):
    decoded = decode(encoded(picture(), file_format), LIMITS)
    assert decoded.shape == (30, 40, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded[15, 5].astype(int) - (250, 10, 10)).max() < 25
    assert np.abs(decoded[15, 35].astype(int) - (10, 10, 250)).max() < 25


@pytest.mark.parametrize(("orientation", "red_at"), [(1, (15, 5)), (3, (15, 35)), (6, (5, 15)), (8, (35, 15))])
def test_exif_orientation_is_applied(orientation, red_at):
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(picture(), "JPEG", exif=exif), LIMITS)
    row, column = red_at
    assert decoded[row, column, 0] > 200
    assert decoded[row, column, 2] < 60


def test_cmyk_is_converted():
    decoded = decode(encoded(picture().convert("CMYK"), "JPEG"), LIMITS)
    assert decoded[15, 5, 0] > 200
    assert decoded[15, 5, 2] < 60


def test_sixteen_bits_are_scaled():
    values = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(np.uint16)
    decoded = decode(encoded(Image.fromarray(values), "PNG"), LIMITS)
    np.testing.assert_array_equal(decoded[..., 0], values >> 8)


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (decode(encoded(image, "PNG"), LIMITS) == 255).all()


def test_what_the_file_is_called_does_not_matter_but_what_it_is_does():
    with pytest.raises(InvalidImageError, match="JPEG, PNG, WebP or BMP"):
        decode(encoded(picture(), "GIF"), LIMITS)


def huge_header() -> bytes:
    """A PNG that says 40,000 x 40,000 and holds no pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def animation() -> bytes:
    frames = [picture(), picture().rotate(90), picture().rotate(180)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])


BAD = {
    "empty": (b"", "0 bytes"),
    "not an image": (b"hello, this is no picture at all" * 10, "expected a JPEG, PNG, WebP or BMP file"),
    "truncated JPEG": (encoded(picture(200, 200), "JPEG")[:-300], "damaged or truncated"),
    "truncated PNG": (encoded(Image.effect_noise((200, 200), 90), "PNG")[:-5000], "damaged or truncated"),
    "header only": (encoded(picture(), "PNG")[:20], "broken header"),
    "1x1": (encoded(picture(1, 1), "PNG"), "at least 8x8 pixels, got 1x1"),
    "bomb": (huge_header(), "at most 50000000 pixels, got 40000x40000"),
    "animated": (animation(), "animation of 3 frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_clearly(name):
    content, message = BAD[name]
    with pytest.raises(InvalidImageError, match=message) as caught:
        decode(content, LIMITS, "items[3].image")
    assert caught.value.field == "items[3].image"


def test_too_many_bytes_are_refused_before_decoding():
    with pytest.raises(InvalidImageError, match="at most 100 bytes"):
        decode(encoded(picture(), "BMP"), ImageLimits(max_bytes=100))


def test_crops_cut_what_the_boxes_say():
    pixels = np.asarray(picture())
    cut = crops(pixels, np.array([[0, 0, 20, 30], [20, 0, 40, 30]], dtype=np.float32), DEMO_REC)
    assert cut.shape == (2, DEMO_REC.input_size, DEMO_REC.input_size, 3)
    assert (cut[0] == (250, 10, 10)).all()
    assert (cut[1] == (10, 10, 250)).all()


def test_a_box_narrower_than_a_pixel_still_makes_a_crop():
    cut = crops(np.asarray(picture()), np.array([[39.9, 29.9, 39.95, 29.95]], dtype=np.float32), DEMO_REC)
    assert (cut[0] == (10, 10, 250)).all()


def test_thumbnails_are_jpeg_of_bounded_size():
    content = thumbnail(np.asarray(picture(1000, 500)), side_px=256)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("JPEG", (256, 128))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_ordinary_jpeg_files_are_decoded_as_pillow_decodes_them(orientation, subsampling, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = np.random.default_rng(3).integers(0, 256, (7, 11, 3), np.uint8)
    image = Image.fromarray(np.kron(noise, np.ones((9, 7, 1), np.uint8))).convert(mode)
    content = encoded(image, "JPEG", quality=85, subsampling=subsampling, exif=exif)
    assert jpeg.decoded(content) is not None
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_array_equal(decode(content, LIMITS), expected)


def test_the_orientation_of_xmp_counts_too():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    plain = decode(encoded(picture(), "JPEG"), LIMITS)
    assert decode(encoded(picture(), "JPEG", xmp=xmp), LIMITS).shape == (plain.shape[1], plain.shape[0], 3)
    content = encoded(picture(), "JPEG", xmp=xmp)
    comment = b"\xff\xfe\x00\x06looks like pixels: \xff\xda"
    comment = comment[:2] + (len(comment) - 2).to_bytes(2, "big") + comment[4:]
    behind = content[:2] + comment + content[2:]
    assert decode(behind, LIMITS).shape == (plain.shape[1], plain.shape[0], 3)


def test_a_jpeg_of_empty_segments_takes_no_time():
    content = encoded(picture(), "JPEG", xmp=b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
    many = content[:2] + b"\xff\xfe\x00\x02" * 1_000_000 + content[2:]
    begin_s = time.monotonic()
    assert jpeg._scan_start(many) == len(many), "then all of the file is looked through"
    assert time.monotonic() - begin_s < 0.05
    few = content[:2] + b"\xff\xfe\x00\x02" * 250 + content[2:]
    assert few[jpeg._scan_start(few) :].startswith(b"\xff\xda")
    assert decode(few, LIMITS).shape == (40, 30, 3)


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture(), "PNG"),
        encoded(picture().convert("CMYK"), "JPEG"),
        encoded(picture(200, 200), "JPEG")[:-300],
        b"\xff\xd8\xff" + b"nothing" * 9,
        b"",
    ],
)
def test_what_is_no_ordinary_jpeg_is_left_to_pillow(content):
    assert jpeg.size_of(content) is None or jpeg.decoded(content) is None


def test_a_jpeg_that_libjpeg_warns_of_is_judged_by_pillow():
    content = encoded(picture(64, 64), "JPEG")
    marker = content.index(b"\xff\xda")
    warned = content[:marker] + b"\0\0\0" + content[marker:]  # "extraneous bytes before marker"
    assert jpeg.decoded(warned) is None
    np.testing.assert_array_equal(decode(warned, LIMITS), decode(content, LIMITS))


def test_the_size_of_a_jpeg_is_checked_before_it_is_decoded():
    with pytest.raises(InvalidImageError, match="at most 1000 pixels, got 40x30"):
        decode(encoded(picture(), "JPEG"), ImageLimits(max_pixels=1000))
