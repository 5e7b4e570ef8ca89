"""What a training step must do, whatever the network: average, drop, clip, hold out."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_sources
from safetensors.torch import load_file
from test_training import tiny

from rcdm.data import sprites
from rcdm.data.datasets import load_dataset
from rcdm.data.sprites import HELD_OUT_SEED, Sprites
from rcdm.diffusion.process import random_numbers
from rcdm.diffusion.unet import RepresentationUNet
from rcdm.diffusion.whitening import shrunk_covariance
from rcdm.training import denoiser
from rcdm.training.denoiser import _Run, train


@pytest.fixture(scope="module")
def sources_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    make_tiny_sources().save_pretrained(folder)
    return folder


def short(sources_dir: Path, out: Path, **changes):
    return tiny(sources_dir, out, **({"max_train_steps": 3, "lr_warmup_steps": 1, "validation_steps": 99} | changes))


def plain(unet: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in unet.state_dict().items()}


def test_what_is_exported_are_the_averaged_weights(sources_dir, tmp_path, monkeypatch):
    weights, step = [], _Run.step
    begun = {}

    def watched(self):
        if not begun:
            begun.update(plain(self.unet))
        loss = step(self)
        weights.append(plain(self.unet))
        return loss

    monkeypatch.setattr(_Run, "step", watched)
    folder = train(short(sources_dir, tmp_path, max_train_steps=5, ema_decay=0.6, learning_rate=0.05))
    saved = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    name = "unet.conv_in.weight"
    average = begun[name]
    for i, now in enumerate(weights):
        decay = min(0.6, (1 + i) / (10 + i)) if i else 0.0  # diffusers' warm-up of the decay
        average = decay * average + (1 - decay) * now[name]
    last = weights[-1][name]
    assert (saved[name].float() - average).abs().max() < 1e-3 * average.abs().max()
    assert (average - last).abs().max() > 10 * (saved[name].float() - average).abs().max()


def watch_drops(monkeypatch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(timesteps, drop) of every training batch from now on."""
    batches, forward = [], RepresentationUNet.forward

    def watched(self, sample, timestep, representation=None, source=None, drop=None, **options):
        if drop is not None:
            batches.append((timestep.clone(), drop.clone()))
        return forward(self, sample, timestep, representation, source, drop=drop, **options)

    monkeypatch.setattr(RepresentationUNet, "forward", watched)
    return batches


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_representations_is_dropped_whatever_the_timestep(sources_dir, tmp_path, monkeypatch, share):
    batches = watch_drops(monkeypatch)
    config = short(sources_dir, tmp_path, train_batch_size=64, max_train_steps=6, representation_dropout=share)
    train(config)
    t, drop = (torch.cat(parts).float() for parts in zip(*batches, strict=True))
    assert abs(float(drop.mean()) - share) < (0.08 if 0 < share < 1 else 1e-9)
    if 0 < share < 1:
        assert abs(float(torch.corrcoef(torch.stack([t, drop]))[0, 1])) < 0.15


def test_a_dropped_representation_is_not_seen(pipe):
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([10, 500, 900])
    h = pipe.encode(torch.rand(3, 3, 16, 16) * 2 - 1, "tiny/backbone")
    drop = torch.tensor([True, False, True])
    mixed = pipe.unet(x, t, h, "tiny/backbone", drop=drop).sample
    free, given = pipe.unet(x, t).sample, pipe.unet(x, t, h, "tiny/backbone").sample
    assert torch.allclose(mixed[drop], free[drop], atol=1e-5) and torch.allclose(mixed[~drop], given[~drop], atol=1e-5)
    assert (free - given).abs().max() > 1e-3


def test_gradients_are_clipped_to_their_norm(sources_dir, tmp_path, monkeypatch):
    norms, made = [], denoiser.optimizer_of

    def watched(config, parameters, kind):
        parameters = list(parameters)
        optimizer = made(config, parameters, kind)
        step = optimizer.step

        def counted(*arguments, **options):
            gradients = [p.grad for p in parameters if p.grad is not None]
            norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
            return step(*arguments, **options)

        optimizer.step = counted
        return optimizer

    monkeypatch.setattr(denoiser, "optimizer_of", watched)
    train(short(sources_dir, tmp_path / "clipped", max_grad_norm=0.01))
    assert len(norms) == 3 and max(norms) < 0.0101
    norms.clear()
    train(short(sources_dir, tmp_path / "free", max_grad_norm=1e6))
    assert min(norms) > 0.02


