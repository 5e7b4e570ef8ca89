"""The diffusion process: its formulas undo one another, and every sampler ends where an exact denoiser leads."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from rcdm.diffusion.image_space import PixelSpace, space_of
from rcdm.diffusion.process import (
    Process,
    VelocityError,
    add_noise,
    first_noise,
    levels_of,
    prediction,
    random_numbers,
    reads_variance,
    scheduler_named,
    scheduler_names,
    to_noise,
    to_x0,
    velocity_scheduler,
)

CPU = torch.device("cpu")
KINDS = ("epsilon", "sample", "v_prediction", "flow_prediction")
NEEDS_A_LIBRARY = "dpmsolver-sde"


def images(n: int = 2, side: int = 16) -> Tensor:
    stream = torch.Generator().manual_seed(3)
    return torch.rand(n, 3, side, side, generator=stream) * 1.6 - 0.8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("s", [0.05, 0.6, 0.99])
def test_a_perfect_prediction_gives_back_image_and_noise(kind, s):
    x0, noise = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    a = 1 - s if kind == "flow_prediction" else (1 - s**2) ** 0.5
    x_t, out = add_noise(x0, noise, a, s), prediction(kind, x0, noise, a, s)
    assert torch.allclose(to_x0(kind, out, x_t, a, s), x0, atol=1e-9)
    assert torch.allclose(to_noise(kind, out, x_t, a, s), noise, atol=1e-9)


def test_an_unknown_kind_of_prediction_is_refused():
    for function in (to_x0, to_noise, prediction):
        with pytest.raises(ValueError, match="v_prediction"):
            function("score", *torch.zeros(2, 1), 0.6, 0.8)


def test_levels_belong_to_their_signal_to_noise_ratio():
    logsnr = torch.linspace(-9, 9, 7, dtype=torch.float64)
    a, s = levels_of(logsnr)
    assert torch.allclose((a**2 / s**2).log(), logsnr) and torch.allclose(a**2 + s**2, torch.ones(7).double())


def test_the_schedule_ends_in_noise_alone_and_sampling_begins_there():
    scheduler = velocity_scheduler()
    scheduler.set_timesteps(5)
    assert scheduler.timesteps[0] == len(scheduler.alphas_cumprod) - 1  # trailing steps
    assert scheduler.alphas_cumprod[-1] < 1e-6  # zero terminal SNR; 4e-5 without
    assert scheduler.alphas_cumprod[0] > 0.9998
    assert scheduler.config.prediction_type == "v_prediction"


def test_the_sampler_clips_what_leaves_the_range():
    scheduler = velocity_scheduler()
    scheduler.set_timesteps(1)
    bright = torch.full((1, 3, 4, 4), -3.0)  # v of an image of 3 where there is no signal
    assert torch.allclose(scheduler.step(bright, scheduler.timesteps[0], torch.zeros_like(bright)).prev_sample.abs(),
                          torch.ones_like(bright), atol=1e-3)  # fmt: skip


@pytest.mark.parametrize("gamma", [None, 2.0, 5.0])
def test_the_objective_is_the_weighted_distance_to_the_velocity(gamma):
    scheduler = velocity_scheduler()
    objective = VelocityError(scheduler, CPU, gamma)
    t, x0 = torch.tensor([0, 150, 700, 999]), images(4)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    a = scheduler.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    velocity = a * noise - s * x0
    assert objective.error(velocity, x0, t, noise).abs().max() < 1e-12
    off = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    snr = (a / s).flatten() ** 2
    weight = 1.0 if gamma is None else (snr.clamp(max=gamma) / (snr + 1)).clamp(min=0.1)
    expected = weight * off.square().mean((1, 2, 3))
    assert torch.allclose(objective.error(velocity + off, x0, t, noise), expected, rtol=1e-4)
    assert torch.allclose(objective.noisy(x0, t, noise), a * x0 + s * noise)


def test_a_level_between_two_timesteps_lies_between_them():
    process = Process(velocity_scheduler())
    (a0, s0), (a, s), (a1, s1) = (process.levels(t) for t in (400, 400.3, 401))
    assert a0 > a > a1 and s0 < s < s1 and float(a**2 + s**2) == pytest.approx(1)
    lambdas = [float((a**2 / s**2).log()) for a, s in ((a0, s0), (a, s), (a1, s1))]
    assert lambdas[1] == pytest.approx(0.7 * lambdas[0] + 0.3 * lambdas[2], rel=1e-4)


def test_noise_of_a_prediction_is_that_of_its_image():
    process, x_t = Process(velocity_scheduler()), images()
    out = torch.randn_like(x_t)
    a, s = process.levels(321)
    x0 = process.x0(out, x_t, 321)
    assert torch.allclose(a * x0 + s * process.noise(out, x_t, 321), x_t, atol=1e-5)


class Exact:
    """Stands in for a denoiser: the prediction for one known image [1,3,S,S], whatever the noise is."""

    def __init__(self, process: Process, image: Tensor) -> None:
        self.process, self.image, self.space = process, image, PixelSpace()
        self.config = SimpleNamespace(has_unconditional=True)
        self.image_size = image.shape[-1]

    def __call__(self, x_t: Tensor, timestep: Tensor, h: Tensor | None = None, source: str | None = None):
        a, s = self.process.levels(timestep)
        x0 = self.image.expand_as(x_t)
        noise = (x_t - a * x0) / s
        return SimpleNamespace(sample=prediction(self.process.kind, x0, noise, a, s))


def draw_exactly(pipe, steps: int = 12) -> tuple[Tensor, list[Tensor], Tensor]:
    """What an exact denoiser draws, its previews, and the image that it knows."""
    image = images(1)
    exact, previews = Exact(Process(pipe.scheduler), image), []
    streams = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    original, pipe.__dict__["unet"] = pipe.unet, exact
    try:
        drawn = pipe._denoise(streams, None, None, steps, [], lambda i, t, kept: previews.append(kept["denoised"]))
    finally:
        pipe.__dict__["unet"] = original
    return drawn, previews, image


@pytest.mark.parametrize("name", [n for n in scheduler_names(velocity_scheduler()) if n != NEEDS_A_LIBRARY])
def test_every_sampler_ends_at_the_image_and_shows_it_on_the_way(pipe, name):
    pipe.use_scheduler(name)
    drawn, previews, image = draw_exactly(pipe)
    assert (drawn - image).abs().max() < 0.06, name  # some leave the noise of the first timestep, 0.01, in it
    assert all((preview - image).abs().max() < 0.02 for preview in previews), name


@pytest.mark.parametrize("name", [n for n in scheduler_names(velocity_scheduler()) if n != NEEDS_A_LIBRARY])
def test_every_sampler_draws_from_a_representation(pipe, name):
    pipe.use_scheduler(name)
    drawn = pipe(images(1), source="tiny/projector", seeds=[0, 1], num_inference_steps=4, output_type="pt").images
    assert drawn.shape == (2, 3, 16, 16) and torch.isfinite(drawn).all() and (drawn[0] - drawn[1]).abs().max() > 0.05


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "uni-pc"])
def test_a_sampler_without_a_learned_variance_leaves_it_out(pipe, monkeypatch, name):
    """A network that puts out its channels twice draws as one that puts them out once."""
    options = {"source": "tiny/projector", "seeds": [1], "num_inference_steps": 3, "output_type": "pt"}
    pipe.use_scheduler(name)
    plain, forward = pipe(images(1), **options).images, pipe.unet.forward

    def doubled(*arguments, **named):
        out = forward(*arguments, **named)
        return type(out)(sample=torch.cat([out.sample, torch.full_like(out.sample, 0.3)], 1))

    monkeypatch.setattr(pipe.unet, "forward", doubled)
    pipe.scheduler = DDPMScheduler.from_config(velocity_scheduler().config, variance_type="learned_range")
    pipe.use_scheduler(name)
    assert torch.allclose(pipe(images(1), **options).images, plain, atol=1e-5)
    pipe.use_scheduler("ddpm")
    assert reads_variance(pipe.scheduler)  # it has learnt one all the same


def test_a_sampler_has_the_noise_that_was_learnt():
    learnt = velocity_scheduler()
    for name in scheduler_names(learnt):
        if name != NEEDS_A_LIBRARY:
            found = scheduler_named(learnt, name).alphas_cumprod
            assert torch.allclose(found[:-1], learnt.alphas_cumprod[:-1], rtol=1e-3, atol=1e-7), name
    plain = HeunDiscreteScheduler.from_config(learnt.config)  # what diffusers alone makes of it
    assert not torch.allclose(plain.alphas_cumprod[:-1], learnt.alphas_cumprod[:-1], rtol=0.1)


def test_samplers_are_named_shortly_or_by_their_class(pipe):
    assert type(scheduler_named(pipe.scheduler, "Euler")) is EulerDiscreteScheduler
    assert type(scheduler_named(pipe.scheduler, "EulerDiscreteScheduler")) is EulerDiscreteScheduler
    assert type(scheduler_named(pipe.scheduler, "dpmsolver")) is DPMSolverMultistepScheduler
    assert type(scheduler_named(pipe.scheduler, "unipc")) is UniPCMultistepScheduler
    with pytest.raises(ValueError, match=r"choose one of .*euler-ancestral.*uni-pc"):
        pipe.use_scheduler("euler-magic")
    with pytest.raises(ValueError, match="no sampler"):
        pipe.use_scheduler("EDMEulerScheduler")


def test_a_sampler_that_lacks_its_library_says_so(pipe):
    pytest.importorskip("diffusers")
    try:
        import torchsde  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="torchsde"):
            pipe.use_scheduler(NEEDS_A_LIBRARY)


def test_timesteps_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="timesteps of its own kind"):
        Process(EDMEulerScheduler())


def test_a_denoiser_of_a_flow_draws(pipe):
    pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler())
    drawn, previews, image = draw_exactly(pipe)
    assert (drawn - image).abs().max() < 1e-3 and all((p - image).abs().max() < 1e-3 for p in previews)
    a, s = Process(pipe.scheduler).levels(250.0)
    assert float(a) == pytest.approx(0.75) and float(s) == pytest.approx(0.25)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 3.0])
def test_guidance_goes_from_the_free_prediction_towards_the_conditioned_one(pipe, scale):
    seen = {}
    for guidance in (0.0, 1.0, scale):
        previews = []
        pipe(
            images(1) * 0.1,
            source="tiny/backbone",
            seeds=[2],
            num_inference_steps=1,
            guidance_scale=guidance,
            output_type="pt",
            callback_on_step_end=lambda p, i, t, kept, out=previews: out.append(kept["denoised"]),
        )
        seen[guidance] = previews[0]  # fmt: skip
    expected = (seen[0.0] + scale * (seen[1.0] - seen[0.0])).clamp(-1, 1)
    inside = (seen[0.0].abs() < 1) & (seen[1.0].abs() < 1)
    assert inside.float().mean() > 0.2
    assert torch.allclose(seen[scale][inside], expected[inside], atol=1e-4)


def test_every_image_of_a_run_has_noise_of_its_own():
    noise, uniform = random_numbers(0, range(64), (3, 8, 8), CPU)
    assert (noise.flatten(1) @ noise.flatten(1).T / 192).fill_diagonal_(0).abs().max() < 0.4
    assert noise.std() == pytest.approx(1, abs=0.02) and len(uniform.unique()) == uniform.numel()
    correlations = torch.corrcoef(random_numbers(0, range(2000), (1,), CPU)[1].T)
    assert correlations.fill_diagonal_(0).abs().max() < 0.08  # timestep, drop and flip do not go together


def test_the_first_noise_is_as_large_as_the_sampler_asks():
    noise = torch.ones(1)
    assert first_noise(velocity_scheduler(), noise) == 1
    euler = scheduler_named(velocity_scheduler(), "euler")
    euler.set_timesteps(3)
    assert first_noise(euler, noise) == euler.init_noise_sigma > 100


def test_patches_come_back_as_pixels():
    space, x = space_of({"kind": "pixels", "channels": 3, "patch": 4}), images(2)
    seen = space.to_network(x)
    assert seen.shape[1:] == (48, 4, 4) and space.network_shape(16) == (48, 4) and space.image_size(4) == 16
    assert torch.equal(space.from_network(seen), x) and torch.equal(space.decode(space.encode(x)), x)
    assert torch.equal(seen[:, ::16, 1, 2], x[:, :, 4, 8])  # channels of one colour are together
    assert space.shape(16) == (3, 16, 16) and space.decode(3 * x).abs().max() == 1


@pytest.mark.parametrize(("config", "words"), [
    ({"kind": "latents"}, "choose one of pixels"), ({"kind": "pixels", "depth": 2}, "does not take"),
    ({"kind": "pixels", "patch": 0}, "at least 1"), ({}, "choose one of pixels")])  # fmt: skip
def test_a_space_that_does_not_exist_is_refused(config, words):
    with pytest.raises(ValueError, match=words):
        space_of(config)
