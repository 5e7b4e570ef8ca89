"""A visitor's own network: taken as a file, checked, and drawn with, by its own visitor alone."""

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from rcdm import cli
from rcdm.cli import sample
from rcdm.ui.drawing import Columns
from rcdm.ui.engine import Engine
from rcdm.ui.guard import received_file
from rcdm.ui.own_network import Brought, _kind
from rcdm.ui.settings import Settings

PICTURE = Image.linear_gradient("L").convert("RGB")


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Engine:
    return Engine(Settings(checkpoint=str(tiny_checkpoint)), device="cpu")


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "digest").mkdir()
    return tmp_path / "digest"


def test_a_file_is_drawn_with_as_any_checkpoint_is(
    engine: Engine, uploads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    file = uploads / "mine.pth"
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), file)
    prior = engine.settings.checkpoint
    items: list[Any] = list(engine.work(prior, Brought(received_file(str(file), 2**27), "resnet18", 32)))
    pipe = items[-1][0]
    name = engine.shelf.bring("mine.pth, guiding tiny", pipe)
    assert name not in engine.shelf.names and engine[name].pipe is pipe  # on no list, and there for who knows its name
    assert len(name.rpartition("#")[2]) == 8 and engine.shelf.bring("mine.pth, guiding tiny", pipe) != name
    words = Brought(file, "resnet18", 32).words("sprites-32", 48)
    asked = ("--prior", "sprites-32", "--backbone", "resnet18=mine.pth", "--image-size", "32", "--prior-images", "48")
    assert words == asked
    found: list[Any] = []
    monkeypatch.setattr(sample, "_sample", found.append)
    cli.main(["sample", "photo.png", *words])
    (options,) = found
    assert (options.prior, options.backbone, options.image_size) == ("sprites-32", "resnet18=mine.pth", 32)
    (source,) = pipe.sources.names
    *_, last = engine.run(name, Columns(PICTURE, (source,), (0, 1), 3))
    assert [len(column.images) for column in last[0]] == [2]  # type: ignore[index]
    with pytest.raises(ValueError, match="There is no checkpoint"):
        engine[f"{name}0"]


def test_what_is_done_is_said_and_can_be_stopped(engine: Engine, uploads: Path) -> None:
    file = uploads / "mine.pth"
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), file)
    said: list[str] = []

    def check() -> None:
        if len(said) == 2:
            raise InterruptedError

    job = Brought(file, "resnet18", 32)
    with pytest.raises(InterruptedError):
        job.run(engine[engine.settings.checkpoint], lambda progress: said.append(progress.words), check)
    assert said[0] == "reading the file" and len(said) == 2


def test_a_file_that_is_none_is_refused_without_its_place(engine: Engine, uploads: Path) -> None:
    file = uploads / "mine.pth"
    file.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"mine\.pth") as error:
        list(engine.work(engine.settings.checkpoint, Brought(file, "", 0)))
    assert str(uploads) not in str(error.value)


def test_nothing_but_an_upload_is_opened(uploads: Path, tmp_path: Path) -> None:
    file = uploads / "mine.pth"
    file.write_bytes(b"x" * 2000)
    assert received_file(str(file), 2000) == file
    with pytest.raises(ValueError, match="at most"):
        received_file(str(file), 1999)
    elsewhere = tmp_path / "secret.pth"
    elsewhere.write_bytes(b"x")
    (uploads / "link.pth").symlink_to(elsewhere)
    os.mkfifo(uploads / "pipe.pth")
    for path in (elsewhere, uploads / "link.pth", uploads / "pipe.pth", uploads, "/dev/zero", uploads / "none.pth",
                 uploads / ".." / "secret.pth", None, 7):  # fmt: skip
        with pytest.raises(ValueError, match="no longer on the server"):
            received_file(path if path is None or isinstance(path, int) else str(path), 2**20)  # type: ignore[arg-type]


@pytest.mark.parametrize(("settings", "mib"), [
    ({}, 1024), ({"host": "0.0.0.0"}, 0), ({"share": True}, 0), ({"host": "0.0.0.0", "network_mib": 5}, 5),
    ({"network_mib": 0}, 0),
])  # fmt: skip
def test_strangers_bring_no_files_unless_that_is_wanted(
    settings: dict[str, Any], mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert Settings(**settings).network_bytes == mib << 20
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert Settings(**settings).network_bytes == (mib << 20 if "network_mib" in settings else 0)


def test_a_kind_is_a_name() -> None:
    assert _kind(" resnet50.a1_in1k ") == "resnet50.a1_in1k" and _kind("") == ""
    for text in ("../x", "a=b", "hf://x", "os:system"):
        with pytest.raises(ValueError, match="letters, digits"):
            _kind(text)