def test_validation_looks_at_images_that_are_held_out(sources_dir, tmp_path, monkeypatch):
    looked, trained = [], []
    monkeypatch.setattr(denoiser, "faithfulness", lambda pipe, images, name: looked.append(images) or {})
    loss = _Run._loss

    def watched(self, place):
        trained.append(self.dataset.batch(place, self.config.train_batch_size).images)
        return loss(self, place)

    monkeypatch.setattr(_Run, "_loss", watched)
    train(short(sources_dir, tmp_path, validation_steps=2, num_validation_images=4))
    held_out = load_dataset("sprites", 16).held_out(4).images
    assert looked and all(torch.equal(images, held_out) for images in looked)
    seen = {image.numpy().tobytes() for batch in trained for image in batch}
    assert not seen & {image.numpy().tobytes() for image in held_out}


@pytest.mark.parametrize("seed", [0, 1, 2**20, HELD_OUT_SEED - 1])
def test_sprites_that_are_held_out_are_those_of_no_training_seed(seed, monkeypatch):
    asked, sample = [], sprites.sample_factors
    monkeypatch.setattr(sprites, "sample_factors", lambda n, s: asked.append(s) or sample(n, s))
    world = Sprites(8, seed=seed)
    world.held_out(2)
    held_out = asked.pop()
    for step in (0, 3, 10**6, 10**9):
        world.batch(step, 300)
    assert held_out >= HELD_OUT_SEED and all(0 <= s < HELD_OUT_SEED for s in asked)
    assert len(set(asked)) == len(asked) >= 8


def test_a_constant_dimension_is_standardised_to_a_finite_number(pipe):
    unet = copy.deepcopy(pipe.unet)
    dim = unet.config.sources["tiny/projector"]
    unet.set_statistics("tiny/projector", torch.ones(dim), torch.zeros(dim))
    h = unet.standardise(torch.ones(2, dim), "tiny/projector")
    assert torch.equal(h, torch.zeros(2, dim))
    assert torch.isfinite(unet.standardise(torch.ones(2, dim) + 1e-4, "tiny/projector")).all()
    assert float(unet.standardise(torch.ones(1, dim) + 1e-4, "tiny/projector").max()) <= 101


def test_a_number_that_hardly_varied_in_training_does_not_drown_the_others(pipe):
    unet, name = copy.deepcopy(pipe.unet), "tiny/projector"
    mean, std = torch.zeros(8), torch.linspace(1, 2, 8)
    std[3] = 1e-5
    unet.set_statistics(name, mean, std)
    z = unet.standardise(torch.ones(1, 8), name)[0]
    assert 0.5 < float(z[3]) < 1 and torch.allclose(z[std > 1e-3], 1 / std[std > 1e-3])
    std[2:7] = 0  # most say nothing
    unet.set_statistics(name, mean, std)
    assert unet.standardise(torch.ones(1, 8), name).max() <= 1
    covariance = shrunk_covariance(unet.standardise(torch.randn(500, 8) * std, name))
    assert torch.equal(covariance[2:7], torch.eye(8)[2:7]) and (covariance - torch.eye(8)).abs().max() < 0.3


def test_flipped_images_are_flipped_for_source_and_denoiser_alike(sources_dir, tmp_path, monkeypatch):
    """Where every image is flipped, the loss is that of a data set of mirrored images."""
    monkeypatch.setattr(denoiser, "set_statistics", lambda *arguments: None)
    losses, loss, batch = [], _Run._loss, Sprites.batch
    monkeypatch.setattr(_Run, "_loss", lambda self, place: losses.append(loss(self, place)) or losses[-1])
    once = {"max_train_steps": 1, "random_flip": True}
    for name, share in (("flipped", 0.0), ("not", 1.0)):
        monkeypatch.setattr(denoiser, "random_numbers", _with_flips(share))
        train(short(sources_dir, tmp_path / name, **once))

    def mirrored(self, *where):
        found = batch(self, *where)
        return found._replace(images=found.images.flip(3))

    monkeypatch.setattr(Sprites, "batch", mirrored)
    train(short(sources_dir, tmp_path / "mirrored", **once))
    flipped, _, left_alone, _, other, _ = (float(value) for value in losses)  # each run counts its operations once more
    assert flipped == pytest.approx(other, rel=1e-4) and left_alone != pytest.approx(other, rel=1e-3)


def _with_flips(value: float):
    """Random numbers of which the second, which flips below one half, has this value."""

    def numbers(*arguments):
        noise, uniform = random_numbers(*arguments)
        uniform[:, 1] = value
        return noise, uniform

    return numbers
