"""The page, driven over HTTP through `gradio_client` as another program would, on a tiny checkpoint."""

import dataclasses
import io
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from torch import Tensor

import rcdm
from rcdm import cli
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.ui import compare, export, page
from rcdm.ui.controls import asked
from rcdm.ui.drawing import Columns
from rcdm.ui.engine import Engine
from rcdm.ui.settings import Settings
from rcdm.ui.store import key_of

BOTH = ["tiny/backbone", "tiny/projector"]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine(Settings(checkpoint=str(tiny_checkpoint), queue=3, network_mib=0), device="cpu")


@pytest.fixture(scope="module")
def client(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a served page."""
    with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        settings = engine.settings
        engine.settings = dataclasses.replace(settings, port=port)
        served = page.launch(engine, prevent_thread_lock=True)
        try:
            yield Client(served.local_url, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))
        finally:
            served.close()
            engine.settings = settings


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


def _draw(client: Client, path: Path | None, **changes: Any) -> tuple[list[Image.Image], dict[str, Any]]:
    """The images and the numbers that `/draw` ends with."""
    settings = {"sources": BOTH, "number": 3, "steps": 2, "seed": 5} | changes
    drawn, numbers = client.predict(image=path and handle_file(path), **settings, api_name="/draw")
    return [Image.open(item["image"]) for item in drawn], numbers


def _get(client: Client, path: str) -> tuple[bytes, Any]:
    with urllib.request.urlopen(f"{client.src.rstrip('/')}/{path}", timeout=10) as answer:
        return answer.read(), answer.headers


def test_a_drawing_has_one_png_per_source_and_seed(client: Client, photo: Path) -> None:
    images, numbers = _draw(client, photo)
    assert len(images) == 2 * 3
    assert {image.format for image in images} == {"PNG"} and {image.size for image in images} == {(16, 16)}
    assert numbers["seeds"] == [5, 6, 7] and list(numbers["sources"]) == BOTH
    assert all(len(column["similarity"]) == 3 for column in numbers["sources"].values())


def test_page_command_line_and_python_draw_the_same(
    client: Client, photo: Path, pipe: rcdm.RCDMPipeline, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    shown, _ = _draw(client, photo)
    drawn = pipe([Image.open(photo)] * 2, source=BOTH, seeds=[5, 6, 7], num_inference_steps=2).images
    assert [image.tobytes() for image in shown] == [image.tobytes() for image in drawn]
    cells: list[Any] = []
    monkeypatch.setattr("rcdm.cli.sample_grid.grid_png", lambda images, *_: cells.extend(images) or b"")
    options = ["--samples", "3", "--seed", "5", "--steps", "2", "--device", "cpu", "--out", str(tmp_path / "a.png")]
    cli.main(["sample", str(photo), "--checkpoint", str(tiny_checkpoint), "--source", *BOTH, *options])
    of_shell = cells[1:4] + cells[5:]  # without the given image of each source
    apart = [(im.to_tensor(a) - im.to_tensor(b)).abs().max() * 127.5 for a, b in zip(shown, of_shell, strict=True)]
    assert max(apart) < 1.5  # one level of 255, for another composition of batches


def test_the_same_seed_gives_the_same_drawing(client: Client, photo: Path) -> None:
    first, second, other = _draw(client, photo), _draw(client, photo), _draw(client, photo, seed=6)
    pixels = [[image.tobytes() for image in images] for images, _ in (first, second, other)]
    assert pixels[0] == pixels[1] and first[1] == second[1]
    assert pixels[0][1] == pixels[2][0] and pixels[0][0] != pixels[2][0]


def test_similarity_is_that_of_the_drawn_images(client: Client, photo: Path, pipe: rcdm.RCDMPipeline) -> None:
    _, numbers = _draw(client, photo)
    for source in BOTH:
        drawn = pipe(Image.open(photo), source=source, seeds=[5, 6, 7], num_inference_steps=2, output_type="pt").images
        a, b = (pipe.unet.standardise(pipe.encode(x, source), source) for x in (drawn, Image.open(photo)))
        expected = torch.nn.functional.cosine_similarity(a, b.expand_as(a)).tolist()
        assert numbers["sources"][source]["similarity"] == pytest.approx(expected, abs=1e-4)


def test_encode_is_the_representation(client: Client, photo: Path, pipe: rcdm.RCDMPipeline) -> None:
    h = client.predict(handle_file(photo), "tiny/projector", api_name="/encode")
    assert h == pytest.approx(pipe.encode(Image.open(photo), "tiny/projector")[0].tolist(), abs=1e-5)


def test_study_interpolates_and_samples(client: Client, photo: Path, tmp_path: Path) -> None:
    other = _saved(_gradient().transpose(Image.Transpose.ROTATE_180), tmp_path / "other.png")
    settings = {"sources": BOTH[:1], "number": 2, "steps": 1, "seed": 0, "api_name": "/study"}
    path, numbers = client.predict("interpolation", handle_file(photo), handle_file(other), **settings)
    assert len(path) == 2 * (1 + 9 + 1) and len(numbers["sources"][BOTH[0]]["jumps"]) == 8
    samples, numbers = client.predict("samples", handle_file(photo), **settings)
    assert len(samples) == 1 + 2 + 2 and 0 <= numbers["sources"][BOTH[0]]["spread"]["value"] <= 1
    path, numbers = client.predict(
        "interpolation", handle_file(photo), handle_file(other), settings={"points": 3, "path": "spherical"}, **settings
    )
    assert len(path) == 2 * (1 + 3 + 1) and numbers["kind"] == "spherical"
    with pytest.raises(AppError, match="no setting 'steps'; choose one of path, points"):
        client.predict("interpolation", handle_file(photo), handle_file(other), settings={"steps": 3}, **settings)
    hostile, numbers = client.predict("adversarial", handle_file(photo), None, settings={"steps": 1}, **settings)
    assert len(hostile) == 4 * 2 * 6 and numbers["images"] == 4  # with the photographs of the page
    with pytest.raises(AppError, match="no study 'astrology'; choose one of samples, retention"):
        client.predict("astrology", handle_file(photo), None, **settings)


def test_another_checkpoint_answers_by_name(client: Client, photo: Path) -> None:
    images, _ = _draw(client, photo, checkpoint="sprites-32", sources=["vicreg/backbone"], number=1)
    assert images[0].size == (32, 32)
    with pytest.raises(AppError, match="no checkpoint"):
        _draw(client, photo, checkpoint="../../etc")


def test_only_the_stable_endpoints_are_public(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    found = {name: [p["parameter_name"] for p in endpoint["parameters"]] for name, endpoint in endpoints.items()}
    settings = ["sources", "number", "steps", "seed", "checkpoint"]
    assert found == {
        "/encode": ["image", "source", "checkpoint"],
        "/draw": ["image", *settings],
        "/study": ["study", "image", "second", *settings, "settings"],
        "/sprite": list(sprites.KINDS),
    }
    types = [p["python_type"]["type"] for p in endpoints["/draw"]["parameters"]]
    assert types == ["filepath", "list[str]", "int", "int", "int", "str"]


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


@pytest.mark.parametrize("endpoint", ["/draw", "/study"])
def test_a_cancelled_call_ends_within_one_step(
    client: Client, photo: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    steps = _slow_down(monkeypatch, 0.3)
    first = ["samples", handle_file(photo), None] if endpoint == "/study" else [handle_file(photo)]
    job = client.submit(*first, BOTH, 2, 50, 0, api_name=endpoint)
    while not steps:
        time.sleep(0.05)
    job.cancel()
    time.sleep(0.7)
    begun = len(steps)
    time.sleep(0.7)
    assert len(steps) <= begun + 1 < 10


def test_a_full_queue_is_said_and_the_cores_are_shared(
    client: Client, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, drawn = [], [0], [0]
    forward = UNet2DModel.forward

    def slow(self: UNet2DModel, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        running.append(1)
        most[0], drawn[0] = max(most[0], len(running)), drawn[0] + len(sample)
        time.sleep(0.5)
        running.pop()
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DModel, "forward", slow)
    jobs = [client.submit(handle_file(photo), BOTH[:1], 1, 8, 100 + i, api_name="/draw") for i in range(12)]
    errors = [error for job in jobs if (error := job.exception()) is not None]
    assert 0 < len(errors) < 12 and all("queue" in str(error).lower() for error in errors)
    assert drawn[0] == 8 * (12 - len(errors))
    assert 1 <= most[0] <= torch.get_num_threads()  # never more calls of the denoiser at once than there are cores
    assert len(_draw(client, photo, seed=300)[0]) == 6  # and then it serves again


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "at least one source"),
        ({"sources": ["no/such"]}, "no/such"),
        ({"sources": "tiny/backbone"}, "at least one source"),
        ({"number": 17}, "from 1 to 16"),
        ({"number": "many"}, "whole number"),
        ({"steps": 0}, "from 1 to 100"),
        ({"seed": -1}, "The seed"),
        ({"seed": 0.5}, "The seed"),
    ],
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


def _text(path: Path) -> Path:
    path = path.with_suffix(".jpg")
    path.write_text("<script>alert(1)</script>")
    return path


@pytest.mark.parametrize("make", [_turned, _text])
def test_the_server_opens_files_by_their_content(
    client: Client, tmp_path: Path, pipe: rcdm.RCDMPipeline, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path / "odd")
    if make is _text:
        with pytest.raises(AppError, match="not a readable image") as error:
            _draw(client, path)
        assert "<" not in str(error.value) and "/" not in str(error.value)
        return
    images, _ = _draw(client, path, number=1, steps=2)
    expected = pipe([im.decode(path)] * 2, source=BOTH, seeds=[5], num_inference_steps=2).images
    assert [image.tobytes() for image in images] == [image.tobytes() for image in expected]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 99,
        b"%PDF-1.7",
        b"\xff\xd8\xff\xe0",
        b"RIFF\x1a\0\0\0WEBPVP8X",
        b"BM",
    ],
)
def test_a_hostile_file_leaves_the_server_serving(client: Client, tmp_path: Path, photo: Path, data: bytes) -> None:
    path = tmp_path / "holiday.png"
    path.write_bytes(data)
    with pytest.raises(AppError, match=r"^The file .*\.$"):
        _draw(client, path)
    assert len(_draw(client, photo, number=1, steps=1)[0]) == 2


def test_files_of_the_server_cannot_be_named(client: Client) -> None:
    payload = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError) as error:
        client.predict(payload, BOTH, 1, 1, 0, api_name="/draw")
    assert "root:" not in str(error.value)


def test_too_large_an_upload_is_refused(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(b"\0" * (im.MAX_BYTES + 1))
    with pytest.raises(Exception, match=r"(?i)larger|too large|maximum|413"):
        _draw(client, path)


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


def test_files_of_a_drawing_can_be_fetched_and_say_how_it_was_made(client: Client, engine: Engine, photo: Path) -> None:
    sent = Path(os.environ["GRADIO_TEMP_DIR"]) / "digest" / photo.name
    sent.parent.mkdir(exist_ok=True)
    sent.write_bytes(photo.read_bytes())
    wanted = asked(engine, str(sent), engine.settings.checkpoint, BOTH, 3, 2, 5)
    *_, last = compare._draw(engine, None, wanted, "chosen", [])
    (key,) = last[3]
    result = engine.store.get(key)
    png, headers = _get(client, f"drawings/{key}.png")
    assert Image.open(io.BytesIO(png)).width > 4 * export.CELL and "attachment" in headers["content-disposition"]
    assert _get(client, f"drawings/{key}.pdf")[0].startswith(b"%PDF")
    record = json.loads(_get(client, f"drawings/{key}.json")[0])
    assert record["seeds"] == [5, 6, 7] and list(record["sources"]) == BOTH and record["steps"] == 2
    assert record["command"] == export.command_of(result) and f"{key}.png" in last[2]
    job = Columns(wanted.picture, wanted.sources, wanted.seeds, wanted.steps)
    for bad in ("0" * 64, key_of(wanted.loaded.name, job)):  # nothing, and something that is no drawing
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _get(client, f"drawings/{bad}.png")


def test_the_server_is_healthy_and_lets_browsers_load_nothing_from_elsewhere(client: Client) -> None:
    body, headers = _get(client, "health")
    assert body == b"ok\n" and headers["content-security-policy"].startswith("default-src 'self'")
    html = _get(client, "")[0].decode()
    assert "fonts.googleapis" not in html and '<script src="http' not in html
