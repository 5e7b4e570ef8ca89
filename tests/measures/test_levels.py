"""Levels of a network: what is measured everywhere, and what only where the checkpoint has a decoder."""

import json
import shutil

import pytest
import torch
from conftest import TINY_SOURCES, make_tiny_sources

import rcdm
from rcdm import cli
from rcdm.data import sprites
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.measures.attributes import Attributes
from rcdm.measures.levels import levels_of, levels_with, transformation_probe
from rcdm.networks.sources import CONTROL, Sources, read_sources, share_networks
from rcdm.studies import STUDIES


def world(n: int, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    factors = sprites.sample_factors(n, seed)
    return sprites.render(factors, 16), factors.shape


def colours(images):
    return {"red": images[:, :1].mean((2, 3)), "colour": images.mean((2, 3))}


@pytest.fixture
def colour_reader(monkeypatch):
    monkeypatch.setattr("rcdm.studies.levels_study.attributes_of", lambda pipe: Attributes(colours, {}))


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
    assert grey["colour"].value > 0.9 and grey["colour"].n == 40 and grey["colour"].null == 0.5
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
        assert ("retention" in found) == (f"tiny/{level}" in sources)
        without = {"no_decoder", "not_asked_for"} & found.keys()
        assert ("retention" in found) == (not without)
        assert ("not_asked_for" in found) == (f"tiny/{level}" in set(TINY_SOURCES) - set(sources))
    drawn = levels["backbone"]
    assert drawn["retention"]["red"]["n"] == drawn["cycle_error"]["n"] == drawn["bits"]["n"] == 3
    assert "null" in drawn["bits"] and "null" in drawn["retention"]["red"]
    best = result.numbers["networks"]["tiny"]["best"]
    assert levels[best["red"]]["ridge"]["red"]["value"] == max(f["ridge"]["red"]["value"] for f in levels.values())
    assert "no decoder for tiny/layer1, tiny/layer3" in result.summary
    assert "nobody asked for them: tiny/projector (--source)" in result.summary and "attributes: red" in result.summary
    json.dumps(result.numbers)


def test_a_level_that_is_not_among_the_usual_ones_is_drawn_too(pipe, colour_reader):
    network, preprocessing = pipe.sources.network("tiny")
    assert levels_with(network, ["layer4@mean", "projector"])[3:6] == ("layer4", "layer4@mean", "backbone")
    config = pipe.sources.config_of("tiny")
    pipe.sources = Sources({"tiny": (network, preprocessing)}, ["tiny/layer2", "tiny/layer2@mean"], {"tiny": config})
    pipe.unet = RepresentationUNet(pipe.sources.widths(), pipe.unet.config.unet_config, pipe.unet.config.space).eval()
    options = {"sources": ["tiny/layer2@mean"], "seeds": [0, 1], "drawn_images": 2, "noise_levels": 2}
    result = STUDIES["levels"](pipe, world(8)[0], reference=world(20)[0], num_inference_steps=1, **options)
    levels = result.numbers["networks"]["tiny"]["levels"]
    assert [level for level in levels if "retention" in levels[level]] == ["layer2@mean"]
    assert levels["layer2@mean"]["ridge"] == levels["layer2"]["ridge"] and "not_asked_for" in levels["layer2"]
    spectrum = STUDIES["spectrum"](pipe, world(8)[0], sources=pipe.sources.names).numbers["sources"]
    assert spectrum["tiny/layer2@mean"] == spectrum["tiny/layer2"]


def test_a_control_beside_the_networks_is_measured_without_draws(pipe, colour_reader, tmp_path):
    pipe.save_pretrained(tmp_path / "mine")
    networks = tmp_path / "mine" / "sources"
    shutil.copytree(networks / "tiny", networks / CONTROL)
    config = json.loads((networks / CONTROL / "config.json").read_text())
    (networks / CONTROL / "config.json").write_text(json.dumps(config | {"training": {"objective": CONTROL}}))
    found = rcdm.load(tmp_path / "mine", device="cpu")
    assert found.sources == pipe.sources.names and found.sources.beside == (CONTROL,) and pipe.sources.beside == ()
    options = {"sources": ["tiny/layer2"], "seeds": [0, 1], "drawn_images": 2, "noise_levels": 2}
    result = STUDIES["levels"](found, world(8)[0], reference=world(20)[0], num_inference_steps=1, **options)
    levels = result.numbers["networks"][CONTROL]["levels"]
    assert all(level["no_decoder"] and "ridge" in level and "retention" not in level for level in levels.values())
    assert "the label-aligned control; the checkpoint has no decoder for it" in result.summary
    assert result.rows == ("tiny/layer2",)
    legend = STUDIES["levels"].figures_of(result, found.sources)[""].legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["tiny", f"{CONTROL} (control: pairs share the label)"]
    assert set(read_sources(networks).names) == {"tiny/backbone", "tiny/projector"}  # nothing is trained on it unasked
    found.save_pretrained(tmp_path / "copy")
    assert rcdm.load(tmp_path / "copy", device="cpu").sources.beside == (CONTROL,)


def test_a_control_beside_shared_networks_comes_along(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "mine")
    pipe.sources.save_pretrained(tmp_path / "backbones" / "sources")
    share_networks(tmp_path / "mine" / "sources", tmp_path / "backbones" / "sources")
    assert rcdm.load(tmp_path / "mine", device="cpu").sources.beside == ()
    networks = tmp_path / "backbones" / "sources"
    shutil.copytree(networks / "tiny", networks / CONTROL)
    assert rcdm.load(tmp_path / "mine", device="cpu").sources.beside == (CONTROL,)


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
