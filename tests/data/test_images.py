"""Laws of decoding, cropping and conversion, and files that mean harm; every file is made here."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from safetensors.torch import load_file

from rcdm.data.images import as_rgb, centre_crop, decode, resize, to_pil, to_tensor

torch.set_num_threads(1)
RECORDED = Path(__file__).resolve().parents[1] / "recorded" / "official" / "misc"


def photo(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Smooth random colours, so that lossy formats keep them."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def difference(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, so that its header can lie."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def icc(space: bytes, tags: dict[bytes, bytes], connection: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """A minimal version 2 colour profile."""
    start = 132 + 12 * len(tags)
    table, body = b"", b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50 in 1/65536
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, kind, space, connection, b"acsp")
    return head + white + b"\0" * 48 + struct.pack(">I", len(tags)) + table + body


# ---- decode ----


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF"])
def test_kind_is_told_by_content_and_not_by_extension(kind: str, tmp_path: Path) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow has no {kind}")
    data = saved(photo(), kind)
    path = tmp_path / "wrong.doc"
    path.write_bytes(data)
    image = decode(data)
    assert (image.mode, image.size, image.info) == ("RGB", (40, 30), {})
    assert difference(image, photo()) < 60
    with path.open("rb") as stream:
        assert [difference(image, decode(file)) for file in (path, str(path), io.BytesIO(data), stream)] == [0] * 4


def truncated(kind: str) -> bytes:
    data = saved(photo(200, 200), kind)
    return data[: len(data) * 2 // 3]


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"hello",
    "svg": lambda: b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
    "html after a gif's first bytes": lambda: b"GIF89a<script>alert(1)</script>",
    "eps": lambda: saved(photo(), "EPS"),
    "pdf": lambda: saved(photo(), "PDF"),
    "ico": lambda: saved(photo(), "ICO"),
    "ppm": lambda: saved(photo(), "PPM"),
    "only the first bytes of a jpeg": lambda: saved(photo(), "JPEG")[:20],
    "no pixels": lambda: png(0, 0, 8, 2, b""),
    "fewer pixels than the header says": lambda: png(100, 100, 8, 2, b"\0" * 50),
    "wrong checksum": lambda: saved(photo(), "PNG").replace(b"IHDR", b"IHDR\x01"),
    "a text that unpacks to 100 MB": lambda: png(
        1, 1, 8, 2, b"\0\1\2\3", (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 10**8))
    ),
    **{f"truncated {kind}": partial(truncated, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_file_is_refused_in_one_sentence_that_names_it(what: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(HOSTILE[what]())
    with pytest.raises(ValueError, match=r"photo\.png.*[a-z]\.$") as caught:
        decode(path)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^The file "):
        decode(path.read_bytes())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8_000, 10_000, 60_000, 2**31 - 1])
def test_more_pixels_than_allowed_are_refused_by_the_header_alone(side: int) -> None:
    with pytest.raises(ValueError, match="million pixels"):
        decode(png(side, side, 8, 2, b""))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_warning_made_an_error_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="million pixels"):
        decode(png(10_000, 10_000, 8, 2, b""))


def test_limits_are_inclusive() -> None:
    data = saved(photo(), "PNG")
    decode(data, max_bytes=len(data), max_pixels=1200)
    with pytest.raises(ValueError, match="MiB"):
        decode(data, max_bytes=len(data) - 1)
    with pytest.raises(ValueError, match="pixels"):
        decode(data, max_pixels=1199)


def test_no_more_bytes_are_read_than_allowed() -> None:
    stream = io.BytesIO(b"\0" * 5000)
    with pytest.raises(ValueError, match="larger than"):
        decode(stream, max_bytes=1000)
    assert stream.tell() == 1001


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    for file in (tmp_path / "missing.png", tmp_path, "a\0b", closed, io.StringIO("text")):
        with pytest.raises(ValueError, match=r"^('.*'|The file) .*: .*\.$"):
            decode(file)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_damage_escapes_as_another_error() -> None:
    random = np.random.default_rng(0)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    files = [saved(photo(), kind) for kind in ("PNG", "WEBP", "GIF", "BMP")]
    files.append(saved(photo(), "JPEG", exif=orientation, icc_profile=icc(b"GRAY", {})))
    for index in range(400):
        data = bytearray(files[index % len(files)])
        for place in random.integers(0, min(len(data), 300), 4):
            data[place] = random.integers(0, 256)
        try:
            assert decode(bytes(data)).mode == "RGB"
        except ValueError as error:
            assert str(error).startswith("The file ")


# ---- as_rgb ----


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "P", "1", "L", "LA", "PA", "I"])
def test_every_mode_becomes_the_rgb_that_pillow_gives(mode: str) -> None:
    image = photo().convert("RGBA" if mode == "RGBa" else mode).convert(mode)
    expected = image.convert("RGBA" if mode == "RGBa" else "L" if mode == "I" else mode).convert("RGB")
    assert as_rgb(image).mode == "RGB" and difference(as_rgb(image), expected) == 0


def test_as_rgb_again_changes_nothing_and_the_original_is_kept() -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6
    image = Image.open(io.BytesIO(saved(photo(), "PNG", exif=orientation, icc_profile=swapped_profile())))
    once = as_rgb(image)
    assert once.size == (30, 40) and image.size == (40, 30) and "icc_profile" in image.info
    assert difference(as_rgb(once), once) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_every_exif_orientation_is_made_upright(orientation: int, kind: str) -> None:
    seen = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}  # the transposition that a viewer must undo
    stored = photo()
    for undo in seen.get(orientation, []):
        stored = stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = decode(saved(stored, kind, exif=exif, **options))
    assert image.size == photo().size and difference(image, photo()) <= (8 if kind == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_is_ignored() -> None:
    data = saved(photo(), "PNG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert difference(decode(data), photo()) == 0


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        image = Image.open(io.BytesIO(saved(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)))
        image.seek(2)
        assert difference(as_rgb(image), frames[0]) == 0


def test_cmyk_jpeg_and_tiff_agree_with_the_rgb_they_were_made_of() -> None:
    ink = photo().convert("CMYK")
    assert difference(decode(saved(ink, "TIFF")), photo()) <= 1
    assert difference(decode(saved(ink, "JPEG", quality=100, subsampling=0)), photo()) <= 8


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    expected = Image.fromarray(levels.astype(np.uint8)).convert("RGB")
    for kind in ("PNG", "TIFF"):
        assert difference(decode(saved(Image.fromarray(levels * 257), kind)), expected) == 0
    assert difference(as_rgb(Image.fromarray((levels * 257).astype(">u2"))), expected) == 0
    assert difference(as_rgb(Image.fromarray((levels * 257).astype(np.int32))), expected) == 0
    for white in (1, 255, 65535):
        assert difference(as_rgb(Image.fromarray(levels.astype(np.float32) * (white / 255))), expected) == 0
    assert difference(as_rgb(Image.fromarray(levels.astype(np.int32))), expected) == 0


def test_not_a_number_is_black() -> None:
    image = as_rgb(Image.fromarray(np.array([[np.nan, np.inf, 0.5, 1.0]], dtype=np.float32)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 128, 255]


def test_sixteen_bit_colours_keep_their_high_byte() -> None:
    row = b"\0" + struct.pack(">6H", 0xFFFF, 0x8000, 0, 0x1234, 0x4000, 0xFF00)
    assert np.asarray(decode(png(2, 1, 16, 2, row))).tolist() == [[[255, 128, 0], [0x12, 0x40, 255]]]


def test_transparency_is_laid_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 128))
    half.putpixel((1, 0), (0, 0, 0, 0))
    rose, white = (255, 127, 127), (255, 255, 255)
    assert [as_rgb(half).getpixel((x, 0)) for x in (0, 1)] == [rose, white]
    grey = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)])
    assert as_rgb(grey).getpixel((0, 0)) == (204, 204, 204)
    assert as_rgb(grey.convert("La")).getpixel((0, 0)) == (204, 204, 204)
    assert as_rgb(half.convert("RGBa")).getpixel((1, 0)) == white


def test_transparent_values_of_png_and_gif_are_laid_on_white() -> None:
    first_white = [[255, 255, 255], [9, 9, 9]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    grey = Image.fromarray(np.array([[7, 9]], dtype=np.uint8))
    deep = Image.fromarray(np.array([[7 * 257, 9 * 257]], dtype=np.uint16))
    colour = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], dtype=np.uint8))
    files = [
        saved(palette, "PNG", transparency=0),
        saved(palette, "PNG", transparency=bytes([0, 255])),
        saved(palette, "GIF", transparency=0),
        saved(grey, "PNG", transparency=7),
        saved(deep, "PNG", transparency=7 * 257),
        saved(colour, "PNG", transparency=(1, 2, 3)),
    ]
    for data in files:
        assert np.asarray(decode(data))[0].tolist() == first_white


def swapped_profile() -> bytes:
    """sRGB with red and blue exchanged, so that following it shows."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data.replace(b"rXYZ", b"tmp_", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmp_", b"bXYZ", 1)


