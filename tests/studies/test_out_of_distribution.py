"""Images unlike the training set, and the case in which they are alike."""

import json

import pytest
import torch
from PIL import Image

from rcdm import cli
from rcdm.data import images as im
from rcdm.data import sprites
from rcdm.data.transformations import invert, sketch
from rcdm.studies import STUDIES


def world(n: int, seed: int = 2) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed), 16)


def test_a_sketch_has_lines_where_the_edges_are_and_no_colour():
    image = torch.full((1, 3, 16, 16), -0.5)
    image[:, 0, :, 8:] = 0.7
    lines = sketch(image)
    assert lines.shape == image.shape and torch.equal(lines[:, 0], lines[:, 2])
    assert torch.allclose(lines[..., 7:9], torch.tensor(-1.0)) and torch.allclose(lines[..., :6], torch.tensor(1.0))
    assert torch.allclose(sketch(invert(world(2))), sketch(world(2)), atol=1e-4)
    assert torch.equal(sketch(torch.zeros(1, 3, 8, 8)), torch.ones(1, 3, 8, 8))  # nothing to draw: white


def test_the_study_has_the_shape_it_promises(pipe):
    sources = ["tiny/backbone", "tiny/projector"]
    others = im.to_pil(torch.rand(3, 3, 16, 16))
    result = STUDIES["out_of_distribution"](pipe, world(5), sources=sources, seeds=[3, 4], others=others)
    assert len(result.images) == len(result.rows) * len(result.columns) == 4 * 3 * 3
    found = result.numbers["sources"]["tiny/backbone"]
    for measure in ("similarity", "cycle_error", "distance"):
        assert list(found[measure]) == ["as given", "sketch", "inverted", "other data"]
        assert found[measure]["sketch"]["n"] == 5 and "null" in found[measure]["inverted"]
    assert found["similarity"]["other data"]["n"] == 3 and list(found["drop"]) == ["sketch", "inverted"]
    drop = found["similarity"]["as given"]["value"] - found["similarity"]["sketch"]["value"]
    assert found["drop"]["sketch"]["value"] == pytest.approx(drop, abs=1e-5)
    json.dumps(result.numbers)


def test_images_as_they_are_given_are_drawn_plainly_and_lose_nothing(pipe, monkeypatch):
    monkeypatch.setattr("rcdm.studies.out_of_distribution.MADE", {"sketch": lambda images: images})
    result = STUDIES["out_of_distribution"](pipe, world(4), sources=["tiny/layer2"], seeds=[9])
    found = result.numbers["sources"]["tiny/layer2"]
    assert found["drop"]["sketch"]["value"] == 0
    plain = pipe(world(4)[:1], source="tiny/layer2", seeds=[9], output_type="pt").images
    assert (im.to_tensor(result.images[1], 16) - plain).abs().max() <= 2 / 127.5


def test_other_data_come_from_a_folder(tiny_checkpoint, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(4):  # one of them is held out
        Image.new("RGB", (20, 20), (60 * i, 200, 30)).save(tmp_path / "photos" / f"{i}.png")
    cli.main(["study", "out_of_distribution", "--checkpoint", str(tiny_checkpoint), "--samples", "1", "--images", "3"]
             + ["--source", "tiny/layer2", "--steps", "1", "--device", "cpu", "--out", str(tmp_path)]
             + ["--option", f"others={tmp_path / 'photos'}"])  # fmt: skip
    found = json.loads((tmp_path / "out_of_distribution.json").read_text())
    assert found["images"] == {"as given": 3, "sketch": 3, "inverted": 3, "other data": 3}


@pytest.mark.parametrize(("n", "others"), [(1, None), (3, 1)])
def test_one_image_of_a_kind_is_too_few(pipe, n, others):
    with pytest.raises(ValueError, match="At least 2 images"):
        more = None if others is None else world(others)
        STUDIES["out_of_distribution"](pipe, world(n), sources=["tiny/layer2"], seeds=[0], others=more)
