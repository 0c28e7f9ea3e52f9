"""Some seventy kinds of bad image file, each with the issue that must be found; made from a picture, not stored."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from stages.shared.images import MAX_PIXELS

CLEAN = ""  # a kind that must not be called bad
Kind = tuple[str, bytes, str]  # file name, content, the issue that must be found


def scene(seed: int = 0, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with the tones, edges and texture of a photo, another for each seed."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(30, 226, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(coarse)
    for _ in range(12):
        x, y, width, height = generator.integers(0, 100, 4)
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        draw.ellipse((int(x), int(y), int(x + width // 2), int(y + height // 2)), fill=colour)
    pixels = np.asarray(coarse, np.int16) + generator.normal(0, 8, (size[1], size[0], 3)).astype(np.int16)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, data: bytes, end: bool = True) -> bytes:
    """A PNG of given header and compressed data."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [header, b"IDAT" + data, *([b"IEND"] if end else [])]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def bomb() -> bytes:
    """A small PNG whose header promises more pixels than are decoded."""
    side = int(MAX_PIXELS**0.5) + 100
    return png(side, side, 8, 0, zlib.compress(b"\0" * 100))


def scan_data(jpeg: bytes) -> int:
    """Where the compressed data of a JPEG begins."""
    return jpeg.index(b"\xff\xda") + 14


def overwrite(content: bytes, position: int, new: bytes) -> bytes:
    return content[:position] + new + content[position + len(new) :]


def _empty_or_no_image() -> Iterator[Kind]:
    yield "empty.jpg", b"", "empty"
    yield "empty.png", b"", "empty"
    texts = {
        "text.jpg": b"not an image\n" * 40,
        "error.jpg": b"<!doctype html><title>404 Not Found</title>",
        "pointer.png": b"version https://git-lfs",
    }
    texts |= {
        "zeros.jpg": bytes(5000),
        "noise.jpg": np.random.default_rng(0).bytes(5000),
        "._photo.jpg": b"\0\5\x16\7\0\2\0\0Mac OS X        ",
    }
    texts |= {
        "document.jpg": b"%PDF-1.7\n1 0 obj\n",
        "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
        "drawing.svg": b"<svg xmlns='x'/>",
    }
    texts |= {"newline.jpg": b"\r\n" + encode(scene(), "JPEG"), "video.jpg": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(200)}
    archive = io.BytesIO()
    zipfile.ZipFile(archive, "w").close()
    for name, content in (texts | {"archive.jpg": archive.getvalue()}).items():
        yield name, content, "not-an-image"