def test_rgb_profile_is_followed_with_and_without_transparency() -> None:
    red, green, blue = photo().split()
    expected = Image.merge("RGB", [blue, green, red])
    profile = swapped_profile()
    for kind in ("PNG", "TIFF"):
        assert difference(decode(saved(photo(), kind, icc_profile=profile)), expected) <= 1
    clear = photo()
    clear.putalpha(Image.new("L", clear.size, 128))
    on_white = Image.composite(expected, Image.new("RGB", clear.size, "white"), Image.new("L", clear.size, 128))
    assert difference(decode(saved(clear, "PNG", icc_profile=profile)), on_white) <= 1


def test_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(decode(saved(photo(), "PNG", icc_profile=profile)), photo()) == 0


def test_grey_profile_is_followed() -> None:
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    linear = icc(b"GRAY", {b"wtpt": white, b"kTRC": b"curv" + b"\0" * 8})
    image = decode(saved(Image.new("L", (2, 2), 55), "PNG", icc_profile=linear))
    assert image.getpixel((0, 0)) == pytest.approx((128, 128, 128), abs=1)  # sRGB of 55 / 255 linear


def test_cmyk_profile_is_followed() -> None:
    corners = bytes(v for i in range(16) for v in (255 if i == 0 else 0, 128, 128))  # Lab: any ink is black
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    profile = icc(b"CMYK", {b"A2B0": table}, connection=b"Lab ", kind=b"prtr")
    for ink, value in (((0, 0, 0, 0), 255), ((255, 0, 0, 0), 0)):
        image = decode(saved(Image.new("CMYK", (8, 8), ink), "TIFF", icc_profile=profile))
        assert image.getpixel((0, 0)) == pytest.approx((value,) * 3, abs=3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA"])
def test_broken_or_foreign_profile_is_ignored(mode: str) -> None:
    image = photo().convert(mode)
    plain = decode(saved(image, "TIFF"))
    foreign = icc(b"GRAY" if mode != "L" else b"CMYK", {})
    for profile in (b"nonsense", b"\0" * 200, foreign, swapped_profile()[:300]):
        assert difference(decode(saved(image, "TIFF", icc_profile=profile)), plain) == 0


# ---- centre_crop ----


def restated(image: Image.Image, size: int) -> np.ndarray:
    """The published crop, on arrays."""
    while min(*image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.Resampling.BOX)  # type: ignore
    scale = size / min(*image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), resample=Image.Resampling.BICUBIC)  # type: ignore
    array = np.array(image)
    top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
    return array[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(16, 16), (17, 33), (90, 31), (64, 64), (65, 131), (5, 7), (3, 90)])
