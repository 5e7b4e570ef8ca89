"""The held-out error, and timesteps that are spread evenly."""

import pytest
import torch

from rcdm.data import sprites
from rcdm.diffusion.process import VelocityError, random_numbers, spread_evenly, velocity_scheduler
from rcdm.diffusion.unet import RepresentationUNetOutput
from rcdm.training.held_out_error import held_out_error


@pytest.fixture
def images() -> torch.Tensor:
    return sprites.render(sprites.sample_factors(6, seed=1), 16)


def test_a_denoiser_that_says_nothing_has_the_mean_square_of_v(pipe, images, monkeypatch) -> None:
    """v = a ε − s x, at the middle of each of six equal parts of the timesteps."""
    scheduler = velocity_scheduler()
    objective = VelocityError(scheduler, images.device)
    monkeypatch.setattr(pipe.unet, "forward", lambda x, *_: RepresentationUNetOutput(sample=torch.zeros_like(x)))
    noise, _ = random_numbers(2**20, range(6), (3, 16, 16), images.device)
    t = objective.timesteps((torch.arange(6) + 0.5) / 6)
    a = scheduler.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    expected = (a * noise - (1 - a**2).sqrt() * images).square().mean()
    assert held_out_error(pipe, objective, images) == pytest.approx(float(expected), rel=1e-4)


def test_it_does_not_depend_on_the_batch(pipe, images) -> None:
    objective = VelocityError(velocity_scheduler(), images.device)
    whole, parts = (held_out_error(pipe, objective, images, batch_size=size) for size in (6, 4))
    assert whole == pytest.approx(parts, rel=1e-5) and whole > 0


def test_of_any_consecutive_images_the_timesteps_fill_the_range() -> None:
    """Of n in a row the largest gap is below 2.62/n (three gaps theorem); of random ones it is about ln n / n."""
    for seed, first, n in ((0, 0, 8), (3, 1000, 64), (7, 123_456, 128)):
        u = spread_evenly(seed, range(first, first + n)).double().sort().values
        gaps = torch.diff(torch.cat([u, u[:1] + 1]))
        assert float(gaps.max()) < 2.62 / n and float(gaps.min()) > 0.3 / n
    assert torch.equal(spread_evenly(3, range(50), places=1), spread_evenly(3, range(50)))
    assert not torch.equal(spread_evenly(0, range(9)), spread_evenly(1, range(9)))
    assert spread_evenly(0, [2, 1]).tolist() == spread_evenly(0, [1, 2]).flip(0).tolist()
    assert float(spread_evenly(5, range(100_000)).max()) < 1


@pytest.mark.parametrize("places", [1, 2, 3, 4, 5, 8, 13, 21])
def test_timesteps_of_a_source_are_spread_as_those_of_a_batch_are(places):
    """The mean of those that a source, or all, get of a batch of 64 varies less than that of random numbers."""
    batches = [range(64 * k, 64 * k + 64) for k in range(300)]
    numbers = [spread_evenly(1, batch, places) for batch in batches]
    whole = torch.stack([u.mean() for u in numbers])
    assert whole.var() < 0.5 / (12 * 64)
    for place in {0, places // 2, places - 1}:
        means = [u[[k % places == place for k in batch]].mean() for u, batch in zip(numbers, batches, strict=True)]
        assert torch.stack(means).var() < 0.5 / (12 * 64 / places)
