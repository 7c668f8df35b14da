"""The pixels of an image file, as a viewer shows them.

Training, ``distillery predict`` and served models turn files into pixels by `read_image` alone. This module imports
nothing of Distillery, so that a copy of it can travel with a model.

* The orientation in the EXIF data is applied.
* Transparent pixels are laid over white: the colour that is stored under them does not count.
* Of an animation the first frame is read, of several pages the first one.
* Of channels of 9 to 16 bits the upper eight bits are read.
* Floats, signed numbers and numbers of 32 bits are refused: the file does not say which of them is white.
"""

from __future__ import annotations

import base64
import binascii
import ctypes
import io
import logging
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

DECODING = 2  # raise it whenever the same file gives other pixels
MAX_PIXELS = 89_478_485  # Pillow's limit; more of them in a small file are called a decompression bomb

# Pillow only recognises these, or would run the file as a program (EPS, by Ghostscript).
NOT_READ = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ANIMATED, DEEP, PAGES, TRANSPARENT = "animated", "deep", "pages", "transparent"

# What Pillow logs and libtiff prints about a damaged file names no file. Pillow raises an error besides.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
with suppress(AttributeError, OSError):  # a Pillow with libtiff built in
    libtiff = ctypes.CDLL(Image.core.__file__)
    libtiff.TIFFSetErrorHandler(None)
    libtiff.TIFFSetWarningHandler(None)


class ImageError(ValueError):
    """A file cannot be read as an image. The message says why in one line; it does not name the file."""


@cache
def suffixes() -> frozenset[str]:
    """The endings of files that the installed Pillow reads, in lower case: ``.jpg``, ``.png`` and so on."""
    read = set(formats())
    return frozenset(suffix.lower() for suffix, name in Image.registered_extensions().items() if name in read)


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, the common ones first."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_READ)


def read_image(source: Path | str | bytes | Image.Image, gray: bool = False) -> np.ndarray:
    """The pixels of an image file, uint8 [H, W, 3], or [H, W, 1] where `gray`.

    Args:
        source: A path, the content of the file, or what Pillow has opened.
        gray: Give one channel instead of three.

    Raises:
        ImageError: The file is damaged, no image, too large, or its pixels have no known range.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is harmless here, or an error below
            if isinstance(source, Image.Image):
                return _pixels(source, gray)
            with _open(source) as image:
                return _pixels(image, gray)
    except Exception as error:  # a damaged file raises whatever the code of its format stumbles over
        raise _named(error) from error


def from_base64(text: str) -> bytes:
    """The bytes that a base64 text stands for; ``data:image/png;base64,`` before it is taken off.

    Raises:
        ImageError: The text is not base64.
    """
    content = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"expected an image as base64 text: {error}") from error


def remarks(file: Path) -> set[str]:
    """What `read_image` leaves out or changes in a file, by its header: of `ANIMATED`, `DEEP`, `PAGES`, `TRANSPARENT`.

    It is empty for a file that cannot be opened.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _open(file) as image:
                return _remarks(image)
    except Exception:  # `read_image` says what is wrong with the file
        return set()


def _open(source: Path | str | bytes) -> Image.Image:
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats())


def _pixels(image: Image.Image, gray: bool) -> np.ndarray:
    _check_size(image)
    stored = _stored_as(image)
    image.load()
    turn = TURNS.get(_orientation(image))

    image = _opaque(_eight_bits(image, stored))
    if image.mode == "LAB":
        image = image.convert("RGB")  # Pillow makes no gray of it at once
    image = image.convert("L" if gray else "RGB")
    if turn is not None:
        image = image.transpose(turn)

    pixels = np.asarray(image)
    return pixels[..., None] if gray else pixels


def _remarks(image: Image.Image) -> set[str]:
    remarks = set()
    if image.has_transparency_data:
        remarks.add(TRANSPARENT)
    if image.mode.startswith("I") or ";16" in _stored_as(image):
        remarks.add(DEEP)
    # The further pictures of an MPO are made for other devices, the first one is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        remarks.add(PAGES if image.format == "TIFF" else ANIMATED)
    return remarks


def _named(error: Exception) -> ImageError:
    if isinstance(error, ImageError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return _too_large("more")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("it is empty, damaged at its beginning, or no image that Pillow reads")
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ImageError(reason.splitlines()[0])


def _too_large(count: str) -> ImageError:
    return ImageError(f"expected at most {MAX_PIXELS:,} pixels, got {count}; save it smaller")


def _check_size(image: Image.Image) -> None:
    count = image.width * image.height
    if count > MAX_PIXELS:
        raise _too_large(f"{count:,}")
    if not count:
        raise ImageError(f"expected pixels, got a size of {image.width} x {image.height}")


def _stored_as(image: Image.Image) -> str:
    """The format of the stored pixels, such as ``RGB;16B``; empty once they are loaded."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return ""
    details = tiles[0][3]
    return str(details[0] if isinstance(details, tuple) else details)


def _orientation(image: Image.Image) -> int:
    # Not by exif_transpose, which also writes the EXIF data anew and fails where a tag of them is damaged.
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data: viewers show the image as it is stored
        return 1


def _eight_bits(image: Image.Image, stored: str) -> Image.Image:
    kind = _without_range(image)
    if kind:
        raise ImageError(f"expected pixels of 1 to 16 bits, got {kind}; save it with 8 or 16 bits a channel")

    key = image.info.get("transparency")
    if not image.mode.startswith("I"):
        if key is not None and image.format == "PNG":
            image.info["transparency"] = _key_of_eight_bits(key, stored)
        return image

    bits = _tag(image, ExifTags.Base.BitsPerSample, 16)
    values = np.asarray(image)
    if _tag(image, ExifTags.Base.PhotometricInterpretation, 1) == 0:
        values = (1 << bits) - 1 - values  # 0 is white, which Pillow heeds up to 8 bits only
    shallow = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if key is not None:
        shallow.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return shallow


def _without_range(image: Image.Image) -> str:
    """What the pixels are, if nothing tells their range; else empty."""
    if image.mode == "F":
        return "floats"
    if image.format == "FITS" and image.mode != "L":
        return "signed numbers"
    if _tag(image, ExifTags.Base.SampleFormat, 1) == 2:
        return "signed numbers"
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # these two have 16 bits at most
        return "numbers of 32 bits"
    return ""


def _tag(image: Image.Image, tag: int, default: int) -> int:
    """A tag of a TIFF file; the default for other files."""
    value = image.tag_v2.get(tag, default) if isinstance(image, TiffImageFile) else default
    return int(value[0] if isinstance(value, tuple) else value)


def _key_of_eight_bits(key: object, stored: str) -> object:
    """The transparent value of a PNG on the scale of its loaded pixels: Pillow leaves it on that of the stored ones."""
    if isinstance(key, int) and stored in ("L;2", "L;4"):
        return key * (85 if stored == "L;2" else 17)
    if isinstance(key, tuple) and ";16" in stored:
        return tuple(value >> 8 for value in key)
    return key


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))
