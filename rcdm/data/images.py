"""The only place where PIL, uint8 and files meet float [B,3,H,W] in [-1,1]; uploads are decoded safely here."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms
from torch import Tensor
from torch.nn import functional as F

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 50_000_000
MEMORY = 640 * 2**20
"""Bytes that decoding one file may take, copies included: where a kind of picture takes more of them, it has to have
fewer pixels."""
IMAGE_EXTENSIONS: tuple[str, ...] = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
)
"""Lower-case extensions considered when a folder is scanned; what a file really is, `decode` reads from its content."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
"""Pillow formats that are opened, where this Pillow has them; its JPEG opener also reads MPO, many phones' jpg."""

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""

WHITES = {"I": (255.0, 65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}
"""Candidates for the value of white in modes that do not fix it: the least that holds the brightest pixel is taken."""

TOO_LARGE = "has more than {:.0f} million pixels, of a kind that takes much memory: scale it down, or save it as JPEG."

LONGEST = 32
"""Aspect ratio beyond which `centre_crop` cuts before it scales: enlarging 1 x 50,000,000 would fill the memory."""


def decode(
    file: str | os.PathLike[str] | bytes | BinaryIO, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """A path, the bytes or a binary stream of a perhaps hostile file -> its upright 8-bit RGB picture.

    ValueError, and nothing else, for a file that is missing, too large, cut short or not an image.
    """
    name = _name(file)
    image = _open(_read(file, name, max_bytes), name, max_pixels)
    try:
        return as_rgb(image)
    except Exception as error:  # a damaged file can raise anything inside a decoder
        raise ValueError(f"{name} is damaged or cut short: export or download it again.") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image -> a new upright 8-bit RGB image in sRGB: first frame, on white where it is transparent.

    An embedded colour profile is followed, a broken one or one for another kind of pixels is ignored.
    """
    if image.tell():
        image.seek(0)
    image.load()  # before the orientation is read: Pillow turns a TIFF while loading it
    turn = _turn(image)
    colour, alpha = _split_alpha(_eight_bits(image))
    rgb = _to_srgb(colour, image.info.get("icc_profile"))
    if alpha is not None:
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)
    if turn is not None:
        rgb = rgb.transpose(turn)
    rgb.info = {}  # else the orientation and the profile would be applied again
    return rgb


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """An RGB image -> its central square, size x size pixels, by the crop of ADM and of the released RCDM.

    Halved with BOX while its short side is at least 2 * size, then BICUBIC (Dhariwal & Nichol 2021, guided-diffusion).
    """
    if size < 1 or 0 in image.size:
        raise ValueError(f"Cannot crop {image.width}x{image.height} pixels to {size}: both must be at least 1.")
    image = halved(_cut_strip(image), size)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def halved(image: Image.Image, size: int) -> Image.Image:
    """Halved with BOX while the short side is at least 2 * size: crops of up to `size` pixels stay what they were."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    return image


def squash(image: Image.Image, size: int) -> Image.Image:
    """An RGB image -> all of it, size x size pixels, its aspect ratio lost: BILINEAR, as torchvision's Resize.

    The released scripts for interpolation and manipulation prepare the images that they are given so.
    """
    return image.resize((size, size), Image.Resampling.BILINEAR)


def to_tensor(images: Image.Image | Sequence[Image.Image], size: int | None = None) -> Tensor:
    """One or more PIL images -> float32 [B,3,H,W] in [-1,1] = uint8 / 127.5 - 1; with a size, centre-cropped to it.

    ValueError if there is no image, or something else, or no size and the images differ in theirs.
    """
    given = [images] if isinstance(images, Image.Image) else list(images)
    if others := [image for image in given if not isinstance(image, Image.Image)]:
        raise ValueError(f"PIL images are needed (`PIL.Image.open` opens a file), not {type(others[0]).__name__}.")
    pictures = [as_rgb(image) for image in given]
    if size is not None:
        pictures = [centre_crop(picture, size) for picture in pictures]
    sizes = {picture.size for picture in pictures}
    if len(sizes) != 1:
        shapes = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:4]) or "no image"
        raise ValueError(f"Images of one size are needed, not {shapes}: pass size= to crop all to one.")
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # [B,H,W,3] uint8
    return pixels.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def to_pil(images: Tensor) -> list[Image.Image]:
    """Float [B,3,H,W], clamped to [-1,1] and rounded to the nearest uint8 -> PIL images; undoes `to_tensor` exactly."""
    _check(images)
    if images.isnan().any():
        raise ValueError("The images contain NaN: compute them in float32, or with fewer or other sampling steps.")
    pixels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(picture) for picture in pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


