"""Laws of levels, training times and noises that need no network."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from scipy import stats

from rcdm.diffusion.process import (
    _GAMMA,
    Process,
    VelocityError,
    _mixed,
    network_input,
    random_numbers,
    scheduler_named,
    scheduler_names,
    velocity_scheduler,
)
from rcdm.diffusion.spaced import SpacedDPMSolverScheduler, spaced

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [1, 2, 3, 8, 10, 20, 250, 999, 1000])
def test_steps_begin_where_all_is_noise_and_lie_closer_where_less_is_left(n):
    scheduler = velocity_scheduler()
    scheduler.set_timesteps(n)
    found = scheduler.timesteps
    assert found.tolist() == spaced(1000, n) and len(found) == n and found[0] == 999 and found[-1] >= 0
    gaps = -found.diff()
    assert (gaps > 0).all() and (gaps.diff() <= 1).all()  # rounded
    assert torch.equal(torch.tensor(spaced(1000, 1000)), torch.arange(1000).flip(0))
    scheduler.set_timesteps(timesteps=[999, 500, 3])
    assert scheduler.timesteps.tolist() == [999, 500, 3]


def test_more_steps_than_levels_are_refused():
    with pytest.raises(ValueError, match="at most 1000 steps, not 1001"):
        velocity_scheduler().set_timesteps(1001)


@pytest.mark.parametrize("n", [6, 10, 20])
def test_few_spaced_steps_come_nearer_to_the_exact_flow_than_even_ones(n):
    """Two narrow kinds of images, for which the best denoiser is known; the flow ends on one of them."""
    centres, width = torch.tensor([-0.6, 0.5]), 0.05
    noise = torch.linspace(-2.5, 2.5, 501, dtype=torch.float64)

    def drawn(scheduler, steps: int) -> torch.Tensor:
        scheduler.set_timesteps(steps)
        x, process = noise.clone(), Process(scheduler)
        for timestep in scheduler.timesteps:
            a, s = (float(level) for level in process.levels(timestep))
            spread = (a * width) ** 2 + s**2
            share = torch.softmax(-((x[:, None] - a * centres) ** 2) / (2 * spread), 1)
            each = centres + a * width**2 / spread * (x[:, None] - a * centres)
            x0 = (share * each).sum(1)
            v = a * (x - a * x0) / s - s * x0
            x = scheduler.step(v, timestep, x).prev_sample
        return x

    plain = {"thresholding": False}
    kind = DPMSolverMultistepScheduler
    ours, even = (of.from_config(velocity_scheduler().config, **plain) for of in (SpacedDPMSolverScheduler, kind))
    exact = drawn(kind.from_config(velocity_scheduler().config, **plain), 1000)
    errors = [float((drawn(scheduler, n) - exact).abs().mean()) for scheduler in (ours, even)]
    assert errors[0] < 0.8 * errors[1], errors


def test_levels_at_a_timestep_are_those_that_training_adds():
    scheduler = velocity_scheduler()
    process, objective = Process(scheduler), VelocityError(scheduler, CPU)
    x0, noise = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    for t in (0, 1, 500, 998, 999):
        a, s = process.levels(t)
        here = torch.tensor([t])
        assert float(objective.noisy(x0, here, noise)[0, 0, 0, 0]) == pytest.approx(float(a), abs=1e-7)
        assert float(objective.noisy(noise, here, x0)[0, 0, 0, 0]) == pytest.approx(float(s), abs=1e-7)
        lam = float(process.logsnr()[t])
        if 0 < t < 999:
            assert lam == pytest.approx(float((a**2 / s**2).log()), rel=1e-3)


def test_log_snr_falls_and_is_finite_to_its_ends():
    lambdas = Process(velocity_scheduler()).logsnr()
    assert torch.isfinite(lambdas).all() and lambdas.dtype == torch.float32
    assert (lambdas[:-1].diff() < 0).all()  # diffusers lifts the last to 2⁻²⁴
    no_noise = DDIMScheduler(trained_betas=[0.0, 0.5, 1.0])  # a is 1 at the first step, 0 at the last
    first, _, last = Process(no_noise).logsnr().tolist()
    assert first == pytest.approx(27.6, abs=0.1) and last == pytest.approx(-27.6, abs=0.1)


def test_between_the_last_timesteps_there_is_no_level_beyond():
    process = Process(velocity_scheduler())
    last = process.levels(999)[0]
    assert process.levels(998)[0] < process.levels(998.5)[0] < last  # diffusers lifts the last to 2⁻²⁴
    assert float(process.levels(999.5)[0]) == pytest.approx(float(last), rel=1e-3)


def test_a_flow_is_known_by_its_prediction_whatever_the_sampler():
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    a, s = Process(scheduler).levels(torch.tensor(250.0))
    assert float(a) == pytest.approx(0.75) and float(s) == pytest.approx(0.25)


def test_the_network_is_given_what_training_gave_it():
    """Euler keeps x0 + σ ε, the network knows a x0 + s ε."""
    x0, noise = torch.full((1, 3, 2, 2), 0.5), torch.full((1, 3, 2, 2), -1.0)
    for k in range(1, 5):
        euler = scheduler_named(velocity_scheduler(), "euler")  # a new one: it counts its steps
        euler.set_timesteps(5)
        process, t = Process(euler), euler.timesteps[k]
        a, s = process.levels(t)
        assert torch.allclose(network_input(euler, x0 + euler.sigmas[k] * noise, t), a * x0 + s * noise, atol=1e-3)


def test_a_named_sampler_keeps_signal_for_those_that_divide_by_it():
    """a² is never below 2⁻²⁴, and no timestep above that is touched."""
    learnt = velocity_scheduler()
    found, least = scheduler_named(learnt, "heun").alphas_cumprod, 2.0**-24
    assert float(found.min()) == float(found[-1]) == pytest.approx(least, rel=0.05)
    above = learnt.alphas_cumprod > 1.01 * least
    assert torch.allclose(found[above], learnt.alphas_cumprod[above], rtol=1e-3) and int(above.sum()) > 990
    same = scheduler_named(learnt, "spaced-dpmsolver")
    assert same is not learnt and torch.equal(same.alphas_cumprod, learnt.alphas_cumprod)
    even = scheduler_named(learnt, "dpmsolver")
    even.set_timesteps(10)
    assert type(even) is DPMSolverMultistepScheduler and even.timesteps.tolist() != spaced(1000, 10)
    again = scheduler_named(even, "spaced-dpmsolver")
    again.set_timesteps(10)
    assert again.timesteps.tolist() == spaced(1000, 10)
    assert isinstance(scheduler_named(learnt, "EULER"), EulerDiscreteScheduler)


def test_few_training_images_are_all_but_noise():
    """λ below -4 in 38 of 100 uniform times of this schedule, in 9 of 100 here; every time is one of the schedule."""
    scheduler = velocity_scheduler()
    t = VelocityError(scheduler, CPU).timesteps((torch.arange(10_000) + 0.5) / 10_000)
    lambdas = Process(scheduler).logsnr()
    assert float((lambdas[t] < -4).float().mean()) == pytest.approx(0.09, abs=0.01)
    assert float((lambdas < -4).float().mean()) == pytest.approx(0.38, abs=0.02)
    assert t.dtype == torch.int64 and (t.diff() >= 0).all() and int(t[0]) <= 5 and int(t[-1]) == 999
    edge = VelocityError(scheduler, CPU).timesteps(torch.tensor([0.0, 1.0]))
    assert edge.tolist() == [0, 999]


def test_the_weight_is_least_where_there_is_no_signal_and_most_where_it_is_gamma():
    scheduler = velocity_scheduler()
    plain, weighted = VelocityError(scheduler, CPU), VelocityError(scheduler, CPU, 5.0)
    t, x0 = torch.arange(1000), torch.zeros(1000, 1, 1, 1)
    noise = torch.zeros_like(x0)
    out = torch.ones_like(x0)
    weight = weighted.error(out, x0, t, noise) / plain.error(out, x0, t, noise)
    snr = Process(scheduler).logsnr().exp()
    assert float(weight.min()) == pytest.approx(0.1) and float(weight[-1]) == pytest.approx(0.1)
    assert float(weight[snr > 100].max()) == pytest.approx(0.1)  # 5 / (snr + 1) is below it
    assert float(snr[weight.argmax()]) == pytest.approx(5, rel=0.05)
    assert float(weight.max()) == pytest.approx(5 / 6, rel=0.01)


def test_noises_differ_between_seeds_and_images_and_repeat():
    shape = (3, 4, 4)
    noise, uniform = random_numbers(3, [5, 7, 5], shape, CPU)
    assert torch.equal(noise[0], noise[2]) and torch.equal(uniform[0], uniform[2])
    assert not torch.equal(noise[0], noise[1]) and uniform.shape == (3, 2) and noise.shape == (3, *shape)
    many = torch.cat([random_numbers(seed, range(50), (2,), CPU)[0] for seed in range(4)])
    assert len(many.unique(dim=0)) == 200
    assert uniform.min() >= 0 and uniform.max() < 1


def test_streams_are_those_of_splitmix64():
    """The first numbers that the authors' own code gives for the state 1234567."""
    states = torch.tensor([1234567]) + torch.arange(1, 4) * _GAMMA
    assert [word % 2**64 for word in _mixed(states).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_noise_is_normal_and_uniform_numbers_are_uniform():
    noise, uniform = random_numbers(1, range(400), (3, 16, 16), CPU)
    assert stats.kstest(noise.flatten()[::7].numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    pixels = noise.flatten(1)  # [400, 768]
    for first, second in ((pixels[:, ::2], pixels[:, 1::2]), (pixels[:-1], pixels[1:]), (pixels, pixels.roll(2, 1))):
        assert abs(stats.pearsonr(first.flatten(), second.flatten())[0]) < 4 / first.numel() ** 0.5
        assert abs(stats.pearsonr(first.flatten() ** 2, second.flatten() ** 2)[0]) < 4 / first.numel() ** 0.5
    assert abs(stats.pearsonr(noise[:, 0, 0, 0], uniform[:, 0])[0]) < 4 / 20


def test_an_odd_number_of_values_is_the_beginning_of_an_even_one():
    odd, even = (random_numbers(0, [7], (n,), CPU)[0] for n in (5, 6))
    assert torch.equal(odd, even[:, :5]) and odd.shape == (1, 5)


def test_neighbouring_seeds_share_no_image():
    """Image k of one run is none of the first million of the next."""
    ours = {tuple(row) for row in random_numbers(0, range(2000), (2,), CPU)[0].tolist()}
    theirs = {tuple(row) for row in random_numbers(1, range(2000), (2,), CPU)[0].tolist()}
    assert not ours & theirs


def test_every_name_gives_the_class_that_it_names():
    learnt = velocity_scheduler()
    for short, name in scheduler_names(learnt).items():
        if short != "dpmsolver-sde":  # needs a library
            assert type(scheduler_named(learnt, short)).__name__ == type(scheduler_named(learnt, name)).__name__ == name
