"""The pixels of image files: what a viewer shows, or one line that says why they cannot be read."""

from __future__ import annotations

import ast
import base64
import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from distillery.serving import image_file
from distillery.serving.image_file import MAX_PIXELS, ImageError, from_base64, read_image, remarks, suffixes

GENERATOR = np.random.default_rng(0)
COLOURS = GENERATOR.integers(0, 256, (5, 7, 3), np.uint8)
DEEP = GENERATOR.integers(0, 1 << 16, (5, 7), np.uint16)
BITS, PHOTOMETRIC, SAMPLES, FORMAT = 258, 262, 277, 339  # tags of TIFF
ORIENTATION = ExifTags.Base.Orientation


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of the image in a format."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, bits: int, colour: int, lines: bytes, key: bytes = b"") -> bytes:
    """A PNG as its specification says, for what Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    transparent = chunk(b"tRNS", key) if key else b""
    pixels = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + transparent + pixels + chunk(b"IEND", b"")


def tiff(width: int, height: int, content: bytes, **tags: int) -> bytes:
    """An uncompressed gray TIFF, for what Pillow does not write."""
    entries = {256: width, 257: height, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(content)}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    entries[273] = 8 + 2 + 12 * len(entries) + 4
    fields = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(fields) + b"\0\0\0\0" + content


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(kind: str, orientation: int) -> None:
    """reference: Pillow's exif_transpose, in colour and in gray."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = saved(Image.fromarray(COLOURS), kind, exif=exif)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert turned.size == ((7, 5) if orientation < 5 else (5, 7))
    assert np.array_equal(read_image(content), np.asarray(turned.convert("RGB")))
    assert np.array_equal(read_image(content, gray=True)[..., 0], np.asarray(turned.convert("L")))


@pytest.mark.parametrize("exif", [b"Exif\0\0nothing", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_data_turn_nothing(exif: bytes) -> None:
    """contract: such an image is read as it is stored."""
    image = Image.fromarray(COLOURS)
    assert np.array_equal(read_image(saved(image, "PNG", exif=exif)), COLOURS)


def cut_outs(hidden: int) -> dict[str, tuple[bytes, np.ndarray]]:
    """Images of 2 x 2 whose right half is transparent, of the colour `hidden`: the file, and what is seen of it."""
    gray = np.array([[10, hidden], [200, hidden]], np.uint8)
    alpha = np.array([[255, 0], [128, 0]], np.uint8)
    half = round(200 * 128 / 255 + 127)
    seen, hard = np.array([[10, 255], [half, 255]]), np.array([[10, 255], [200, 255]])

    layers = Image.merge("LA", [Image.fromarray(gray), Image.fromarray(alpha)])
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 10, 10, hidden, hidden, hidden, 200, 200, 200])
    two_bits = png(2, 2, 2, 0, b"\0\x10\0\xd0", key=b"\0\1")  # 0 1, 3 1: of four levels of gray
    deep = png(2, 1, 16, 2, b"\0" + bytes([10, 0] * 3 + [hidden, 7] * 3), key=bytes([hidden, 7] * 3))
    deep_gray = saved(Image.fromarray(gray.astype(np.uint16) * 257), "PNG", transparency=hidden * 257)
    return {
        "LA": (saved(layers, "PNG"), seen),
        "RGBA": (saved(layers.convert("RGBA"), "TIFF"), seen),
        "WebP": (saved(layers.convert("RGBA"), "WEBP", lossless=True, exact=True), seen),
        "palette": (saved(palette, "PNG", transparency=b"\xff\0\x80"), seen),
        "GIF": (saved(palette, "GIF", transparency=1), hard),
        "L, one colour": (saved(Image.fromarray(gray), "PNG", transparency=hidden), hard),
        "RGB, one colour": (saved(Image.fromarray(gray).convert("RGB"), "PNG", transparency=(hidden,) * 3), hard),
        "2 bits": (two_bits, np.array([[0, 255], [255, 255]])),
        "16 bits, gray": (deep_gray, hard),
        "16 bits": (deep, np.array([[10, 255]])),
    }