def _cut() -> Iterator[Kind]:
    jpeg, progressive, picture = encode(scene(), "JPEG"), encode(scene(), "JPEG", progressive=True), encode(scene(), "PNG")
    for share in (0.5, 0.95):
        yield f"cut-{share}.jpg", jpeg[: int(share * len(jpeg))], "truncated"
        yield f"cut-{share}-progressive.jpg", progressive[: int(share * len(progressive))], "truncated"
        yield f"cut-{share}.png", picture[: int(share * len(picture))], "truncated"
    yield "no-end.jpg", jpeg[:-2], "truncated"
    yield "last-ten-bytes.jpg", jpeg[:-10], "truncated"
    for name, image_format in (("gif", "GIF"), ("bmp", "BMP"), ("webp", "WEBP"), ("tif", "TIFF"), ("ppm", "PPM")):
        content = encode(scene(), image_format)
        yield f"cut.{name}", content[: len(content) // 2], "truncated|unreadable"
    yield "header-only.jpg", jpeg[: scan_data(jpeg)], "truncated|unreadable"
    yield "no-end.png", picture[:-12], "unportable-format"
    yield "signature-only.jpg", jpeg[:4], "unreadable"
    yield "signature-only.png", picture[:8], "unreadable"


def _damaged() -> Iterator[Kind]:
    jpeg, picture = encode(scene(), "JPEG", quality=90), encode(scene(), "PNG")
    begin, middle = scan_data(jpeg), (scan_data(jpeg) + len(jpeg)) // 2
    yield "zeroed-block.jpg", overwrite(jpeg, middle, bytes(512)), "corrupt"
    yield "random-block.jpg", overwrite(jpeg, middle, np.random.default_rng(1).bytes(512)), "corrupt"
    frame = jpeg.index(b"\xff\xc0")
    yield "doubled-height.jpg", overwrite(jpeg, frame + 5, struct.pack(">H", 240)), "corrupt|truncated"
    yield "lost-block.jpg", jpeg[:middle] + jpeg[middle + 600 :], "corrupt"
    yield "another-file-inside.jpg", jpeg[:middle] + encode(scene(1), "JPEG")[scan_data(jpeg) :], "corrupt"
    yield "restart-marker.jpg", overwrite(jpeg, begin + 300, b"\xff\xd3"), "corrupt"
    table = jpeg.index(b"\xff\xdb")
    yield "no-quantization-table.jpg", overwrite(jpeg, table + 1, b"\xfe"), "unreadable"
    yield "bad-checksum.png", overwrite(picture, picture.index(b"IDAT") + 400, b"\0\1\2\3"), "unreadable"
    header = picture.index(b"IHDR")
    yield "bad-header.png", overwrite(picture, header + 4, b"\0\0\0\0"), "unreadable"
    with_text = encode(scene(), "PNG", pnginfo=_text("comment", "words"))
    yield "bad-text-checksum.png", with_text.replace(b"words", b"wards"), "unreadable"
    end = picture[:-12] + _chunk(b"tEXtkey\0words").replace(b"words", b"wards") + picture[-12:]
    yield "bad-last-text-checksum.png", end, "corrupt|unreadable"
    yield "bad-data.png", png(64, 64, 8, 2, b"\x78\x9c" + bytes(200)), "unreadable"
    yield "bomb.png", bomb(), "decompression-bomb"


def _text(key: str, value: str) -> Any:
    from PIL.PngImagePlugin import PngInfo

    information = PngInfo()
    information.add_text(key, value)
    return information


def _formats() -> Iterator[Kind]:
    yield "png-inside.jpg", encode(scene(), "PNG"), "wrong-extension"
    yield "gif-inside.jpg", encode(scene().convert("P"), "GIF"), "wrong-extension"
    yield "webp-inside.jpg", encode(scene(), "WEBP"), "wrong-extension"
    yield "bmp-inside.png", encode(scene(), "BMP"), "wrong-extension"
    yield "jpeg-inside.PNG", encode(scene(), "JPEG"), "wrong-extension"
    yield "no-extension", encode(scene(), "JPEG"), "wrong-extension"
    frames = [scene(number) for number in range(3)]
    for image_format in ("GIF", "WEBP", "PNG"):
        yield f"animated.{image_format.lower()}", encode(frames[0], image_format, save_all=True, append_images=frames[1:]), "animated"
    yield "animated-2.webp", encode(frames[1], "WEBP", save_all=True, append_images=frames[:1]), "unportable-format"
    for name, image_format in (("tif", "TIFF"), ("avif", "AVIF"), ("jp2", "JPEG2000"), ("ppm", "PPM")):
        yield f"refused.{name}", encode(scene(), image_format), "unportable-format"
    wide = np.linspace(0, 65535, 160 * 120).reshape(120, 160).astype(np.uint16)
    yield "sixteen-bit.png", encode(Image.fromarray(wide), "PNG"), "sixteen-bit"
    yield "sixteen-bit.tif", encode(Image.fromarray(wide), "TIFF"), "sixteen-bit"
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in wide)
    yield "sixteen-bit-colour.png", png(160, 120, 16, 2, zlib.compress(rows)), "sixteen-bit"
    yield "float.tif", encode(Image.fromarray((wide / 65535).astype(np.float32)), "TIFF"), "sixteen-bit"
    yield "print.jpg", encode(scene().convert("CMYK"), "JPEG"), "cmyk"
    see_through = scene().convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    yield "alpha.png", encode(see_through, "PNG"), "alpha"
    yield "alpha.webp", encode(see_through, "WEBP"), "alpha"
    yield "grey-alpha.png", encode(see_through.convert("LA"), "PNG"), "alpha"
    yield "palette.png", encode(scene().convert("P"), "PNG"), "palette"
    palette = scene().convert("P")
    yield "palette-transparent.png", encode(palette, "PNG", transparency=int(np.asarray(palette)[0, 0])), "alpha"
    for orientation in (2, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"turned-{orientation}.jpg", encode(scene(), "JPEG", exif=exif), "exif-orientation"
    for name, trailer in (("bytes", b"secret" * 50), ("archive", b"PK\3\4" + bytes(range(1, 100))), ("picture", encode(scene(3), "JPEG"))):
        yield f"trailing-{name}.jpg", encode(scene(), "JPEG") + trailer, "trailing-bytes"
    yield "trailing.png", encode(scene(), "PNG") + b"secret" * 50, "trailing-bytes"
    yield "trailing.webp", encode(scene(), "WEBP") + b"secret" * 50, "trailing-bytes"


def _looks() -> Iterator[Kind]:
    yield "black.png", encode(Image.new("RGB", (100, 80)), "PNG"), "constant"
    yield "white.jpg", encode(Image.new("RGB", (100, 80), "white"), "JPEG"), "constant"
    yield "one-pixel.png", encode(Image.new("RGB", (1, 1), "red"), "PNG"), "constant"
    yield "dark.png", encode(scene(4).point(lambda value: value // 12), "PNG"), "dark"
    yield "bright.png", encode(scene(5).point(lambda value: 240 + value // 17), "PNG"), "bright"
    yield "low-contrast.png", encode(scene(6).point(lambda value: 120 + value // 40), "PNG"), "low-contrast"
    yield "blurry.png", encode(scene(7).filter(ImageFilter.GaussianBlur(18)), "PNG"), "blurry"
    page = Image.new("RGB", (160, 120), "white")
    ImageDraw.Draw(page).rectangle((70, 50, 90, 70), fill="black")
    yield "nearly-empty.png", encode(page, "PNG"), "low-information"
    yield "grey.jpg", encode(scene(8).convert("L"), "JPEG"), "grey-among-colour"
    yield "grey-as-colour.jpg", encode(scene(9).convert("L").convert("RGB"), "JPEG"), "grey-among-colour"
    yield "huge.jpg", encode(scene(10).resize((3200, 2400)), "JPEG"), "odd-size"
    yield "icon.png", encode(scene(11).resize((16, 12)), "PNG"), "odd-size"
    yield "banner.png", encode(scene(12, (400, 60)), "PNG"), "odd-aspect"
    yield "tower.png", encode(scene(13, (60, 400)), "PNG"), "odd-aspect"


def _sound() -> Iterator[Kind]:
    """Unusual, and good."""
    yield "progressive.jpg", encode(scene(20), "JPEG", progressive=True), CLEAN
    yield "full-chroma.jpeg", encode(scene(21), "JPEG", subsampling=0, quality=100), CLEAN
    yield "old-version.jpg", encode(scene(40), "JPEG").replace(b"JFIF\0\1\1", b"JFIF\0\0\0", 1), CLEAN
    yield "zeros-before-end.jpg", encode(scene(41), "JPEG")[:-2] + bytes(50) + b"\xff\xd9", CLEAN
    narrow = np.linspace(0, 200, 160 * 120).reshape(120, 160).astype(np.uint16)
    yield "narrow-range.png", encode(Image.fromarray(narrow), "PNG"), "sixteen-bit"
    yield "padded.jpg", encode(scene(22), "JPEG") + bytes(64), CLEAN
    yield "opaque.png", encode(scene(23).convert("RGBA"), "PNG"), CLEAN
    yield "interlaced.png", encode(scene(24), "PNG", interlace=1), CLEAN
    yield "still.webp", encode(scene(25), "WEBP", lossless=True), CLEAN
    yield "upper.JPG", encode(scene(26), "JPEG"), CLEAN
    thumbnail = encode(scene(27).resize((32, 24)), "JPEG")
    yield "with-thumbnail.jpg", _with_segment(encode(scene(27), "JPEG"), b"Exif\0\0" + thumbnail), CLEAN
    yield "two-pictures.jpg", encode(scene(28), "MPO", save_all=True, append_images=[scene(29)]), CLEAN
    yield "plain.bmp", encode(scene(30), "BMP"), CLEAN


def _with_segment(jpeg: bytes, content: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def write(raw: Path, label: str) -> None:
    """A folder of two good classes, and one named ``label`` of all that is bad."""
    for name in ("good", "other", label):
        (raw / name).mkdir(parents=True)
    for number in range(120):
        scene(100 + number).save(raw / ("good" if number % 2 else "other") / f"{number}.jpg")
    for name, content, _ in kinds():
        (raw / label / name).write_bytes(content)


def kinds() -> list[Kind]:
    """All of them; ``a|b`` in place of an issue allows either."""
    return [*_empty_or_no_image(), *_cut(), *_damaged(), *_formats(), *_looks(), *_sound()]
