"""Presets: the released architecture to the parameter, options beside them, and a denoiser that learns its variance."""

import argparse
import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_sources
from test_training import tiny

import rcdm
from rcdm.cli.options import given
from rcdm.cli.train import add
from rcdm.diffusion.official.convert import RELEASED_FLAGS, _empty, official_scheduler
from rcdm.diffusion.official.loss import VariationalLoss
from rcdm.diffusion.process import random_numbers
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.training.config import PRESETS, TrainingConfig
from rcdm.training.denoiser import train
from rcdm.training.setup import by_place, network_arguments, rotation_of, start_from


def built(preset: str, width: int = 2048) -> RepresentationUNet:
    config = TrainingConfig(sources_dir="s", output_dir="o", max_train_steps=1, **PRESETS[preset])
    with torch.device("meta"):
        return RepresentationUNet({"x/backbone": width}, **network_arguments(config))


ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "checkpoints").glob("*/README.md")))


def test_commands_of_the_documents_that_begin_from_a_shipped_checkpoint_fit_its_denoiser():
    """`start_from` raises for another shape."""
    lines = [line for page in PAGES for line in page.read_text().replace("\\\n", " ").splitlines()]
    begins = r"(?:\w+=\w+ )*(?:rcdm train|python train_rcdm\.py) (.*--pretrained_model_name_or_path [a-z].*)"
    commands = [found[1] for line in lines if (found := re.match(begins, line))]
    parser = argparse.ArgumentParser()
    add(parser)
    for command in commands:
        words = shlex.split(command, comments=True)
        config = TrainingConfig(**given(parser.parse_args(words), TrainingConfig))
        start_from(
            RepresentationUNet({"x/backbone": 8}, **network_arguments(config)), config.pretrained_model_name_or_path
        )
    assert len(commands) >= 3


def shapes(unet: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in unet.state_dict().items()}


def heads(unet: torch.nn.Module) -> dict[str, tuple]:
    return {name: (part.heads, part.scale) for name, part in unet.named_modules() if hasattr(part, "to_q")}


@pytest.mark.parametrize("size", [64, 128, 256])
def test_adm_is_the_architecture_of_the_released_networks(size):
    unet = built(f"adm-{size}")
    with torch.device("meta"):
        released = _empty(
            RELEASED_FLAGS | {"image_size": size}, "x/backbone", {"ssl_emb.weight": torch.empty(1024, 2048)}
        )
    assert shapes(unet) == shapes(released) and heads(unet) == heads(released) and unet.image_size == size
    assert not unet.config.has_unconditional
    if size == 128:
        assert sum(parameter.numel() for parameter in unet.parameters()) == 422_603_782


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_at_its_size(preset):
    assert built(preset, 128).image_size == int(preset.partition("-")[2])


def parsed(*arguments: str) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    add(parser)
    options = parser.parse_args(["--sources_dir", "s", "--output_dir", "o", "--max_train_steps", "1", *arguments])
    return TrainingConfig(**PRESETS.get(options.preset, {}) | given(options, TrainingConfig))


def test_what_the_user_says_comes_before_the_preset():
    assert parsed() == TrainingConfig(sources_dir="s", output_dir="o", max_train_steps=1)
    assert parsed("--preset", "adm-128").train_batch_size == TrainingConfig.train_batch_size
    default = ["--learning_rate", str(TrainingConfig.learning_rate), "--representation_dropout", "0.1"]
    for arguments in (["--preset", "adm-128", *default], [*default, "--preset", "adm-128"]):
        config = parsed(*arguments, "--no-learn_sigma")
        assert config.channels == (256, 256, 512, 768, 1024) and not config.learn_sigma
        assert config.learning_rate == TrainingConfig.learning_rate and config.representation_dropout == 0.1
    with pytest.raises(SystemExit):
        parsed("--preset", "adm-99")


def test_a_denoiser_that_learns_its_variance_trains_and_draws(tmp_path):
    make_tiny_sources().save_pretrained(tmp_path / "sources")
    options = {"learn_sigma": True, "representation_dropout": 0.0, "attention_heads": 2, "max_train_steps": 3}
    pipe = rcdm.load(train(tiny(tmp_path / "sources", tmp_path / "run", **options)), device="cpu")
    x = torch.zeros(1, 3, 16, 16)
    drawn = pipe(x, source="tiny/projector", num_inference_steps=4, output_type="pt").images
    assert drawn.shape == (1, 3, 16, 16) and torch.isfinite(drawn).all()
    assert pipe.scheduler.config.variance_type == "learned_range"
    with pytest.raises(ValueError, match="never learned to draw without"):
        pipe(seeds=[0])
    with pytest.raises(ValueError, match="leave it out with learn_sigma"):
        tiny(tmp_path, tmp_path, learn_sigma=True, snr_gamma=5.0)


def test_the_released_loss_teaches_noise_and_variance():
    loss = VariationalLoss(official_scheduler())
    x0, noise = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 3, 8, 8)
    t = torch.tensor([1, 10, 500, 999])
    exact = torch.cat([noise, -torch.ones_like(noise)], 1)  # the posterior's own variance
    assert loss.error(exact, x0, t, noise).abs().max() < 1e-3
    assert (loss.error(torch.cat([noise, torch.ones_like(noise)], 1), x0, t, noise) > 0)[:2].all()
    assert loss.timesteps(torch.tensor([0.0, 0.9999])).tolist() == [0, 999]


def test_random_numbers_belong_to_an_image():
    device = torch.device("cpu")
    noise, uniform = random_numbers(0, range(10, 18), (3, 8, 8), device)
    parts = [random_numbers(0, part, (3, 8, 8), device) for part in (range(10, 13), range(13, 18))]
    assert torch.equal(noise, torch.cat([part[0] for part in parts]))
    assert torch.equal(uniform, torch.cat([part[1] for part in parts]))
    assert len(noise.flatten(1).unique(dim=0)) == 8 and not torch.equal(
        noise, random_numbers(1, range(10, 18), (3, 8, 8), device)[0]
    )
    assert noise.mean().abs() < 0.1 and (noise.std() - 1).abs() < 0.1


def test_more_of_a_source_is_more_turns():
    assert rotation_of(["a/backbone", "b/backbone"], []) == ["a/backbone", "b/backbone"]
    turns = rotation_of(["a/backbone", "b/backbone"], ["b/backbone", "b/backbone"])
    assert turns == ["a/backbone", "b/backbone", "b/backbone", "b/backbone"]
    with pytest.raises(ValueError, match="no source 'c/backbone'; choose of a/backbone, b/backbone"):
        rotation_of(["a/backbone", "b/backbone"], ["c/backbone"])


def test_a_resolution_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(ValueError, match=r"resolution must be a multiple of 8 .* and is 30"):
        TrainingConfig(sources_dir="s", output_dir="o", max_train_steps=1, resolution=30)


def test_every_batch_covers_all_sources_in_runs():
    for first in (0, 5, 7):
        numbers = by_place(first, 7, 3)
        assert sorted(numbers) == list(range(first, first + 7))
        of = [number % 3 for number in numbers]
        assert of == sorted(of) and set(of) == {0, 1, 2}