def resize(images: Tensor, size: int) -> Tensor:
    """[B,3,H,W] in [-1,1] -> [B,3,size,size] in [-1,1], antialiased bicubic; the same tensor if it has that size."""
    _check(images)
    if images.shape[-2:] == (size, size):
        return images
    exact = images if images.dtype == torch.float64 else images.float()  # antialiasing exists in these two types only
    small = F.interpolate(exact, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(-1, 1).to(images.dtype)


def _name(file: object) -> str:
    """What an error calls the file: its name, quoted and with control characters escaped, or 'The file'."""
    name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else getattr(file, "name", None)
    return repr(name) if isinstance(name, str) and name else "The file"


def _read(file: str | os.PathLike[str] | bytes | BinaryIO, name: str, max_bytes: int) -> bytes:
    """The file's bytes, of which at most max_bytes + 1 are ever read."""
    if isinstance(file, (str, os.PathLike)) and os.path.isdir(file):
        raise ValueError(f"{name} is a folder: name the image files in it.")
    if isinstance(file, (str, os.PathLike)) and not os.path.isfile(file):
        raise ValueError(f"{name} is not a file: check the path.")
    try:
        if isinstance(file, (str, os.PathLike)):
            with open(file, "rb") as stream:
                data = stream.read(max_bytes + 1)
        else:
            data = file if isinstance(file, bytes) else file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be read: check that it is open and that you may read it.") from error
    if not isinstance(data, bytes):
        raise ValueError(f"{name} is not binary: open it with mode 'rb'.")
    if len(data) > max_bytes:
        raise ValueError(f"{name} is larger than {max_bytes / 2**20:.3g} MiB: make it smaller or compress it more.")
    if not data:
        raise ValueError(f"{name} is empty: choose an image file.")
    return data


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The image with its pixels not yet decoded; its size is known and within the limit."""
    Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]
    too_many = f"{name} has more than {max_pixels / 1e6:.3g} million pixels: scale it down first."
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(too_many) from error
    except Exception as error:  # a hostile header can raise anything inside an opener
        choices = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise ValueError(f"{name} is not a readable image: use a {choices} file.") from error
    most = min(max_pixels, MEMORY // _bytes_per_pixel(image))
    if image.width * image.height > most:
        raise ValueError(too_many if most == max_pixels else f"{name} {TOO_LARGE.format(most / 1e6)}")
    return image


def _bytes_per_pixel(image: Image.Image) -> int:
    """What decoding a pixel takes at its peak, as measured on 16 megapixels of each format and mode, rounded up."""
    if image.mode in WHITES or image.mode.startswith("I;16") or image.has_transparency_data:
        return 22
    return 16 if image.format == "WEBP" else 13


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes the image upright by its EXIF orientation; None if it is, or if there is none that can be read."""
    try:
        return ORIENTATIONS.get(image.getexif().get(0x0112, 1))
    except Exception:  # broken EXIF raises many things, and the picture is fine without it
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Modes I;16, I and F -> L or LA with black at 0 and white at 255; any other mode as it is."""
    if image.mode not in WHITES and not image.mode.startswith("I;16"):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0)
    brightest = float(values.max(initial=0))
    white = next((w for w in WHITES.get(image.mode, (65535.0,)) if brightest <= w), brightest)
    levels = np.rint(values.clip(0, white) * (255 / white)).astype(np.uint8)
    scaled = Image.fromarray(levels)
    if isinstance(key := image.info.get("transparency"), int):  # a PNG's one transparent value, in 16 bits
        scaled.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return scaled


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours alone, and the opacity (L) if the image has any transparency."""
    if not image.has_transparency_data:
        return image, None
    full = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
    return full.convert(full.mode[:-1]), full.getchannel("A")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Opaque 8-bit colours -> a new RGB image, through the ICC profile if it is valid and describes these colours."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and image.mode not in ("CMYK", "LAB"):
            image = image.convert("RGB")
        if {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space) == image.mode:
            srgb = ImageCms.createProfile("sRGB")
            image = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB") or image
    except Exception:  # a broken profile raises many things, and the picture is fine without it
        pass
    return image.convert("RGB")


def _cut_strip(image: Image.Image) -> Image.Image:
    """The central part of an image more than LONGEST times longer than wide; any other image as it is."""
    longest = LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    width, height = min(image.width, longest), min(image.height, longest)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _check(images: Tensor) -> None:
    """ValueError unless the tensor is float [B,3,H,W]."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        shape = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"Images must be float [B,3,H,W] in [-1,1], not {shape}: convert PIL images with to_tensor.")