@pytest.mark.parametrize("kind", cut_outs(0))
def test_transparent_pixels_are_white(kind: str) -> None:
    """property: whatever colour lies under them; what is half transparent lies half over white."""
    files = [cut_outs(hidden)[kind] for hidden in (0, 90, 254)]
    for content, seen in files:
        for pixels in (read_image(content), read_image(content, gray=True)):
            assert np.abs(pixels - seen[..., None].astype(int)).max() <= 1
            assert pixels[0, 1].min() == 255


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_the_upper_eight_of_sixteen_bits_are_read(kind: str) -> None:
    """reference: a division by 256, whatever the brightest pixel is."""
    for values in (DEEP, DEEP // 300):
        pixels = read_image(saved(Image.fromarray(values), kind))
        assert np.array_equal(pixels, np.repeat(values[..., None] // 256, 3, axis=2))


def test_other_depths_are_read_by_what_the_file_says() -> None:
    """reference: the values by hand; 12 bits, 0 as white, 16 bits in three channels, the other byte order."""
    packed = bytes([0x12, 0x3A, 0xBC])  # 0x123, 0xABC
    assert read_image(tiff(2, 1, packed, t258=12), gray=True).ravel().tolist() == [0x12, 0xAB]
    inverted = saved(Image.fromarray(DEEP), "TIFF", tiffinfo={PHOTOMETRIC: 0})
    assert np.array_equal(read_image(inverted, gray=True)[..., 0], (65535 - DEEP) // 256)
    swapped = saved(Image.frombytes("I;16B", (7, 5), DEEP.astype(">u2").tobytes()), "TIFF")
    assert swapped[:2] == b"MM" and np.array_equal(read_image(swapped, gray=True)[..., 0], DEEP // 256)
    colours = png(1, 1, 16, 2, b"\0" + bytes([1, 250, 2, 250, 3, 250]))
    assert read_image(colours).ravel().tolist() == [1, 2, 3]


def test_pixels_without_a_known_range_are_refused() -> None:
    """contract: one line, whatever the format; 8 bits of the same formats are read."""
    floats = Image.fromarray(GENERATOR.random((5, 7), np.float32))
    whole = Image.fromarray(DEEP.astype(np.int32))
    fits = b"".join(line.ljust(80) for line in (b"SIMPLE  = T", b"BITPIX  = 16", b"NAXIS   = 2", b"NAXIS1  = 1"))
    fits = (fits + b"NAXIS2  = 1".ljust(80) + b"END".ljust(80)).ljust(2880) + bytes(2880)
    for content, kind in (
        (saved(floats, "TIFF"), "floats"),
        (saved(floats, "PPM"), "floats"),
        (saved(whole, "TIFF"), "signed numbers"),
        (tiff(1, 1, bytes(4), t258=32), "numbers of 32 bits"),
        (tiff(1, 1, b"\xff\xff", t258=16, t339=2), "signed numbers"),
        (tiff(1, 1, b"\xff", t258=8, t339=2), "signed numbers"),
        (fits, "signed numbers"),
    ):
        with pytest.raises(ImageError, match=f"expected pixels of 1 to 16 bits, got {kind}; save it with 8"):
            read_image(content)
    assert read_image(tiff(1, 1, b"\xff", t258=8)).ravel().tolist() == [255] * 3


def test_colour_models_become_colours() -> None:
    """reference: known colours of CMYK, YCbCr, CIELAB and two levels, in colour and in gray."""
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    lab = Image.new("LAB", (8, 8), (138, 128 + 81, 128 + 70))  # L 54.3, a 80.8, b 69.9 under D50
    bits = Image.fromarray(np.array([[True, False]]))
    for content in (
        saved(red.convert("CMYK"), "JPEG", quality=100),
        saved(red.convert("CMYK"), "TIFF"),
        saved(red, "JPEG", quality=100),
        saved(red.convert("YCbCr"), "TIFF"),
        saved(lab, "TIFF"),
    ):
        assert np.abs(read_image(content) - np.array([255, 0, 0])).max() <= 6
        assert np.abs(read_image(content, gray=True) - np.array([76])).max() <= 3
    assert read_image(saved(bits, "PNG"), gray=True).ravel().tolist() == [255, 0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_or_page_is_read(kind: str, tmp_path: Path) -> None:
    """reference: the first of two pictures; the remark says that there are more."""
    first, second = (Image.new("L", (4, 4), colour) for colour in (40, 200))
    (tmp_path / "x").write_bytes(saved(first, kind, save_all=True, append_images=[second]))
    assert np.abs(read_image(tmp_path / "x") - np.array([40])).max() <= 1
    assert remarks(tmp_path / "x") == {image_file.PAGES if kind == "TIFF" else image_file.ANIMATED}
    (tmp_path / "x").write_bytes(saved(first, kind))
    assert remarks(tmp_path / "x") == set()


def test_remarks_tell_what_reading_changes(tmp_path: Path) -> None:
    """contract: transparency and depth are seen by the header; of a damaged file nothing is said here."""
    for content, expected in (
        (saved(Image.new("RGBA", (2, 2)), "PNG"), {image_file.TRANSPARENT}),
        (saved(Image.new("L", (2, 2)), "PNG", transparency=3), {image_file.TRANSPARENT}),
        (saved(Image.fromarray(DEEP), "PNG"), {image_file.DEEP}),
        (png(1, 1, 16, 2, bytes(7)), {image_file.DEEP}),
        (saved(Image.new("RGB", (2, 2)), "PNG"), set()),
        (b"no image", set()),
    ):
        (tmp_path / "x").write_bytes(content)
        assert remarks(tmp_path / "x") == expected


@pytest.mark.parametrize("width", [MAX_PIXELS + 1, 3 * MAX_PIXELS])
def test_a_decompression_bomb_is_refused(width: int, recwarn: pytest.WarningsRecorder) -> None:
    """contract: by the size in the header, also where Pillow warns only; nothing else is said."""
    with pytest.raises(ImageError, match="expected at most 89,478,485 pixels, got"):
        read_image(png(width, 1, 8, 0, b""))
    assert not recwarn.list


def damaged() -> dict[str, bytes]:
    """Files that cannot be read."""
    noise = Image.fromarray(GENERATOR.integers(0, 256, (40, 40, 3), np.uint8))
    compressed = bytearray(saved(noise, "TIFF", compression="tiff_lzw"))
    compressed[20:400] = b"\xff" * 380
    return {
        "cut.jpg": saved(noise, "JPEG")[:900],
        "cut.png": saved(noise, "PNG")[:900],
        "cut.gif": saved(noise, "GIF")[:900],
        "lzw.tif": bytes(compressed),
        "samples.tif": tiff(1, 1, b"\0", t258=8, t277=60000),
        "zero.jpg": b"",
        "page.jpg": b"<html></html>",
        "program.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    }


@pytest.mark.parametrize("name", damaged())
def test_a_damaged_file_is_one_error(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """contract: one line, and not a word of Pillow or the libraries below it on standard error."""
    with pytest.raises(ImageError) as caught:
        read_image(damaged()[name])
    assert str(caught.value) and "\n" not in str(caught.value) and " at 0x" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_path_bytes_base64_and_an_opened_image_are_read_alike(tmp_path: Path) -> None:
    """property: the way by which a file comes does not change its pixels; what is no base64 and no file is told."""
    content = saved(Image.fromarray(COLOURS), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    text = base64.b64encode(content).decode()
    ways = [tmp_path / "a.png", str(tmp_path / "a.png"), content, Image.open(io.BytesIO(content))]
    ways += [from_base64(text), from_base64(f"data:image/png;base64,{text[:9]}\n{text[9:]}")]
    for way in ways:
        assert np.array_equal(read_image(way), COLOURS)
    with pytest.raises(ImageError, match="expected an image as base64 text"):
        from_base64("photo.png")
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "b.png")


def test_all_that_pillow_decodes_is_read() -> None:
    """property: the endings are Pillow's own in lower case, without those of programs, films and tables."""
    assert suffixes() < set(Image.registered_extensions())
    assert {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".jp2", ".ico", ".tga", ".tiff", ".psd"} <= suffixes()
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".wmf"} & suffixes()


def test_the_module_can_travel_with_a_model() -> None:
    """contract: it imports the standard library, numpy and Pillow alone."""
    tree = ast.parse(Path(image_file.__file__).read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in names} <= {"numpy", "PIL", *sys.stdlib_module_names}
