"""Image files from a seed: of every format and mode that is opened, whole and damaged."""

import io
import random

from PIL import Image

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp", "AVIF": "avif"}
MODES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "RGBA", "L", "LA", "P", "I;16", "1"), "WEBP": ("RGB", "RGBA"),
         "GIF": ("P", "L"), "TIFF": ("RGB", "RGBA", "CMYK", "L", "I;16", "F", "I"), "BMP": ("RGB", "L", "1"),
         "AVIF": ("RGB", "RGBA")}  # fmt: skip


def picture(kind: str, rng: random.Random) -> bytes:
    """A file of a format in one of its modes, of an odd size now and then."""
    sizes = ((1, 1), (3, 700), (64, 64), (257, 129), (1200, 900))
    size, mode = rng.choice(sizes), rng.choice(MODES[kind])
    image = Image.effect_noise(size, 60).convert("RGB")
    image = image.convert("L").convert(mode) if mode in ("I;16", "F", "I", "LA") else image.convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **({"exif": b"Exif\0\0II*\0" + rng.randbytes(40)} if rng.random() < 0.2 else {}))
    return out.getvalue()


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The same, cut short, with bytes changed, doubled or followed by others, or nothing like it."""
    what = rng.randrange(7)
    if what == 0:
        return data
    if what == 1:
        return data[: rng.randrange(len(data))]
    if what == 2:
        return data + rng.randbytes(1000)
    if what == 3:
        return rng.choice((b"", b"<svg/>", b"%PDF-1.4", b"\x80\x04cos\nsystem\n.", rng.randbytes(2000), bytes(10**6)))
    changed = bytearray(data)
    for _ in range(rng.choice((1, 8, 60))):
        changed[rng.randrange(min(len(data), rng.choice((40, 400, 10**7))))] = rng.randrange(256)
    return bytes(changed)


def flat_png(width: int, height: int, mode: str = "L") -> bytes:
    """Few bytes, many pixels."""
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, "PNG")
    return out.getvalue()
