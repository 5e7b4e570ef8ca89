"""Levels of a network: what is measured everywhere, and what only where the checkpoint has a decoder."""

import json

import pytest
import torch
from conftest import make_tiny_sources

from rcdm import cli, sprites
from rcdm.attributes import Attributes
from rcdm.levels import levels_of, transformation_probe
from rcdm.studies import STUDIES


def world(n: int, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    factors = sprites.sample_factors(n, seed)
    return sprites.render(factors, 16), factors.shape


def colours(images):
    return {"red": images[:, :1].mean((2, 3)), "colour": images.mean((2, 3))}


@pytest.fixture
def colour_reader(monkeypatch):
    monkeypatch.setattr("rcdm.studies.levels.attributes_of", lambda pipe: Attributes(colours, {}))


def test_levels_of_are_those_of_the_sources():
    sources, (images, _) = make_tiny_sources(), world(7)
    network, preprocessing = sources.network("tiny")
    found = levels_of(network, preprocessing, images)
    assert tuple(found) == network.levels()
    for name, h in sources.encode_all(images).items():
        assert torch.allclose(found[name.removeprefix("tiny/")], h, atol=1e-6)


def test_a_transformation_that_shows_is_told_and_one_that_does_not_is_not():
    images, _ = world(120)

    def encode(pictures):
        mean = pictures.mean((2, 3))
        return {"colour": (mean - mean.mean(1, keepdim=True)).abs()}

    grey, flip = (transformation_probe(encode, images[:80], images[80:], name) for name in ("grey", "flip"))
    assert grey["colour"].value > 0.9 and grey["colour"].n == 80 and grey["colour"].null == 0.5
    assert flip["colour"].low <= 0.5 <= flip["colour"].high


def test_every_level_is_probed_and_those_with_a_decoder_are_drawn(pipe, colour_reader):
    (images, labels), (reference, known) = world(12), world(60, seed=3)
    more = {"reference": reference, "labels": labels, "reference_labels": known, "drawn_images": 3}
    sources = ["tiny/backbone", "tiny/layer2"]
    result = STUDIES["levels"](pipe, images, sources=sources, seeds=[0, 1], num_inference_steps=2, **more)
    assert len(result.images) == len(result.rows) * len(result.columns) == 2 * 3
    levels = result.numbers["networks"]["tiny"]["levels"]
    assert list(levels) == ["layer1", "layer2", "layer3", "layer4", "backbone", "projector.0", "projector"]
    for level, found in levels.items():
        assert found["ridge"]["red"]["n"] == found["linear_top1"]["n"] == 12 and found["effective_rank"]["n"] == 60
        assert 1 <= found["effective_rank"]["value"] <= found["width"]
        assert set(found["transformation_probe"]) == {"rotation", "flip", "hue", "grey"}
        assert ("no_decoder" in found) != ("retention" in found) == (f"tiny/{level}" in sources)
    drawn = levels["backbone"]
    assert drawn["retention"]["red"]["n"] == drawn["cycle_error"]["n"] == drawn["bits"]["n"] == 3
    assert "null" in drawn["bits"] and "null" in drawn["retention"]["red"]
    best = result.numbers["networks"]["tiny"]["best"]
    assert levels[best["red"]]["ridge"]["red"]["value"] == max(f["ridge"]["red"]["value"] for f in levels.values())
    assert "no decoder for tiny/layer1" in result.summary and "tiny/projector" in result.summary
    json.dumps(result.numbers)


def test_the_label_aligned_control_is_named(pipe, colour_reader, monkeypatch):
    monkeypatch.setattr(type(pipe.sources), "config_of", lambda *_: {"training": {"objective": "simclr-supervised"}})
    options = {"sources": ["tiny/layer2"], "seeds": [0, 1], "drawn_images": 2, "num_inference_steps": 1}
    result = STUDIES["levels"](pipe, world(8)[0], reference=world(20)[0], **options)
    assert "label-aligned control" in result.summary
    assert "linear_top1" not in result.numbers["networks"]["tiny"]["levels"]["layer1"]  # no labels, no classes


@pytest.mark.parametrize(("n", "m", "seeds", "words"), [(7, 40, 2, "8 images"), (8, 9, 2, "20 ref"), (8, 20, 1, "two")])
def test_levels_refuse_too_few_images(pipe, n, m, seeds, words):
    with pytest.raises(ValueError, match=words):
        STUDIES["levels"](pipe, world(n)[0], sources=["tiny/layer2"], seeds=range(seeds), reference=world(m)[0])


def test_the_command_gives_the_study_its_labels(tiny_checkpoint, tmp_path):
    cli.main(["study", "levels", "--checkpoint", str(tiny_checkpoint), "--samples", "2", "--images", "9"]
             + ["--source", "tiny/layer2", "--steps", "1", "--device", "cpu", "--out", str(tmp_path)]
             + ["--reference", "40", "--option", "drawn_images=2"])  # fmt: skip
    found = json.loads((tmp_path / "levels.json").read_text())
    assert found["reference"] == 40 and found["drawn_images"] == 2
    assert found["networks"]["tiny"]["levels"]["layer1"]["linear_top1"]["n"] == 9
