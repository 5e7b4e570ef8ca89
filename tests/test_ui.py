"""The page, driven over HTTP through `gradio_client` as another program would, on a tiny checkpoint."""

import base64
import io
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import rcdm
from rcdm import drawing, sheet, sprites, ui
from rcdm import images as im

BOTH = ["tiny/backbone", "tiny/projector"]
KEPT = {"hue": 1.0, "ground_hue": -0.1}


@pytest.fixture(scope="module")
def client(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a served page whose attributes are made up: the tiny checkpoint has no reader."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setattr(ui, "attributes_of", lambda pipe: "attributes")
        patch.setattr(drawing, "kept_by_draws", lambda attributes, draws: KEPT)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        page = ui.launch(rcdm.load(tiny_checkpoint, device="cpu"), port=port, prevent_thread_lock=True)
        try:
            yield Client(page.local_url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
        finally:
            page.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return _saved(_gradient(), tmp_path / "photo.png")


def _gradient(width: int = 60, height: int = 40) -> Image.Image:
    """Red from left to right, green from top to bottom."""
    ramp, size = Image.linear_gradient("L"), (width, height)
    return Image.merge("RGB", (ramp.rotate(90).resize(size), ramp.resize(size), Image.new("L", size)))


def _saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def _draw(client: Client, path: Path | None, **changes: Any) -> tuple[Image.Image, dict[str, Any], str]:
    """The grid, the numbers and the sheet that `/draw` ends with."""
    settings = {"sources": BOTH, "number": 3, "steps": 2, "seed": 5} | changes
    job = client.submit(image=path and handle_file(path), **settings, api_name="/draw")
    job.result()
    grid, numbers, sheet, _status = job.outputs()[-1]
    with Image.open(grid) as image:
        image.load()
    return image, numbers, sheet


def _images(sheet: str) -> list[Image.Image]:
    """The images of a sheet: the given one, then the drawn ones column by column."""
    codes = re.findall(r'src="data:image/png;base64,([^"]+)"', sheet)
    return [Image.open(io.BytesIO(base64.b64decode(code))) for code in codes]


def test_a_drawing_has_one_png_per_source_and_seed(client: Client, photo: Path) -> None:
    grid, numbers, sheet = _draw(client, photo)
    images = _images(sheet)
    assert len(images) == 1 + 2 * 3
    assert {image.format for image in images} == {grid.format} == {"PNG"}
    assert {image.size for image in images} == {(16, 16)}
    assert numbers["seeds"] == [5, 6, 7] and list(numbers["sources"]) == BOTH
    assert all(len(column["similarity"]) == 3 for column in numbers["sources"].values())


def test_drawn_images_are_those_of_the_pipeline(client: Client, photo: Path, pipe: rcdm.RCDMPipeline) -> None:
    _, _, sheet = _draw(client, photo)
    picture = Image.open(photo)
    drawn = pipe([picture] * 2, source=BOTH, seeds=[5, 6, 7], num_inference_steps=2).images
    given, *shown = _images(sheet)
    assert [image.tobytes() for image in shown] == [image.tobytes() for image in drawn]
    assert given.tobytes() == im.centre_crop(picture, 16).tobytes()


def test_the_same_seed_gives_the_same_drawing(client: Client, photo: Path) -> None:
    first, second, other = _draw(client, photo), _draw(client, photo), _draw(client, photo, seed=6)
    assert first[2] == second[2] and first[1] == second[1] and first[0].tobytes() == second[0].tobytes()
    one, later = _images(first[2])[1:], _images(other[2])[1:]
    assert one[1].tobytes() == later[0].tobytes() and one[0].tobytes() != later[0].tobytes()


def test_similarity_is_that_of_the_drawn_images(client: Client, photo: Path, pipe: rcdm.RCDMPipeline) -> None:
    _, numbers, _ = _draw(client, photo)
    for source in BOTH:
        drawn = pipe(Image.open(photo), source=source, seeds=[5, 6, 7], num_inference_steps=2, output_type="pt").images
        a, b = (pipe.unet.standardise(pipe.encode(x, source), source) for x in (drawn, Image.open(photo)))
        expected = torch.nn.functional.cosine_similarity(a, b.expand_as(a)).tolist()
        assert numbers["sources"][source]["similarity"] == pytest.approx(expected, abs=1e-4)


def test_what_is_kept_is_shown_as_it_is_and_its_bar_is_clamped(client: Client, photo: Path) -> None:
    _, numbers, sheet = _draw(client, photo)
    assert all(column["kept"] == KEPT for column in numbers["sources"].values())
    assert sheet.count('class="kept"') == 2 and "width:0%" in sheet and "width:100%" in sheet and ">-0.10<" in sheet
    assert 'class="kept"' not in _draw(client, photo, number=1)[2]  # one draw shows no variance


def _slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
    """Make every step of the denoiser take longer; the times at which steps begin are appended to the result."""
    begun: list[float] = []
    forward = rcdm.RepresentationUNet.forward

    def slow(*args: Any, **kwargs: Any) -> Any:
        begun.append(time.monotonic())
        time.sleep(seconds)
        return forward(*args, **kwargs)

    monkeypatch.setattr(rcdm.RepresentationUNet, "forward", slow)
    return begun


def test_columns_fill_in_while_drawing(client: Client, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "PREVIEW_SECONDS", 0.0)
    _slow_down(monkeypatch, 0.1)
    job = client.submit(handle_file(photo), BOTH, 3, 4, 0, api_name="/draw")
    job.result()
    sheets = [_images(output[2]) for output in job.outputs() if isinstance(output[2], str)]
    assert len(sheets) >= 4 and all(len(images) == 7 for images in sheets)


def test_a_cancelled_drawing_ends_within_one_step(client: Client, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = _slow_down(monkeypatch, 0.3)
    job = client.submit(handle_file(photo), BOTH, 1, 50, 0, api_name="/draw")
    while not steps:
        time.sleep(0.05)
    job.cancel()
    time.sleep(0.5)
    begun = len(steps)
    time.sleep(0.8)
    assert len(steps) <= begun + 1 < 10


def test_work_that_nobody_waits_for_is_told_to_end() -> None:
    ended = threading.Event()

    def work(show: Callable[[Any], None], check: Callable[[], None]) -> None:
        try:
            for step in range(1000):
                time.sleep(0.01)
                check()
                show(step)
        finally:
            ended.set()

    stream = drawing.in_background(work)
    next(stream)
    stream.close()
    assert ended.wait(1)


def test_only_the_latest_preview_waits_and_errors_come_through() -> None:
    shown = threading.Event()

    def work(show: Callable[[Any], None], check: Callable[[], None]) -> None:
        for step in range(100):
            show(step)
        shown.set()
        time.sleep(0.1)
        raise ValueError("no")

    stream = drawing.in_background(work)
    first = next(stream)
    assert shown.wait(1)
    with pytest.raises(ValueError, match="no"):
        rest = [first, *(item for item in stream)]
        assert len(rest) < 10


def _huge_png() -> bytes:
    """10,000 x 10,000 pixels by its header."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _cut_short() -> bytes:
    file = io.BytesIO()
    _gradient(400, 300).save(file, "jpeg")
    return file.getvalue()[:2000]


BAD_FILES = {
    "text.png": b"not an image",
    "empty.jpg": b"",
    "cut.jpg": _cut_short(),
    "huge.png": _huge_png(),
    "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "page.html": b"<script>alert(1)</script>",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_gives_one_sentence(client: Client, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(AppError) as error:
        _draw(client, path)
    words = str(error.value)
    assert words.startswith("The file ") and words.endswith(".")
    assert "Traceback" not in words and "/" not in words and "\n" not in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"sources": []}, "at least one source"), ({"sources": ["no/such"]}, "no/such"), ({"number": 17}, "17")],
)
def test_settings_that_do_not_fit_give_a_sentence(
    client: Client, photo: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(AppError, match=words):
        _draw(client, photo, **changes)


def test_no_image_gives_a_sentence(client: Client) -> None:
    with pytest.raises(AppError, match="Give an image first"):
        _draw(client, None)


def _turned(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return _saved(_gradient().transpose(Image.Transpose.ROTATE_90), path.with_suffix(".jpg"), exif=exif, quality=100)


def _sixteen_bit(path: Path) -> Path:
    levels = Image.linear_gradient("L").resize((60, 40)).convert("I").point(lambda v: v * 257)
    return _saved(levels.convert("I;16"), path.with_suffix(".png"))


def _transparent(path: Path) -> Path:
    image = _gradient().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((60, 40)))
    return _saved(image, path.with_suffix(".png"))


def _animated(path: Path) -> Path:
    more = [Image.new("RGB", (60, 40), colour) for colour in ("red", "blue")]
    return _saved(_gradient(), path.with_suffix(".gif"), save_all=True, append_images=more)


ODD_FILES: dict[str, Callable[[Path], Path]] = {
    "cmyk": lambda path: _saved(_gradient().convert("CMYK"), path.with_suffix(".jpg")),
    "cmyk tiff": lambda path: _saved(_gradient().convert("CMYK"), path.with_suffix(".tif")),
    "16 bit": _sixteen_bit,
    "turned": _turned,
    "transparent": _transparent,
    "animated": _animated,
}


@pytest.mark.parametrize("name", ODD_FILES)
def test_an_odd_file_is_seen_as_it_should_look(client: Client, tmp_path: Path, name: str) -> None:
    path = ODD_FILES[name](tmp_path / "odd")
    given = _images(_draw(client, path, number=1, steps=1)[2])[0]
    assert given.tobytes() == im.centre_crop(im.decode(path), 16).tobytes()
    if name == "turned":
        upright = im.to_tensor(_gradient(), 16)
        assert (im.to_tensor(given) - upright).abs().max() < 0.1


def test_a_sprite_is_drawn_from_its_factors(client: Client) -> None:
    colours = {"hue": 0.3, "ground_hue": 0.8, "ground_brightness": 0.5}
    values: dict[str, Any] = {"size": 0.5, "rotation": 0.1, "x": 0.1, "y": -0.2, **colours}
    path = client.predict(shape="drop", **values, api_name="/sprite")
    with Image.open(path) as image:
        assert image.format == "PNG"
        expected = im.to_pil(sprites.render(sprites.make_factors(shape="drop", **values), 256))[0]
        assert image.tobytes() == expected.tobytes()
    with pytest.raises(AppError):
        client.predict(shape="drop", **(values | {"size": 9.0}), api_name="/sprite")


def test_only_the_stable_endpoints_are_public(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    names = {name: [p["parameter_name"] for p in endpoint["parameters"]] for name, endpoint in endpoints.items()}
    assert names == {"/draw": ["image", "sources", "number", "steps", "seed"], "/sprite": list(sprites.KINDS)}


def test_a_checkpoint_without_a_reader_shows_no_shares(tiny_checkpoint: Path) -> None:
    page = ui.build(rcdm.load(tiny_checkpoint, device="cpu"))
    assert page.config["title"] == "RCDM"
    assert "kept" not in sheet.sheet_html(_gradient(), [drawing.Column("a/b", [_gradient()], [1.0])], [0])


def test_the_first_backbone_and_its_projector_are_chosen() -> None:
    assert ui.default_sources(["a/layer2", "a/backbone", "b/projector", "a/projector"]) == ["a/backbone", "a/projector"]
    assert ui.default_sources(["a/layer1", "a/layer2", "a/layer3"]) == ["a/layer1", "a/layer2"]
    assert ui.default_sources(["a/backbone"]) == ["a/backbone"]
