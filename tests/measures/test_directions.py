"""Directions that a checkpoint ships, so that nobody needs its training images to edit with it."""

import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import rcdm
from rcdm import cli
from rcdm.cli.study_data import StudyData
from rcdm.data import sprites
from rcdm.data.sprites import Sprites
from rcdm.measures.directions import FILE, directions_in, find_directions, shipped_directions, write_directions
from rcdm.measures.readers import attributes_of
from rcdm.studies import STUDIES
from rcdm.ui.drawing import Progress
from rcdm.ui.exploring import Study
from rcdm.ui.ladders import Survey
from rcdm.ui.loaded import Loaded

SOURCE = "tiny/projector"
TINY_SOURCES = ("tiny/backbone", "tiny/projector", "tiny/layer2")


@pytest.fixture
def equipped(tiny_checkpoint, tmp_path, monkeypatch):
    """A checkpoint of other data, which are not at hand, with directions found in 60 images."""
    monkeypatch.setattr("rcdm.measures.directions.IMAGES", 60)
    folder = tmp_path / "tiny-16"
    shutil.copytree(tiny_checkpoint, folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"trained_on": ""', '"trained_on": "birds"'))
    pipe = rcdm.load(folder, device="cpu")
    assert pipe.config.trained_on == "birds"
    write_directions(directions_in(pipe, Sprites(16)), folder)
    return folder


@pytest.mark.parametrize("method", ["principal", "attributes"])
def test_shipped_directions_are_those_found_in_the_training_images(equipped, method):
    pipe, images = rcdm.load(equipped, device="cpu"), Sprites(16).batch(1, 60).images
    known = find_directions(method, pipe, images, attributes_of(pipe), SOURCE, components=8)
    shipped = shipped_directions(pipe, SOURCE, method)
    assert set(shipped) == set(known) and len(known) >= 8
    assert all(torch.allclose(shipped[name], known[name], atol=1e-5) for name in known)
    run = {"sources": [SOURCE], "seeds": [2], "method": method, "points": 3}
    two = sprites.render(sprites.sample_factors(2, seed=4), 16)
    alone, given = (STUDIES["manipulation"](pipe, two, **run, **more) for more in ({}, {"reference": images}))
    assert alone.numbers["reference"] == FILE and given.numbers["reference"] == 60
    pictures = {
        name: [r.images[i : i + 4] for i in range(0, len(r.images), 4)] for name, r in (("a", alone), ("g", given))
    }
    rows = {name: dict(zip(r.rows, pictures[name], strict=True)) for name, r in (("a", alone), ("g", given))}
    assert rows["a"].keys() == rows["g"].keys()
    for name, row in rows["a"].items():
        assert [image.tobytes() for image in row] == [image.tobytes() for image in rows["g"][name]]


def test_the_page_and_the_command_line_edit_without_training_images(equipped, tmp_path, capsys):
    loaded, steps = Loaded("tiny", rcdm.load(equipped, device="cpu")), []
    picture = Image.linear_gradient("L").convert("RGB")
    job = Study(
        "manipulation", (picture,), (SOURCE,), (0,), 1, (("method", "attributes"), ("points", 3)), directions=True
    )
    job.run(loaded, steps.append, lambda: None)
    survey = Survey(picture, (SOURCE,), 0, "attributes", 1.0).run(loaded, lambda _: None, lambda: None)
    assert "brightness" in survey[SOURCE]
    shares = [progress.share for progress in steps if isinstance(progress, Progress)]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1
    photo = tmp_path / "photo.png"
    picture.save(photo)
    cli.main(["study", "manipulation", str(photo), "--checkpoint", str(equipped), "--source", SOURCE, "--samples", "1"]
             + ["--device", "cpu", "--out", str(tmp_path / "out")])  # fmt: skip
    assert "component 0" in capsys.readouterr().out
    reference = {"reference": STUDIES["manipulation"].parameters["reference"]}
    assert StudyData(loaded.pipe, photos=[str(photo)]).extras(reference) == {}
    loaded.pipe.register_to_config(trained_on="sprites")  # whose training images are always at hand
    assert len(StudyData(loaded.pipe, photos=[str(photo)], reference=5).extras(reference)["reference"]) == 5
    (equipped / FILE).unlink()
    with pytest.raises(ValueError, match="--data"):
        job.run(loaded, steps.append, lambda: None)


def test_more_main_directions_than_are_shipped_are_refused(equipped):
    pipe, two = rcdm.load(equipped, device="cpu"), sprites.render(sprites.sample_factors(2, seed=4), 16)
    with pytest.raises(ValueError, match="ships 8 main directions"):
        STUDIES["manipulation"](pipe, two, sources=[SOURCE], seeds=[2], directions=9)


def test_an_attack_without_training_images_is_beside_the_photographs_of_the_page(equipped):
    loaded = Loaded("tiny", rcdm.load(equipped, device="cpu"))
    other = Image.linear_gradient("L").convert("RGB")
    companions = loaded.companions(3, [other])
    assert len(companions) == 3 and len(loaded.companions(3, companions[:1])) == 2
    job = Study("adversarial", (other,), (SOURCE,), (0,), 1, (("steps", 2),), companions=3)
    assert job.run(loaded, lambda _: None, lambda: None).numbers["images"] == 4


def test_evaluating_writes_directions(tiny_checkpoint, tmp_path):
    small = ["--gallery", "8", "--retention-images", "8", "--retention-draws", "2", "--probe-images", "40"]
    small += ["--guidance-images", "6", "--guidance-draws", "2"]
    cli.main(["evaluate", str(tiny_checkpoint), *small, "--device", "cpu", "--out", str(tmp_path)])
    found = load_file(tmp_path / FILE)
    for source in TINY_SOURCES:
        assert f"{source}|principal|component 7" in found and f"{source}|attributes|brightness" in found
