"""Views, objectives and the pretraining loop."""

import json
from pathlib import Path

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from rcdm import cli, sprites
from rcdm.datasets import load_dataset
from rcdm.representation import load_network, read_sources
from rcdm.ssl import views
from rcdm.ssl.objectives import OBJECTIVES
from rcdm.ssl.pretraining import PretrainConfig, pretrain, save_source
from rcdm.ssl.views import ViewStrengths, random_view

OFF = {"crop": 0.0, "flip": 0.0, "jitter": 0.0, "hue": 0.0, "grey": 0.0}


def world(n: int = 16) -> torch.Tensor:
    return sprites.render(sprites.sample_factors(n, seed=0))


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_views_of_strength_zero_are_the_images():
    assert torch.equal(random_view(world(), ViewStrengths(**OFF), stream()), world())


def test_a_certain_flip_is_a_mirror_image():
    view = random_view(world(), ViewStrengths(**OFF | {"flip": 1.0}), stream())
    assert torch.allclose(view, world().flip(3), atol=1e-5)


def test_a_certain_greyscale_is_torchvisions():
    view = random_view(world(), ViewStrengths(**OFF | {"grey": 1.0}), stream())
    grey = tv.rgb_to_grayscale((world() + 1) / 2, num_output_channels=3) * 2 - 1
    assert torch.allclose(view, grey, atol=1e-3)


def test_jitter_is_torchvisions_with_the_parameters_of_each_image(monkeypatch):
    drawn = []

    def recorded(like, low, high, generator):
        values = torch.empty(len(like), 1, 1, 1).uniform_(low, high, generator=generator)
        drawn.append(values.flatten())
        return values

    monkeypatch.setattr(views, "_uniform", recorded)
    rgb = (world() + 1) / 2
    jittered = views._jitter(rgb, ViewStrengths(**OFF | {"jitter": 0.5, "hue": 0.2}), stream(1))
    brightness, contrast, saturation, hue = drawn
    for i, image in enumerate(rgb):
        image = tv.adjust_brightness(image, float(brightness[i]))
        image = tv.adjust_contrast(image, float(contrast[i]))
        image = tv.adjust_saturation(image, float(saturation[i]))
        image = tv.adjust_hue(image, float(hue[i]))
        assert torch.allclose(jittered[i], image, atol=2e-3)


def test_crops_keep_the_colours_and_move_the_shape():
    images = torch.cat([world(1)] * 64)
    crops = random_view(images, ViewStrengths(**OFF | {"crop": 0.5}), stream())
    assert crops.shape == images.shape and crops.min() >= -1 and crops.max() <= 1
    assert (crops - images).abs().mean((1, 2, 3)).min() > 0.001
    assert len({round(float(crop.mean()), 4) for crop in crops}) > 50


def test_every_image_gets_its_own_view_and_the_stream_repeats_it():
    images = torch.cat([world(1)] * 8)
    first, again = (random_view(images, ViewStrengths(), stream(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert len(first.flatten(1).unique(dim=0)) == 8


@pytest.mark.parametrize("name", ["crop", "flip", "jitter", "hue", "grey"])
def test_a_strength_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=name):
        ViewStrengths(**{name: 1.5})


@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_agreeing_views_cost_less_than_shuffled_ones(name):
    torch.manual_seed(0)
    objective, z = OBJECTIVES[name](16, 8, 6), torch.randn(64, 8)
    labels = torch.zeros(64, dtype=torch.long)
    near = z + 0.05 * torch.randn(64, 8)
    assert objective(z, near, labels) < objective(z, near.roll(1, 0), labels)


def test_pretraining_learns_and_depends_on_its_seed_alone():
    data = load_dataset("sprites", 16)
    config = PretrainConfig(objective="supervised", width=4, projector_dim=8, batch_size=32, steps=3, warmup_steps=1)
    first, again = (pretrain(data, config).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = pretrain(load_dataset("sprites", 16), PretrainConfig(**vars(config) | {"seed": 1})).state_dict()
    assert not torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_a_saved_source_is_the_network_that_was_trained(tmp_path):
    data = load_dataset("sprites", 16)
    config = PretrainConfig(width=4, projector_dim=8, batch_size=16, steps=2)
    network = pretrain(data, config)
    save_source(tmp_path / "simclr", network, data, config, 1.0)
    loaded, preprocessing = load_network(tmp_path / "simclr")
    x = preprocessing(data.held_out(3).images)
    assert torch.allclose(loaded(x), network(x), atol=1e-6)
    assert read_sources(tmp_path).names == ("simclr/backbone", "simclr/projector")


def test_pretrain_command_prints_and_saves_the_probe_table(tmp_path: Path, capsys):
    out = tmp_path / "sources" / "vicreg"
    cli.main(
        ["pretrain", "--objective", "vicreg", "--resolution", "16", "--width", "4", "--projector-dim", "8"]
        + ["--steps", "2", "--batch-size", "16", "--out", str(out), "--jitter", "0", "--device", "cpu"]
    )
    table = json.loads((out / "metrics.json").read_text())["ridge_r2"]
    assert set(table) == {"backbone", "projector"} and set(table["backbone"]) == set(sprites.KINDS)
    assert all(set(number) == {"value", "low", "high", "n", "null"} for number in table["projector"].values())
    assert f"{table['backbone']['hue']['value']:.3f}" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["training"]["views"]["jitter"] == 0


def test_an_unknown_objective_names_what_there_is(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", "--objective", "magic", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "simclr" in capsys.readouterr().err
