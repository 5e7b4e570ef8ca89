"""Whatever is uploaded gives a picture or one sentence; the files are made here, kind by kind."""

import gzip
import io
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image, features

from rcdm.data import images as im
from rcdm.ui.guard import in_a_sentence, read_photo

PICTURE = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * k).resize((60, 40)) for k in range(3)])


def _saved(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = _chunk(b"IDAT", zlib.compress(data)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + extra + body


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _zip(name: str = "a.txt", size: int = 10) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"\0" * size)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../etc/passwd"), io.BytesIO())
    return file.getvalue()


def _flipped(data: bytes, seed: int) -> bytes:
    """A file in which one byte of a hundred is another."""
    stream, spoiled = random.Random(seed), bytearray(data)
    for _ in range(max(1, len(spoiled) // 100)):
        spoiled[stream.randrange(len(spoiled))] = stream.randrange(256)
    return bytes(spoiled)


def _exif(orientation: int) -> Any:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _gif_that_grows() -> bytes:
    """A GIF whose second frame says that it is much larger than the screen."""
    data = bytearray(_saved("GIF", save_all=True, append_images=[PICTURE.rotate(90)]))
    place = data.rindex(b"\x2c", 0, len(data) - 100)
    data[place + 5 : place + 9] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


JPEG, PNG = _saved("JPEG", quality=95), _saved("PNG")
TEXT = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
KINDS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"\xff",
    "zeros": lambda: b"\0" * 5000,
    "noise": lambda: random.Random(0).randbytes(5000),
    "text": lambda: b"not a picture",
    "html": lambda: b"<script>alert(1)</script>",
    "svg": lambda: TEXT,
    "svg with entities": lambda: b'<!DOCTYPE a [<!ENTITY b "' + b"c" * 4000 + b'">]>' + TEXT,
    "pdf": lambda: b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file",
    "python": lambda: b"import os; os.system('true')",
    "pickle": lambda: b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "shell": lambda: b"#!/bin/sh\ntrue\n",
    "program": lambda: b"\x7fELF\x02\x01\x01" + b"\0" * 100,
    "zip": _zip,
    "zip bomb": lambda: _zip(size=50_000_000),
    "gzip bomb": lambda: gzip.compress(b"\0" * 50_000_000),
    "tar with a way out": _tar,
    "too many bytes": lambda: JPEG + b"\0" * (im.MAX_BYTES + 1),
    "png header alone": lambda: PNG[:33],
    "png cut": lambda: PNG[: len(PNG) // 2],
    "png without an end": lambda: PNG[:-12],
    "png with a wrong checksum": lambda: PNG[:29] + b"\0\0\0\0" + PNG[33:],
    "png of no pixels": lambda: _png(0, 0, b""),
    "png with too little data": lambda: _png(500, 500, b"\0"),
    "png bomb by its header": lambda: _png(60_000, 60_000, b"\0" * 100),
    "png bomb that is full": lambda: _png(8_000, 8_000, b"\0" * (8_000 * 24_001)),
    "png with a text bomb": lambda: _png(
        8, 8, b"\0" * 200, extra=_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 80_000_000))
    ),
    "png with a huge profile": lambda: _png(
        8, 8, b"\0" * 200, extra=_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 30_000_000))
    ),
    "png with an unknown colour type": lambda: _png(8, 8, b"\0" * 200, colour=5),
    "png of sixteen bits": lambda: _png(8, 8, b"\0" * (8 * 49), depth=16),
    "jpeg cut": lambda: JPEG[: len(JPEG) // 2],
    "jpeg start alone": lambda: b"\xff\xd8\xff\xe0",
    "jpeg with wrong sizes": lambda: JPEG.replace(struct.pack(">HH", 40, 60), struct.pack(">HH", 65_535, 65_535), 1),
    "jpeg of cmyk": lambda: _saved("JPEG", PICTURE.convert("CMYK")),
    "jpeg turned": lambda: _saved("JPEG", exif=_exif(6)),
    "jpeg with a broken orientation": lambda: _saved("JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 40),
    "jpeg that is html too": lambda: JPEG + TEXT,
    "jpeg that is a zip too": lambda: JPEG + _zip(),
    "jpeg behind text": lambda: b"GIF89a" + JPEG,
    "gif animated": lambda: _saved("GIF", save_all=True, append_images=[PICTURE.rotate(90)] * 30),
    "gif that grows": _gif_that_grows,
    "gif cut": lambda: _saved("GIF")[:200],
    "gif header alone": lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0",
    "webp cut": lambda: _saved("WEBP")[:60],
    "webp that says it is huge": lambda: b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6,
    "webp animated": lambda: _saved("WEBP", save_all=True, append_images=[PICTURE.rotate(90)]),
    "tiff cut": lambda: _saved("TIFF")[:100],
    "tiff that points at itself": lambda: b"II*\0\x08\0\0\0\x01\0" + b"\0" * 12 + b"\x08\0\0\0",
    "tiff of sixteen bits": lambda: _saved("TIFF", Image.linear_gradient("L").convert("I;16")),
    "tiff of floats": lambda: _saved("TIFF", PICTURE.convert("F")),
    "tiff of cmyk": lambda: _saved("TIFF", PICTURE.convert("CMYK")),
    "bmp bomb": lambda: _bmp(60_000, 60_000),
    "bmp of negative sides": lambda: _bmp(-100, -100),
    "icon": lambda: _saved("ICO", PICTURE.resize((16, 16))),
    "palette with transparency": lambda: _saved("PNG", PICTURE.convert("P"), transparency=bytes(range(256))),
    "all but invisible": lambda: _saved("PNG", Image.new("RGBA", (30, 30), (0, 0, 0, 0))),
    "one pixel": lambda: _saved("PNG", Image.new("RGB", (1, 1))),
    "a thread": lambda: _saved("PNG", Image.new("L", (1, 20_000))),
    **{f"jpeg spoiled {seed}": lambda seed=seed: _flipped(JPEG, seed) for seed in range(4)},  # type: ignore[misc]
    **{f"png spoiled {seed}": lambda seed=seed: _flipped(PNG, seed) for seed in range(4)},  # type: ignore[misc]
}
if features.check("avif"):
    KINDS["avif"] = lambda: _saved("AVIF")
    KINDS["avif cut"] = lambda: _saved("AVIF")[:120]

PICTURES = {
    "png of sixteen bits", "jpeg of cmyk", "jpeg turned", "jpeg with a broken orientation", "jpeg that is html too",
    "jpeg that is a zip too", "gif animated", "webp animated", "tiff of sixteen bits", "tiff of floats", "tiff of cmyk",
    "palette with transparency", "all but invisible", "one pixel", "a thread", "avif",
}  # fmt: skip
EITHER = {
    "png without an end",
    "jpeg cut",
    "png with a text bomb",
    "png with a huge profile",
    "gif that grows",
    "gif cut",
}


def _refused(name: str) -> bool:
    return name not in PICTURES | EITHER and "spoiled" not in name


def test_there_are_at_least_forty_kinds() -> None:
    assert len(KINDS) >= 40 and set(KINDS) >= (PICTURES | EITHER) - {"avif"}


@pytest.mark.parametrize("name", KINDS)
def test_a_hostile_upload_gives_a_sentence_or_a_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "secret"))
    path = tmp_path / "secret" / "folder" / "secret.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(KINDS[name]())
    try:
        with in_a_sentence():
            picture = read_photo(str(path))
    except gr.Error as error:
        words = str(error.message)
        assert words.startswith("The file ") and words.endswith(".") and words.count("\n") == 0
        assert "secret" not in words and "Traceback" not in words and "<" not in words
        assert name not in PICTURES
    else:
        assert picture.mode == "RGB" and picture.width * picture.height <= im.MAX_PIXELS
        assert not _refused(name)
        assert im.centre_crop(picture, 16).size == (16, 16)