def test_crop_is_the_published_one_to_the_bit(shape: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8))
    for size in (1, 16, 31):
        assert np.array_equal(np.asarray(centre_crop(image, size)), restated(image, size))


def test_crop_of_a_square_of_that_size_is_itself() -> None:
    assert difference(centre_crop(photo(32, 32), 32), photo(32, 32)) == 0


def test_crop_of_an_endless_strip_needs_no_endless_memory() -> None:
    for size in ((1, 300_000), (300_000, 1)):
        assert difference(centre_crop(Image.new("RGB", size, "teal"), 64), Image.new("RGB", (64, 64), "teal")) == 0


def test_crop_to_nothing_is_refused() -> None:
    for image, size in ((photo(), 0), (Image.new("RGB", (0, 4)), 8)):
        with pytest.raises(ValueError, match="at least 1"):
            centre_crop(image, size)


def test_crop_is_the_recorded_one_of_the_released_code() -> None:
    recorded = load_file(RECORDED / "preprocess.safetensors")
    image = decode(RECORDED / "image.png")
    for name, size in (("denoiser_crop_128_uint8_hwc", 128), ("ssl_crop_224_uint8_hwc", 224)):
        assert np.array_equal(np.asarray(centre_crop(image, size)), recorded[name].numpy())


# ---- tensors ----


