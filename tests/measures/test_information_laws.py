"""Laws of the ladder of noise and of bits, on a pipeline of random weights."""

import math

import pytest
import torch

from rcdm.diffusion.process import Process
from rcdm.measures.information import information, measure_bits, noise_ladder, trapezoid


def world(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8


def test_rungs_are_evenly_spaced_as_far_as_the_schedule_reaches(pipe):
    logsnr = Process(pipe.scheduler).logsnr()
    for levels in (2, 5, 9):
        steps = noise_ladder(pipe, levels, -6.0, 5.0)
        assert len(steps) == levels and steps == sorted(steps)
        assert torch.allclose(logsnr[steps], torch.linspace(5, -6, levels), atol=0.05)
    with pytest.raises(ValueError, match="a single level; it reaches from"):
        noise_ladder(pipe, 9, 50.0, 60.0)
    far = noise_ladder(pipe, 40, -100.0, 100.0)
    assert far[0] == 0 and len(far) < 40 and len(set(far)) == len(far)  # levels beyond its ends are one


@pytest.mark.parametrize("points", [torch.tensor([2.0, 1.0]), torch.tensor([-1.0, 0.0, 3.0, 3.5]), torch.arange(5.0)])
def test_weights_of_a_range_add_up_to_its_length(points):
    weights = trapezoid(points)
    assert len(weights) == len(points) and (weights > 0).all()
    assert float(weights.sum()) == pytest.approx(float((points[-1] - points[0]).abs()))


def test_a_denoiser_that_is_told_the_noise_gains_what_the_other_lacks():
    """ε̂ = 0 without h and ε̂ = ε with h: both forms are ½ D (range of λ) / ln 2 bits, whichever way λ runs."""
    x = torch.zeros(500, 2, 3, 4)
    for logsnr in (torch.linspace(-2, 3, 6), torch.linspace(3, -2, 6)):
        stream = torch.Generator().manual_seed(0)
        noises = [torch.randn(x.shape, generator=stream) for _ in logsnr]
        found = information(lambda x_t, k, n=noises: (torch.zeros_like(x_t), n[k]), x, logsnr, lambda k, n=noises: n[k])
        expected = 0.5 * 24 * 5 / math.log(2)
        assert float(found.form_1.mean()) == pytest.approx(expected, rel=0.03)
        assert torch.allclose(found.form_1, found.form_2, rtol=1e-4)
        assert found.map.shape == (500, 3, 4) and torch.allclose(found.map.sum((1, 2)), found.form_2, rtol=1e-4)
        assert float(found.map.std(0).mean()) > 0
    assert information(lambda v, k: (v, v), torch.zeros(4, 3), logsnr, lambda k: torch.zeros(4, 3)).map is None


def test_a_worse_guess_with_h_costs_form_1_what_form_2_counts_as_gain():
    x, noise = torch.zeros(2, 3), torch.ones(2, 3)
    found = information(lambda x_t, k: (noise, 0 * noise), x, torch.tensor([0.0, 1.0]), lambda k: noise)
    assert torch.allclose(found.form_1, -found.form_2) and (found.form_2 > 0).all()


def test_an_image_has_the_noise_of_its_place_in_the_run(pipe):
    x, steps = world(), noise_ladder(pipe, 3, -3.0, 3.0)
    h = pipe.encode(x, "tiny/backbone")
    whole = measure_bits(pipe, x, h, "tiny/backbone", steps, seed=4)
    later = measure_bits(pipe, x[1:], h[1:], "tiny/backbone", steps, seed=5, batch_size=1)
    assert torch.allclose(whole.form_1[1:], later.form_1, atol=1e-3)
    assert torch.allclose(whole.form_2[1:], later.form_2, rtol=1e-3) and whole.form_2.min() > 0
    other = measure_bits(pipe, x, h, "tiny/backbone", steps, seed=9)
    assert not torch.allclose(whole.form_1, other.form_1, atol=1e-3)
    assert whole.map.shape == (3, 16, 16) and not whole.form_1.requires_grad
    assert torch.allclose(whole.map.sum((1, 2)), whole.form_2, rtol=1e-3)


def test_bits_of_a_pipeline_are_those_of_its_denoiser_by_hand(pipe):
    """The same numbers from `information` with a denoiser that is called directly, level by level."""
    x, steps, source = world(2), noise_ladder(pipe, 4, -3.0, 3.0), "tiny/projector"
    h, process = pipe.encode(x, source), Process(pipe.scheduler)
    streams = [torch.Generator().manual_seed(7 + i) for i in range(2)]
    noises = [torch.stack([torch.randn(3, 16, 16, generator=stream) for stream in streams]) for _ in steps]

    @torch.no_grad()
    def predict(x_t, k):
        outs = [pipe.unet(x_t, steps[k], *given).sample for given in ((), (h, source))]
        return tuple(process.noise(out, x_t, steps[k]) for out in outs)

    known = information(predict, x, process.logsnr()[steps], lambda k: noises[k])
    found = measure_bits(pipe, x, h, source, steps, seed=7)
    assert torch.allclose(found.form_1, known.form_1, atol=1e-3)
    assert torch.allclose(found.form_2, known.form_2, rtol=1e-3) and torch.allclose(found.map, known.map, atol=1e-4)


def test_a_denoiser_that_never_drew_freely_has_no_bits(pipe):
    pipe.unet.register_to_config(has_unconditional=False)
    with pytest.raises(ValueError, match="without a representation"):
        measure_bits(pipe, world(), torch.zeros(3, 32), "tiny/backbone", [100, 500], seed=0)