def test_every_byte_survives_the_way_to_a_tensor_and_back() -> None:
    image = Image.fromarray(np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
    x = to_tensor(image)
    assert x.shape == (1, 3, 16, 16) and x.dtype == torch.float32 and x.is_contiguous()
    assert torch.equal(x[0, 1, 2], torch.from_numpy(np.asarray(image)[2, :, 1].astype(np.float32) / 127.5 - 1))
    assert x.min() == -1 and x.max() == 1
    assert difference(to_pil(x)[0], image) == 0
    assert torch.equal(to_tensor(to_pil(x)), x)


def test_images_of_many_sizes_and_modes_share_a_batch_when_cropped() -> None:
    batch = [photo(40, 30), photo(20, 50).convert("L"), photo(16, 16).convert("RGBA")]
    x = to_tensor(batch, 16)
    assert x.shape == (3, 3, 16, 16)
    assert torch.equal(x[1:2], to_tensor(batch[1], 16))
    with pytest.raises(ValueError, match="size="):
        to_tensor(batch)
    with pytest.raises(ValueError, match="no image"):
        to_tensor([], 16)


def test_to_pil_clamps_and_rounds_to_the_nearest() -> None:
    values = torch.tensor([-9.0, -1.0, 10.4 / 127.5 - 1, 10.6 / 127.5 - 1, 1.0, 9.0, torch.inf, -torch.inf])
    images_ = to_pil(values.view(1, 1, 1, -1).expand(2, 3, 1, -1).requires_grad_())
    assert len(images_) == 2
    assert np.asarray(images_[1])[0, :, 0].tolist() == [0, 0, 10, 11, 255, 255, 255, 0]


def test_what_is_no_image_tensor_is_refused() -> None:
    for wrong in (torch.zeros(3, 4, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)):
        for function in (to_pil, lambda x: resize(x, 8)):
            with pytest.raises(ValueError, match=r"float \[B,3,H,W\]"):
                function(wrong)
    with pytest.raises(ValueError, match="NaN"):
        to_pil(torch.full((1, 3, 2, 2), torch.nan))


def test_resize_to_its_own_size_is_the_same_tensor() -> None:
    x = to_tensor(photo(16, 16))
    assert resize(x, 16) is x


def test_resize_keeps_range_type_and_constants_and_has_a_gradient() -> None:
    noise = torch.randn(2, 3, 20, 12, generator=torch.Generator().manual_seed(0))
    x = noise.sign().requires_grad_()
    y = resize(x, 31)
    assert y.shape == (2, 3, 31, 31) and y.abs().max() <= 1
    assert torch.autograd.grad(resize(x, 7).sum(), x)[0].abs().sum() > 0
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        flat = torch.full((1, 3, 9, 9), 0.5, dtype=dtype)
        assert resize(flat, 4).dtype == dtype and torch.allclose(resize(flat, 4), flat[..., :4, :4], atol=1e-6)


def test_resize_agrees_with_pil() -> None:
    image = photo(64, 64)
    ours = to_pil(resize(to_tensor(image), 20))[0]
    assert difference(ours, image.resize((20, 20), Image.Resampling.BICUBIC)) <= 1
